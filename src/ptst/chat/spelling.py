"""A conversation as a format of the model's own spells it."""

from __future__ import annotations

import datetime
from typing import Any

from ptst.chat.sources import Messages, fixed_date, own_source
from ptst.errors import TemplateError
from ptst.schema import Model


def spell(
    messages: Messages, model: Model, tokenizer: Any, name: str, prompt: bool
) -> tuple[str, bool]:
    """The text as the format spells it, and whether it asked for the date.

    It gets 2000-01-01 where the model has no fixed date.
    """
    from jinja2 import TemplateError as JinjaError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    day, asked = fixed_date(model) or datetime.date(2000, 1, 1), False

    def strftime_now(pattern: str) -> str:
        nonlocal asked
        asked = True
        return day.strftime(pattern)

    # apply_chat_template itself gives the format a clock that cannot be set.
    source = own_source(model, tokenizer)
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
