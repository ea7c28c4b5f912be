"""Helpfulness and safety along a coordinate of a sweep that is a number: epochs, a learning rate.

A line for each combination of the other coordinates, with 95 % intervals, broken where a number is
missing. What has no such coordinate is a dashed line; but where it counts how much was trained, the
model without fine-tuning is the point at 0, and the paper's points are dotted.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ptst.report.analyses import coordinates_in_words
from ptst.report.pictures.scatter import scatter_pairs
from ptst.report.pictures.style import (
    FAINT,
    MARKERS,
    OKABE_ITO,
    file_name,
    legend,
    limits,
    marker,
    panel_at,
    scale_note,
    write_at,
)
from ptst.report.results import Entry, Results, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AMOUNTS = {"finetune.epoch": "epoch", "dataset.n": "training rows"}
"""Coordinates that count how much was trained, in words."""

UNTUNED = {("train_template", "none"), ("finetune", "none")}
"""Coordinates of the model without fine-tuning that no other cell has."""

FEWEST = 3
"""Values that an axis has at least."""

TOGETHER = 8
"""Lines that a panel shows at most; more are drawn in several panels."""

WIDE, TALL, LEFT, BOTTOM, GAP, HEAD = 2.6, 2.0, 0.65, 0.62, 0.22, 0.42
"""Of a panel, and around it, in inches."""

LETTER = 0.066
"""Inches of a letter in the legend."""

ASIDE = 0.008
"""Of an axis: how far lines are moved from each other, so that one does not hide another."""

DASH = 4
"""Points of a dash, and of a gap."""

Coordinates = Mapping[str, str]


@dataclass(frozen=True)
class Line:
    """A line.

    Attributes:
        panel: the coordinates that its panel stands for; empty where one panel shows all lines.
        test: its test template.
        entries: by x; a flat line has one, at None.
    """

    panel: Coordinates
    name: str
    test: str
    entries: dict[float | None, Entry]

    @property
    def flat(self) -> bool:
        return None in self.entries

    @property
    def points(self) -> list[tuple[float, Entry]]:
        """By rising x; none of a flat line."""
        return sorted(
            ((x, e) for x, e in self.entries.items() if x is not None), key=lambda p: p[0]
        )


def along_names(results: Results) -> dict[str, str]:
    """The pictures' names, without suffix, by the coordinate that they are along.

    It has three numbers or more, 0 of the model without fine-tuning among them; the seed, and what
    is averaged over, is none.
    """
    sweep = results.grid.sweep
    values: dict[str, set[str]] = {}
    for cell in results.grid.cells:
        for key, value in _with_zero(cell.coordinates).items():
            values.setdefault(key, set()).add(value)
    return {
        key: "along" if key in AMOUNTS and key == sweep.columns else file_name("along", key)
        for key, found in values.items()
        if key not in sweep.repeats
        and len(found) >= FEWEST
        and all(_number(value) is not None for value in found)
    }


def along_figures(results: Results) -> Iterator[tuple[str, Figure]]:
    """A picture for each numeric coordinate along which something of ours is there."""
    pair = next(scatter_pairs(results), None)
    if pair is None:
        return
    safety, helpfulness = pair
    for key, name in along_names(results).items():
        rows = [(table, _lines(results, table, key)) for table in (helpfulness, safety)]
        with_lines = all(any(not line.flat for line in lines) for _, lines in rows)
        entries = (e for _, lines in rows for line in lines for e in line.entries.values())
        if with_lines and any(entry.mean is not None for entry in entries):
            yield name, _figure(key, rows, set(results.grid.sweep.safety_templates))


def _figure(key: str, rows: Sequence[tuple[Table, Sequence[Line]]], safe: set[str]) -> Figure:
    """A row of panels for each metric, and in all of them the same axes and lines."""
    from matplotlib.figure import Figure

    every = [line for _, lines in rows for line in lines]
    own = [line.panel for line in every if not line.flat]
    panels = [panel for i, panel in enumerate(own) if panel not in own[:i]]
    styles = {
        name: marker(MARKERS[i % len(MARKERS)], OKABE_ITO[i % len(OKABE_ITO)], test in safe)
        for i, (name, test) in enumerate({line.name: line.test for line in every}.items())
    }
    wide = WIDE if len(panels) > 1 else 1.6 * WIDE
    aside = 0.42 + max(map(len, styles)) * LETTER
    width = LEFT + len(panels) * (wide + GAP) + 0.08 + aside
    height = BOTTOM + len(rows) * (TALL + HEAD)
    figure = Figure(figsize=(width, height), facecolor="white")
    for down, (table, lines) in enumerate(rows):
        bottom = BOTTOM + (len(rows) - 1 - down) * (TALL + HEAD)
        title = f"{table.title} ({scale_note(table.scale)})"
        write_at(figure, LEFT, bottom + TALL + 0.2, title, weight="bold")
        for across, panel in enumerate(panels):
            axes = panel_at(figure, LEFT + across * (wide + GAP), bottom, wide, TALL)
            _set_axes(axes, table, lines)
            for line in lines:
                if line.panel == panel or (line.flat and _agrees(line.panel, panel)):
                    place = list(styles).index(line.name) - (len(styles) - 1) / 2
                    _draw(axes, line, styles[line.name], place * ASIDE)
            axes.tick_params(labelleft=not across, labelbottom=down == len(rows) - 1)
            if not down:
                words = textwrap.fill(_words(panel), 38) if panel else ""
                axes.set_title(words, loc="right", fontsize=8, pad=3)
    write_at(figure, LEFT, 0.12, AMOUNTS.get(key, key))
    _legend(figure, styles, every, bool(safe), width - aside)
    return figure


def _lines(results: Results, table: Table, key: str) -> list[Line]:
    """The lines of a table's metric along a coordinate: one for each combination of all others."""
    own = {
        frozenset(entry.coordinates.items()): entry
        for one in results.tables
        if one.metric == table.metric
        for entry in one.entries.values()
    }.values()
    tuned = [one for one in own if one.coordinates["finetune"] != "none"] or list(own)
    names = dict.fromkeys(name for one in tuned for name in one.coordinates)
    varying = [
        name
        for name in names
        if name != key and len({one.coordinates.get(name) for one in tuned}) > 1
    ]
    groups: dict[tuple[tuple[str, str], ...], dict[float | None, Entry]] = {}
    for one in own:
        if key not in AMOUNTS:  # the paper's number is that of its own learning rate
            one = replace(one, paper=None)
        place = _with_zero(one.coordinates)
        kept = {*varying, "train_template", "test_template"}
        items = tuple((k, v) for k, v in one.coordinates.items() if k in kept)
        groups.setdefault(items, {})[_number(place[key]) if key in place else None] = one
    for untuned in [items for items in groups if key in AMOUNTS and UNTUNED & {*items}]:
        at_zero = groups.pop(untuned)
        for items, entries in groups.items():
            if _agrees(dict(untuned), dict(items)):
                entries |= at_zero
    ends = ("test_template", "train_template")
    apart = [name for name in (*ends, *varying) if name in varying][:1]
    together = len(groups) <= TOGETHER or not apart
    found = []
    for items, entries in groups.items():
        inside = {k: v for k, v in items if together or k in apart}
        panel = {k: v for k, v in items if k not in inside}
        found.append(Line(panel, _words(inside), dict(items)["test_template"], entries))
    return found


