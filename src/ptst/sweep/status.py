"""How far every cell of a grid is, from the store alone: true whoever runs the jobs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ptst.keys import Parts
from ptst.store import Store, read_json, read_jsonl
from ptst.sweep.grid import Grid, GridCell
from ptst.sweep.run import is_done

STATES = ("done", "running", "failed", "waiting")
STYLES = {"done": "green", "running": "cyan", "failed": "red", "waiting": "dim"}


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


def states_of(grid: Grid, store: Store) -> dict[str, CellState]:
    """The state of every cell of a grid, by cell key."""
    earlier = _earlier_cells(grid, store)
    being_made: dict[tuple[str, str], bool] = {}

    def running(stage: str, key: str) -> bool:
        if (stage, key) not in being_made:
            being_made[stage, key] = store.is_being_made(stage, key)
        return being_made[stage, key]

    states: dict[str, CellState] = {}
    for cell in grid.distinct:
        if is_done(cell, store):
            states[cell.keys.cell] = CellState("done")
            continue
        state = _state(cell, store, running)
        before = earlier.get(_place(cell.coordinates), ())
        changed = _changed(cell, store, before) if state.state == "waiting" else ()
        states[cell.keys.cell] = CellState(**{**asdict(state), "changed": changed})
    return states


def _state(cell: GridCell, store: Store, running: Any) -> CellState:
    interrupted = None
    for name, stage, key in _stages(cell):
        if store.has(stage, key):
            continue
        maker = store.maker(stage, key)
        if maker is not None and running(stage, key):
            since = datetime.fromtimestamp(maker.since, UTC).isoformat(timespec="seconds")
            return CellState("running", name, maker.host, since, maker.done, maker.total)
        if maker is not None and interrupted is None:
            interrupted = (name, maker)
    failure = store.failure(cell.keys.cell)
    if failure is not None:
        return CellState("failed", host=failure.host, reason=failure.reason, log=str(failure.log))
    if cell.problem:
        return CellState("failed", reason=cell.problem)
    if interrupted is not None:
        name, maker = interrupted
        return CellState("waiting", name, maker.host, None, maker.done, maker.total, "interrupted")
    return CellState("waiting")


def _stages(cell: GridCell) -> Iterator[tuple[str, str, str]]:
    """What the cell is made of, in the order of making: (what people call it, stage, key)."""
    if cell.keys.finetune:
        yield "finetune", "finetune", cell.keys.finetune
    for name, keys in cell.keys.evaluations.items():
        yield f"generate {name}", "generate", keys.generate
        yield f"judge {name}", "judge", keys.judge
    yield "summarise", "cell", cell.keys.cell


def _place(coordinates: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(coordinates.items()))


def _earlier_cells(grid: Grid, store: Store) -> dict[tuple[tuple[str, str], ...], list[str]]:
    """Keys of finished cells of earlier runs of the sweep, by coordinates, the latest first."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    files = (store.root / "sweeps" / grid.name).glob("*.jsonl")
    for file in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        for line in read_jsonl(file):
            if store.has("cell", line["cell"]):
                found.setdefault(_place(line["coordinates"]), []).append(line["cell"])
    return found


def _changed(cell: GridCell, store: Store, before: Any) -> tuple[str, ...]:
    """How a cell's configuration differs from that of the last finished cell in its place."""
    for key in before:
        try:
            old: Parts = read_json(store.path("cell", key) / "key.json")
            differences: list[str] = []
            if old["finetune"] != cell.keys.finetune and old["finetune"] and cell.keys.finetune:
                was = read_json(store.path("finetune", old["finetune"]) / "key.json")
                differences += _differences(was, cell.keys.finetune_parts)
            for name, keys in cell.keys.evaluations.items():
                if name not in old["evaluations"]:
                    differences.append(f"evaluation {name} is new")
                    continue
                scores = read_json(
                    store.path("judge", old["evaluations"][name]["scores"]) / "key.json"
                )
                was = read_json(store.path("generate", scores["generate"]) / "key.json")
                for old_parts, parts in ((was, keys.generate_parts), (scores, keys.judge_parts)):
                    differences += [
                        f"{name}: {difference}"
                        for difference in _differences(old_parts, parts)
                        if not difference.startswith(("generate:", "model.finetune:"))
                    ]
            return tuple(dict.fromkeys(differences))
        except (OSError, ValueError, KeyError):  # an older format, or a store cleaned by hand
            continue
    return ()


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for key in dict.fromkeys([*old, *new])
            for difference in _differences(
                old.get(key), new.get(key), f"{path}.{key}" if path else key
            )
        ]
    return [] if old == new else [f"{path}: {_short(old)} → {_short(new)}"]


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def as_json(grid: Grid, states: Mapping[str, CellState]) -> dict[str, Any]:
    """For machines: how many cells are in each state, and every cell."""
    counts = Counter(states[cell.keys.cell].state for cell in grid.distinct)
    return {
        "sweep": grid.name,
        "cells": len(grid.distinct),
        **{state: counts[state] for state in STATES},
        "each": [
            {
                "cell": cell.keys.cell,
                "finetune": cell.keys.finetune,
                "coordinates": cell.coordinates,
                **asdict(states[cell.keys.cell]),
            }
            for cell in grid.distinct
        ],
    }


def shown(grid: Grid, states: Mapping[str, CellState]) -> RenderableType:
    """For people: a line of counts, and a table of cells with what there is to say about each."""
    counts = Counter(states[cell.keys.cell].state for cell in grid.distinct)
    head = Text(f"{grid.name}: {len(grid.distinct)} cells: ")
    parts = [(f"{counts[state]} {state}", STYLES[state]) for state in STATES if counts[state]]
    head.append_text(Text(", ").join(Text(words, style) for words, style in parts))
    table = Table(box=None, pad_edge=False)
    for column in ("cell", "key", "state", ""):
        table.add_column(column, overflow="fold")
    for cell in grid.distinct:
        state = states[cell.keys.cell]
        table.add_row(
            Text(cell.label),
            Text(cell.keys.cell, "dim"),
            Text(state.state, STYLES[state.state]),
            Text(_details(state)),
        )
    return Group(head, table)


def _details(state: CellState) -> str:
    so_far = f" {state.done} of {state.total}" if state.total else ""
    if state.state == "running":
        since = datetime.fromisoformat(state.since or "")
        minutes = (time.time() - since.timestamp()) / 60
        return f"{state.stage}{so_far}, on {state.host} for {minutes:.0f} min"
    if state.state == "failed":
        return f"{state.reason or ''}" + (f"\n{state.log}" if state.log else "")
    if state.reason:
        return f"{state.reason}: {state.stage}{so_far}; run again to resume"
    if state.changed:
        return "a new key, because changed: " + "; ".join(state.changed)
    return ""


def watch(grid: Grid, store: Store, out: Console, seconds: float = 2.0) -> None:
    """Show the states until none is running or waiting, anew every so many seconds."""
    from rich.live import Live

    with Live(console=out, auto_refresh=False) as live:
        while True:
            states = states_of(grid, store)
            live.update(shown(grid, states), refresh=True)
            if not any(state.state in ("running", "waiting") for state in states.values()):
                return
            time.sleep(seconds)
