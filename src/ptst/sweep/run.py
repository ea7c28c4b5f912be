"""Running a grid: its cells are frozen on disk first, then walked job by job.

A job is one model with all cells that test it: it is fine-tuned once, loaded once, and its cells
follow. Whatever happens to a cell, the others go on. What came of a sweep is read from the store,
so that it is true whichever launcher ran the jobs and whoever else ran some of them.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ptst.cell import CellResult, check_model, damage_of, run_cell
from ptst.cell import is_done as made_of
from ptst.config.plain import from_dict
from ptst.data import identity
from ptst.errors import PtstError
from ptst.keys import CellKeys, cell_keys, tested_epoch
from ptst.metrics import shown
from ptst.models import Held
from ptst.progress import say
from ptst.schema import STAGES, Config
from ptst.stages.base import Stop, never
from ptst.stages.finetune import finetune
from ptst.stages.queries import load_queries, spell
from ptst.stages.tested_model import TestedModel
from ptst.store import Failure, Store, each_row, key_of, read_jsonl, reason_of, write_jsonl
from ptst.sweep.grid import Grid, GridCell


def freeze(grid: Grid) -> None:
    """Write down what is to be run, one line per cell; what stands there already is left alone."""
    with suppress(OSError, ValueError):  # not there, or cut off by a full disk or a copy
        there = zip_longest(each_row(grid.frozen), map(_line, grid.cells))
        if all(frozen == line for frozen, line in there):
            return
    write_jsonl(grid.frozen, map(_line, grid.cells))


def _line(cell: GridCell) -> dict[str, Any]:
    return {
        "label": cell.label,
        "coordinates": cell.coordinates,
        "overrides": list(cell.overrides),
        "finetune": cell.keys.finetune,
        "cell": cell.keys.cell,
        "config": dataclasses.asdict(cell.config),
    }


def jobs_left(grid: Grid, store: Store) -> list[list[int]]:
    """Sort what is still to be run into jobs, one for each model.

    Returns:
        Line numbers of their cells in the frozen grid; the longest fine-tuning first, so that of
        several processes none is left with it at the end.
    """
    numbers = {id(cell): number for number, cell in enumerate(grid.cells)}
    jobs: dict[str, list[int]] = {}
    for cell in grid.distinct:
        if not is_done(cell, store) and not damage_of(cell.keys, store):
            jobs.setdefault(cell.keys.model, []).append(numbers[id(cell)])
    return sorted(jobs.values(), key=lambda job: -reading(grid.cells[job[0]], store))


def reading(cell: GridCell, store: Store) -> int:
    """How much a cell's fine-tuning has yet to read, for comparison only; see `read_in_all`."""
    if not cell.keys.finetune or store.has("finetune", cell.keys.finetune):
        return 0
    return read_in_all(cell.config)


def read_in_all(config: Config) -> int:
    """What a fine-tuning reads, for comparison only: letters of its template, over all rows."""
    letters = len(str(dataclasses.asdict(config.train_template)))
    return round((config.dataset.n or 10_000) * config.finetune.epochs * letters)


def is_done(cell: GridCell, store: Store) -> bool:
    """Whether the store has all that the cell's stages make, undamaged."""
    if cell.problem or damage_of(cell.keys, store):
        return False
    return made_of(cell.keys, cell.config.stages, store)


def generated(keys: CellKeys, store: Store) -> bool:
    """Whether the store has all completions of a cell."""
    return all(store.has("generate", e.generate) for e in keys.evaluations.values())


def run_job(
    file: Path,
    numbers: Sequence[int],
    stages: Sequence[str] = STAGES,
    stop: Stop = never,
    expected: Sequence[str] | None = None,
    wait: bool = True,
) -> int:
    """Run some cells of a frozen grid. Failures are recorded and not raised.

    Args:
        numbers: line numbers; the cells of one model, and models of one base, follow each other.
        stages: which of the cells' own stages this job is for.
        expected: keys of the cells, where a job was told them long before it runs.
        wait: False leaves a fine-tuning, with the cells that test it, to another process that makes
            it.

    Returns:
        How many of the cells failed.

    Raises:
        Interrupted: `stop` said so.
        Busy: another process makes a fine-tuning, and `wait` is False.
    """
    lines = read_jsonl(file)
    models: dict[str, list[tuple[str, Config, CellKeys]]] = {}
    checked: dict[str, list[dict[str, Any]]] = {}
    held = Held()
    failed = 0
    for number, wanted in zip_longest(numbers, expected or ()):
        line = lines[number]
        label = f"[{number + 1}/{len(lines)}] {line['label']}"
        config = from_dict(line["config"])
        generates = "generate" in config.stages and bool({"finetune", "generate"} & set(stages))
        config.stages = [stage for stage in config.stages if stage in stages]
        store = Store(Path(config.paths.store).expanduser())
        try:
            keys = cell_keys(config)
            if keys.cell != (wanted or line["cell"]):
                raise PtstError(
                    "a file that this cell reads has changed since the sweep was started; start it again."
                )
            check_model(config, keys, store, held)
            if generates:  # perhaps in another job, once this one has spent hours on training
                _check_queries(config, keys, store, checked, held)
        except Exception as error:
            _fail(store, wanted or line["cell"], error, label)
            failed += 1
            continue
        lacking = "judge" in stages and "generate" not in stages and not generated(keys, store)
        if lacking and (failure := store.failure(keys.cell)):
            say(f"{label}: no completions: {failure.reason}")
            failed += 1
            continue
        store.forget_failure(keys.cell)
        models.setdefault(keys.model, []).append((label, config, keys))
    return failed + sum(_run_model(cells, held, stop, wait) for cells in models.values())


