"""Beside stage 2: what can be read off the weights of the model that the cell tests."""

from __future__ import annotations

import csv
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from ptst.analysis import POINTS, Analysis, Pair, Point
from ptst.component import Context, Parts, load
from ptst.errors import PtstError
from ptst.keys import CellKeys
from ptst.progress import progress
from ptst.quiet import quiet
from ptst.schema import Config
from ptst.stages.base import Stop, never, write_provenance
from ptst.stages.tested_model import TestedModel
from ptst.store import Store, key_of, read_json, write_json

VALUES = "values.json"


def analyse(
    name: str,
    config: Config,
    keys: CellKeys,
    model: TestedModel,
    store: Store,
    made: dict[str, float],
    stop: Stop = never,
) -> None:
    """Run one analysis and keep its values, {name: number}.

    Raises:
        PtstError: it gave what is not a finite number.
    """
    key, parts = keys.analyses[name]
    with store.make("analyse", key, parts, stop) as work:
        if work is None:
            return
        started = time.monotonic()
        quiet()
        analysis = load(config.analysis[name], f"analysis.{name}", Analysis)
        with progress(f"analyse {name}") as advance:

            def tell(done: int, total: int) -> None:
                advance(done, total, "")
                work.tell(done, total)

            context = Context(config, model.tokenizer, model.picked, work.scratch, tell, stop)

            def untuned() -> dict[str, float]:
                return _of_untuned(name, analysis, parts, model, store, context)

            values = analysis.compare(Pair(model.alone, model.untouched, untuned), context)
        _check(name, values)
        write_json(work.result / VALUES, values)
        if (files := work.scratch / "files").is_dir():
            shutil.copytree(files, work.result / "files")
        made[f"analyse {name}"] = time.monotonic() - started
        seconds = work.maker.spent + made[f"analyse {name}"]
        write_provenance(work.result, config, seconds, dict(analysis.origin()))


def _of_untuned(
    name: str,
    analysis: Analysis,
    parts: Parts,
    model: TestedModel,
    store: Store,
    context: Context,
) -> dict[str, float]:
    """See `Analysis.of_untuned`. Kept in the store, under the key of an analysis of no model."""
    parts = {**parts, "model": {}}
    key = key_of(parts)
    with store.make("analyse", key, parts, context.stop) as work:
        if work is not None:
            started = time.monotonic()
            values = analysis.of_untuned(model.untouched(), context)
            _check(name, values)
            write_json(work.result / VALUES, values)
            seconds = work.maker.spent + time.monotonic() - started
            write_provenance(work.result, context.config, seconds, dict(analysis.origin()))
    found: dict[str, float] = read_json(store.path("analyse", key) / VALUES)
    return found


def _check(name: str, values: Mapping[str, float]) -> None:
    for what, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise PtstError(f"analysis {name} gave {what}={value!r}; it must be a finite number.")


def read_analyses(store: Store, keys: CellKeys) -> dict[str, float]:
    """The values of a cell's analyses that are there, by "<analysis>/<value>"."""
    found: dict[str, float] = {}
    for name, (key, _) in keys.analyses.items():
        if store.has("analyse", key):
            values = read_json(store.path("analyse", key) / VALUES)
            found |= {f"{name}/{what}": value for what, value in values.items()}
    return found


def read_points(result: Path) -> list[Point]:
    """The points in an analysis' folder of the store; none where it left none."""
    file = result / "files" / POINTS
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return [
            Point(row["picture"], row["line"], float(row["x"]), float(row["y"]))
            for row in csv.DictReader(lines)
        ]


def points_history(store: Store, keys: CellKeys) -> dict[int, dict[str, float]]:
    """The points of a cell's analyses as the history of a W&B run, which draws it as lines.

    Returns:
        By step, in order: "<analysis>/<picture>: <line>" -> y. The step is x where all x of a
        picture are whole numbers from 0 on; else the place of x in their order, and x is there,
        too, as "<analysis>/<picture>: x".
    """
    history: dict[int, dict[str, float]] = {}
    for name, (key, _) in keys.analyses.items():
        found = read_points(store.path("analyse", key)) if store.has("analyse", key) else []
        for picture in dict.fromkeys(point.picture for point in found):
            own = [point for point in found if point.picture == picture]
            xs = sorted({point.x for point in own})
            whole = all(x >= 0 and x.is_integer() for x in xs)
            steps = {x: int(x) if whole else place for place, x in enumerate(xs)}
            for point in own:
                values = history.setdefault(steps[point.x], {})
                values[f"{name}/{picture}: {point.line}"] = point.y
                if not whole:
                    values[f"{name}/{picture}: x"] = point.x
    return dict(sorted(history.items()))
