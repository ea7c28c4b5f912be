"""Running a grid: its cells are frozen on disk first, then walked job by job.

A job is one model with all cells that test it: it is fine-tuned once, loaded once, and its cells follow.
Whatever happens to a cell, the others go on. What came of a sweep is read from the store, so that it is
true whichever launcher ran the jobs and whoever else ran some of them.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ptst.cell import CellResult, TestedModel, finetune, load_queries, run_cell
from ptst.config import Config, thawed
from ptst.data import identity
from ptst.errors import PtstError
from ptst.keys import CellKeys, cell_keys
from ptst.progress import say
from ptst.store import Store, key_of, read_jsonl, write_jsonl
from ptst.sweep.grid import Grid, GridCell


def freeze(grid: Grid) -> None:
    """Write down what is to be run, one line per cell; what stands there already is left alone."""
    lines = [
        {
            "label": cell.label,
            "coordinates": cell.coordinates,
            "overrides": list(cell.overrides),
            "finetune": cell.keys.finetune,
            "cell": cell.keys.cell,
            "config": dataclasses.asdict(cell.config),
        }
        for cell in grid.cells
    ]
    if not grid.frozen.is_file() or read_jsonl(grid.frozen) != lines:
        write_jsonl(grid.frozen, lines)


def jobs_left(grid: Grid, store: Store) -> list[list[int]]:
    """Sort what is still to be run into jobs, one for each model.

    Returns:
        Line numbers of their cells in the frozen grid; the longest fine-tuning first, so that of several
        processes none is left with it at the end.
    """
    numbers = {id(cell): number for number, cell in enumerate(grid.cells)}
    jobs: dict[str, list[int]] = {}
    for cell in grid.distinct:
        if not is_done(cell, store):
            jobs.setdefault(cell.keys.model, []).append(numbers[id(cell)])
    return sorted(jobs.values(), key=lambda job: -_reading(grid.cells[job[0]], store))


def _reading(cell: GridCell, store: Store) -> int:
    """How much a cell's fine-tuning reads, for comparison only: letters of its template, over all rows."""
    config = cell.config
    if not cell.keys.finetune or store.has("finetune", cell.keys.finetune):
        return 0
    letters = len(str(dataclasses.asdict(config.train_template)))
    return round((config.dataset.n or 10_000) * config.finetune.epochs * letters)


def is_done(cell: GridCell, store: Store) -> bool:
    """Whether the store has all that the cell's stages make."""
    keys, stages = cell.keys, cell.config.stages
    if store.has("cell", keys.cell):
        return True
    if cell.problem or "judge" in stages:
        return False
    tuned = "finetune" not in stages or not keys.finetune or store.has("finetune", keys.finetune)
    return tuned and (
        "generate" not in stages
        or all(store.has("generate", e.generate) for e in keys.evaluations.values())
    )


def run_job(file: Path, numbers: Sequence[int]) -> None:
    """Run some cells of a frozen grid, which test one model. Failures are recorded and not raised."""
    lines = read_jsonl(file)
    todo: list[tuple[str, Config, CellKeys]] = []
    checked: set[str] = set()
    for number in numbers:
        line = lines[number]
        label = f"[{number + 1}/{len(lines)}] {line['label']}"
        config = thawed(line["config"])
        store = Store(Path(config.paths.store).expanduser())
        try:
            keys = cell_keys(config)
            if keys.cell != line["cell"]:
                raise PtstError(
                    "a file that this cell reads has changed since the sweep was started; start it again."
                )
            _check_queries(config, checked)
        except Exception as error:
            _fail(store, line["cell"], error, label)
            continue
        todo.append((label, config, keys))
    if not todo:
        return
    for _, config, keys in todo:
        Store(Path(config.paths.store).expanduser()).forget_failure(keys.cell)
    _, config, keys = todo[0]
    store = Store(Path(config.paths.store).expanduser())
    try:
        made: dict[str, float] = {}
        if keys.finetune and "finetune" in config.stages:
            finetune(config, keys, store, made)
        if made:
            say(f"  fine-tuned {keys.finetune}: {made['finetune']:.1f} s")
    except Exception as error:
        for label, _, keys in todo:
            _fail(store, keys.cell, error, label)
        return
    model = TestedModel(config, keys, store)
    for label, config, keys in todo:
        started = time.monotonic()
        try:
            result = run_cell(config, model)
        except Exception as error:
            _fail(store, keys.cell, error, label)
            continue
        say(f"{label}: {_said(result)} ({time.monotonic() - started:.1f} s)")


def _check_queries(config: Config, checked: set[str]) -> None:
    """Read each query set once before anything is trained; what is wrong with it costs no training."""
    if "generate" not in config.stages:
        return
    for name, evaluation in config.evaluations.items():
        key = key_of(
            {
                "queries": identity(evaluation.queries),
                "unit": evaluation.unit,
                "judge": evaluation.judge,
            }
        )
        if key not in checked:
            load_queries(name, evaluation)
            checked.add(key)


def _fail(store: Store, cell: str, error: Exception, label: str) -> None:
    try:
        store.record_failure(cell, error)
    except OSError as full:  # nothing can be written: say it here, the cell counts as not done
        say(f"{label}: the failure could not be recorded: {full}")
    said = str(error).strip().splitlines()
    say(f"{label}: failed: {said[-1] if said else type(error).__name__}")


def _said(result: CellResult) -> str:
    if result.metrics is None:
        return "done as far as stages go"
    shown = [
        f"{name} {'missing' if metric.percent is None else f'{metric.percent:.1f}'}"
        for name, metric in result.metrics.items()
    ]
    return ", ".join(shown)


def failures(grid: Grid, store: Store) -> Iterator[tuple[GridCell, str, Path | None]]:
    """The cells of a grid that a finished run left undone: cell, why, and where the whole error is."""
    for cell in grid.distinct:
        if is_done(cell, store):
            continue
        failure = store.failure(cell.keys.cell)
        if failure is None:
            yield cell, cell.problem or "its job did not come to it, or was cut off", None
        else:
            yield cell, failure.reason, failure.log


def numbers_of(text: str) -> list[int]:
    """Line numbers as a job's override spells them: "[0,1,2]"."""
    return [int(number) for number in json.loads(text)]
