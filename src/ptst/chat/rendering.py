"""A conversation as a model's chats are spelled, whosever format that is."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ptst.chat.formats import chat_format
from ptst.chat.sources import Messages, chat_source, is_ours
from ptst.chat.spelling import spell
from ptst.errors import TemplateError
from ptst.schema import Model


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
        TemplateError: there is no format, it cannot spell this conversation, or it asks for today's
            date and `model.date` is null.
    """
    if is_ours(model):
        compiled = _compiled(str(chat_source(model)))
        return compiled.render(messages=messages, space_before_answer=space_before_answer)
    text, asked = spell(messages, model, tokenizer, name, prompt)
    if asked and model.date is None:
        raise TemplateError(
            f"model {model.name}: its chat format writes today's date into every prompt, so that the same "
            'run gives another prompt tomorrow. Fix the day: model.date="2024-07-26".'
        )
    if not model.default_system and messages[0]["role"] != "system":
        turn = chat_format(model, tokenizer).default_turn
        text = text.replace(turn, "", 1)
    return text


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment().from_string(source)
