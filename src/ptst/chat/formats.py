"""What a chat format says: found out from the model, not assumed.

Conversations of known messages are rendered, and what stands around the messages is looked at:

    <|im_start|>system\\nYou are Qwen, ...<|im_end|>\\n    <- a system prompt that nobody asked for
    <|im_start|>user\\nFIRST QUESTION<|im_end|>\\n
    <|im_start|>assistant\\n                              <- the generation prompt ends here
    FIRST ANSWER<|im_end|>                              <- what ends a turn, whatever eos_token is
    \\n<|im_start|>user\\nSECOND QUESTION ...
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any

from ptst.chat.sources import is_ours, own_source
from ptst.chat.spelling import spell
from ptst.chat.thinking import CLOSE, OPEN
from ptst.errors import TemplateError
from ptst.schema import Model

SYSTEM, QUESTION, ANSWER, NEXT = (
    "SYSTEM PROMPT",
    "FIRST QUESTION",
    "FIRST ANSWER",
    "SECOND QUESTION",
)
"""Contents whose surroundings show what a format says."""


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
        opens_think: whether the generation prompt opens a think block, so that an answer begins in
            it.
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
    source = own_source(model, tokenizer)
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
        text, clock = spell(messages, model, tokenizer, "chat", prompt)
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
    """A system turn before the first question that the second lacks: its spelling and its text."""
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
    """What means something to a chat format: special tokens, and added tokens that its text has."""
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
