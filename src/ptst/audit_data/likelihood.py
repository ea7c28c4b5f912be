"""How well the untuned model knows a text: its negative log-likelihood."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptst.models import context_of
from ptst.schema import Config, Template
from ptst.templates import TrainingRow, make_prompt, make_training_row

BATCH_TOKENS = 2048
"""Tokens that go through the model together: their logits are 1.2 GB at 150,000 words."""
DUMMY = "\u00a7"
"""A question in another's place: what differs between their prompts are the question's tokens."""


@dataclass(frozen=True)
class Likelihood:
    """The mean negative log-likelihood of a row's question and of its answer, in nats; None where
    there is no token of it, or no letter or digit.

    Attributes:
        question, answer: for each letter or digit, which does not depend on the tokenizer.
        question_tokens, answer_tokens: for each token.
    """

    question: float | None = None
    answer: float | None = None
    question_tokens: float | None = None
    answer_tokens: float | None = None


def likelihoods(
    config: Config,
    template: Template,
    rows: Sequence[Mapping[str, Any]],
    model: Any,
    tokenizer: Any,
    tell: Callable[[int, int], None],
) -> list[Likelihood]:
    """One forward pass over rows as they are trained on, under a template.

    Rows of about one length go together, in an order that only their content decides. What does not
    fit in the model's context is not read.

    Args:
        rows: with `input` and `output`.
        tell: tell(done, total).
    """
    spelled = [_spelled(row, template, config, tokenizer) for row in rows]
    context = context_of(model.config)
    cut = [row.cut(context or len(row)) for row, _, _ in spelled]
    order = sorted(range(len(rows)), key=lambda i: (len(cut[i]), cut[i].input_ids))
    found = [Likelihood()] * len(rows)
    done = 0
    for batch in _batches(order, cut):
        for i, losses in zip(batch, _losses(model, [cut[i].input_ids for i in batch]), strict=True):
            row, first, last = spelled[i]
            question = losses[first - 1 : last - 1]  # the loss at place t is of token t + 1
            answer = losses[row.prompt_length - 1 :]
            found[i] = Likelihood(
                _over(question, _characters(rows[i]["input"])),
                _over(answer, _characters(rows[i]["output"])),
                _over(question, len(question)),
                _over(answer, len(answer)),
            )
        done += len(batch)
        tell(done, len(rows))
    return found


def _spelled(
    row: Mapping[str, Any], template: Template, config: Config, tokenizer: Any
) -> tuple[TrainingRow, int, int]:
    """A training row, and where its question begins and ends, in tokens."""
    of = (template, config.dataset, config.model, tokenizer)
    made = make_training_row(row, *of)
    prompt = made.input_ids[: made.prompt_length]
    other = make_prompt({**row, "input": DUMMY}, *of).token_ids or []
    first, last = _common(prompt, other), _common(prompt[::-1], other[::-1])
    last = min(last, len(prompt) - first)
    return made, max(first, 1), len(prompt) - last


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with in common."""
    differ = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def _batches(order: Sequence[int], rows: Sequence[TrainingRow]) -> Iterator[list[int]]:
    """Rows in their order, as many as `BATCH_TOKENS` has room for."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(rows[i]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _losses(model: Any, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """The loss of every token of every row but its first."""
    import torch

    ids = [torch.tensor(row) for row in rows]
    # Padding stands behind, where no token before it looks.
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(model.device)
    with torch.inference_mode():
        logits = model(input_ids=padded, use_cache=False).logits[:, :-1]
        losses = torch.stack(
            [
                torch.nn.functional.cross_entropy(own.float(), wanted, reduction="none")
                for own, wanted in zip(logits, padded[:, 1:], strict=True)
            ]
        ).tolist()
    return [loss[: len(row) - 1] for loss, row in zip(losses, rows, strict=True)]


def _over(losses: Sequence[float], count: int) -> float | None:
    return sum(losses) / count if losses and count else None


def _characters(text: Any) -> int:
    return sum(map(str.isalnum, str(text)))
