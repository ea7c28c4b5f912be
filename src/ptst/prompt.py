"""`ptst prompt`: the exact prompt of a cell, as the model would see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ptst.config import Config
from ptst.data import load_rows
from ptst.errors import PtstError
from ptst.models import load_tokenizer
from ptst.templates import make_prompt


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt and what can be said about it. The loss begins after `prompt_tokens` tokens."""

    text: str
    token_ids: list[int] | None
    prompt_tokens: int | None
    why_no_ids: str | None
    mask: str


def show_prompt(config: Config, question: str | None, train: bool) -> ShownPrompt:
    """Make the prompt of a question, or of the data set's first row.

    Args:
        question: taken as it is; None takes the first row of the data set.
        train: under the train template instead of the test template.
    """
    if question is None:
        row = load_rows(config.dataset, needs=("input",))[0]
    else:
        row = {"input": question}
    template = config.train_template if train else config.test_template
    tokenizer, why = _tokenizer(config)
    prompt = make_prompt(row, template, config.dataset, config.model, tokenizer)
    count = None if prompt.token_ids is None else len(prompt.token_ids)
    mask = (
        "In training, the loss begins "
        + (f"at token {count}" if count is not None else "after the prompt's last token")
        + f": the prompt is masked; completion (after {config.model.completion_prefix!r}) and EOS "
        "are learnt."
    )
    return ShownPrompt(prompt.text, prompt.token_ids, count, why, mask)


def _tokenizer(config: Config) -> tuple[Any, str | None]:
    """The model's tokenizer if it is on this machine already; it is not downloaded to look."""
    try:
        return load_tokenizer(config.model, local_only=True), None
    except PtstError:
        return None, f"the tokenizer of {config.model.path} is not on this machine."
