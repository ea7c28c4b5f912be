"""The view of a sweep that runs: how many cells are where, how long the rest may take, what jobs
are at.

It reads the store alone, where whoever makes something says at most once a second how far it is
(ptst.store.Work), so it is the same whichever launcher runs the jobs: in this process, in others,
or on other machines.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ptst.progress import LINE_SECONDS, LIVE, console, is_screen
from ptst.slurm.view import jobs_of
from ptst.status.states import (
    STYLES,
    CellState,
    counted,
    earlier_cells,
    shown,
    so_far,
    states_of,
    table_of,
)
from ptst.store import Snapshot, Store, read_json
from ptst.sweep.grid import Grid, GridCell
from ptst.sweep.in_words import duration
from ptst.sweep.measured import typical
from ptst.sweep.run import read_in_all

LOOK_SECONDS = 1.0
"""How often makers write how far they are."""
SHARE = 0.005
"""Of a core, at most, for looking and drawing: a large grid is looked at less often."""
WATCH_SECONDS = 2.0
ASK_SLURM_SECONDS = 15.0
"""While a screen is watched: SLURM's controller serves a whole cluster."""
OVER = ("done", "failed", "blocked", "damaged")
END = b"\x00\n"


@contextmanager
def live(grid: Grid, store: Store) -> Iterator[None]:
    """Show the view on standard error while the body launches jobs; nothing where that is no
    screen."""
    if not is_screen(console()):
        yield
        return
    began, since = time.monotonic(), time.time()
    pace, over = Pace(grid, store), Event()
    pace.look()
    pace.rates.clear()  # what is there already says nothing about this run

    def paint() -> None:
        while True:
            busy = time.thread_time()
            with suppress(OSError):  # a file system, or a terminal, that is away for a moment
                width, height = os.get_terminal_size(out.file.fileno())
                if width and height:
                    out.size = (width, height)
                states = states_of(grid, store, {}, {}, since)
                spent = time.monotonic() - began
                view.update(Group("", picture(grid, states, pace, out.width, spent)), refresh=True)
            if over.wait(max(LOOK_SECONDS, (time.thread_time() - busy) / SHARE)):
                return

    os.environ[LIVE] = "1"
    try:
        with (
            _printed_above() as out,
            Live(
                console=out,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            ) as view,
        ):
            painter = Thread(target=paint, daemon=True)
            painter.start()
            try:
                yield
            finally:
                over.set()
                painter.join()
    finally:
        del os.environ[LIVE]


@contextmanager
def _printed_above() -> Iterator[Console]:
    """What this process and those that it starts write to the terminal comes out line by line, by
    one console.

    A view on that console stays whole then. Replacing sys.stderr would not do: other processes have
    the descriptor.
    """
    streams = [stream for stream in (sys.stderr, sys.stdout) if stream.isatty()]
    terminals = [os.dup(stream.fileno()) for stream in streams]
    file = open(terminals[0], "w", encoding=sys.stderr.encoding, errors=sys.stderr.errors)  # noqa: SIM115, PTH123
    out = Console(file=file, highlight=False)
    # The reading end is never closed: a process that outlives the view would die of its next word.
    reading, writing = os.pipe()

    def read() -> None:
        with open(reading, "rb", closefd=False) as pipe:
            for line in pipe:
                text = line.removesuffix(END).decode(errors="replace").rstrip("\n")
                with suppress(
                    OSError
                ):  # the terminal is gone; whoever writes is not to wait for it
                    if text or not line.endswith(END):
                        out.print(Text.from_ansi(text), soft_wrap=True)
                if line.endswith(END):
                    return

    reader = Thread(target=read, daemon=True)
    for stream in streams:
        stream.flush()
        os.dup2(writing, stream.fileno())
    reader.start()
    try:
        yield out
    finally:
        for stream, terminal in zip(streams, terminals, strict=True):
            stream.flush()
            os.dup2(terminal, stream.fileno())
        os.write(writing, END)
        reader.join()
        os.close(writing)
        file.close()
        for terminal in terminals[1:]:
            os.close(terminal)


def watch(grid: Grid, store: Store, out: Console) -> None:
    """Show the view and the state of every cell until none is running, queued or waiting.

    Where `out` is not a screen, the counts are printed now and then, and the states at the end.
    """
    jobs, asked = jobs_of(grid, store), time.monotonic()
    earlier, pace = earlier_cells(grid, store), Pace(grid, store)

    def look() -> dict[str, CellState]:
        nonlocal jobs, asked
        if time.monotonic() - asked > ASK_SLURM_SECONDS:
            jobs, asked = jobs_of(grid, store), time.monotonic()
        return states_of(grid, store, jobs, earlier)

    def goes_on(states: Mapping[str, CellState]) -> bool:
        return bool({state.state for state in states.values()} & {"running", "queued", "waiting"})

    states, told = look(), -LINE_SECONDS
    if not is_screen(out):
        while goes_on(states):
            if time.monotonic() - told >= LINE_SECONDS:
                told = time.monotonic()
                out.print(counted(grid, states), soft_wrap=True)
            time.sleep(WATCH_SECONDS)
            states = look()
        out.print(shown(grid, states))
        return
    with Live(console=out, auto_refresh=False) as view:
        while goes_on(states):
            top = picture(grid, states, pace, out.width)
            view.update(Group(top, "", table_of(grid, states)), refresh=True)
            time.sleep(WATCH_SECONDS)
            states = look()
        view.update(shown(grid, states), refresh=True)


