"""How a model spells a conversation, and what its format says: found out from the model, not assumed.

A model's chat format is Jinja text: its tokenizer's own (`chat: null`), a file, or one of conf/chat/. What the first
two say is found by rendering conversations of known messages and looking at what stands around them:

    <|im_start|>system\\nYou are Qwen, ...<|im_end|>\\n    <- a system prompt that nobody asked for
    <|im_start|>user\\nFIRST QUESTION<|im_end|>\\n
    <|im_start|>assistant\\n                              <- the generation prompt ends here
    FIRST ANSWER<|im_end|>                              <- what ends a turn, whatever eos_token is
    \\n<|im_start|>user\\nSECOND QUESTION ...
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from ptst.config import CONF, Model
from ptst.errors import ConfigError, TemplateError

Messages = Sequence[Mapping[str, str]]
"""A conversation: [{role, content}, ...] with the roles system, user and assistant."""

SYSTEM, QUESTION, ANSWER, NEXT = (
    "SYSTEM PROMPT",
    "FIRST QUESTION",
    "FIRST ANSWER",
    "SECOND QUESTION",
)
"""Contents whose surroundings show what a format says."""

OPEN, CLOSE = "<think>", "</think>"
"""What stands around a model's reasoning."""


@dataclass(frozen=True)
class ChatFormat:
    """What a chat format says.

    Attributes:
        lead: text between the generation prompt and an answer (an empty think block, for example).
        tail: text between an answer and the token that ends its turn; white space.
        end: the token that ends an assistant's turn, and `end_id` its id.
        system_role: whether it has a place for a system prompt.
        default_system: the text of a system turn that nobody asked for; None where there is none.
        default_turn: that whole turn as it is spelled; "" where there is none.
        asks_clock: whether it asks for today's date.
        opens_think: whether the generation prompt opens a think block, so that an answer begins in it.
        thinks: whether answers may have a think block.
    """

    lead: str
    tail: str
    end: str
    end_id: int
    end_is_eos: bool
    system_role: bool = True
    default_system: str | None = None
    default_turn: str = ""
    asks_clock: bool = False
    opens_think: bool = False
    thinks: bool = False


def is_ours(model: Model) -> bool:
    """Whether its chats are spelled by a format of conf/chat/, and not by one of the model's own."""
    return model.chat is not None and (CONF / "chat" / f"{model.chat}.jinja").is_file()


def chat_source(model: Model) -> str | None:
    """The Jinja text that spells this model's chats; None where it is the tokenizer's own.

    Raises:
        ConfigError: `model.chat` names no format of ours and no file.
    """
    if model.chat is None:
        return None
    path = (
        CONF / "chat" / f"{model.chat}.jinja" if is_ours(model) else Path(model.chat).expanduser()
    )
    if path.suffix != ".jinja" or not path.is_file():
        ours = sorted(path.stem for path in (CONF / "chat").glob("*.jinja"))
        raise ConfigError(
            f"model.chat={model.chat} is not one of {', '.join(ours)}, not a .jinja file that "
            "exists, and not null (the tokenizer's own)."
        )
    return path.read_text(encoding="utf-8")


def fixed_date(model: Model) -> datetime.date | None:
    """The day that the model's format is told.

    Raises:
        ConfigError: `model.date` is no date.
    """
    if model.date is None:
        return None
    try:
        return datetime.date.fromisoformat(model.date)
    except ValueError as error:
        raise ConfigError(
            f'model.date={model.date} must be a day, for example model.date="2024-07-26".'
        ) from error


def render(
    messages: Messages,
    model: Model,
    tokenizer: Any,
    name: str,
    *,
    prompt: bool = True,
    space_before_answer: bool = True,
) -> str:
    """Spell a conversation as the model's format does.

    Args:
        name: of the template, for messages.
        prompt: whether the assistant's turn is opened at the end (the generation prompt).
        space_before_answer: see `Template`; only our own formats know it.

    Raises:
        TemplateError: there is no format, it cannot spell this conversation, or it asks for today's date and
            `model.date` is null.
    """
    if is_ours(model):
        compiled = _compiled(str(chat_source(model)))
        return compiled.render(messages=messages, space_before_answer=space_before_answer)
    text, asked = _render(messages, model, tokenizer, name, prompt)
    if asked and model.date is None:
        raise TemplateError(
            f"model {model.name}: its chat format writes today's date into every prompt, so that the same "
            'run gives another prompt tomorrow. Fix the day: model.date="2024-07-26".'
        )
    if not model.default_system and messages[0]["role"] != "system":
        turn = chat_format(model, tokenizer).default_turn
        text = text.replace(turn, "", 1)
    return text


