"""An artifact that is being made: where, by whom, and how far it is."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Maker:
    """Who makes, or last tried to make, an artifact, and how far it came.

    `since` and `updated` are seconds since the epoch, `spent` the seconds of earlier attempts;
    `done` of `total` are optimizer steps or queries. `loss` is the last step's. `rate` counts
    tokens of training or queries, per second since this attempt's first word; `left` are the
    seconds of the rest at that rate.
    """

    host: str
    pid: int
    since: float
    updated: float
    spent: float = 0.0
    done: int | None = None
    total: int | None = None
    loss: float | None = None
    rate: float | None = None
    left: float | None = None


@dataclass
class Work:
    """Where an artifact is being made.

    `result` becomes the artifact and starts empty. `scratch` (checkpoints, a journal) may hold what
    an earlier, interrupted maker left, and is thrown away when the artifact is there.
    """

    result: Path
    scratch: Path
    maker: Maker
    began: float = field(default_factory=time.monotonic)
    told: float = 0.0
    first: tuple[float, int, int] | None = None
    """When this attempt first told something, and what: it has been at full speed since."""

    def tell(
        self, done: int, total: int, loss: float | None = None, tokens: int | None = None
    ) -> None:
        """Let others see how far the work is; written at most once a second.

        Args:
            tokens: what a rate is to count, where that is not `done`.
        """
        now, counted = time.monotonic(), done if tokens is None else tokens
        self.first = self.first or (now, done, counted)
        if now - self.told < 1 and done != total:
            return
        self.told = now
        seconds, steps = now - self.first[0], done - self.first[1]
        self.maker = replace(
            self.maker,
            done=done,
            total=total,
            updated=self.maker.since + now - self.began,  # a clock may be set back
            loss=loss,
            rate=(counted - self.first[2]) / seconds if steps > 0 else None,
            left=(total - done) * seconds / steps if steps > 0 else None,
        )
        write_maker(self.result.parent, self.maker)


def write_maker(folder: Path, maker: Maker) -> None:
    """Keep who makes an artifact, and how far it is, in maker.json."""
    # Not synced to disk, unlike all else: it only serves while its writer lives.
    temporary = folder / f".maker.{maker.pid}"
    temporary.write_text(json.dumps(asdict(maker)), encoding="utf-8")
    temporary.replace(folder / "maker.json")