def _with_zero(coordinates: Coordinates) -> dict[str, str]:
    """Coordinates, of the model without fine-tuning with 0 as the amount that it was trained."""
    zero = dict.fromkeys(AMOUNTS, "0") if coordinates["train_template"] == "none" else {}
    return {**coordinates, **zero}


def _agrees(one: Coordinates, other: Coordinates) -> bool:
    """Whether the other is where the first is, or where it would be if it were fine-tuned."""
    return {*one.items()} - UNTUNED <= {*other.items()}


def _words(own: Coordinates) -> str:
    """Coordinates in words; of one end of the two, its name alone."""
    named = {k: "no fine-tuning" if (k, v) in UNTUNED else v for k, v in own.items()}
    return coordinates_in_words(named)


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _set_axes(axes: Any, table: Table, lines: Sequence[Line]) -> None:
    """The same axes in all panels of a metric; steps that multiply are drawn as equal ones."""
    xs = sorted({x for line in lines for x, _ in line.points})
    entries = [entry for line in lines for entry in line.entries.values()]
    ys = [y for e in entries for y in (e.mean, e.ci_low, e.ci_high) if y is not None]
    ys += [entry.paper.mean for entry in entries if entry.paper]
    if xs[0] > 0 and xs[-1] / xs[0] >= 8:
        axes.set_xscale("log")
        axes.minorticks_off()
        room = (xs[-1] / xs[0]) ** 0.06
        axes.set_xlim(xs[0] / room, xs[-1] * room)
    else:
        room = 0.06 * (xs[-1] - xs[0])
        axes.set_xlim(xs[0] - room, xs[-1] + room)
    names = [f"{x:,g}" for x in xs]
    turned = {"rotation": 35, "ha": "right"} if sum(map(len, names)) > 24 else {}
    axes.set_xticks(xs, names, fontsize=7.5, **turned)
    axes.tick_params(axis="y", labelsize=7.5)
    axes.set_ylim(*limits(ys or [0.0], table.scale, 0.02, 0.06))


