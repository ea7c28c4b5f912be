"""Which Jinja text spells a model's chats: its tokenizer's own, a file, or one of conf/chat/."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptst.errors import ConfigError, TemplateError
from ptst.paths import CONF
from ptst.schema import Model

Messages = Sequence[Mapping[str, str]]
"""A conversation: [{role, content}, ...] with the roles system, user and assistant."""


def is_ours(model: Model) -> bool:
    """Whether its chats are spelled by a format of conf/chat/, not by one of the model's own."""
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


def own_source(model: Model, tokenizer: Any) -> str:
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


def fixed_date(model: Model) -> datetime.date | None:
    """The day that the model's format is told.

    Raises:
        ConfigError: `model.date` is not a date.
    """
    if model.date is None:
        return None
    try:
        return datetime.date.fromisoformat(model.date)
    except ValueError as error:
        raise ConfigError(
            f'model.date={model.date} must be a day, for example model.date="2024-07-26".'
        ) from error
