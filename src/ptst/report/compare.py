"""`ptst compare`: two sweeps, judges or models side by side, each pair of cells tested."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from ptst.errors import ConfigError
from ptst.metrics import scale_in_words, shown
from ptst.report.agreement import COMPLIED
from ptst.report.place import figures_of
from ptst.report.results.contrasts import paired, untested
from ptst.report.results.scores import ReadScores, reader
from ptst.report.results.types import Contrast
from ptst.report.statistics import holm
from ptst.stages.summarise import Metrics, read_metrics
from ptst.store import Store
from ptst.sweep.grid import GridCell, expand

if TYPE_CHECKING:
    from rich.console import Console

Pair = tuple[list[GridCell], list[GridCell]]
"""Cells of a and of b that differ in their seeds alone, in the order of the seeds."""
Line = tuple[Contrast, float | None, float | None]
"""The difference, and the two numbers: each the mean over its seeds."""

NOTE = (
    "b − a, on the queries that have a score in both; percentage points where nothing else is said. 95 % interval of "
    "the difference (Newcombe's for pairs, over units; of a mean Student's). p: exact two-sided sign-flip test over "
    "units (McNemar's exact test where each unit is one query under one seed); Holm: corrected for all lines that are tested, in one metric of each evaluation."
)


def compare(a: str, b: str, overrides: Sequence[str]) -> list[Line]:
    """Pair the cells of two grids, and test every metric that both have.

    Args:
        a, b: the overrides in which the grids differ; cells are paired by all their other
            coordinates.
        overrides: of both.

    Raises:
        ConfigError: they are not two values of one key; no cell of the one has the coordinates of
            one of the other.
    """
    name = a.partition("=")[0]
    if name != b.partition("=")[0] or a == b or name == "seed":
        raise ConfigError(
            f"{a} and {b}: name two values of one key, for example judge=micro judge=keywords, or two sweeps."
        )
    first, second = _grids(a, b, overrides)
    stores = _store(first), _store(second)
    aside = {name.lstrip("+").removeprefix("template@")}
    ours, theirs = (_by_coordinates(cells, aside) for cells in (first, second))
    common = [key for key in ours if key in theirs]
    if not common:
        raise ConfigError(
            f"no cell of {a} has the coordinates of one of {b}: "
            f"{_named(next(iter(ours)))}; {_named(next(iter(theirs)))}."
        )
    reads = reader(stores[0]), reader(stores[1])
    coordinates = [own for key in common for own in key]
    varying = {
        name for name, value in coordinates if coordinates.count((name, value)) < len(common)
    }
    lines: list[Line] = []
    for key in common:
        pair = ours[key], theirs[key]
        metrics = [
            [
                read_metrics(store, cell.keys.cell)
                for cell in cells
                if store.has("cell", cell.keys.cell)
            ]
            for cells, store in zip(pair, stores, strict=True)
        ]
        label = _named([own for own in key if own[0] in varying or own[0].endswith("_template")])
        for metric in _metrics_of_both(pair):
            scale = next((m[metric].scale for own in metrics for m in own if metric in m), None)
            nothing = Contrast(metric, "", a, label, {}, scale=scale)
            found = _tested(nothing, pair, reads, _lacking((a, b), pair, metrics))
            lines.append((found, _mean(metrics[0], metric), _mean(metrics[1], metric)))
    adjusted = iter(holm([found.p for found, _, _ in lines if found.p is not None]))
    return [
        (found if found.p is None else replace(found, p_holm=next(adjusted)), x, y)
        for found, x, y in lines
    ]


def _grids(a: str, b: str, overrides: Sequence[str]) -> tuple[list[GridCell], list[GridCell]]:
    """The cells of both, composed as one grid where that is possible: it takes half the time."""
    key, _, value = a.partition("=")
    with suppress(
        ConfigError
    ):  # a sweep has one of them alone; or one place of a table would have two cells
        grid = expand([f"{key}={value},{b.partition('=')[2]}", *overrides])
        parts = tuple([cell for cell in grid.cells if word in cell.overrides] for word in (a, b))
        if all(parts) and sum(map(len, parts)) == len(grid.cells):
            return parts[0], parts[1]
    return expand([a, *overrides]).cells, expand([b, *overrides]).cells


def _store(cells: Sequence[GridCell]) -> Store:
    return Store(Path(cells[0].config.paths.store).expanduser())


def _by_coordinates(
    cells: Sequence[GridCell], aside: set[str]
) -> dict[tuple[tuple[str, str], ...], list[GridCell]]:
    found: dict[tuple[tuple[str, str], ...], list[GridCell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.coordinates.get("seed", "")):
        own = {k: v for k, v in cell.coordinates.items() if k not in aside and k != "seed"}
        found.setdefault(tuple(sorted(own.items())), []).append(cell)
    return found


def _named(key: Sequence[tuple[str, str]]) -> str:
    own = dict(key)
    ends = " → ".join(own.pop(name) for name in ("train_template", "test_template") if name in own)
    return ", ".join(filter(None, [ends, *(f"{k}={v}" for k, v in own.items())]))


def _metrics_of_both(pair: Pair) -> list[str]:
    a, b = (cells[0].config.evaluations for cells in pair)
    return [
        f"{name}/{own}"
        for name in a
        if name in b
        for own in a[name].metrics
        if own in b[name].metrics
    ]


def _lacking(
    words: tuple[str, str], pair: Pair, metrics: Sequence[Sequence[Metrics]]
) -> str | None:
    """Why a pair of cells, over their seeds, has no difference."""
    lacking = [
        f"{word}: {len(cells) - len(own)} of {len(cells)} cells are not done"
        for word, cells, own in zip(words, pair, metrics, strict=True)
        if len(own) < len(cells)
    ]
    a, b = ([cell.coordinates.get("seed") for cell in cells] for cells in pair)
    if not lacking and a != b:
        return "not paired: the seeds are not the same"
    return "; ".join(lacking) or None


def _tested(
    nothing: Contrast, pair: Pair, reads: tuple[ReadScores, ReadScores], lacking: str | None
) -> Contrast:
    """The difference, with a test in one metric of an evaluation.

    The other metrics ask the same answers the same question.
    """
    if lacking:
        return replace(nothing, status=lacking)
    found = paired(nothing, list(zip(*pair, strict=True)), *reads)
    name = nothing.metric.partition("/")[0]
    own = [metric for metric in _metrics_of_both(pair) if metric.startswith(f"{name}/")]
    labels = pair[0][0].config.evaluations[name].metrics
    asked = min(own, key=lambda metric: labels[metric.partition("/")[2]] != COMPLIED)
    return untested(found, asked) if nothing.metric != asked and found.p is not None else found


def _mean(cells: Sequence[Metrics], metric: str) -> float | None:
    values = [own[metric].value for own in cells if metric in own]
    there = [value for value in values if value is not None]
    return fmean(there) if there and len(there) == len(values) else None


def show(lines: Sequence[Line], a: str, b: str, out: Console) -> None:
    """Print a table for each metric, and what its numbers are."""
    from rich.table import Table
    from rich.text import Text

    for metric in dict.fromkeys(found.metric for found, *_ in lines):
        own = [line for line in lines if line[0].metric == metric]
        scale = own[0][0].scale
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")
        table.add_column(f"{metric}, {scale_in_words(scale)}", overflow="fold")
        for head in ("a", "b", "b − a", "95 %", "n", "units", "p", "Holm"):
            table.add_column(head, justify="right", no_wrap=True)
        for found, *means in own:
            numbers = ["missing" if value is None else shown(value, scale) for value in means]
            figures = figures_of(found)
            if figures is None:
                table.add_row(Text(f"{found.b}\n{found.status}"), *numbers)
                continue
            said = "" if found.status == "done" else f"\n{found.status}"
            numbers += [figures.difference, figures.interval, figures.n, figures.units]
            table.add_row(Text(f"{found.b}{said}"), *numbers, figures.p, figures.p_holm)
        out.print()
        out.print(table)
    out.print(Text(f"\na: {a}; b: {b}. {NOTE}", "dim"))


def as_json(lines: Sequence[Line]) -> list[dict[str, object]]:
    """The lines as `ptst compare output=json` prints them."""
    names = (
        *("metric", "n", "units", "only_a", "only_b", "difference", "ci_low", "ci_high"),
        *("p", "p_holm", "status"),
    )
    return [
        {"cell": found.b, "a": a, "b": b, **{name: getattr(found, name) for name in names}}
        for found, a, b in lines
    ]
