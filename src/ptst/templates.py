"""The one place where a prompt is made: its text and its token ids.

Three things compose: the *template* (mode, system prompt, how the user turn wraps the question), the
*data set* (how its question reads, an instruction of its own) and the *model* (how a chat is
spelled). Training rows, generation and `ptst prompt` all come through here.

One example, chat_llama x gsm8k x llama2, shortened:

    [INST] <<SYS>>
    You are a helpful, ... please don't share false information.
    <</SYS>>

    Question: Tom has 3 apples. ... [/INST]

The text never holds the first BOS; `encode` puts exactly one in front where the model uses one.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptst.config import CONF, Dataset, Model, Template, Variant
from ptst.errors import ConfigError, TemplateError

if TYPE_CHECKING:
    from jinja2 import Template as Jinja

Row = Mapping[str, Any]
"""A row of a data set in our columns: `input`, and `output` and `instruction` where it has them."""

PLACE = re.compile(r"\{(question|input|instruction)\}")
COLUMN = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
"""In an evaluation's own reading: a doubled brace, or the place of a column."""


@dataclass(frozen=True)
class Prompt:
    """What a model is given. `token_ids` is None where no tokenizer was at hand."""

    text: str
    token_ids: list[int] | None


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One fine-tuning example, four bytes a token: 600,000 of OpenOrca's as lists would be tens of GB.

    `prompt_length` counts the prompt's tokens, BOS included: the loss begins there.
    """

    ids: array[int]
    prompt_length: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def input_ids(self) -> list[int]:
        """Token ids of prompt, completion and EOS."""
        return self.ids.tolist()

    @property
    def labels(self) -> list[int]:
        """-100 over the prompt, the ids over completion and EOS."""
        return [-100] * self.prompt_length + self.ids[self.prompt_length :].tolist()


def make_prompt(
    row: Row,
    template: Template,
    dataset: Dataset,
    model: Model,
    tokenizer: Any = None,
    reading: str | None = None,
) -> Prompt:
    """Spell one row's prompt.

    Args:
        row: needs `input`; an `instruction` of the row's own replaces the data set's.
        tokenizer: a transformers tokenizer; without one only the text is made.
        reading: how the row reads where an evaluation says so itself (`Evaluation.question`): what it gives
            stands wherever a template has the question, bare or not.

    Raises:
        TemplateError: the model's chat format is the tokenizer's own and there is no tokenizer, or
            the format cannot spell this template.

    The prompt of a model behind an API is its messages, as JSON.
    """
    if model.api is not None:
        messages = make_messages(row, template, dataset, model, reading)
        return Prompt(json.dumps(messages, ensure_ascii=False, indent=1), None)
    row, dataset, model = _as_read(row, dataset, model, reading)
    text = _spell(row, template, dataset, model, tokenizer)
    if tokenizer is None:
        return Prompt(text, None)
    specials = _special_tokens(tokenizer)
    contents = [str(row.get(key) or "") for key in ("input", "instruction")]
    if not any(token in content for token in specials for content in contents):
        return Prompt(text, encode_prompt(text, tokenizer))
    # A private-use character that the text has not, put into the special tokens' spellings.
    guard = next(c for c in map(chr, range(0xE000, 0xF900)) if c not in text)
    guarded = dict(row)
    for key, content in zip(("input", "instruction"), contents, strict=True):
        for token in specials:
            content = content.replace(token, token[0] + guard + token[1:])
        guarded[key] = content
    guarded_text = _spell(guarded, template, dataset, model, tokenizer)
    return Prompt(text, encode_prompt(guarded_text, tokenizer, guard))


def make_training_row(
    row: Row, template: Template, dataset: Dataset, model: Model, tokenizer: Any
) -> TrainingRow:
    """Prompt, completion and EOS of one row, with the loss on completion and EOS only.

    The prompt's ids are those of `make_prompt`, unchanged: the completion is tokenised apart.
    """
    prompt_ids = make_prompt(row, template, dataset, model, tokenizer).token_ids
    assert prompt_ids is not None
    completion_ids = encode_plain(model.completion_prefix + str(row["output"]), tokenizer)
    completion_ids.append(tokenizer.eos_token_id)
    return TrainingRow(array("i", prompt_ids + completion_ids), len(prompt_ids))


def read_query(row: Row, reading: str) -> str:
    """A query as its evaluation's own reading says: each {column} filled, {{ and }} for braces.

    A list reads as its items with ", " between them, and a mapping that has a list called `text` (ARC's
    choices, {text: [...], label: [...]}) as that list. A column that the row has not stays in its braces.
    """

    def fill(found: re.Match[str]) -> str:
        name = found.group(1)
        if name is None:
            return found.group()[0]
        return _as_text(row[name]) if name in row else found.group()

    return COLUMN.sub(fill, reading)


def columns_of(reading: str) -> list[str]:
    """The columns that have a place in an evaluation's own reading."""
    return [name for name in COLUMN.findall(reading) if name]


