"""What analyses found, and what of it goes with the outcomes, laid out as lines."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from ptst.report.analyses import Found, analysis_tables
from ptst.report.outcomes import FEWEST, Relation
from ptst.report.provenance import counted
from ptst.report.reliability import DRAWS
from ptst.report.tables.protection import Lines

MANY = 6
"""Values of an analysis above which a terminal shows their ranges alone."""

STRONGEST = 5
"""Correlations that a terminal shows."""

OUTCOMES = "Analyses and outcomes: Spearman's ρ over cells"


def wide_tables(found: Sequence[Found]) -> list[list[tuple[str, ...]]]:
    """All values of each analysis; what has more values than models has a line for each value."""
    return [
        list(zip(*table, strict=True)) if len(table[0]) > len(table) else table
        for table in analysis_tables(found)
    ]


def short_tables(found: Sequence[Found]) -> list[list[tuple[str, ...]]]:
    """The same for a terminal: of many values the range over the models."""
    tables = []
    for table in analysis_tables(found):
        analysis = table[0][0]
        own = [one for one in found if one.analysis == analysis]
        tables.append(_ranges(analysis, own) if len(table[0]) > MANY + 1 else table)
    return tables


def _ranges(analysis: str, found: Sequence[Found]) -> list[tuple[str, ...]]:
    """A line for each value: its range without fine-tuning, and lowest, median and highest with."""
    numbers: dict[str, dict[bool, list[float]]] = {}
    for one in found:
        if one.number is not None:
            of_tuned = one.coordinates.get("finetune") != "none"
            value = one.value.partition("/")[2]
            numbers.setdefault(value, {True: [], False: []})[of_tuned].append(one.number)
    lines = []
    for value, own in numbers.items():
        plain, tuned = own[False], own[True]
        ends = dict.fromkeys(f"{end(plain):.4g}" for end in (min, max) if plain)
        middle = [f"{of(tuned):.4g}" if tuned else "" for of in (min, median, max)]
        lines.append((value, " to ".join(ends), *middle))
    return [(analysis, "no fine-tuning", "lowest", "median", "highest"), *lines]


def ranges_note(found: Sequence[Found]) -> str:
    """What a terminal's short tables leave out; empty where they leave out nothing."""
    if all(len(table[0]) <= MANY + 1 for table in analysis_tables(found)):
        return ""
    lacking = len({one.key for one in found if one.number is None})
    verb = "is" if lacking == 1 else "are"
    missing = f"; {counted(lacking, 'result')} {verb} missing" if lacking else ""
    return f"Of the fine-tuned models: lowest, median, highest; analyses.csv has each{missing}."


def outcome_lines(relations: Sequence[Relation]) -> list[Lines]:
    """One table: a line for each value, a column for each metric; none without analyses."""
    if not relations:
        return []
    metrics = {one.metric: one.title for one in relations}
    found = {(one.value, one.metric): one for one in relations}
    rows = [
        (value, *(_words(found.get((value, metric))) for metric in metrics))
        for value in dict.fromkeys(one.value for one in relations)
    ]
    return [Lines(OUTCOMES, outcomes_note(relations), ("value", *metrics.values()), tuple(rows))]


def strongest_lines(relations: Sequence[Relation]) -> list[Lines]:
    """The correlations furthest from 0, with how many there are."""
    there = [one for one in relations if one.rho.value is not None]
    there = sorted(there, key=lambda one: -abs(one.rho.value or 0.0))[:STRONGEST]
    if not there:
        return []
    rows = tuple((one.value, one.title, _words(one), str(one.cells)) for one in there)
    which = "strongest" if len(there) == 1 else f"{len(there)} strongest"
    title = f"{OUTCOMES}, the {which} of {len(relations)}"
    return [Lines(title, outcomes_note(relations), ("analysis", "metric", "ρ", "cells"), rows)]


def _words(one: Relation | None) -> str:
    """ "0.81 [0.40, 0.97]"."""
    if one is None or one.rho.value is None:
        return "—"
    rho = one.rho
    ends = "" if rho.low is None else f" [{rho.low:.2f}, {rho.high:.2f}]"
    return f"{rho.value:.2f}{ends}".replace("-", "−")


def outcomes_note(relations: Sequence[Relation]) -> str:
    """How many correlations there are, over what, and what their intervals are."""
    counts = dict.fromkeys((one.cells, one.models) for one in relations)
    over = " or ".join(f"{cells} cells of {counted(models, 'model')}" for cells, models in counts)
    computed = sum(one.rho.value is not None for one in relations)
    return (
        f"{counted(computed, 'correlation')} computed, over {over}; untouched models count only where there are no others. Intervals are not corrected for that number: "
        "of 20, one leaves out 0 where nothing goes with anything. A correlation over the models of a grid "
        "says neither why, nor that it holds for other models. In brackets: 95 % percentile interval "
        f"({DRAWS} bootstrap draws) over models, each a fine-tuning of a base model (or a base model itself) drawn with all cells that test it; "
        f"none with fewer than {FEWEST} models, and too narrow with few. —: one of the two does not vary."
    )
