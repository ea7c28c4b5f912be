"""Differences between cells that were asked the same queries, each with a paired test."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from math import fsum
from typing import Any

from ptst.metrics import value_of
from ptst.report.agreement import COMPLIED
from ptst.report.results.scores import (
    ReadScores,
    label_of,
)
from ptst.report.results.types import Contrast, Place, Table
from ptst.report.statistics import (
    holm,
    paired_interval,
    sign_flip,
)
from ptst.schema import Sweep
from ptst.sweep.grid import GridCell


def contrasts_of(sweep: Sweep, tables: Sequence[Table], read: ReadScores) -> tuple[Contrast, ...]:
    """The contrasts of a sweep; those that are tested are one family for Holm's correction."""
    if (sweep.rows, sweep.columns) != ("train_template", "test_template"):
        return ()
    contrasts = []
    tested: dict[str, str] = {}
    for table in sorted(tables, key=_is_no_asr):
        if table.measures == "safety":
            tested.setdefault(table.metric.partition("/")[0], table.metric)
    for table in tables:
        if table.measures != "safety":
            continue
        asked = tested[table.metric.partition("/")[0]]
        tuned = [row for row in table.rows if row not in ("none", *sweep.safety_templates)]
        for safe in sweep.safety_templates:
            for kind, ends in (
                ("safety prompt at test time", [(train, train) for train in tuned]),
                ("left out of training", [(safe, safe) for _ in tuned]),
            ):
                for train, a in zip(tuned, ends, strict=True):
                    if a in table.entries and (train, safe) in table.entries:
                        found = _contrast(table, kind, a, (train, safe), read)
                        same = table.metric != asked and found.p is not None
                        contrasts.append(untested(found, asked) if same else found)
    adjusted = iter(holm([contrast.p for contrast in contrasts if contrast.p is not None]))
    return tuple(c if c.p is None else replace(c, p_holm=next(adjusted)) for c in contrasts)


def _is_no_asr(table: Table) -> bool:
    entry = next(iter(table.entries.values()))
    return label_of(entry.runs[0].cell, table.metric) != COMPLIED


def untested(contrast: Contrast, asked: str) -> Contrast:
    """Without its test: the same answers were asked the same question as `asked`."""
    why = f"no test: one question with {asked.partition('/')[2]}"
    said = why if contrast.status == "done" else f"{contrast.status}; {why}"
    return replace(contrast, p=None, status=said)


def _contrast(table: Table, kind: str, a: Place, b: Place, read: ReadScores) -> Contrast:
    first, second = table.entries[a], table.entries[b]
    labels = " → ".join(a), " → ".join(b)
    nothing = Contrast(
        table.metric, kind, *labels, table.split, 0, 0, 0, 0, None, None, None, "done", table.scale
    )
    lacking = [
        f"{which}: {entry.status}"
        for which, entry in (("a", first), ("b", second))
        if entry.mean is None
    ]
    if lacking:
        return replace(nothing, status="; ".join(lacking))
    cells = [
        {run.cell.coordinates["seed"]: run.cell for run in entry.runs} for entry in (first, second)
    ]
    if cells[0].keys() != cells[1].keys():
        return replace(nothing, status="not paired: the seeds are not the same")
    return paired(nothing, [(a, cells[1][seed]) for seed, a in cells[0].items()], read, read)


def paired(
    nothing: Contrast,
    cells: Sequence[tuple[GridCell, GridCell]],
    read_a: ReadScores,
    read_b: ReadScores,
) -> Contrast:
    """The difference between cells that were asked the same queries, pooled over the pairs.

    Args:
        nothing: says the metric and its scale; what is returned where there is no difference, with the reason.
        cells: pairs of a and b, one for each seed.
    """
    metric, scale = nothing.metric, nothing.scale
    name = metric.partition("/")[0]
    differences: dict[Any, float] = {}
    pairs: list[tuple[float, float, Hashable]] = []
    n = only_a = only_b = left_out = 0
    for cell_a, cell_b in cells:
        in_a, in_b = read_a(cell_a, name), read_b(cell_b, name)
        if in_a is None or in_b is None:
            return replace(nothing, status="not paired: the scores are no longer in the store")
        queries = [c.keys.evaluations[name].generate_parts["queries"] for c in (cell_a, cell_b)]
        if queries[0] != queries[1] or {i: s.unit for i, s in in_a.items()} != {
            i: s.unit for i, s in in_b.items()
        }:
            return replace(nothing, status="not paired: the queries are not the same")
        for query, answer in in_a.items():
            value_a = value_of(answer, label_of(cell_a, metric), scale)
            value_b = value_of(in_b[query], label_of(cell_b, metric), scale)
            if value_a is None or value_b is None:
                left_out += 1
                continue
            n += 1
            pairs.append((value_a, value_b, answer.unit))
            only_a += value_a > value_b
            only_b += value_b > value_a
            differences[answer.unit] = differences.get(answer.unit, 0.0) + value_b - value_a
    if n == 0:
        return replace(nothing, status="no query has a score in both")
    whole = all(difference.is_integer() for difference in differences.values())
    said = [f"partly scored ({left_out} of {n + left_out} queries left out)"] if left_out else []
    said += [] if whole else ["no test: values that are not whole numbers"]
    in_a_and_b = ([x for x, _, _ in pairs], [y for _, y, _ in pairs])
    low, high = paired_interval(*in_a_and_b, [unit for _, _, unit in pairs], scale)
    return replace(
        nothing,
        n=n,
        units=len(differences),
        only_a=only_a,
        only_b=only_b,
        difference=(100 if scale is None else 1) * fsum(differences.values()) / n,
        p=sign_flip([int(d) for d in differences.values()]) if whole else None,
        status="; ".join(said) or "done",
        ci_low=low,
        ci_high=high,
    )
