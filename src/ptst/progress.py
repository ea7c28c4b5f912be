"""Progress of long work: a bar in a terminal, now and then a line elsewhere (CI, SLURM logs)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ptst.redact import redacted

Advance = Callable[[int, int, str], None]
"""advance(done, total, note)"""

LINE_SECONDS = 30.0

LIVE = "PTST_LIVE"
"""In the environment of processes whose work a sweep's view shows (ptst.status.live): `progress` is
silent there."""


def console() -> Console:
    """Where people read along: standard error, so that standard output stays for results."""
    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """A line for people, as it is but for secrets: not wrapped, nothing in it taken for markup."""
    console().print(redacted(text), markup=False, soft_wrap=True)


def is_screen(out: Console) -> bool:
    """Whether a picture can be drawn in place: on a terminal, and not a dumb one, FORCE_COLOR or
    not."""
    return out.is_interactive and out.file.isatty()


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """Show how far `what` is.

    Yields:
        A function to call with (done, total, note), as often as one likes.
    """
    if os.environ.get(LIVE):
        yield lambda done, total, note: None
        return
    out = console()
    if is_screen(out):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=out, transient=True) as bar:
            task = bar.add_task(what, total=None, note="")
            yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)
        return
    last = time.monotonic()

    def line(done: int, total: int, note: str) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            out.print(f"  {what}: {done}/{total} {note}".rstrip())

    yield line
