"""Safety against helpfulness of every defence: a panel for each pair of train and test template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ptst.report.pictures.scatter import label_places
from ptst.report.pictures.style import (
    FAINT,
    INK,
    OKABE_ITO,
    file_name,
    limits,
    marker,
    panel_at,
    scale_note,
    write_at,
)
from ptst.report.results import Protection, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT, LEFT, BOTTOM, GAP, HEAD, NAMES = 3.9, 3.1, 0.75, 0.6, 0.3, 0.36, 2.3
"""Of a panel, and around it, in inches."""

Point = tuple[Protection, tuple[float, float]]
"""A defence, and its ASR and helpfulness."""


def frontier_names(results: Results) -> dict[str, str]:
    """Names of the pictures, without suffix, one for each pair of templates; and which points are
    missing in each, in a sentence."""
    return {name: _missing(group) for name, group in _groups(results)}


def frontiers(results: Results) -> Iterator[tuple[str, Figure]]:
    for name, group in _groups(results):
        drawn = [one for one in group if any(_point(one, n) for n, _ in enumerate(one.pairs))]
        if drawn:
            yield name, frontier(drawn, results)


def _missing(group: Sequence[Protection]) -> str:
    words = []
    for one in group:
        gaps = [f"{a} → {b}" for n, (a, b) in enumerate(one.pairs) if _point(one, n) is None]
        if gaps:
            words.append(f"{one.called} in {' and '.join(gaps)}")
    return f"No point: {'; '.join(words)}." if words else ""


def _groups(results: Results) -> Iterator[tuple[str, list[Protection]]]:
    for (split, pairs), group in groupby(
        results.protections, key=lambda one: (one.split, one.pairs)
    ):
        yield file_name("frontier", pairs[0][0], pairs[3][0], *split.values()), list(group)


def frontier(found: Sequence[Protection], results: Results) -> Figure:
    """Four panels on the same axes, P → P and P → S above, S → P and S → S below; points have
    numbers, and the names of these stand to the right."""
    from matplotlib.figure import Figure

    titles = {table.metric: table.title for table in results.tables}
    first = found[0]
    panels = [
        {number: (one, at) for number, one in enumerate(found) if (at := _point(one, which))}
        for which, _ in enumerate(first.pairs)
    ]
    xs, ys = zip(*(at for points in panels for _, at in points.values()), strict=True)
    size = LEFT + 2 * WIDTH + GAP + NAMES, BOTTOM + 2 * (HEIGHT + HEAD) + 0.1
    figure = Figure(figsize=size, facecolor="white")
    for number, (train, test) in enumerate(first.pairs):
        row, column = divmod(number, 2)
        left, bottom = LEFT + column * (WIDTH + GAP), BOTTOM + (1 - row) * (HEIGHT + HEAD)
        axes = panel_at(figure, left, bottom, WIDTH, HEIGHT)
        axes.set_xlim(*limits(xs, None, 0.04, 0.05))
        axes.set_ylim(*limits(ys, first.helpful_scale, 0.04, 0.08))
        axes.set_title(f"{train} → {test}", loc="left", fontsize=9)
        axes.tick_params(labelleft=not column, labelbottom=bool(row))
        _draw(axes, panels[number], number)
    _write_names(figure, found)
    safety, helpful = (titles.get(m, m) for m in (first.metric, first.helpful_metric))
    write_at(figure, LEFT, 0.14, f"{safety} (%)   ← lower is safer")
    words = f"{helpful} ({scale_note(first.helpful_scale)})   higher is more helpful →"
    write_at(figure, 0.12, BOTTOM, words, rotation="vertical")
    return figure


def _point(one: Protection, pair: int) -> tuple[float, float] | None:
    """Its ASR and helpfulness in a pair; None where one of them is not there."""
    rate, helpfulness = one.rates[pair], one.helpfulness[pair]
    return None if rate is None or helpfulness is None else (rate, helpfulness)


def _draw(axes: Any, points: Mapping[int, Point], pair: int) -> None:
    """Points with their numbers, a control joined to its defence, and the frontier."""
    broken = {number for number, (one, _) in points.items() if one.broken and one.broken[pair]}
    place_of = {one.defence: at for one, at in points.values()}
    for one, (x, y) in points.values():
        if one.control_of in place_of:
            to = place_of[one.control_of]
            axes.plot([x, to[0]], [y, to[1]], color=FAINT, linewidth=0.5, linestyle=":", zorder=1)
    front = _front(
        [at for n, (one, at) in points.items() if not one.control_of and n not in broken]
    )
    if front:
        axes.plot(*zip(*front, strict=True), color=OKABE_ITO[1], linewidth=0.9, alpha=0.7, zorder=1)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    scale = (right - left) / WIDTH, (high - low) / HEIGHT
    names = [str(number) for number in points]
    inches = [((x - left) / scale[0], (y - low) / scale[1]) for _, (x, y) in points.values()]
    places = label_places(inches, names, (WIDTH, HEIGHT))
    for (number, (one, (x, y))), place in zip(points.items(), places, strict=True):
        axes.plot(x, y, **_style(one, number in broken), zorder=3, clip_on=False)
        axes.annotate(
            str(number),
            xy=(x, y),
            xytext=(left + place[0] * scale[0], low + place[1] * scale[1]),
            fontsize=7,
            va="center",
            zorder=2,
            color=FAINT if one.control_of else INK,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.4, "shrinkB": 3},
        )


def _style(one: Protection, broken: bool) -> dict[str, Any]:
    plain = one.defence == "none"
    colour = INK if plain else OKABE_ITO[1] if broken else OKABE_ITO[0]
    shape = "D" if plain else "X" if broken else "o"
    return marker(shape, colour, one.control_of is None) | {"markersize": 5.5}


def _write_names(figure: Figure, found: Sequence[Protection]) -> None:
    """What the numbers stand for; a control is indented, and the crosses are explained."""
    width, height = figure.get_size_inches()
    lines = [
        f"{number}  {'    ' if one.control_of else ''}{one.called}"
        for number, one in enumerate(found)
    ]
    lines += ["", "hollow: a control", "cross: breaks other", "harmless answers"]
    for number, line in enumerate(lines):
        top = height - 0.4 - 0.17 * number
        write_at(figure, width - NAMES + 0.2, top, line, fontsize=7.5, va="top")


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """From safe to helpful: the points than which none is both safer and more helpful."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front
