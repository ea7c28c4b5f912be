"""A look into a model while it writes: its last hidden states, and rows that stop one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from ptst.engine import Watch


@dataclass
class Watched:
    """What a watch did in one batch.

    Attributes:
        arguments: what generate() needs for it.
        steps: of each row that was stopped, by its number: how many tokens it has.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)


@contextmanager
def watching(model: Any, watch: Watch | None) -> Iterator[Watched]:
    """Let a watch stop rows of the next generate(); None lets nothing look."""
    watched = Watched()
    if watch is None:
        yield watched
        return
    import torch

    newest: list[Any] = []
    steps = count(1)

    def see(module: Any, inputs: Any, output: Any) -> None:
        newest[:] = [output[0][:, -1]]

    def stops(input_ids: Any, scores: Any, **_: Any) -> Any:
        step = next(steps)
        stopped = torch.as_tensor(watch.stops(newest[0], step), device=input_ids.device).bool()
        for row in stopped.nonzero().flatten().tolist():
            watched.steps.setdefault(row, step)
        return stopped

    watched.arguments = {"stopping_criteria": [stops]}
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    hook = plain.base_model.register_forward_hook(see)
    try:
        yield watched
    finally:
        hook.remove()