def _draw(axes: Any, line: Line, style: Mapping[str, Any], aside: float) -> None:
    """A line with its intervals, and the paper's; or a dashed one.

    Args:
        aside: of the x axis, how far the line is moved.
    """
    colour = style["markeredgecolor"]
    flat = line.entries.get(None)
    if flat is not None and flat.mean is not None:
        # Where two lie on each other, their dashes take turns
        dashes = (DASH * (style["marker"] != MARKERS[0]), (DASH, DASH))
        axes.axhline(flat.mean, color=colour, linewidth=1.0, linestyle=dashes, zorder=1)
    paper = [(x, entry.paper.mean) for x, entry in line.points if entry.paper]
    if paper:
        dotted = {"color": colour, "marker": style["marker"], "markersize": 3.5}
        axes.plot(*zip(*paper, strict=True), ":", linewidth=1.2, **dotted)
    if any(entry.mean is not None for _, entry in line.points):
        first, last = axes.get_xlim()
        log = axes.get_xscale() == "log"
        moved = (last / first) ** aside if log else aside * (last - first)
        xs = [x * moved if log else x + moved for x, _ in line.points]
        means = [math.nan if entry.mean is None else entry.mean for _, entry in line.points]
        reach = list(zip(*(_reach(entry) for _, entry in line.points), strict=True))
        own = {**style, "color": colour, "linestyle": "-", "linewidth": 1.4, "markersize": 5}
        axes.errorbar(xs, means, yerr=reach, elinewidth=0.8, **own)


def _reach(entry: Entry) -> tuple[float, float]:
    """How far the interval reaches below and above; its end may be the mean but for rounding."""
    mean, low, high = entry.mean, entry.ci_low, entry.ci_high
    if mean is None or low is None or high is None:
        return 0.0, 0.0
    return max(0.0, mean - low), max(0.0, high - mean)


def _legend(
    figure: Figure,
    styles: Mapping[str, Mapping[str, Any]],
    lines: Sequence[Line],
    safe: bool,
    left: float,
) -> None:
    from matplotlib.lines import Line2D

    solid = {line.name for line in lines if not line.flat}
    handles = []
    for name, style in styles.items():
        kind = {"linestyle": "-"} if name in solid else {"linestyle": "--", "marker": ""}
        own = {**style, **kind, "color": style["markeredgecolor"], "markersize": 5}
        handles.append(Line2D([], [], label=name, **own))
    if any(entry.paper for line in lines for _, entry in line.points):
        handles.append(Line2D([], [], color=FAINT, linestyle=":", marker=".", label="paper"))
    title = ["trained → tested with"] * any(" → " in name for name in styles)
    title += ["filled: with a safety prompt"] * safe
    top = figure.get_size_inches()[1] * 0.97
    legend(figure, handles, left, top, title="\n".join(title), title_fontsize=7.5, fontsize=7.5)