def check_reading(reading: str, where: str) -> None:
    """Refuse a reading without a place for the question, or with a brace that closes or opens nothing.

    Raises:
        ConfigError: naming the place in the configuration, and what would be right.
    """
    if columns_of(reading).count("input") != 1 or re.search(r"[{}]", COLUMN.sub("", reading)):
        raise ConfigError(
            f"{where} must have one {{input}}; {{name}} is the query's column of that name, and a brace that "
            f"is meant as such stands twice: {{{{ or }}}}. It is {reading!r}."
        )


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value = value["text"]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def check_template(template: Template, mount: str, dataset: Dataset) -> None:
    """Refuse a template that has not exactly one place for the question.

    Args:
        mount: `train_template` or `test_template`, for the message.

    Raises:
        ConfigError: naming the template and what its prompt has instead.
    """
    where = f"{mount}={template.name}"
    if template.mode == "text" and (template.system is not None or template.turns):
        raise ConfigError(f"{where}: mode=text has no system prompt and no turns, only `user`.")
    for name, variant in (("", _plain(template)), ("with_instruction.", _instructed(template))):
        system, user = variant.system or "", variant.user or ""
        found = [p for p in PLACE.findall(user) if p != "instruction"]
        if len(found) != 1:
            raise ConfigError(
                f"{where}: {name}user must have one place for the question, {{question}} (as the "
                f"data set reads it) or {{input}} (bare); it has {len(found)}: {user!r}."
            )
        if set(PLACE.findall(system)) - {"instruction"}:
            raise ConfigError(f"{where}: the question belongs in {name}user, not in {name}system.")
        places = PLACE.findall(system + user).count("instruction")
        if not name and places:
            raise ConfigError(f"{where}: {{instruction}} may stand in with_instruction only.")
        if name and template.mode == "chat" and places != 1:
            raise ConfigError(
                f"{where}: with_instruction must have one place for {{instruction}}; "
                f"it has {places}."
            )
    if PLACE.findall(dataset.question) != ["input"]:
        raise ConfigError(
            f"dataset.question must have one {{input}}, e.g. 'Question: {{input}}'; "
            f"it is {dataset.question!r}."
        )


def encode_prompt(text: str, tokenizer: Any, guard: str | None = None) -> list[int]:
    """Token ids of a whole prompt, with exactly one BOS in front if the model's prompts have one.

    A BOS that a tokenizer's own chat template writes at the start counts as that one.
    """
    bos = tokenizer.bos_token
    writes_bos = bool(bos) and text.startswith(bos)
    ids = encode(text.removeprefix(bos) if writes_bos else text, tokenizer, guard)
    if writes_bos or _adds_bos(tokenizer):
        ids = [tokenizer.bos_token_id, *ids]
    return ids


def encode(text: str, tokenizer: Any, guard: str | None = None) -> list[int]:
    """Token ids of `text` without BOS or EOS; control strings of the format become their tokens.

    What `guard` marks is plain text: the text is then cut at the format's own special tokens (which
    end a piece for the tokenizer in any case) and each piece is encoded with special tokens off.
    """
    if guard is None:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    specials = sorted(_special_tokens(tokenizer), key=len, reverse=True)
    ids: list[int] = []
    for piece in re.split("(" + "|".join(map(re.escape, specials)) + ")", text):
        if piece in specials:
            ids.append(tokenizer.convert_tokens_to_ids(piece))
        elif piece:
            ids += encode_plain(piece.replace(guard, ""), tokenizer)
    return ids


def encode_plain(text: str, tokenizer: Any) -> list[int]:
    """Token ids of `text` in which nothing is a special token: "</s>" is four characters."""
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    return list(encoded["input_ids"])


