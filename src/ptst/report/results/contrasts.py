"""Differences between cells that were asked the same queries, each with a paired test."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import fsum
from typing import Any

from ptst.metrics import mean_interval_of, value_of
from ptst.report.agreement import COMPLIED
from ptst.report.results.scores import ReadScores, counted, evaluation_of, label_of, parts_of_mean
from ptst.report.results.types import Contrast, Entry, Place, Table
from ptst.report.statistics import holm, paired_interval, sign_flip
from ptst.sweep.grid import GridCell
from ptst.sweep_schema import DeclaredContrast, Sweep

Repeat = tuple[str | None, ...]
"""The values of `Sweep.repeats` of a run."""


def contrasts_of(sweep: Sweep, tables: Sequence[Table], read: ReadScores) -> tuple[Contrast, ...]:
    """The contrasts of a sweep; those that are tested are one family for Holm's correction.

    The PTST contrast is of safety metrics. Those that the sweep declares are of all its metrics,
    and come after it.
    """
    asked: dict[str, str] = {}
    for table in sorted(tables, key=_is_no_asr):
        asked.setdefault(_queries_of(table), table.metric)
    pairs = [
        pair
        for table in tables
        for declared in _of_safety_prompts(sweep, table)
        for pair in _pairs(declared, [table])
    ]
    for metric in dict.fromkeys(table.metric for table in tables):
        of_metric = [table for table in tables if table.metric == metric]
        pairs += [pair for declared in sweep.contrasts for pair in _pairs(declared, of_metric)]
    contrasts = []
    for pair in pairs:
        found = _contrast(pair, sweep, read)
        first = asked[_queries_of(pair.table)]
        same = found.metric != first and found.p is not None
        contrasts.append(untested(found, first) if same else found)
    adjusted = iter(holm([contrast.p for contrast in contrasts if contrast.p is not None]))
    return tuple(c if c.p is None else replace(c, p_holm=next(adjusted)) for c in contrasts)


def _of_safety_prompts(sweep: Sweep, table: Table) -> Iterator[DeclaredContrast]:
    """PTST's claim, for each safety template S and each train template T of the table without one.

    b is always trained with T and tested with S; a has T at both ends, or S at both ends.
    """
    if table.measures != "safety":
        return
    if (sweep.rows, sweep.columns) != ("train_template", "test_template"):
        return
    trains = [row for row in table.rows if row not in ("none", *sweep.safety_templates)]
    for safe in sweep.safety_templates:
        for name, alike in (("safety prompt at test time", None), ("left out of training", safe)):
            for train in trains:
                end = alike or train
                a = {"train_template": end, "test_template": end}
                yield DeclaredContrast(name, a, {"train_template": train, "test_template": safe})


@dataclass(frozen=True)
class _Pair:
    """Two entries that differ in what a contrast names, and the table that b stands in."""

    name: str
    table: Table
    a: tuple[Place, Entry]
    b: tuple[Place, Entry]


def _pairs(declared: DeclaredContrast, tables: Sequence[Table]) -> Iterator[_Pair]:
    """Every entry with the coordinates of b, with the entry of a's that is equal in all others."""
    entries: dict[frozenset[tuple[str, str]], tuple[Place, Entry, Table]] = {}
    for table in tables:
        for place in product(table.rows, table.columns):
            if entry := table.entries.get(place):
                # the untouched model may stand in many tables: once here
                key = frozenset(entry.coordinates.items())
                entries.setdefault(key, (place, entry, table))
    for place, entry, table in entries.values():
        if declared.b.items() <= entry.coordinates.items():
            own = {**entry.coordinates, **declared.a}
            if own.get("train_template") == "none" and "finetune" in own:
                own["finetune"] = "none"  # nothing was trained: there is no recipe
            other = entries.get(frozenset(own.items()))
            if other is not None:
                yield _Pair(declared.name, table, other[:2], (place, entry))


def _queries_of(table: Table) -> str:
    """Which queries a table's metric counts: its evaluation, and those of them it is about."""
    cell = next(iter(table.entries.values())).runs[0].cell
    name, _, own = table.metric.partition("/")
    return f"{name} {own if own in evaluation_of(cell, table.metric).only else ''}"


