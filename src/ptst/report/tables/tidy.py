"""The tables of a report as tidy CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from ptst.judge.broken import BROKEN, OFF_TOPIC
from ptst.report.results import Entry, Results, Table
from ptst.report.results.types import Flaws
from ptst.report.tables.captions import seeds_of
from ptst.store import csv_text

PAPER_COLUMNS = (
    "table",
    "model",
    "dataset",
    "finetune",
    "train_template",
    "test_template",
    "metric",
    "mean",
    "std",
    "n_runs",
    "std_over",
)
"""The columns of sweeps/paper/tables.csv."""

OUR_COLUMNS = (
    "judge",
    "seeds",
    "n",
    "missing",
    "units",
    "unfinished",
    "ci_low",
    "ci_high",
    "status",
    "paper_mean",
    "paper_std",
    "paper_also",
)


FLAW_COLUMNS = ("broken", "broken_how", "off_topic")
"""Only where answers were looked at."""


def tidy_csv(results: Results) -> str:
    """table.csv: a row for every entry, in the columns of sweeps/paper/tables.csv and some more.

    After the paper's columns stand the judge, the seeds of the runs, n, missing, units, unfinished
    (answers cut off at max_new_tokens), ci_low, ci_high, status, paper_mean, paper_std, paper_also
    (what another of its tables says: "Table 6b 0.75"), the other coordinates that the sweep varies,
    and what the command line set otherwise than the sweep; where broken answers were counted, how
    many they are, of which kinds ("loop 7; empty 1"), and how many are off topic. Percent with two
    decimals, a mean with four; empty where there is no number.
    """
    return _csv(results, {"": results.tables})


def category_csv(results: Results) -> str | None:
    """categories.csv: table.csv with a row for every entry and category; None without
    categories."""
    by_category: dict[str, list[Table]] = {}
    for table in results.tables:
        if whole := table.by_category:
            for category in whole.columns:
                by_category.setdefault(category, []).append(replace(whole, columns=(category,)))
    return _csv(results, by_category) if by_category else None


def _csv(results: Results, tables: Mapping[str, Sequence[Table]]) -> str:
    """The entries of these tables, by category (an empty one: of all queries)."""
    entries: dict[tuple[str, ...], tuple[str, Entry, dict[str, str]]] = {}
    for category, of_category in tables.items():
        for table in of_category:
            for place in product(table.rows, table.columns):
                if entry := table.entries.get(place):
                    own = map(str, sorted(entry.coordinates.items()))
                    found = category, entry, _settings(table, entry)
                    # the untouched model may stand in many tables: once here
                    entries.setdefault((category, entry.metric, *own), found)
    others = dict.fromkeys(
        key
        for _, entry, settings in entries.values()
        for key in (*entry.coordinates, *settings)
        if key not in (*PAPER_COLUMNS, *OUR_COLUMNS)
    )
    named = [] if "" in tables else ["category"]
    flaws = FLAW_COLUMNS if any(entry.flaws for _, entry, _ in entries.values()) else ()
    rows = []
    for category, entry, settings in entries.values():
        of = {"category": category} if named else {}
        row = {**settings, **entry.coordinates, **of, **_figures(entry, results)}
        rows.append(row | (_flaws(entry.flaws) if entry.flaws else {}))
    return csv_text([*PAPER_COLUMNS, *OUR_COLUMNS, *named, *others, *flaws], rows)


def _flaws(flaws: Flaws) -> dict[str, Any]:
    """The columns of broken answers."""
    how = "; ".join(f"{kind} {n}" for kind, n in flaws.counts.items() if kind in BROKEN)
    numbers = flaws.broken, how, flaws.counts.get(OFF_TOPIC, 0)
    return dict(zip(FLAW_COLUMNS, numbers, strict=True))


def _settings(table: Table, entry: Entry) -> dict[str, str]:
    """The table's settings that bear on the entry."""
    if entry.coordinates["finetune"] != "none":
        return table.settings
    return {k: v for k, v in table.settings.items() if not k.startswith(("finetune", "dataset"))}


def _figures(entry: Entry, results: Results) -> dict[str, Any]:
    """The columns of an entry but its coordinates."""
    about, paper = results.grid.sweep.metrics.get(entry.metric), entry.paper
    figures = {
        "mean": entry.mean,
        "std": entry.std,
        "ci_low": entry.ci_low,
        "ci_high": entry.ci_high,
        "paper_mean": paper.mean if paper else None,
        "paper_std": paper.std if paper else None,
    }
    digits = 2 if entry.scale is None else 4
    there = [run for run in entry.runs if run.metric]
    also = paper.also if paper else ()
    return {
        **{k: "" if v is None else f"{v:.{digits}f}" for k, v in figures.items()},
        "table": about.paper_table
        if about and about.paper_table and paper
        else results.grid.sweep.name,
        "metric": entry.metric,
        "n_runs": entry.repeats if entry.std_over else len(there),
        "std_over": entry.std_over or "",
        "judge": entry.judge,
        "seeds": " ".join(seeds_of(there)),
        "n": entry.n,
        "missing": entry.missing,
        "units": entry.units or "",
        "unfinished": "" if entry.unfinished is None else entry.unfinished,
        "status": entry.status,
        "paper_also": "; ".join(f"{where} {mean:.{digits}f}" for where, mean in also),
    }