def chat_source(model: Model) -> str | None:
    """The Jinja text that spells this model's chats; None where it is the tokenizer's own.

    Raises:
        ConfigError: `model.chat` names no format of ours and no file.
    """
    if model.chat is None:
        return None
    ours = {path.stem: path for path in sorted((CONF / "chat").glob("*.jinja"))}
    path = ours.get(model.chat) or Path(model.chat)
    if path.suffix != ".jinja" or not path.is_file():
        raise ConfigError(
            f"model.chat={model.chat} is not one of {', '.join(ours)}, not a .jinja file that "
            "exists, and not null (the tokenizer's own)."
        )
    return path.read_text(encoding="utf-8")


def make_messages(
    row: Row, template: Template, dataset: Dataset, model: Model, reading: str | None = None
) -> list[dict[str, str]]:
    """One row's conversation under a chat template: [{role, content}, ...], the question last.

    Raises:
        TemplateError: it is a text template.
    """
    if template.mode == "text":
        raise TemplateError(f"template {template.name} is bare text; it has no messages.")
    row, dataset, model = _as_read(row, dataset, model, reading)
    variant, values = _filling(row, template, dataset, model)
    messages = []
    if variant.system is not None:
        messages.append({"role": "system", "content": _fill(variant.system, values)})
    for turn in template.turns:
        messages.append({"role": "user", "content": turn.user})
        messages.append({"role": "assistant", "content": turn.assistant})
    messages.append({"role": "user", "content": _fill(variant.user or "", values)})
    return messages


def _as_read(
    row: Row, dataset: Dataset, model: Model, reading: str | None
) -> tuple[Row, Dataset, Model]:
    """Put an evaluation's own reading in the place of the data set's and the model's."""
    if reading is None:
        return row, dataset, model
    asked = {**row, "input": read_query(row, reading)}
    return asked, replace(dataset, question="{input}"), replace(model, question=None)


def _spell(row: Row, template: Template, dataset: Dataset, model: Model, tokenizer: Any) -> str:
    if template.mode == "text":
        variant, values = _filling(row, template, dataset, model)
        return _fill(variant.user or "", values)
    messages = make_messages(row, template, dataset, model)
    return _spell_chat(messages, template, model, tokenizer)


def _filling(
    row: Row, template: Template, dataset: Dataset, model: Model
) -> tuple[Variant, dict[str, str]]:
    """How the template reads for this row, and what goes into its places."""
    instruction = row.get("instruction") or dataset.instruction or ""
    variant = _instructed(template) if instruction else _plain(template)
    if not instruction and template.name in model.system_prompts:
        variant = replace(variant, system=model.system_prompts[template.name])
    reading = model.question or dataset.question
    question = _fill(reading, {"input": str(row["input"])})
    return variant, {
        "input": str(row["input"]),
        "question": question,
        "instruction": instruction,
    }


def _spell_chat(
    messages: Sequence[Mapping[str, str]], template: Template, model: Model, tokenizer: Any
) -> str:
    from jinja2 import TemplateError as JinjaError

    source = chat_source(model)
    try:
        if source is not None:
            return _jinja(source).render(
                messages=messages, space_before_answer=template.space_before_answer
            )
        if tokenizer is None or not tokenizer.chat_template:
            raise TemplateError(
                f"model {model.name}: model.chat is null, so its chats are spelled by the "
                f"tokenizer's own chat template, but {model.path} "
                + ("has none" if tokenizer is not None else "is not at hand")
                + "; set model.chat to llama2, mistral or a .jinja file."
            )
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    except JinjaError as error:
        raise TemplateError(
            f"model {model.name}: its chat format cannot spell template {template.name}: {error}"
        ) from error


@cache  # of the text alone; immutable, whoever renders it
def _jinja(source: str) -> Jinja:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment().from_string(source)


def _plain(template: Template) -> Variant:
    return Variant(template.system, template.user)


def _instructed(template: Template) -> Variant:
    """How the template reads where there is an instruction: what it says, else system + it."""
    given = template.with_instruction or Variant()
    if template.mode == "text":
        return Variant(None, given.user or template.user)
    joined = f"{template.system}\n\n{{instruction}}" if template.system else "{instruction}"
    user = given.user or template.user
    # An instruction that the user turn already carries is not repeated in the system prompt.
    default = template.system if "{instruction}" in user else joined
    return Variant(given.system if given.system is not None else default, user)


def _fill(text: str, values: Mapping[str, str]) -> str:
    """Put values in their places, in one pass: braces and % inside a value stay as they are."""
    return PLACE.sub(lambda place: values.get(place.group(1), place.group(0)), text)


def _special_tokens(tokenizer: Any) -> list[str]:
    """Every spelling that the tokenizer would turn into a control token."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def _adds_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
