"""What analyses left points for: small multiples, a panel for each model and test template."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ptst.report.pictures.style import (
    FAINT,
    LETTER,
    MARKERS,
    OKABE_ITO,
    file_name,
    legend,
    named,
    panel_at,
    write_at,
)
from ptst.report.points import Panel, PointPicture, Run, point_pictures
from ptst.report.results import Results
from ptst.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 6
"""Panels side by side at most, where they are not laid out by templates."""

GAP, HEAD, BOTTOM, RIGHT = 0.14, 0.27, 0.42, 0.12
"""Between panels, above them for a title, below and beside all of them, in inches."""

Bundle = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], tuple[float, ...]]
"""x, mean, lowest, highest."""


def point_names(results: Results, store: Store) -> list[tuple[str, PointPicture]]:
    """The pictures with their names, without suffix."""
    return [
        (file_name("analysis", one.analysis, str(one.number), *one.split.values()), one)
        for one in point_pictures(results.grid, results.analyses, store)
    ]


def point_figures(results: Results, store: Store) -> Iterator[tuple[str, Figure]]:
    """Those of one title have the same axes and the same lines in all splits."""
    safe = set(results.grid.sweep.safety_templates)
    found = point_names(results, store)
    for _, group in groupby(found, key=lambda pair: (pair[1].analysis, pair[1].number)):
        pictures = list(group)
        styles = _styles(name for _, one in pictures for name in one.lines)
        ends = _ends([one for _, one in pictures])
        for name, one in pictures:
            yield name, point_figure(one, styles, ends, safe)


def point_figure(
    picture: PointPicture,
    styles: Mapping[str, Mapping[str, Any]],
    ends: tuple[tuple[float, float], tuple[float, float]],
    safe: set[str],
) -> Figure:
    """One picture.

    Args:
        styles: of each line, for matplotlib.
        ends: of the x and of the y axis.
        safe: templates with a safety prompt, whose names are bold.
    """
    from matplotlib.figure import Figure

    places, across, down = _places(picture)
    side, tall = _size(across)
    names = max((len(named(row)) for row in picture.rows), default=0)
    left = 0.7 + names * LETTER + (0.12 if names else 0)
    heads = HEAD if not picture.rows else 0.0  # each panel has its title, or each column
    width = max(left + across * (side + GAP) + RIGHT, 4.6)
    title = textwrap.fill(", ".join([picture.title, *picture.split.values()]), int(width / 0.092))
    legend_height, legend_rows, key_columns = _legend_size(styles, width)
    top = 0.22 + 0.19 * (title.count("\n") + 1) + (HEAD if picture.rows else 0)
    low = BOTTOM + legend_height
    height = low + down * (tall + GAP + heads) + top
    figure = Figure(figsize=(width, height), facecolor="white")
    for (row, column), key in places.items():
        bottom = low + (down - 1 - row) * (tall + GAP + heads)
        axes = panel_at(figure, left + column * (side + GAP), bottom, side, tall)
        last = (row + 1, column) not in places
        _draw_panel(axes, picture.panels[key], styles, ends, (column == 0, last))
        head = key[1] if not picture.rows else key[1] if row == 0 else ""
        bold = "bold" if head in safe else "normal"
        words = textwrap.fill(named(head), max(int(side / 0.068), 8))
        axes.set_title(words, loc="left", fontsize=8, pad=3, weight=bold)
        if picture.rows and column == 0:
            style = {"ha": "right", "va": "center", "fontsize": 8.5}
            style["weight"] = "bold" if key[0] in safe else "normal"
            write_at(figure, left - 0.58, bottom + tall / 2, named(key[0]), **style)
    write_at(figure, 0.1, height - 0.08, title, fontsize=10.5, weight="bold", va="top")
    if picture.rows:
        corner = "rows: trained with, columns: tested with" + " (bold: safety prompt)" * bool(safe)
        write_at(figure, width - RIGHT, 0.09, corner, fontsize=7.5, color=FAINT, ha="right")
    if legend_rows:
        _write_legend(figure, styles, key_columns, legend_height + 0.02)
    return figure


def _places(
    picture: PointPicture,
) -> tuple[dict[tuple[int, int], tuple[str, str]], int, int]:
    """Which panel stands in which row and column, and how many of both there are."""
    if picture.rows:
        found = {
            (i, j): (row, column)
            for i, row in enumerate(picture.rows)
            for j, column in enumerate(picture.columns)
            if (row, column) in picture.panels
        }
        return found, len(picture.columns), len(picture.rows)
    across = min(ACROSS, len(picture.panels))
    found = {divmod(i, across): key for i, key in enumerate(picture.panels)}
    return found, across, -(-len(picture.panels) // across)


def _size(across: int) -> tuple[float, float]:
    """Width and height of a panel, in inches: the more there are, the smaller."""
    side = {1: 4.2, 2: 3.1, 3: 2.5, 4: 2.1}.get(across, 1.75)
    return side, max(0.62 * side, 1.2)


def _styles(lines: Iterable[str]) -> dict[str, dict[str, Any]]:
    """No line is told from another by its colour alone."""
    return {
        name: {
            "color": OKABE_ITO[i % len(OKABE_ITO)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": ("-", "--", ":")[i // len(OKABE_ITO) % 3],
        }
        for i, name in enumerate(dict.fromkeys(lines))
    }


def _draw_panel(
    axes: Any,
    panel: Panel,
    styles: Mapping[str, Mapping[str, Any]],
    ends: tuple[tuple[float, float], tuple[float, float]],
    outer: tuple[bool, bool],
) -> None:
    """A panel; `outer`: whether its y and its x axis have numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(*ends[0])
    axes.set_ylim(*ends[1])
    whole = all(x.is_integer() for runs in panel.lines.values() for run in runs for x, _ in run)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=whole))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    for axis in (axes.xaxis, axes.yaxis):  # an offset would stand in the panel's title
        axis.set_major_formatter(lambda value, _: f"{value:.4g}".replace("-", "−"))
    axes.tick_params(labelsize=7, length=2.5)
    axes.tick_params(labelleft=outer[0], labelbottom=outer[1])
    if panel.status:
        axes.set_facecolor("#f4f4f4")
        axes.grid(visible=False)
        style = {"ha": "center", "va": "center", "fontsize": 8, "style": "italic", "color": FAINT}
        axes.text(0.5, 0.5, panel.status, transform=axes.transAxes, **style)
        return
    names = list(styles)
    for name, runs in panel.lines.items():
        style = dict(styles[name], linewidth=1.1, markersize=3)
        bundle = _bundle(runs)
        if bundle is None:  # each run by itself: they have no x in common
            for run in runs:
                axes.plot(*zip(*run, strict=True), **{**style, "linewidth": 0.6, "marker": ""})
            continue
        x, mean, low, high = bundle
        if len(runs) > 1:
            axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
        step = max(1, len(x) // 6)  # lines that lie on each other have their markers apart
        axes.plot(x, mean, **style, markevery=(names.index(name) % step, step))


def _bundle(runs: Sequence[Run]) -> Bundle | None:
    """Mean, lowest and highest over runs; None where they are not at the same x."""
    xs = tuple(x for x, _ in runs[0])
    if any(tuple(x for x, _ in run) != xs for run in runs):
        return None
    ys = list(zip(*([y for _, y in run] for run in runs), strict=True))
    return xs, tuple(map(fmean, ys)), tuple(map(min, ys)), tuple(map(max, ys))


def _ends(pictures: Sequence[PointPicture]) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ends of both axes, around all points."""
    points = [
        point
        for picture in pictures
        for panel in picture.panels.values()
        for runs in panel.lines.values()
        for run in runs
        for point in run
        if all(map(math.isfinite, point))
    ]
    return _around([x for x, _ in points]), _around([y for _, y in points])


def _around(values: Sequence[float]) -> tuple[float, float]:
    """With room at both ends; what is equal but for 2 % of its size is drawn as about equal."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = max(high - low, 0.02 * max(abs(low), abs(high))) or 1.0
    room = 0.06 * span + (span - (high - low)) / 2
    return low - room, high + room


def _legend_size(styles: Mapping[str, Mapping[str, Any]], width: float) -> tuple[float, int, int]:
    """Height in inches, rows and columns of the names of all lines; none needed for one."""
    if len(styles) < 2:
        return 0.0, 0, 0
    longest = max(map(len, styles)) * 0.062 + 0.55
    columns = max(1, min(len(styles), int((width - 0.3) / longest)))
    rows = -(-len(styles) // columns)
    return 0.1 + 0.17 * rows, rows, columns


def _write_legend(
    figure: Figure, styles: Mapping[str, Mapping[str, Any]], columns: int, top: float
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], **style, markersize=4, linewidth=1.2, label=name)
        for name, style in styles.items()
    ]
    left = 0.01 * figure.get_size_inches()[0]
    spaces = {"columnspacing": 1.2, "handlelength": 2.2, "borderpad": 0.1}
    legend(figure, handles, left, top, ncols=columns, fontsize=7.5, **spaces)
