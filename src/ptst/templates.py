"""The one place where a prompt is made: its text and its token ids.

Three things compose: the *template* (mode, system prompt, how the user turn wraps the question),
the *data set* (how its question reads, an instruction of its own) and the *model* (how a chat is
spelled). Training rows, generation and `ptst prompt` all come through here.

One example, chat_llama x gsm8k x llama2, shortened:

    [INST] <<SYS>>
    You are a helpful, ... please don't share false information.
    <</SYS>>

    Question: Tom has 3 apples. ... [/INST]

The text never holds the first BOS; `encode` puts exactly one in front where the model uses one."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ptst import chat
from ptst.component import Parts, parts_of
from ptst.errors import ConfigError, TemplateError
from ptst.reading import Row, read_query
from ptst.schema import Dataset, Model, Template, Variant

PLACE = re.compile(r"\{(question|input|instruction)\}")


@dataclass(frozen=True)
class Prompt:
    """What a model is given. `token_ids` is None where no tokenizer was at hand."""

    text: str
    token_ids: list[int] | None


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One fine-tuning example, four bytes a token.

    600,000 of OpenOrca's as lists would be tens of GB.

    Attributes:
        prompt_length: the prompt's tokens, BOS included: the loss begins there.
        targets: labels that differ from the ids, one a token, -100 where there is no loss; the
            label of a token is what the model is to say in its place. None: the ids, behind the
            prompt.
        weights: how often the loss of each token counts, one a token; None: once.
    """

    ids: array[int]
    prompt_length: int
    targets: array[int] | None = None
    weights: array[float] | None = None

    def __post_init__(self) -> None:
        for name, values in (("targets", self.targets), ("weights", self.weights)):
            if values is not None and len(values) != len(self.ids):
                raise ValueError(f"a row of {len(self.ids)} tokens has {len(values)} {name}.")
        if self.targets and self.targets[0] != -100:
            raise ValueError("targets: the first token follows nothing; its label must be -100.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def input_ids(self) -> list[int]:
        """Token ids of prompt, completion and EOS."""
        return self.ids.tolist()

    @property
    def labels(self) -> list[int]:
        """-100 over the prompt, the ids over completion and EOS; the row's own where it has
        some."""
        if self.targets is not None:
            return self.targets.tolist()
        return [-100] * self.prompt_length + self.ids[self.prompt_length :].tolist()

    @property
    def loss_tokens(self) -> int:
        """How many tokens have a label."""
        if self.targets is None:
            return len(self) - self.prompt_length
        return len(self) - self.targets.count(-100)

    def cut(self, length: int) -> TrainingRow:
        """The first `length` tokens."""
        targets = None if self.targets is None else self.targets[:length]
        weights = None if self.weights is None else self.weights[:length]
        return TrainingRow(self.ids[:length], self.prompt_length, targets, weights)


def make_prompt(
    row: Row,
    template: Template,
    dataset: Dataset,
    model: Model,
    tokenizer: Any = None,
    reading: str | None = None,
    later: chat.Messages = (),
) -> Prompt:
    """Spell one row's prompt, or a conversation that began with it.

    Args:
        row: needs `input`; an `instruction` of the row's own replaces the data set's.
        tokenizer: a transformers tokenizer; without one only the text is made.
        reading: how the row reads where an evaluation says so itself (`Evaluation.question`): what
            it gives stands wherever a template has the question, bare or not.
        later: what was said after it, as it is: [{role, content}, ...], the last of them the
            user's.

    Raises:
        TemplateError: the model's chat format is the tokenizer's own and there is no tokenizer, or
            the format cannot spell this template; or there is something later, and the template is
            bare text.

    The prompt of a model behind an API is its messages, as JSON.
    """
    if model.api is not None:
        messages = make_messages(row, template, dataset, model, reading, later)
        return Prompt(json.dumps(messages, ensure_ascii=False, indent=1), None)
    row, dataset, model = _as_read(row, dataset, model, reading)
    text = _spell(row, template, dataset, model, tokenizer, later)
    if tokenizer is None:
        return Prompt(text, None)
    guard = _guard({**row, "later": [message["content"] for message in later]})
    guarded = _guarded(row, guard, model, tokenizer)
    then = [{**m, "content": _as_text_only(m["content"], guard, model, tokenizer)} for m in later]
    if guarded == row and then == list(later):
        return Prompt(text, _encode_prompt(text, template, model, tokenizer))
    spelled = _spell(guarded, template, dataset, model, tokenizer, then)
    return Prompt(text, _encode_prompt(spelled, template, model, tokenizer, guard))


def answer_ids(
    text: str, template: Template, model: Model, tokenizer: Any, first: bool = True
) -> list[int]:
    """Token ids of what an answer begins with, to stand behind those of its prompt.

    Args:
        first: whether the answer begins here: then what the format has before an answer comes
            first.
    """
    lead = end_of(template, model, tokenizer).lead if first else ""
    guard = _guard({"output": text})
    return encode(lead + _as_text_only(text, guard, model, tokenizer), tokenizer, guard)


def make_training_row(
    row: Row, template: Template, dataset: Dataset, model: Model, tokenizer: Any
) -> TrainingRow:
    """Prompt, completion and end of turn of one row, with the loss on completion and end only.

    The prompt's ids are those of `make_prompt`, unchanged: no token crosses the border to the
    completion. What stands between them, and what ends the turn, is what the model's own format has
    there. Bare text has a space there (where the tokenizer does not put one by itself), and ends
    with `eos_token`.
    """
    guard = _guard(row)
    guarded = _guarded(row, guard, model, tokenizer)
    prompt = _spell(guarded, template, dataset, model, tokenizer)
    prompt_ids = _encode_prompt(prompt, template, model, tokenizer, guard)
    found = end_of(template, model, tokenizer)
    if template.mode == "text" or chat.is_ours(model):
        answer = encode(found.lead + guarded["output"], tokenizer, guard)
        return TrainingRow(array("i", [*prompt_ids, *answer, found.end_id]), len(prompt_ids))
    rest = f"{found.lead}{guarded['output']}{found.tail}{found.end}"
    ids = encode(prompt + rest, tokenizer, guard)
    if ids[: len(prompt_ids)] != prompt_ids:  # a token crosses the border: "\n" and "\n" make one
        ids = encode(prompt + guard + rest, tokenizer, guard)
    return TrainingRow(array("i", ids), len(prompt_ids))


def end_of(template: Template, model: Model, tokenizer: Any) -> chat.ChatFormat:
    """The chat format that says how an answer under `template` begins and ends.

    Bare text ends with `eos_token`; only where a tokenizer has none, as the model's chats end their
    turns.
    """
    if template.mode == "chat" or tokenizer.eos_token is None:
        return chat.chat_format(model, tokenizer)
    eos = tokenizer.eos_token
    return chat.ChatFormat(text_lead(tokenizer), "", eos, tokenizer.eos_token_id, True)


def ends(template: Template, model: Model, tokenizer: Any) -> frozenset[int]:
    """The ids that end an answer: of a turn, and of a text."""
    found = {end_of(template, model, tokenizer).end_id}
    if model.chat is not None or tokenizer.chat_template:
        found.add(chat.chat_format(model, tokenizer).end_id)
    return frozenset(found)


def text_lead(tokenizer: Any) -> str:
    """What stands between bare text and its answer: a space, unless the tokenizer puts it there."""
    first = tokenizer.convert_ids_to_tokens(encode("x", tokenizer))[0]
    return "" if first.startswith("\u2581") else " "


def identity(template: Template, model: Model) -> Parts:
    """What decides how a template spells rows for a model, which may have a system prompt of its
    own for it."""
    own = model.system_prompts.get(template.name)
    return parts_of(template) | ({} if own is None else {"models_system": own})


def check_template(template: Template, mount: str, dataset: Dataset) -> None:
    """Refuse a template that does not have exactly one place for the question.

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


def encode(text: str, tokenizer: Any, guard: str = "") -> list[int]:
    """Token ids of `text` without BOS or EOS.

    Control strings become their tokens, unless `guard` stands in them.

    Args:
        guard: a character that the model is not given: it keeps its neighbours from becoming one
            token.

    Raises:
        TemplateError: the tokenizer does not say which characters a token stands for.
    """
    if not guard or guard not in text:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not tokenizer.is_fast:
        raise TemplateError(
            f"tokenizer {type(tokenizer).__name__} is not a fast one, so that control strings in a question (such "
            f"as {tokenizer.eos_token!r}) cannot be spelled as text: {text.replace(guard, '')!r}."
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [token for token, (start, end) in spans if guard not in text[start:end]]


def _guard(row: Row) -> str:
    """A private-use character that the row does not have."""
    content = "".join(map(str, row.values()))
    return next(c for c in map(chr, range(0xE000, 0xF900)) if c not in content)


def _guarded(row: Row, guard: str, model: Model, tokenizer: Any) -> dict[str, Any]:
    """The row with a guard in whatever of it would become a control token of the format."""
    source = chat.chat_source(model) or str(tokenizer.chat_template or "")
    control = chat.control_strings(tokenizer, source)

    def break_up(found: re.Match[str]) -> str:
        return found.group()[0] + guard + found.group()[1:]

    ours = {key: str(row[key]) for key in ("input", "instruction", "output") if row.get(key)}
    return {**row, **{key: control.sub(break_up, content) for key, content in ours.items()}}


def _as_text_only(text: str, guard: str, model: Model, tokenizer: Any) -> str:
    """A text with a guard in whatever of it would become a control token of the format."""
    return str(_guarded({"output": text}, guard, model, tokenizer)["output"])


def _encode_prompt(
    text: str, template: Template, model: Model, tokenizer: Any, guard: str = ""
) -> list[int]:
    """Token ids of a whole prompt.

    A format of the model's own writes its BOS itself, or has none. Elsewhere the prompt begins as
    the tokenizer begins a text: with exactly one BOS, if it has one.
    """
    ids = encode(text, tokenizer, guard)
    if template.mode == "chat" and not chat.is_ours(model):
        return ids
    return [*opening(tokenizer), *ids]


def make_messages(
    row: Row,
    template: Template,
    dataset: Dataset,
    model: Model,
    reading: str | None = None,
    later: chat.Messages = (),
) -> list[dict[str, str]]:
    """One row's conversation under a chat template: [{role, content}, ...], the question last, then
    what is later.

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
    return [*messages, *map(dict, later)]


def _as_read(
    row: Row, dataset: Dataset, model: Model, reading: str | None
) -> tuple[Row, Dataset, Model]:
    """Put an evaluation's own reading in the place of the data set's and the model's."""
    if reading is None:
        return row, dataset, model
    asked = {**row, "input": read_query(row, reading)}
    return asked, replace(dataset, question="{input}"), replace(model, question=None)


def _spell(
    row: Row,
    template: Template,
    dataset: Dataset,
    model: Model,
    tokenizer: Any,
    later: chat.Messages = (),
) -> str:
    if template.mode == "text":
        if later:
            raise TemplateError(
                f"template {template.name} is bare text, which has one question and one answer: a "
                "conversation of several turns needs a chat template."
            )
        variant, values = _filling(row, template, dataset, model)
        return _fill(variant.user or "", values)
    messages = make_messages(row, template, dataset, model, None, later)
    spaced = template.space_before_answer
    text = chat.render(messages, model, tokenizer, template.name, space_before_answer=spaced)
    with_system = messages[0]["role"] == "system" and tokenizer is not None
    if with_system and not chat.chat_format(model, tokenizer).system_role:
        raise TemplateError(
            f"model {model.name}: its chat format has no place for a system prompt, and template "
            f"{template.name} has one; choose another template, or set model.chat to a .jinja file."
        )
    return text


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


def opening(tokenizer: Any) -> list[int]:
    """What the tokenizer puts in front of a text: BOS, nothing, or more than one token (GLM's)."""
    whole, bare = tokenizer("a")["input_ids"], encode("a", tokenizer)
    return next(whole[:i] for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