def picture(
    grid: Grid, states: Mapping[str, CellState], pace: Pace, width: int, spent: float | None = None
) -> RenderableType:
    """The view: counts, a bar of cells, and two lines for everything that is being made.

    Args:
        width: of the terminal, in characters.
        spent: seconds so far.
    """
    pace.look()
    left = pace.left(states)
    done = sum(state.state == "done" for state in states.values())
    times = [] if spent is None else [f"{duration(spent)} so far"]
    times += ["time left not known yet" if left is None else f"about {duration(left)} left"]
    bar = Table.grid(padding=(0, 1))
    bar.add_row(_bar(done, len(states), min(40, width // 5), "done"), Text(", ".join(times)))
    lines: list[RenderableType] = [counted(grid, states), bar]
    making: dict[str, list[GridCell]] = {}
    for cell in grid.distinct:
        if key := states[cell.keys.cell].key:
            making.setdefault(key, []).append(cell)
    for cells in making.values():
        state = states[cells[0].keys.cell]
        more = len(cells) - 1
        others = f", and {more} cell{'s' * (more > 1)} more" if more else ""
        lines.append(Text(cells[0].label + others, overflow="ellipsis", no_wrap=True))
        at = Table.grid(padding=(0, 1))
        own = _bar(state.done or 0, state.total or 1, min(12, width // 5), "running")
        stage = (str(state.stage), STYLES["running"])
        at.add_row(own, Text.assemble(stage, " ", so_far(state) or "starts"))
        lines.append(Padding(at, (0, 0, 0, 2)))
    return Group(*lines)


def _bar(done: int, total: int, width: int, state: str) -> ProgressBar:
    style = STYLES[state]
    return ProgressBar(total, done, width=max(4, width), complete_style=style, finished_style=style)


@dataclass(frozen=True)
class _Piece:
    """Something that cells need made. `units` are comparable among pieces of one kind."""

    kind: tuple[str, ...]
    units: float
    cells: list[str]


class Pace:
    """How long the rest of a grid may take, from what this object saw being made.

    Pieces are alike that are one stage of one model (fine-tunings: by one method, in proportion to
    what they read).
    """

    def __init__(self, grid: Grid, store: Store) -> None:
        self.store = store
        self.rates: dict[tuple[str, ...], list[tuple[float, float]]] = {}
        """Of each kind, (seconds per unit, units) of those made."""
        self.pieces: dict[tuple[str, str], _Piece] = {}
        """By stage and key, those not yet seen made."""
        for cell in grid.distinct:
            for made in cell.keys.artifacts:
                if made.made_by not in cell.config.stages or cell.problem or made.stage == "cell":
                    continue
                tuning = made.stage == "finetune"
                kind: tuple[str, ...] = (made.what, cell.coordinates["model"])
                kind += (cell.coordinates["finetune"],) if tuning else ()
                units = float(read_in_all(cell.config)) if tuning else 1.0
                piece = self.pieces.setdefault((made.stage, made.key), _Piece(kind, units, []))
                piece.cells.append(cell.keys.cell)

    def look(self) -> None:
        """Measure what was made meanwhile."""
        seen = Snapshot(self.store.root)
        for (stage, key), piece in list(self.pieces.items()):
            if seen.has(stage, key):
                del self.pieces[stage, key]
                with suppress(OSError, ValueError, KeyError):
                    facts = read_json(self.store.path(stage, key) / "provenance.json")
                    rate = (facts["seconds"] / piece.units, piece.units)
                    self.rates.setdefault(piece.kind, []).append(rate)

    def left(self, states: Mapping[str, CellState]) -> float | None:
        """Seconds that the rest takes if as many jobs run at once as do now.

        None where some of it is of a kind of which nothing is known yet.
        """
        running = {state.key: state for state in states.values() if state.state == "running"}
        rates = {kind: typical(own) for kind, own in self.rates.items()}
        rest: dict[str, float] = {}
        for (_, key), piece in self.pieces.items():
            state = running.get(key)
            if state and state.left is not None and state.total and state.done is not None:
                rest[key] = state.left
                if state.done < state.total:
                    whole = state.left / (state.total - state.done) * state.total
                    rates.setdefault(piece.kind, whole / piece.units)
        for (_, key), piece in self.pieces.items():
            wanted = any(states[cell].state not in OVER for cell in piece.cells)
            if key in rest or not wanted:
                continue
            if piece.kind not in rates:
                return None
            rest[key] = rates[piece.kind] * piece.units
        return max(sum(rest.values()) / max(1, len(running)), *rest.values()) if rest else None
