"""Heat maps: ours, and the paper's beside it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ptst.metrics import Scale
from ptst.report.pictures.style import CALM, FAINT, INK, LETTER, WARM, named, on_ramp, scale_note
from ptst.report.place import place_in_words
from ptst.report.results import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heatmap(table: Table, safe: set[str]) -> Figure:
    """Ours, and the paper's beside it where it has numbers, on the one scale that the metric has.

    The layout is worked out here, in inches: matplotlib's own solvers cost more than the drawing.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    ramp = LinearSegmentedColormap.from_list("ramp", WARM if table.better == "lower" else CALM)
    columns = [_broken(named(column)) for column in table.columns]
    widest = max(len(line) for column in columns for line in column.split("\n"))
    with_paper = any(entry.paper for entry in table.entries.values())
    cell_width, cell_height = max(0.82, widest * LETTER + 0.12), 0.52
    width, height = cell_width * len(columns), cell_height * len(table.rows)
    heads = ["ours", f"paper: {table.paper or ''}".removesuffix(": ")][: 1 + with_paper]
    heads = [textwrap.fill(head, max(12, int(width / 0.07))) for head in heads]
    title = textwrap.fill(
        ", ".join([f"{table.title} ({scale_note(table.scale)})", *table.split.values()]),
        max(24, int((1 + with_paper) * width / 0.095)),
    )
    left = max(len(named(row)) for row in table.rows) * LETTER + 0.45
    gap, right = 0.3, 0.12
    bottom = 0.6 + 0.16 * max(column.count("\n") for column in columns)
    above = 0.1 + 0.16 * (1 + max(head.count("\n") for head in heads))
    total_width = left + len(heads) * width + (len(heads) - 1) * gap + right
    total_height = bottom + height + above + 0.14 + 0.18 * (1 + title.count("\n"))
    figure = Figure(figsize=(total_width, total_height), facecolor="white")
    figure.text(
        left / total_width, 1 - 0.1 / total_height, title, fontsize=11, weight="bold", va="top"
    )
    for number, head in enumerate(heads):
        x = left + number * (width + gap)
        axes = figure.add_axes(
            (x / total_width, bottom / total_height, width / total_width, height / total_height)
        )
        for (row, column), entry in table.entries.items():
            place = table.columns.index(column), table.rows.index(row)
            words = place_in_words(table, row, column)
            assert words is not None
            told = (entry.mean, words.number or words.status, words.scored or words.std)
            if number == 1:
                mean = entry.paper.mean if entry.paper else None
                told = (mean, words.paper or "not in paper", words.paper_std)
            _draw_place(axes, place, told, table.scale, ramp, int(1.15 * cell_width / LETTER))
        _name_places(axes, table, columns, number == 0, safe)
        axes.set_title(head, fontsize=9, loc="left", color=FAINT, pad=5)
    figure.text(
        0.1 / total_width, 0.1 / total_height, _axis_words(table, safe), fontsize=8, color=FAINT
    )
    return figure


def _name_places(
    axes: Any, table: Table, columns: Sequence[str], with_rows: bool, safe: set[str]
) -> None:
    """Names beside the places, bold where there is a safety prompt; rows are named once."""
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(table.rows), 0)
    axes.set_xticks([i + 0.5 for i in range(len(columns))], columns)
    labels = [named(row) for row in table.rows] if with_rows else []
    axes.set_yticks([i + 0.5 for i in range(len(labels))], labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for values, ticks in (
        (table.columns, axes.get_xticklabels()),
        (table.rows, axes.get_yticklabels()),
    ):
        for value, tick in zip(values, ticks, strict=False):
            tick.set_fontweight("bold" if value in safe else "normal")


def _axis_words(table: Table, safe: set[str]) -> str:
    """What rows and columns are, and what bold type means."""
    words = "rows: train template, columns: test template"
    if not all(
        row in (e.coordinates.get("train_template"), "none")
        and column == e.coordinates.get("test_template")
        for (row, column), e in table.entries.items()
    ):
        words = ""
    bold = "bold: with a safety prompt" if safe & {*table.rows, *table.columns} else ""
    return "; ".join(part for part in (words, bold) if part)


def _draw_place(
    axes: Any,
    place: tuple[int, int],
    told: tuple[float | None, str, str],
    scale: Scale,
    ramp: Any,
    letters: int,
) -> None:
    """One place of a heat map: (mean, text, small text) on its colour, or the text on hatching."""
    from matplotlib.patches import Rectangle

    (column, row), (mean, text, small) = place, told
    if mean is None:
        axes.add_patch(
            Rectangle((column, row), 1, 1, facecolor="#f4f4f4", hatch="////", edgecolor="white")
        )
        box = {"facecolor": "#f4f4f4", "edgecolor": "none", "pad": 1.5}
        axes.text(
            column + 0.5,
            row + 0.5,
            "\n".join(
                textwrap.fill(part, letters) for part in text.replace(" (", "\n(").split("\n")
            ),
            ha="center",
            va="center",
            fontsize=7.5,
            style="italic",
            color="#444444",
            bbox=box,
        )
        return
    red, green, blue, _ = colour = ramp(on_ramp(mean, scale))
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="white"))
    ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else INK
    style = {"ha": "center", "va": "center_baseline", "color": ink}
    axes.text(column + 0.5, row + (0.4 if small else 0.5), text, fontsize=10.5, **style)
    if small:
        axes.text(column + 0.5, row + 0.77, small, fontsize=7, **style)


def _broken(name: str) -> str:
    """A long template name in two lines, broken at the underscore nearest to its middle."""
    breaks = [match.end() for match in re.finditer("_", name)]
    if len(name) <= 12 or not breaks:
        return name
    middle = min(breaks, key=lambda i: abs(i - len(name) / 2))
    return f"{name[:middle]}\n{name[middle:]}"
