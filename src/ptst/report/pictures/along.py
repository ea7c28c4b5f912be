"""Helpfulness and safety along training, where the columns of a sweep are numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptst.report.pictures.scatter import scatter_pairs
from ptst.report.pictures.style import FAINT, MARKERS, colours_of, limits, marker, scale_note
from ptst.report.results import Results, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = {"finetune.epoch": "epoch", "dataset.n": "training rows"}
"""Coordinates that measure how much was trained, so that the untouched model lies at 0."""


Ends = tuple[str, str]
"""Train and test template."""

Point = tuple[float, float, float, float]
"""x, y, and how far its interval reaches below and above."""


@dataclass(frozen=True)
class Line:
    """A row of a table with a number for its x: our points and the paper's (x, y)."""

    ends: Ends
    ours: list[Point]
    paper: list[tuple[float, float]]


def along(results: Results) -> Figure | None:
    """Helpfulness and safety over the numbers that the columns are, from the untouched model at 0.

    A line for each pair of templates, with 95 % intervals; the paper's points dotted. None where
    the columns are no epochs or training rows, where more than templates sets tables apart (two
    models), or where nothing has a number yet.
    """
    from matplotlib.figure import Figure

    pair = next(scatter_pairs(results), None)
    if pair is None or not is_along(results):
        return None
    at = _places(pair)
    figure = Figure(figsize=(9.6, 4.0), facecolor="white")
    styles = _styles(results)
    lines: dict[Ends, None] = {}
    with_paper = False
    for number, first in enumerate(reversed(pair)):
        axes = figure.add_axes((0.07 + 0.375 * number, 0.14, 0.3, 0.72))
        tables = [table for table in results.tables if table.metric == first.metric]
        found = [line for t in tables for row in t.rows if (line := _line(t, row, at))]
        lines |= {line.ends: None for line in found if line.ours}
        with_paper = with_paper or any(line.paper for line in found)
        if not lines:
            return None
        for line in found:
            _draw_line(axes, line, styles[line.ends])
        ours = [end for line in found for _, y, low, up in line.ours for end in (y - low, y + up)]
        values = ours + [y for line in found for _, y in line.paper]
        axes.set_ylim(*limits(values, first.scale, 0.02, 0.1))
        axes.set_xticks([x for x in at.values() if x is not None])
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,g}")
        axes.set_xlabel(AXES[results.grid.sweep.columns])
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        title = textwrap.fill(f"{first.title} ({scale_note(first.scale)})", 42)
        axes.set_title(title, loc="left", fontsize=10, weight="bold", pad=8)
    _legend(figure, {ends: styles[ends] for ends in lines}, with_paper, results)
    return figure


def is_along(results: Results) -> bool:
    """Whether the columns of all tables are epochs or training rows, three or more."""
    pair = next(scatter_pairs(results), ())
    apart = {key for table in results.tables for key in table.split} - {"train_template"}
    at = _places(pair)
    known = results.grid.sweep.columns in AXES and None not in at.values()
    return known and len(at) >= 3 and not apart


def _places(pair: Sequence[Table]) -> dict[str, float | None]:
    return {column: _number(column) for table in pair for column in table.columns}


def _styles(results: Results) -> dict[Ends, dict[str, Any]]:
    """Of each pair of templates: colour by train template, marker by test template."""
    colours, safe = colours_of(results), set(results.grid.sweep.safety_templates)
    tests = list(dict.fromkeys(c.coordinates["test_template"] for c in results.grid.cells))
    return {
        (train, test): {
            **marker(MARKERS[i % len(MARKERS)], colour, test in safe),
            "linestyle": "-",
            "color": colour,
        }
        for train, colour in colours.items()
        for i, test in enumerate(tests)
    }


def _draw_line(axes: Any, line: Line, style: Mapping[str, Any]) -> None:
    if line.ours:
        x, y, below, above = zip(*line.ours, strict=True)
        own = {**style, "linewidth": 1.4, "elinewidth": 0.8, "markersize": 6}
        axes.errorbar(x, y, yerr=(below, above), **own)
    if line.paper:
        own = {"color": style["color"], "marker": style["marker"], "markersize": 3.5}
        axes.plot(*zip(*line.paper, strict=True), ":", linewidth=1.2, **own)


def _legend(
    figure: Figure, styles: Mapping[Ends, dict[str, Any]], with_paper: bool, results: Results
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], **style, label=f"{train} → {test}")
        for (train, test), style in styles.items()
    ]
    if with_paper:
        handles.append(Line2D([], [], color=FAINT, linestyle=":", marker=".", label="paper"))
    safe = results.grid.sweep.safety_templates
    figure.legend(
        handles=handles,
        title="trained → tested with" + ("\nfilled: with a safety prompt" if safe else ""),
        loc="upper left",
        bbox_to_anchor=(0.765, 0.9),
        frameon=False,
        alignment="left",
        fontsize=8,
    )


def _number(column: str) -> float | None:
    """Where a column lies on an axis: "none", the model without fine-tuning, at 0."""
    try:
        return 0.0 if column == "none" else float(column)
    except ValueError:
        return None


def _line(table: Table, row: str, at: Mapping[str, float | None]) -> Line | None:
    """The points of a row; None where it has none."""
    ends: Ends | None = None
    ours: list[Point] = []
    paper: list[tuple[float, float]] = []
    for column in table.columns:
        entry, x = table.entries.get((row, column)), at[column]
        if entry is None or x is None:
            continue
        if column != "none":
            ends = entry.coordinates["train_template"], entry.coordinates["test_template"]
        if entry.paper is not None:
            paper.append((x, entry.paper.mean))
        if entry.mean is not None:
            low, high = entry.ci_low, entry.ci_high
            # A share of 0 has its Wilson interval's end at 0 but for rounding
            reach = (
                (0.0, 0.0)
                if low is None or high is None
                else (max(0.0, entry.mean - low), max(0.0, high - entry.mean))
            )
            ours.append((x, entry.mean, *reach))
    return Line(ends, sorted(ours), sorted(paper)) if ends and (ours or paper) else None
