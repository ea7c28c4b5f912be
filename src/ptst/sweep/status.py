"""How far every cell of a grid is, from the store alone: true whoever runs the jobs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CellState:
    """Where a cell stands.

    Attributes:
        state: done, running, failed or waiting.
        stage: of a running cell, what is being made: "finetune", "generate gsm8k", ...
        host: the machine that makes it.
        since: when its maker started, ISO 8601 in UTC.
        done, total: how far that stage is (optimizer steps, queries); None where not known.
        reason: of a failed cell, the last line of the error.
        log: of a failed cell, the file with the whole error.
        changed: of a cell that is not done, what in its configuration differs from the cell of the same
            coordinates that an earlier run of the sweep finished ("recipe.learning_rate: 0.0004 → 0.0003").
    """

    state: str
    stage: str | None = None
    host: str | None = None
    since: str | None = None
    done: int | None = None
    total: int | None = None
    reason: str | None = None
    log: str | None = None
    changed: tuple[str, ...] = ()
