"""A look into a model while it writes: its last hidden states, and rows that stop one by one; or a
hand on it: another choice of its next token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from ptst.engine import Steer, Watch


@dataclass
class Watched:
    """What a watch did in one batch. Tensors stay where they are until somebody reads them.

    Attributes:
        arguments: what generate() needs for it.
        stopped: of each step, which rows were stopped; tensors [rows].
        noted: of each step, what was noted; tensors [rows].
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    stopped: list[Any] = field(default_factory=list)
    noted: list[Any] = field(default_factory=list)

    @property
    def steps(self) -> dict[int, int]:
        """Of each row that was stopped, by its number: how many tokens it has."""
        steps: dict[int, int] = {}
        for step, rows in enumerate(_read(self.stopped), 1):
            for row in (row for row, stopped in enumerate(rows) if stopped):
                steps.setdefault(row, step)
        return steps

    @property
    def seen(self) -> list[tuple[float, ...]]:
        """Of each row, what was noted at each step; nothing where nothing was."""
        return list(zip(*_read(self.noted), strict=True))


def _read(steps: list[Any]) -> list[list[Any]]:
    """Tensors of steps as lists: one transfer for all of them."""
    if not steps:
        return []
    import torch

    rows: list[list[Any]] = torch.stack(steps).tolist()
    return rows


@contextmanager
def watching(
    model: Any, watch: Watch | Steer | None, ends: frozenset[int] = frozenset()
) -> Iterator[Watched]:
    """Let a watch stop rows of the next generate(), or a steer choose their tokens; None lets
    nothing look.

    Args:
        ends: ids that end an answer, for a steer.
    """
    watched = Watched()
    if watch is None:
        yield watched
        return
    if isinstance(watch, Steer):
        watched.arguments = {"logits_processor": [_steering(watch, ends, watched.noted)]}
        yield watched
        return
    newest: list[Any] = []
    steps = count(1)

    def see(module: Any, inputs: Any, output: Any) -> None:
        newest[:] = [output[0][:, -1]]

    def stops(input_ids: Any, scores: Any, **_: Any) -> Any:
        stopped, noted = watch.look(newest[0], next(steps))
        watched.stopped.append(stopped)
        if noted is not None:
            watched.noted.append(noted)
        return stopped.to(input_ids.device)

    watched.arguments = {"stopping_criteria": [stops]}
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    hook = plain.base_model.register_forward_hook(see)
    try:
        yield watched
    finally:
        hook.remove()


def _steering(steer: Steer, ends: frozenset[int], noted: list[Any]) -> Any:
    """A logits processor that leaves one token to choose wherever a steer wants another one than
    the likeliest. Where the likeliest stays, scores are left as they are."""
    import torch

    widths: list[int] = []  # of the prompts: what stands there when the first token is chosen

    def process(input_ids: Any, scores: Any) -> Any:
        widths.append(input_ids.shape[1])
        answers = input_ids[:, widths[0] :].tolist()
        rows = [n for n, answer in enumerate(answers) if ends.isdisjoint(answer)]
        tokens, notes = steer.choose([answers[n] for n in rows], scores[rows], ends)
        likeliest = scores.argmax(-1).tolist()
        kept = [0.0] * len(answers)
        for n, token, note in zip(rows, tokens, notes, strict=True):
            kept[n] = note
            if token != likeliest[n]:
                scores[n] = -torch.inf
                scores[n, token] = 0.0
        noted.append(torch.tensor(kept, dtype=torch.double))
        return scores

    return process
