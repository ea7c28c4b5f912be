"""The tables of a metric: one entry per place, over its seeds, and the same by category."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import fsum

from ptst.keys import Parts, judge_parts
from ptst.metrics import NO_CATEGORY, better, mean_interval_of, value_of
from ptst.report.results.layout import place_of
from ptst.report.results.published import PaperRow, caption, published, rows_for
from ptst.report.results.scores import (
    ReadScores,
    counted,
    evaluation_of,
    label_of,
    parts_of_mean,
    scale_of,
)
from ptst.report.results.types import Entry, Place, Run, Table
from ptst.report.statistics import mean_and_std, pooled_interval
from ptst.schema import Evaluation
from ptst.sweep.grid import GridCell
from ptst.sweep_schema import Sweep, TableMetric
from ptst.wording import judge_name, micro_note


def reported(cell: GridCell, metric: str) -> Evaluation | None:
    """The evaluation that gives a metric of a cell; None where the cell does not report it."""
    name, _, own = metric.partition("/")
    evaluation = cell.config.evaluations.get(name)
    return evaluation if evaluation and own in evaluation.metrics else None


def table_of(
    sweep: Sweep,
    metric: str,
    shown: TableMetric,
    split: dict[str, str],
    runs: Sequence[Run],
    read: ReadScores,
    paper: Sequence[PaperRow],
    judges: Mapping[str, Parts],
) -> Table:
    """The table of a metric: an entry for each place that has runs."""
    places: dict[Place, list[Run]] = {}
    for run in runs:
        places.setdefault(place_of(run.cell, sweep), []).append(run)
    rows, columns = (
        tuple(sorted(dict.fromkeys(place[side] for place in places), key=_not_first))
        for side in (0, 1)
    )
    theirs = {place: rows_for(at[0].cell, metric, shown, paper) for place, at in places.items()}
    measures = evaluation_of(runs[0].cell, metric).measures
    table = Table(
        metric,
        shown.title,
        measures,
        better(measures, label_of(runs[0].cell, metric)),
        split,
        rows,
        columns,
        {
            place: _entry(metric, at, read, theirs[place], judges, over=sweep.over)
            for place, at in places.items()
        },
        caption([rows[0] for rows in theirs.values() if rows]),
        world=micro_note((run.cell.config for run in runs), [metric.partition("/")[0]]),
    )
    return replace(table, by_category=_by_category(table, read, judges))


def _not_first(value: str) -> bool:
    """What is neither fine-tuned nor defended stands first."""
    return value != "none" and not value.startswith("no ")


def _by_category(table: Table, read: ReadScores, judges: Mapping[str, Parts]) -> Table | None:
    """A table by category; None where no run that is done has categories."""
    runs = [run for entry in table.entries.values() for run in entry.runs]
    found = {name for run in runs if run.metric for name in run.metric.categories}
    if not found:
        return None
    categories = tuple(sorted(found, key=lambda name: (name == NO_CATEGORY, name)))
    entries: dict[Place, Entry] = {}
    for place in product(table.rows, table.columns):
        for category in categories if place in table.entries else ():
            of_category = [
                replace(run, metric=run.metric and run.metric.categories.get(category))
                for run in table.entries[place].runs
            ]
            entry = _entry(table.metric, of_category, read, (), judges, category)
            entry = replace(entry, coordinates=table.entries[place].coordinates)
            entries[" → ".join(place), category] = entry
    rows = tuple(dict.fromkeys(row for row, _ in entries))
    title = f"{table.title}, by category"
    return replace(table, title=title, rows=rows, columns=categories, entries=entries, paper=None)


def _entry(
    metric: str,
    runs: Sequence[Run],
    read: ReadScores,
    paper: Sequence[PaperRow],
    judges: Mapping[str, Parts],
    category: str | None = None,
    over: Sequence[str] = (),
) -> Entry:
    """An entry over its runs, of all answers or, like the runs' metrics, of one category.

    Args:
        over: coordinates beside the seed in which the runs may differ.
    """
    coordinates = {k: v for k, v in runs[0].cell.coordinates.items() if k != "seed"}
    several = {key: list(dict.fromkeys(run.cell.coordinates[key] for run in runs)) for key in over}
    coordinates |= {key: ", ".join(values) for key, values in several.items()}
    metrics = [run.metric for run in runs if run.metric]
    values = [metric.value for metric in metrics if metric.value is not None]
    mean, std, std_over, low, high = None, None, None, None, None
    if len(values) == len(runs):
        mean, std = mean_and_std(values)
        differ = any(len(values) > 1 for values in several.values())
        std_over = None if std is None else "run" if differ else "train_seed"
        low, high = metrics[0].ci_low, metrics[0].ci_high
        if len(runs) > 1:
            low, high = _interval(metric, runs, read, category)
        elif metrics[0].std is not None:
            std, std_over = metrics[0].std, "decoding_seed"
    return Entry(
        coordinates,
        metric,
        tuple(runs),
        _status(runs),
        mean,
        std,
        sum(metric.n for metric in metrics),
        sum(metric.missing for metric in metrics),
        low,
        high,
        published(paper),
        scale_of(runs[0].cell, metric),
        std_over,
        judge_name(judge_parts(evaluation_of(runs[0].cell, metric).judge), judges),
        max((metric.units for metric in metrics), default=0),
    )


def _status(runs: Sequence[Run]) -> str:
    """The worst of an entry's runs, and of several how many it befell."""
    words = [_word(run) for run in runs]
    worst = (
        "damaged",
        "failed",
        "blocked",
        "running",
        "queued",
        "waiting",
        "not judged",
        "no score",
        "partly scored",
        "done",
    )
    word = next(word for word in worst if word in words)
    many = len(runs) > 1 and word != "done"
    return f"{word} ({words.count(word)} of {len(runs)} seeds)" if many else word


