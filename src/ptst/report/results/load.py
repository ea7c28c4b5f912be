"""Gather the tables and contrasts of a sweep from its store."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ptst.errors import ConfigError
from ptst.judge import load_judge
from ptst.judge.reading import Reading
from ptst.report.agreement import COMPLIED
from ptst.report.analyses import Found, analyses_of
from ptst.report.audited import audit_of, in_words
from ptst.report.outcomes import Relation, relations_of
from ptst.report.results.broken import flaws_reader, with_flaws
from ptst.report.results.contrasts import contrasts_of
from ptst.report.results.entries import reported, table_of
from ptst.report.results.guards import guards_of
from ptst.report.results.layout import splits_of
from ptst.report.results.protection import protections
from ptst.report.results.published import paper_rows
from ptst.report.results.scores import reader
from ptst.report.results.types import Results, Run, Table
from ptst.stages.summarise import Metrics, read_metrics
from ptst.status.states import CellState
from ptst.store import Readable, Store
from ptst.sweep.grid import Grid, GridCell
from ptst.sweep_schema import TableMetric
from ptst.wording import known_judges


def load_results(grid: Grid, store: Store, states: Mapping[str, CellState]) -> Results:
    """Gather the tables and contrasts of a sweep from the store.

    Args:
        states: by cell key, of every cell of the grid.

    Raises:
        ConfigError: two different cells have the same coordinates.
    """
    store = Readable(store.root, store.whole)
    paper = paper_rows()
    found = _found(grid, store, states)
    read = reader(store)
    flaws = flaws_reader(store)
    splits = splits_of(grid)
    judges = known_judges()
    tables = []
    for metric, table_metric in _metrics_shown(grid).items():
        for split, cells in splits:
            measured = [cell for cell in cells if reported(cell, metric)]
            if measured:
                runs = [
                    Run(c, states[c.keys.cell], found[c.keys.cell].get(metric)) for c in measured
                ]
                table = table_of(grid.sweep, metric, table_metric, split, runs, read, paper, judges)
                audit = _audit(measured, metric, store)
                settings = _settings(grid, measured[0], metric)
                parts = table.by_category
                if parts is not None:
                    parts = replace(parts, audit=audit, settings=settings)
                made = replace(table, by_category=parts, audit=audit, settings=settings)
                tables.append(with_flaws(made, flaws))
    contrasts = contrasts_of(grid.sweep, tables, read)
    analyses = tuple(analyses_of(grid, store))
    protected = protections(grid, tables, read)
    guards = guards_of(grid, store)
    relations = tuple(_relations(grid, analyses, tables))
    return Results(
        grid, dict(states), tuple(tables), contrasts, analyses, protected, guards, relations
    )


def _relations(grid: Grid, found: Sequence[Found], tables: Sequence[Table]) -> list[Relation]:
    """Analyses against the metrics of the tables."""
    outcomes: dict[str, dict[str, float]] = {table.metric: {} for table in tables}
    for table in tables:
        for run in (run for entry in table.entries.values() for run in entry.runs):
            if run.metric and run.metric.value is not None:
                outcomes[table.metric][run.cell.keys.cell] = run.metric.value
    titles = {table.metric: table.title for table in tables}
    return relations_of(grid, found, outcomes, titles)


def _settings(grid: Grid, cell: GridCell, metric: str) -> dict[str, str]:
    """The grid's settings that bear on a metric and are neither a coordinate nor of the judge."""
    name = metric.partition("/")[0]

    def said(key: str) -> bool:
        parts = re.split(r"[.]", key.rpartition("@")[2])
        of_another = parts[0] in ("evaluation", "task") and parts[1:2] not in ([], [name])
        which = (
            parts[0] in ("evaluation", "task") and len(parts) == 1
        )  # of the evaluations there are
        return of_another or which or "judge" in parts or key.rpartition("@")[2] in cell.coordinates

    return {key: value for key, value in grid.settings.items() if not said(key) and key != "seed"}


def _audit(cells: Sequence[GridCell], metric: str, store: Store) -> tuple[str, ...]:
    name, _, own = metric.partition("/")
    evaluations = [cell.config.evaluations[name] for cell in cells]
    judges = [load_judge(evaluation.judge, "judge") for evaluation in evaluations]
    caveats = [caveat for caveat in dict.fromkeys(judge.caveat for judge in judges) if caveat]
    if any(e.measures != "safety" or e.metrics[own] != COMPLIED for e in evaluations):
        return tuple(caveats)
    if any(isinstance(judge, Reading) for judge in judges):  # people against what they said
        return tuple(caveats)
    return (*caveats, *map(in_words, audit_of(cells, name, store)))


def _found(grid: Grid, store: Store, states: Mapping[str, CellState]) -> dict[str, Metrics]:
    """What every cell came to, by cell key; nothing for one that is not done."""
    same: dict[tuple[tuple[str, str], ...], GridCell] = {}
    found: dict[str, Metrics] = {}
    for cell in grid.cells:
        if same.setdefault(tuple(sorted(cell.coordinates.items())), cell) is not cell:
            raise ConfigError(
                f"two different cells of the grid are called {cell.label}: one name (of a model, a data "
                "set or a template) stands for two configurations. Give each a name of its own."
            )
        key = cell.keys.cell
        if key not in found:  # done as far as `stages` go may be done without metrics
            done = states[key].state == "done" and store.has("cell", key)
            found[key] = read_metrics(store, key) if done else {}
    return found


def _metrics_shown(grid: Grid) -> dict[str, TableMetric]:
    """The sweep's metrics that cells report, then all of evaluations that it does not name."""
    reported = {
        f"{name}/{metric}": TableMetric(title=f"{name}/{metric}")
        for cell in grid.cells
        for name, evaluation in cell.config.evaluations.items()
        for metric in evaluation.metrics
    }
    chosen = grid.sweep.metrics
    known = {metric.partition("/")[0] for metric in chosen}
    shown = {metric: table for metric, table in chosen.items() if metric in reported}
    return shown | {m: table for m, table in reported.items() if m.partition("/")[0] not in known}