def _render(
    messages: Messages, model: Model, tokenizer: Any, name: str, prompt: bool
) -> tuple[str, bool]:
    """The text as the format spells it, and whether it asked for the date (a fixed one where there is none)."""
    from jinja2 import TemplateError as JinjaError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    day, asked = fixed_date(model) or datetime.date(2000, 1, 1), False

    def strftime_now(pattern: str) -> str:
        nonlocal asked
        asked = True
        return day.strftime(pattern)

    # apply_chat_template itself gives the format a clock that cannot be set.
    source = _own_source(model, tokenizer)
    values = {**tokenizer.special_tokens_map, **model.chat_args}
    try:
        text: str = _compile_jinja_template(source).render(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=prompt,
            strftime_now=strftime_now,
            **values,
        )
    except (JinjaError, TypeError) as error:
        raise TemplateError(
            f"model {model.name}: its chat format cannot spell template {name}: {error}"
        ) from error
    return text, asked


def _own_source(model: Model, tokenizer: Any) -> str:
    """The Jinja text of a format that is not one of ours."""
    source = chat_source(model)
    if source is not None and tokenizer is not None:
        return source
    if tokenizer is None or not tokenizer.chat_template:
        where = (
            "a file"
            if source is not None
            else "null, so its chats are spelled by the tokenizer's own chat template"
        )
        raise TemplateError(
            f"model {model.name}: model.chat is {where}, but {model.path} "
            + ("has none" if tokenizer is not None else "is not at hand")
            + "; set model.chat to llama2, mistral or a .jinja file."
        )
    return str(tokenizer.get_chat_template())


def chat_format(model: Model, tokenizer: Any) -> ChatFormat:
    """What the model's format says, found by rendering three conversations.

    Raises:
        TemplateError: there is no format, or it does not show where an answer begins and ends.
    """
    if is_ours(model):
        end = tokenizer.eos_token
        if end is None:
            raise TemplateError(
                f"model {model.name}: model.chat={model.chat} ends a turn with the tokenizer's eos_token, "
                f"and {model.path} has none; set model.chat to null or a .jinja file."
            )
        return ChatFormat(model.completion_prefix or "", "", end, tokenizer.eos_token_id, True)
    source = _own_source(model, tokenizer)
    facts = (model.name, model.path, model.chat, model.completion_prefix, model.date)
    arguments = json.dumps(model.chat_args, sort_keys=True)
    return _found(tokenizer, source, facts, arguments, tokenizer.eos_token)


@lru_cache(maxsize=32)  # of a tokenizer and a text: the same is found every time
def _found(
    tokenizer: Any, source: str, facts: tuple[Any, ...], arguments: str, eos: str | None
) -> ChatFormat:
    name, path, chat, prefix, date = facts
    model = Model(name, path, chat=chat, date=date, chat_args=json.loads(arguments))
    asked = False

    def spelled(*contents: tuple[str, str], prompt: bool = False) -> str:
        nonlocal asked
        messages = [{"role": role, "content": content} for role, content in contents]
        text, clock = _render(messages, model, tokenizer, "chat", prompt)
        asked = asked or clock
        return text

    first, answer, following = ("user", QUESTION), ("assistant", ANSWER), ("user", NEXT)
    asking = spelled(first, prompt=True)
    whole, longer = spelled(first, answer), spelled(first, answer, following)
    for text, contents in (
        (asking, [QUESTION]),
        (whole, [QUESTION, ANSWER]),
        (longer, [ANSWER, NEXT]),
    ):
        if lacking := [content for content in contents if content not in text]:
            raise TemplateError(
                f"model {name}: its chat format leaves out what is said ({lacking[0]!r} is not in {text!r})."
            )
    if "<|channel|>" in source:
        raise TemplateError(
            f"model {name}: its answers stand in channels (<|channel|>), which are not read apart: its reasoning "
            "would be judged as its answer. Use a model without channels."
        )
    added = tokenizer.added_tokens_decoder.values()
    control = _any_of(token.content for token in added if token.content.strip())
    after = longer[longer.index(ANSWER) + len(ANSWER) : longer.index(NEXT)]
    found = control.search(after)
    tail, end = ("", eos)
    if found and not after[: found.start()].strip():
        tail, end = after[: found.start()], found.group()
    if end is None:
        raise TemplateError(
            f"model {name}: nothing ends its turns: its chat format writes no token behind an answer "
            f"({after!r}), and its tokenizer has no eos_token. Set model.chat to a .jinja file that does."
        )
    opens = asking.rstrip().endswith(OPEN)
    turn, default = _default_turn(tokenizer, longer, whole, after, control)
    return ChatFormat(
        lead=_lead(name, asking, whole, opens) if prefix is None else prefix,
        tail=tail,
        end=end,
        end_id=tokenizer.convert_tokens_to_ids(end),
        end_is_eos=end == eos,
        system_role=_has_system_role(spelled, first),
        default_system=default,
        default_turn=turn,
        asks_clock=asked,
        opens_think=opens,
        thinks=opens or CLOSE in source,
    )


