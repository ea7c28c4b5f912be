"""One cell of the grid, from the top to the bottom: fine-tune, generate, judge, metrics.

            model -+
          dataset -+
   train_template -+-> finetune ---> adapter -+
  finetune recipe -+    key F                 |
             seed -+                          +-> generate --> completions -+
                            test_template ----+    key G                    +-> judge --> scores
                       evaluation (queries) --+                             |   key J
                                  decoding ---+                      judge -+

Each stage looks in the store first, and leaves its result there. What is there is never made again.
The stages are in ptst.stages, a file each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ptst import data, models
from ptst.component import Component, load
from ptst.engine.chosen import engine_of
from ptst.errors import ConfigError, PtstError
from ptst.keys import CellKeys, cell_keys, components_of, objective_of, rows_of, slot
from ptst.progress import say
from ptst.schema import Config, Rows
from ptst.stages.analyse import analyse, read_analyses
from ptst.stages.base import Stop, never
from ptst.stages.completions import read_completions
from ptst.stages.finetune import finetune
from ptst.stages.generate import generate
from ptst.stages.judge import check_judge, judge
from ptst.stages.posthoc import posthoc
from ptst.stages.queries import check_rows, load_queries, spell
from ptst.stages.summarise import Metrics, read_metrics, summarise
from ptst.stages.tested_model import TestedModel
from ptst.store import Store
from ptst.tracking import check_tracking, chosen
from ptst.wording import rows_in_words


@dataclass(frozen=True)
class CellResult:
    """What a cell came to. `metrics` is None where a stage was left out (`stages=`)."""

    keys: CellKeys
    metrics: Metrics | None
    made: dict[str, float]
    """Seconds of each stage that was made in this run and not found in the store."""
    analyses: dict[str, float]
    """By "<analysis>/<value>"."""


def run_cell(config: Config, model: TestedModel | None = None, stop: Stop = never) -> CellResult:
    """Walk one cell through its stages.

    Args:
        model: the cell's model, where another cell has loaded it already.

    Raises:
        PtstError: what the user can mend, before time is spent where that is possible.
        Interrupted: `stop` said so.
    """
    check_cell(config)
    store = Store(Path(config.paths.store).expanduser())
    store.prepare()
    keys = cell_keys(config)
    if damage := damage_of(keys, store):
        raise PtstError(damage)
    if is_done(keys, config.stages, store) and store.has("cell", keys.cell):
        return _result(keys, read_metrics(store, keys.cell), {}, store)
    store.forget_failure(keys.cell)
    try:
        return _walk(config, keys, store, model or TestedModel(config, keys, store), stop)
    except Exception as error:
        store.record_failure(keys.cell, error)
        raise


def damage_of(keys: CellKeys, store: Store) -> str | None:
    """What is wrong with the first of a cell's artifacts that is damaged, see
    `ptst.store.Store.damage`."""
    damages = (store.damage(made.stage, made.key) for made in keys.artifacts)
    return next((damage for damage in damages if damage), None)


def is_done(keys: CellKeys, stages: Sequence[str], store: Store) -> bool:
    """Whether the store has all that these stages make of a cell, or what is made of that."""
    if store.has("cell", keys.cell):
        wanted = [made for made in keys.artifacts if made.stage == "analyse"]
    else:
        wanted = keys.artifacts
    return all(store.has(made.stage, made.key) for made in wanted if made.made_by in stages)


def check_cell(config: Config) -> None:
    """Refuse what the configuration alone shows to be wrong.

    Raises:
        ConfigError: tracking without a key, a store that is a file, testing on training data.
    """
    check_tracking(config.tracking)
    store = Path(config.paths.store).expanduser()
    if store.exists() and not store.is_dir():
        raise ConfigError(f"paths.store={store} is a file; it must be a folder.")
    _check_held_out(config)


def _walk(
    config: Config, keys: CellKeys, store: Store, model: TestedModel, stop: Stop
) -> CellResult:
    made: dict[str, float] = {}
    said = chosen(config.tracking)[1]
    if said and said not in model.held.told:
        model.held.told.add(said)
        say(said)
    check_model(config, keys, store, model.held)
    check_components(config, keys, store)
    # Read and spelled before anything is trained, so that a wrong file, format or key costs no
    # training.
    queries = {
        name: spell(name, config, load_queries(name, config.evaluations[name]), model.held)
        for name in lacking(config, keys, store)
    }
    for name, evaluation in config.evaluations.items():
        if name not in queries and store.has("generate", keys.evaluations[name].generate):
            check_rows(name, evaluation, read_completions(store, keys.evaluations[name]))
        if "judge" in config.stages and not store.has("judge", keys.evaluations[name].judge):
            check_judge(name, evaluation)
    if "finetune" in config.stages and keys.finetune:
        finetune(config, keys, store, made, stop, model.held)
    if {"finetune", "generate"} & set(config.stages):  # the untouched model is never fine-tuned
        posthoc(config, keys, store, made, model, stop)
    if "generate" in config.stages:
        for name in config.analysis:
            analyse(name, config, keys, model, store, made, stop)
    for name in config.evaluations:
        if name in queries:
            generate(name, config, queries[name], keys.evaluations[name], model, store, made, stop)
        if "judge" in config.stages:
            judge(name, config, keys.evaluations[name], store, made, stop, model.held)
    metrics = summarise(config, keys, store) if "judge" in config.stages else None
    return _result(keys, metrics, made, store)


def _result(
    keys: CellKeys, metrics: Metrics | None, made: dict[str, float], store: Store
) -> CellResult:
    return CellResult(keys, metrics, made, read_analyses(store, keys))


def lacking(config: Config, keys: CellKeys, store: Store) -> list[str]:
    """The evaluations of a cell whose completions are still to be made."""
    if "generate" not in config.stages:
        return []
    made = keys.evaluations
    return [name for name in config.evaluations if not store.has("generate", made[name].generate)]


def check_model(config: Config, keys: CellKeys, store: Store, held: models.Held) -> None:
    """Refuse a base model that cannot be had, if one of the cell's stages is still to read it.

    Raises:
        ConfigError: see `ptst.models.Held.check_access`.
    """
    reads = ("finetune", "posthoc", "analyse", "generate")
    reading = any(
        made.made_by in config.stages and not store.has(made.stage, made.key)
        for made in keys.artifacts
        if made.stage in reads
    )
    if reading and engine_of(config).has_weights:
        held.check_access(config.model)


def check_components(config: Config, keys: CellKeys, store: Store) -> None:
    """Refuse components that are not ready, of artifacts that are still to be made.

    Raises:
        PtstError: the component's own words.
    """
    missing = [a for a in keys.artifacts if not store.has(a.stage, a.key)]
    stages = {a.stage for a in missing if a.made_by in config.stages}
    slots = {"finetune": "objective", "posthoc": "posthoc", "generate": "guard"}
    for stage, name in slots.items():
        if stage in stages and (filled := slot(config, name)):
            load(filled[1], f"defence.{filled[0]}.{name}", Component).ready()
    if "generate" in stages:
        engine_of(config).ready()
    if "analyse" in stages:
        for name, node in config.analysis.items():
            load(node, f"analysis.{name}", Component).ready()


def _check_held_out(config: Config) -> None:
    """Refuse to test on what is trained on, or on what a defence reads.

    Raises:
        ConfigError: naming the evaluation, and how to give it data of its own.
    """

    def content(rows: Rows) -> dict[str, Any]:
        parts = data.identity(rows)
        chosen = ("columns", "context", "messages", "n", "draw_seed", "first", "where", "without")
        return {k: parts[k] for k in parts if k not in chosen}

    def same(one: Rows, other: Rows) -> bool:
        """Whether they have rows in common; two slices of a split, train[:200], are let pass."""
        sliced = "[" in one.split and "[" in other.split
        a, b = (
            rows if sliced else replace(rows, split=rows.split.partition("[")[0])
            for rows in (one, other)
        )
        return content(a) == content(b)

    def apart(one: dict[str, str], other: dict[str, str]) -> bool:
        return any(one[column] != other[column] for column in one.keys() & other.keys())

    read = _rows_read(config)
    for name, evaluation in config.evaluations.items():
        queries = evaluation.queries
        for rows in read:
            if not same(queries, rows) or apart(queries.where, rows.where):
                continue
            group = "task" if name in config.task else "evaluation"
            what, other = "is trained on", "as dataset.path a folder with train and test files"
            if rows.at.startswith("defence."):
                what, other = f"{rows.at} has", f"other rows in {rows.at}"
            raise ConfigError(
                f"{group}.{name} would test on the very data that {what} ({rows_in_words(queries)}). "
                f"Give {group}.{name}.queries.path or .split, or {other}."
            )


def _rows_read(config: Config) -> list[Rows]:
    """All rows that weights, or what stands around them, are made with."""
    slots = components_of(config)
    trained: list[Rows] = []
    if config.finetune.method != "none":
        trained = [config.dataset, *rows_of(objective_of(config))]
    others = (rows_of(own) for name, own in slots.items() if name != "objective")
    return [*trained, *(rows for found in others for rows in found)]