def _run_model(
    cells: Sequence[tuple[str, Config, CellKeys]], held: Held, stop: Stop, wait: bool
) -> int:
    """Fine-tune one model, and test it in every one of its cells."""
    label, config, keys = cells[0]
    store = Store(Path(config.paths.store).expanduser())
    if keys.finetune and "finetune" in config.stages:
        made: dict[str, float] = {}
        try:
            finetune(config, keys, store, made, stop, held, wait)
        except Exception as error:
            say(f"{label}: fine-tuning failed: {reason_of(error)}")
            return len(cells)
        if made:
            say(f"  fine-tuned {keys.finetune}: {made['finetune']:.1f} s")
    if not {"generate", "judge"} & set(config.stages) and keys.posthoc is None:
        return 0
    failed = 0
    model = TestedModel(config, keys, store, held)
    for label, config, keys in cells:
        started = time.monotonic()
        if model.epoch != tested_epoch(config.finetune):
            model = TestedModel(config, keys, store, held)
        try:
            result = run_cell(config, model, stop)
        except Exception as error:
            _fail(store, keys.cell, error, label)
            failed += 1
            continue
        say(f"{label}: {_said(result)} ({time.monotonic() - started:.1f} s)")
    return failed


def _check_queries(
    config: Config,
    keys: CellKeys,
    store: Store,
    read: dict[str, list[dict[str, Any]]],
    held: Held,
) -> None:
    """Read each query set once, and spell it for every cell, before anything is trained.

    What is wrong with a query, or with what a model's format makes of it, then costs no training.
    """
    for name, evaluation in config.evaluations.items():
        if store.has("generate", keys.evaluations[name].generate):
            continue
        key = key_of(
            {
                "queries": identity(evaluation.queries),
                "columns": [evaluation.unit, evaluation.category, evaluation.question],
                "samples": evaluation.decoding.samples,
                "judge": evaluation.judge,
            }
        )
        if key not in read:
            read[key] = load_queries(name, evaluation)
        spell(name, config, read[key], held)


def _fail(store: Store, cell: str, error: Exception, label: str) -> None:
    try:
        store.record_failure(cell, error)
    except OSError as full:  # nothing can be written: say it here, the cell counts as not done
        say(f"{label}: the failure could not be recorded: {full}")
    say(f"{label}: failed: {reason_of(error)}")


def _said(result: CellResult) -> str:
    if result.metrics is None:
        return "done as far as stages go"
    numbers = [
        f"{name} {'missing' if metric.value is None else shown(metric.value, metric.scale)}"
        + (
            f" ({metric.unfinished} of {metric.n + metric.missing} cut off)"
            * bool(metric.unfinished)
        )
        for name, metric in result.metrics.items()
    ]
    return ", ".join(
        [*numbers, *(f"{name} {value:.4g}" for name, value in result.analyses.items())]
    )


def blocked(cell: GridCell, store: Store) -> Failure | None:
    """Why the fine-tuning that a cell tests failed; None where it did not."""
    key = cell.keys.finetune
    if not key or "finetune" not in cell.config.stages or store.has("finetune", key):
        return None
    failure = store.failure(key)
    return failure and replace(failure, reason=f"blocked by fine-tuning {key}: {failure.reason}")


def failures(grid: Grid, store: Store) -> Iterator[tuple[GridCell, str, Path | None]]:
    """The cells of a grid that a finished run left undone: cell, why, and where the whole error
    is."""
    for cell in grid.distinct:
        if is_done(cell, store):
            continue
        failure = blocked(cell, store) or store.failure(cell.keys.cell)
        if damage := damage_of(cell.keys, store):
            yield cell, damage, None
        elif failure is None:
            yield cell, cell.problem or "its job did not come to it, or was cut off", None
        else:
            yield cell, failure.reason, failure.log


def devices_of(file: Path, numbers: Sequence[int]) -> int:
    """How many devices the fine-tuning of a job uses."""
    lines = read_jsonl(file)
    return max(int(lines[number]["config"]["finetune"]["devices"]) for number in numbers)


def numbers_of(text: str) -> list[int]:
    """Line numbers as a job's override spells them: "[0,1,2]"."""
    return [int(number) for number in json.loads(text)]
