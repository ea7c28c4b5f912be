"""`ptst prompt`: the exact prompt of a cell, as the model would see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ptst.data import read_rows
from ptst.engine.chosen import engine_of
from ptst.engine.spelling import Spelling
from ptst.errors import ConfigError, PtstError
from ptst.models import load_tokenizer
from ptst.schema import Config
from ptst.stages.queries import dialogue_of, first_ask, load_queries
from ptst.templates import end_of, make_prompt


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt and what can be said about it. The loss begins after `prompt_tokens` tokens."""

    text: str
    token_ids: list[int] | None
    prompt_tokens: int | None
    why_no_ids: str | None
    mask: str


def show_prompt(config: Config, question: str | None, what: str) -> ShownPrompt:
    """Make the prompt of a question, or of the first row of the data set or query set.

    Args:
        question: taken as it is; None takes the first row.
        what: "test", "train" (under the train template), or an evaluation: a query of it, as it
            reads there. If the question is given, what the reading takes from other columns stays
            in its braces.

    Raises:
        ConfigError: there is no such evaluation.
    """
    evaluation = None
    if what not in ("test", "train"):
        evaluation = config.evaluations.get(what)
        if evaluation is None:
            raise ConfigError(f"for={what} is not one of: {', '.join(choices(config))}.")
    if question is not None:
        row = {"input": question}
    elif evaluation is not None:
        row = load_queries(what, evaluation)[0]
    else:
        row = next(read_rows(config.dataset, needs=("input",)))
    template = config.train_template if what == "train" else config.test_template
    tokenizer, why = _tokenizer(config)
    reading = None if evaluation is None else evaluation.question
    if evaluation is not None and question is None:  # as its dialogue begins
        asked = first_ask(dialogue_of(evaluation, what), row)
        prompt = Spelling(what, config, engine_of(config), tokenizer).shown(asked)
    else:
        prompt = make_prompt(row, template, config.dataset, config.model, tokenizer, reading)
    count = None if prompt.token_ids is None else len(prompt.token_ids)
    mask = "In training, the loss is the API's affair: on the last message, as far as is known."
    if config.model.api is None:
        around = "completion and the end of the turn"
        if tokenizer is not None:
            found = end_of(template, config.model, tokenizer)
            around = f"completion (after {found.lead!r}) and {found.tail + found.end!r}"
        mask = (
            "In training, the loss begins "
            + (f"at token {count}" if count is not None else "after the prompt's last token")
            + f": the prompt is masked; {around} are learnt."
        )
    return ShownPrompt(prompt.text, prompt.token_ids, count, why, mask)


def choices(config: Config) -> list[str]:
    """What a prompt can be shown for."""
    return ["test", "train", *config.evaluations]


def _tokenizer(config: Config) -> tuple[Any, str | None]:
    """The model's tokenizer if it is on this machine already; it is not downloaded to look."""
    if config.model.api is not None:
        return (
            None,
            f"{config.model.name} is behind an API, which spells and tokenises the messages.",
        )
    try:
        return load_tokenizer(config.model, local_only=True), None
    except PtstError:
        return None, f"the tokenizer of {config.model.path} is not on this machine."
