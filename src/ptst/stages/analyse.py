"""Beside stage 2: what can be read off the weights of the model that the cell tests."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping

from ptst.analysis import Analysis
from ptst.component import Context, load
from ptst.errors import PtstError
from ptst.keys import CellKeys
from ptst.progress import progress
from ptst.quiet import quiet
from ptst.schema import Config
from ptst.stages.base import Stop, never, write_provenance
from ptst.stages.tested_model import TestedModel
from ptst.store import Store, read_json, write_json

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
            values = analysis.run(model.merged(tested=True), model.untouched(), context)
        _check(name, values)
        write_json(work.result / VALUES, values)
        if (files := work.scratch / "files").is_dir():
            shutil.copytree(files, work.result / "files")
        made[f"analyse {name}"] = time.monotonic() - started
        seconds = work.maker.spent + made[f"analyse {name}"]
        write_provenance(work.result, config, seconds, dict(analysis.origin()))


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
