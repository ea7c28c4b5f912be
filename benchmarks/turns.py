"""What benchmarks share: sides that take turns, and ratios within a turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable


def in_turns(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Seconds of each side, taken in turns."""
    turns = [[side() for side in sides] for _ in range(rounds)]
    return [list(side) for side in zip(*turns, strict=True)]


def ratio(name: str, top: list[float], bottom: list[float]) -> dict[str, float]:
    """Median, least and greatest of the pairwise ratios."""
    ratios = [a / b for a, b in zip(top, bottom, strict=True)]
    return {
        name: round(statistics.median(ratios), 2),
        f"{name}_min": round(min(ratios), 2),
        f"{name}_max": round(max(ratios), 2),
    }