def _word(run: Run) -> str:
    if run.state.state != "done":
        return run.state.state
    if run.metric is None:
        return "not judged"
    if run.metric.value is None:
        return "no score"
    return "partly scored" if run.metric.missing else "done"


def _centre(
    metric: str, runs: Sequence[Run], read: ReadScores, category: str | None
) -> float | None:
    """A metric's number pooled over runs, as `_interval` has it."""
    values = _pooled(metric, runs, read, category)[0]
    scale = scale_of(runs[0].cell, metric)
    return (100 if scale is None else 1) * fsum(values) / len(values) if values else None


def _interval(
    metric: str, runs: Sequence[Run], read: ReadScores, category: str | None
) -> tuple[float, float] | tuple[None, None]:
    """The interval of a number pooled over runs; of a mean of metrics, from theirs."""
    if parts := parts_of_mean(runs[0].cell, metric):
        pooled = [_interval(part, runs, read, category) for part in parts]
        return mean_interval_of(
            [
                (_centre(part, runs, read, category), *ends)
                for part, ends in zip(parts, pooled, strict=True)
            ]
        )
    values, units = _pooled(metric, runs, read, category)
    if not values:
        return None, None
    return pooled_interval(values, units, scale_of(runs[0].cell, metric))


def _pooled(
    metric: str, runs: Sequence[Run], read: ReadScores, category: str | None
) -> tuple[list[float], list[Hashable]]:
    """What every answer counts in a metric, over runs, and its unit; nothing where scores are
    gone."""
    values, units, scale = [], [], scale_of(runs[0].cell, metric)
    for run in runs:
        scored = counted(read, run.cell, metric)
        if scored is None:
            return [], []
        for answer in scored.values():
            value = value_of(answer, label_of(run.cell, metric), scale)
            if value is not None and category in (None, answer.category):
                values.append(value)
                units.append(answer.unit)
    return values, units
