"""Durations, counts and files in words."""

from __future__ import annotations

from pathlib import Path


def file_in_words(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def duration(seconds: float | None) -> str:
    """In two units at most: "45 s", "12 min", "3 h 10 min", "5 d 3 h"; "unknown" for None."""
    if seconds is None:
        return "unknown"
    if seconds < 1:
        return "under 1 s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def counted_in_words(n: int, words: str) -> str:
    one = "analysis" if words == "analyses" else words.removesuffix("s")
    return f"{n:,} {words if n != 1 else one}"