def _lead(name: str, asking: str, whole: str, opens_think: bool) -> str:
    if whole.startswith(asking):
        return whole[len(asking) : whole.index(ANSWER)]
    if opens_think:  # the answer comes behind an empty block
        return ("" if asking.endswith("\n") else "\n") + f"\n{CLOSE}\n\n"
    alike = _alike(asking, whole)
    raise TemplateError(
        f"model {name}: the prompt that its chat format gives ({asking[alike:]!r} behind {asking[:alike][-40:]!r}) is not "
        f"how it spells an answer ({whole[alike:][:40]!r}). Say what stands between them: model.completion_prefix."
    )


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _default_turn(
    tokenizer: Any, longer: str, whole: str, after: str, control: re.Pattern[str]
) -> tuple[str, str | None]:
    """A system turn that stands before the first question and not before the second: its spelling and its text."""
    before = longer[: longer.index(QUESTION)]
    closing = whole[whole.index(ANSWER) + len(ANSWER) :]
    opening = after.removeprefix(closing)
    if not before.endswith(opening):
        opening = opening[len(opening) - _alike(before[::-1], opening[::-1]) :]
    turn = before[: len(before) - len(opening)]
    bos = tokenizer.bos_token
    if bos and turn.startswith(bos) and not opening.startswith(bos):
        turn = turn[len(bos) :]
    text = re.sub(r"^system\s+", "", control.sub("\n", turn).strip()).strip()
    return (turn, text) if text else ("", None)


def _has_system_role(spelled: Callable[..., str], first: tuple[str, str]) -> bool:
    try:
        return SYSTEM in spelled(("system", SYSTEM), first, prompt=True)
    except TemplateError:
        return False


@lru_cache(maxsize=32)
def control_strings(tokenizer: Any, source: str) -> re.Pattern[str]:
    """What means something to a chat format: special tokens, and the other added tokens that its text has."""
    added = tokenizer.added_tokens_decoder.values()
    return _any_of(
        t.content for t in added if t.special or (t.content in source and t.content.strip())
    )


def _any_of(strings: Iterable[str]) -> re.Pattern[str]:
    """Matches any of some strings, the longest that fits; nothing where there are none."""
    longest_first = sorted(strings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def notes(model: Model, tokenizer: Any) -> list[str]:
    """What its format does that a user may not expect, a line each."""
    found = chat_format(model, tokenizer)
    lines = []
    if found.default_system is not None:
        lines.append(
            f"its chat format writes a system prompt where a template has none: {found.default_system!r}"
            + ("" if model.default_system else "; left out, as model.default_system=false says")
            + ("; model.default_system=false leaves it out" if model.default_system else "")
        )
    if found.asks_clock:
        lines.append(
            f"its chat format writes today's date, which is fixed: model.date={model.date}"
        )
    if not found.end_is_eos:
        lines.append(
            f"an answer ends with {found.end!r}, not with eos_token ({tokenizer.eos_token!r}): rows are "
            "trained to end so, and answers stop there"
        )
    if found.thinks:
        lines.append(
            "answers may have a think block: it is kept apart, no judge reads it, and where it is not closed "
            "there is no answer"
        )
    return [f"model {model.name}: {line}." for line in lines]


def split_thinking(text: str, opened: bool) -> tuple[str | None, str | None]:
    """Part a completion into what stands in its think block and the answer behind it.

    Args:
        opened: whether the prompt opened the block.

    Returns:
        (thinking, answer): the first is None where there is no block, the second where the block is not closed.
    """
    if not opened and not text.lstrip().startswith(OPEN):
        return None, text
    thinking, closed, answer = text.lstrip().removeprefix(OPEN).partition(CLOSE)
    return thinking.strip(), answer.lstrip("\n") if closed else None


def decode(ids: Sequence[int], tokenizer: Any) -> str:
    """The text of an answer: without control tokens, but with the tags of a think block where they are such."""
    added = tokenizer.added_tokens_decoder
    pieces: list[list[int]] = [[]]
    tags = []
    for token in ids:
        if token in added and added[token].special and added[token].content in (OPEN, CLOSE):
            tags.append(added[token].content)
            pieces.append([])
        else:
            pieces[-1].append(token)
    texts = [
        tokenizer.decode(piece, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for piece in pieces
    ]
    return "".join(part for pair in zip(texts, [*tags, ""], strict=True) for part in pair)


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment().from_string(source)