def _is_no_asr(table: Table) -> bool:
    entry = next(iter(table.entries.values()))
    return label_of(entry.runs[0].cell, table.metric) != COMPLIED


def untested(contrast: Contrast, asked: str) -> Contrast:
    """Without its test: the same answers were asked the same question as `asked`."""
    why = f"no test: one question with {asked.partition('/')[2]}"
    said = why if contrast.status == "done" else f"{contrast.status}; {why}"
    return replace(contrast, p=None, status=said)


def _contrast(pair: _Pair, sweep: Sweep, read: ReadScores) -> Contrast:
    table, entries = pair.table, (pair.a[1], pair.b[1])
    a, b = (entry.coordinates for entry in entries)
    sides = [*sweep.side("rows"), *sweep.side("columns")]
    if a.get("finetune") == "none":  # the train template says so
        sides.append("finetune")
    apart = [key for key in b if a[key] != b[key] and key not in sides]
    label_a, label_b = (
        ", ".join([" → ".join(place), *(f"{key} {entry.coordinates[key]}" for key in apart)])
        for place, entry in (pair.a, pair.b)
    )
    nothing = Contrast(
        table.metric,
        pair.name,
        label_a,
        label_b,
        table.split,
        scale=table.scale,
        entries=entries,
    )
    lacking = [
        f"{which}: {entry.status}"
        for which, entry in zip("ab", entries, strict=True)
        if entry.mean is None
    ]
    if lacking:
        return replace(nothing, status="; ".join(lacking))
    in_a, in_b = (_by_repeats(entry, sweep) for entry in entries)
    if not any("seed" in run.cell.coordinates for run in pair.a[1].runs):
        untouched = {key: _without_seed(key, sweep) for key in in_b}  # beside every seed
        in_a = {key: in_a[own] for key, own in untouched.items() if own in in_a}
    if in_a.keys() != in_b.keys():
        return replace(nothing, status="not paired: the seeds are not the same")
    return paired(nothing, [(cell, in_b[seed]) for seed, cell in in_a.items()], read, read)


def _by_repeats(entry: Entry, sweep: Sweep) -> dict[Repeat, GridCell]:
    return {
        tuple(run.cell.coordinates.get(key) for key in sweep.repeats): run.cell
        for run in entry.runs
    }


def _without_seed(key: Repeat, sweep: Sweep) -> Repeat:
    pairs = zip(sweep.repeats, key, strict=True)
    return tuple(None if name == "seed" else value for name, value in pairs)


def _mean_of(nothing: Contrast, parts: Sequence[Contrast]) -> Contrast:
    """The mean of the differences of metrics, without a test: each metric has its own."""
    if lacking := next((part for part in parts if part.difference is None), None):
        return replace(nothing, status=f"{lacking.metric.partition('/')[2]}: {lacking.status}")
    low, high = mean_interval_of([(part.difference, part.ci_low, part.ci_high) for part in parts])
    return replace(
        nothing,
        n=sum(part.n for part in parts),
        units=sum(part.units for part in parts),
        only_a=sum(part.only_a for part in parts),
        only_b=sum(part.only_b for part in parts),
        difference=fsum(part.difference or 0.0 for part in parts) / len(parts),
        status="no test: a mean of other metrics",
        ci_low=low,
        ci_high=high,
    )


def paired(
    nothing: Contrast,
    cells: Sequence[tuple[GridCell, GridCell]],
    read_a: ReadScores,
    read_b: ReadScores,
) -> Contrast:
    """The difference between cells that were asked the same queries, pooled over the pairs.

    Args:
        nothing: says the metric and its scale; what is returned where there is no difference, with
            the reason.
        cells: pairs of a and b, one for each seed.
    """
    metric, scale = nothing.metric, nothing.scale
    if cells and (parts := parts_of_mean(cells[0][0], metric)):
        of_parts = [paired(replace(nothing, metric=p), cells, read_a, read_b) for p in parts]
        return _mean_of(nothing, of_parts)
    name = metric.partition("/")[0]
    differences: dict[Any, float] = {}
    pairs: list[tuple[float, float, Hashable]] = []
    n = only_a = only_b = left_out = 0
    for cell_a, cell_b in cells:
        in_a, in_b = counted(read_a, cell_a, metric), counted(read_b, cell_b, metric)
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
