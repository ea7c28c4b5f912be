"""How far every cell of a grid is, from the store alone: true whoever runs the jobs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ptst.cell import damage_of
from ptst.keys import Parts
from ptst.slurm.view import CellJob, jobs_of
from ptst.store import Snapshot, Store, read_json, read_jsonl
from ptst.sweep.grid import Grid, GridCell
from ptst.sweep.in_words import duration
from ptst.sweep.run import blocked, is_done

STYLES = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "damaged": "red",
    "blocked": "red",
    "queued": "blue",
    "waiting": "dim",
}
STATES = tuple(STYLES)


@dataclass(frozen=True)
class CellState:
    """Where a cell stands.

    Attributes:
        state: done; running; queued (a job of SLURM's for it waits); waiting (there is no job);
            blocked (its fine-tuning failed); failed; damaged (some of what it is made of cannot be
            read).
        stage: of a running cell, what is being made: "finetune", "generate gsm8k", ...
        host: the machine that makes it.
        since: when its maker started, ISO 8601 in UTC.
        key: of what is being made.
        done, total: how far that stage is (optimizer steps, queries); None where not known.
        loss, rate, left: see ptst.store.Maker.
        reason: of a failed or blocked cell, see ptst.store.reason_of; of a damaged one,
            ptst.store.Store.damage.
        log: of a failed or blocked cell, the file with the whole error.
        job: the job of SLURM's for what comes next, where one was submitted.
        changed: of a cell that is not done, what in its configuration differs from the cell of the
            same coordinates that an earlier run of the sweep finished ("recipe.learning_rate:
            0.0004 → 0.0003").
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
    job: CellJob | None = None
    key: str | None = None
    loss: float | None = None
    rate: float | None = None
    left: float | None = None


Earlier = Mapping[tuple[tuple[str, str], ...], Sequence[str]]
"""Keys of finished cells of earlier runs of a sweep, by coordinates, the latest first."""


def states_of(
    grid: Grid,
    store: Store,
    jobs: Mapping[str, CellJob] | None = None,
    earlier: Earlier | None = None,
    since: float = 0.0,
) -> dict[str, CellState]:
    """The state of every cell of a grid, by cell key.

    Args:
        jobs: SLURM's view (ptst.slurm.view.jobs_of); asked for where it is not given.
        earlier: what unfinished cells are compared with; looked for where it is not given.
        since: seconds since the epoch; failures before do not count, they are an earlier run's.
    """
    jobs = jobs_of(grid, store) if jobs is None else jobs
    earlier = earlier_cells(grid, store) if earlier is None else earlier
    store = Snapshot(store.root, store.whole)
    being_made: dict[tuple[str, str], bool] = {}

    def running(stage: str, key: str) -> bool:
        if (stage, key) not in being_made:
            being_made[stage, key] = store.is_being_made(stage, key)
        return being_made[stage, key]

    states: dict[str, CellState] = {}
    for cell in grid.distinct:
        if damage := damage_of(cell.keys, store):
            states[cell.keys.cell] = CellState("damaged", reason=damage)
            continue
        if is_done(cell, store):
            states[cell.keys.cell] = CellState("done")
            continue
        state = _with_job(
            _state(cell, store, running, since), jobs.get(cell.keys.cell), cell, store
        )
        before = earlier.get(_place(cell.coordinates), ())
        changed = _changed(cell, store, before) if state.state == "waiting" else ()
        states[cell.keys.cell] = replace(state, changed=changed)
    return states


def _with_job(state: CellState, job: CellJob | None, cell: GridCell, store: Store) -> CellState:
    """What the store says of an unfinished cell and what SLURM says, together."""
    if job is None or cell.problem:
        return state
    state = replace(state, job=job)
    if state.state == "running":
        return state
    if job.active:
        failure = store.failure(cell.keys.cell)
        if failure and failure.at > job.submitted:
            return state  # the job goes on with other cells
        return replace(state, state="queued", reason=None, log=None)
    if state.state != "waiting" or job.state == "COMPLETED":
        return state
    if job.state == "CANCELLED":
        return replace(state, reason=f"its job {job.id} was cancelled")
    if job.stage == "finetune":
        reason = f"blocked by fine-tuning {cell.keys.finetune}: {job.ended}"
        return replace(state, state="blocked", reason=reason, log=job.log)
    return replace(state, state="failed", reason=job.ended, log=job.log)


def _state(cell: GridCell, store: Store, running: Any, since: float) -> CellState:
    interrupted = None
    for made in cell.keys.artifacts:
        name, stage, key = made.what, made.stage, made.key
        if store.has(stage, key):
            continue
        maker = store.maker(stage, key)
        if maker is not None and running(stage, key):
            began = datetime.fromtimestamp(maker.since, UTC).isoformat(timespec="seconds")
            return CellState(
                "running",
                name,
                maker.host,
                began,
                maker.done,
                maker.total,
                key=key,
                loss=maker.loss,
                rate=maker.rate,
                left=maker.left,
            )
        if maker is not None and interrupted is None:
            interrupted = (name, maker)
    for state, failure in (
        ("blocked", blocked(cell, store)),
        ("failed", store.failure(cell.keys.cell)),
    ):
        if failure is not None and failure.at >= since:
            return CellState(state, host=failure.host, reason=failure.reason, log=str(failure.log))
    if cell.problem:
        return CellState("failed", reason=cell.problem)
    if interrupted is not None:
        name, maker = interrupted
        return CellState("waiting", name, maker.host, None, maker.done, maker.total, "interrupted")
    return CellState("waiting")


def _place(coordinates: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(coordinates.items()))


def earlier_cells(grid: Grid, store: Store) -> Earlier:
    """What earlier runs of the sweep finished."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    files = (store.root / "sweeps" / grid.name).glob("*.jsonl")
    for file in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(OSError, ValueError):  # cut off by a full disk or a copy
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
    return Group(counted(grid, states), table_of(grid, states))


def counted(grid: Grid, states: Mapping[str, CellState]) -> Text:
    """How many cells are in each state, "quick-micro: 6 cells: 1 done, 5 waiting"."""
    counts = Counter(states[cell.keys.cell].state for cell in grid.distinct)
    head = Text(f"{grid.name}: {len(grid.distinct)} cells: ")
    parts = [(f"{counts[state]} {state}", STYLES[state]) for state in STATES if counts[state]]
    return head.append_text(Text(", ").join(Text(words, style) for words, style in parts))


def table_of(grid: Grid, states: Mapping[str, CellState]) -> Table:
    """A row for each cell, with what there is to say about it."""
    table = Table(box=None, pad_edge=False)
    on_slurm = any(state.job for state in states.values())
    for column in ("cell", "key", "state", *(["SLURM"] if on_slurm else []), ""):
        table.add_column(column, overflow="fold")
    for cell in grid.distinct:
        state = states[cell.keys.cell]
        table.add_row(
            Text(cell.label),
            Text(cell.keys.cell, "dim"),
            Text(state.state, STYLES[state.state]),
            *([Text(_queued(state.job))] if on_slurm else []),
            Text(_details(state)),
        )
    return table


def so_far(state: CellState) -> str:
    """How far a running stage is, "120 of 240 steps, loss 0.512, 1,830 tokens/s, 2 min left"; may
    be empty."""
    training = state.stage == "finetune"
    words = []
    if state.total:
        words.append(f"{state.done:,} of {state.total:,} {'steps' if training else 'queries'}")
    if state.loss is not None:
        words.append(f"loss {state.loss:.3f}")
    if state.rate:
        number = f"{state.rate:,.0f}" if state.rate >= 10 else f"{state.rate:.2g}"
        words.append(f"{number} {'tokens' if training else 'queries'}/s")
    if state.left is not None and state.done != state.total:
        words.append(f"{duration(state.left)} left")
    return ", ".join(words)


def _queued(job: CellJob | None) -> str:
    if job is None:
        return ""
    user = f"of {job.user}" if job.user else ""
    said = " ".join(word for word in (job.id, user, job.state, job.reason, job.node) if word)
    return f"{said}, queued again {job.restarts}×" if job.restarts else said


def _details(state: CellState) -> str:
    share = f" {state.done} of {state.total}" if state.total else ""
    if state.state == "running":
        since = datetime.fromisoformat(state.since or "")
        # The clock of its machine may be ahead
        minutes = max(0.0, time.time() - since.timestamp()) / 60
        return f"{state.stage}{share}, on {state.host} for {minutes:.0f} min"
    if state.state in ("failed", "blocked", "damaged"):
        return f"{state.reason or ''}" + (f"\n{state.log}" if state.log else "")
    if state.state == "queued" and state.job:
        if state.job.state == "RUNNING":
            return f"its job runs, and has yet to {state.job.stage} here"
        return f"waits to {state.job.stage}{f':{share} so far' if share else ''}"
    if state.reason:
        kept = f": {state.stage}{share}" if state.stage else ""
        return f"{state.reason}{kept}; run again to resume"
    if state.changed:
        return "a new key, because changed: " + "; ".join(state.changed)
    return ""
