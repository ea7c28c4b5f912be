"""Helpfulness and safety along any coordinate of a sweep that is a number: a learning rate, alpha.

`along` draws epochs and training rows, where the untouched model is the point at 0.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptst.report.analyses import coordinates_in_words
from ptst.report.pictures.along import AXES, is_along
from ptst.report.pictures.scatter import scatter_pairs
from ptst.report.pictures.style import MARKERS, OKABE_ITO, file_name, limits, marker, scale_note
from ptst.report.results import Entry, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 3
"""Values that an axis has at least."""

TOGETHER = 8
"""Lines that a panel shows at most; more are drawn in several panels."""

WIDE, TALL, LEFT, BOTTOM, GAP, HEAD = 2.6, 2.0, 0.65, 0.62, 0.22, 0.42
"""Of a panel, and around it, in inches."""

ASIDE = 0.008
"""Of an axis: how far lines are moved from each other, so that one does not hide another."""

DASH = 4
"""Points of a dash, and of a gap."""

LETTER = 0.066
"""Inches of a letter in the legend."""


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        panel: the coordinates that its panel stands for; empty where one panel shows all lines.
        test: its test template.
        entries: by x; one at None has no such coordinate.
    """

    panel: dict[str, str]
    name: str
    test: str
    entries: dict[float | None, Entry]

    @property
    def flat(self) -> bool:
        return list(self.entries) == [None]

    def stands_in(self, panel: Mapping[str, str]) -> bool:
        """A line has a panel; one without such a coordinate all that agree with what it has."""
        own = dict(self.panel)
        if self.flat:
            own.pop("train_template", None)
        return all(panel.get(key) == value for key, value in own.items())


def strength_names(results: Results) -> dict[str, str]:
    """The pictures' names, without suffix, by the coordinate that they are along."""
    return {key: file_name("along", key) for key in numeric_axes(results)}


def numeric_axes(results: Results) -> list[str]:
    """Coordinates with three numbers or more, but for the seed and what is averaged over."""
    sweep = results.grid.sweep
    values: dict[str, dict[str, None]] = {}
    for cell in results.grid.cells:
        for key, value in cell.coordinates.items():
            values.setdefault(key, {})[value] = None
    drawn = {sweep.columns} if is_along(results) else set()
    return [
        key
        for key, found in values.items()
        if key not in {*sweep.repeats, *drawn}
        and len(found) >= FEWEST
        and all(_number(value) is not None for value in found)
    ]


def strengths(results: Results) -> Iterator[tuple[str, Figure]]:
    """A picture for each numeric axis of which something of ours is there."""
    pair = next(scatter_pairs(results), None)
    for key, name in strength_names(results).items() if pair else ():
        metrics = [table.metric for table in reversed(pair or ())]
        series = {metric: _series(results, metric, key) for metric in metrics}
        lines = all(any(not one.flat for one in found) for found in series.values())
        if lines and any(entry.mean is not None for entry in _entries(series)):
            yield name, strength(results, key, series)


def strength(results: Results, key: str, series: Mapping[str, Sequence[Series]]) -> Figure:
    """A row of panels for each metric of `series`, and in all of them the same axes and lines."""
    from matplotlib.figure import Figure

    every = [one for found in series.values() for one in found]
    own = [one.panel for one in every if not one.flat]
    panels = [panel for i, panel in enumerate(own) if panel not in own[:i]]
    lines = {one.name: one.test for one in every}
    safe = set(results.grid.sweep.safety_templates)
    styles = {
        name: marker(MARKERS[i % len(MARKERS)], OKABE_ITO[i % len(OKABE_ITO)], test in safe)
        for i, (name, test) in enumerate(lines.items())
    }
    wide = WIDE if len(panels) > 1 else 1.6 * WIDE
    width = LEFT + len(panels) * (wide + GAP) + 0.5 + max(map(len, lines)) * LETTER
    height = BOTTOM + len(series) * (TALL + HEAD)
    figure = Figure(figsize=(width, height), facecolor="white")
    for down, (metric, found) in enumerate(series.items()):
        for across, panel in enumerate(panels):
            left = LEFT + across * (wide + GAP)
            bottom = BOTTOM + (len(series) - 1 - down) * (TALL + HEAD)
            axes = figure.add_axes((left / width, bottom / height, wide / width, TALL / height))
            _set_axes(axes, results, metric, found)
            for one in (one for one in found if one.stands_in(panel)):
                aside = list(styles).index(one.name) - (len(styles) - 1) / 2
                _draw(axes, one, styles[one.name], aside * ASIDE)
            if across:
                axes.set_yticklabels([])
            if down < len(series) - 1:
                axes.set_xticklabels([])
            if down == 0 and panel:
                axes.set_title(textwrap.fill(_words(panel), 38), loc="right", fontsize=8, pad=3)
            if across == 0:
                title = next(t for t in results.tables if t.metric == metric)
                words = f"{title.title} ({scale_note(title.scale)})"
                figure.text(left / width, (bottom + TALL + 0.2) / height, words, weight="bold")
    figure.text(LEFT / width, 0.12 / height, AXES.get(key, key))
    flat = set(lines) - {one.name for one in every if not one.flat}
    _legend(figure, styles, flat, bool(safe), 1 - (0.42 + max(map(len, lines)) * LETTER) / width)
    return figure


def _series(results: Results, metric: str, key: str) -> list[Series]:
    """The lines of a metric along a coordinate: one for each combination of all others."""
    entries = {
        frozenset(entry.coordinates.items()): entry
        for table in results.tables
        if table.metric == metric
        for entry in table.entries.values()
    }
    own = list(entries.values())
    tuned = [one for one in own if one.coordinates["finetune"] != "none"] or own
    names = dict.fromkeys(name for one in tuned for name in one.coordinates)
    ends = ("train_template", "test_template")
    varying = [
        name
        for name in names
        if name != key and len({one.coordinates.get(name) for one in tuned}) > 1
    ]
    groups: dict[tuple[tuple[str, str], ...], dict[float | None, Entry]] = {}
    for one in own:
        kept = {k: v for k, v in one.coordinates.items() if k in {*varying, *ends}}
        at = _number(one.coordinates[key]) if key in one.coordinates else None
        groups.setdefault(tuple(kept.items()), {})[at] = one
    apart = [name for name in (*reversed(ends), *varying) if name in varying][:1]
    together = len(groups) <= TOGETHER or not apart
    found = []
    for items, line in groups.items():
        kept = dict(items)
        inside = kept if together else {k: v for k, v in kept.items() if k in apart}
        outside = {k: v for k, v in kept.items() if k not in inside}
        found.append(Series(outside, _words(inside), kept["test_template"], line))
    return found


def _words(own: Mapping[str, str]) -> str:
    """Coordinates in words; of one end of the two, its name alone."""
    said = {
        k: "no fine-tuning" if v == "none" and k == "train_template" else v for k, v in own.items()
    }
    return coordinates_in_words(said)


def _entries(series: Mapping[str, Sequence[Series]]) -> Iterable[Entry]:
    return (entry for found in series.values() for one in found for entry in one.entries.values())


def _set_axes(axes: Any, results: Results, metric: str, found: Sequence[Series]) -> None:
    """The same axes in all panels of a metric; steps that multiply are drawn as equal ones."""
    scale = next(table.scale for table in results.tables if table.metric == metric)
    xs = sorted({x for one in found for x in one.entries if x is not None})
    ys = [
        end
        for entry in _entries({metric: found})
        for end in (entry.mean, entry.ci_low, entry.ci_high)
        if end is not None
    ]
    if xs[0] > 0 and xs[-1] / xs[0] >= 8:
        axes.set_xscale("log")
        axes.minorticks_off()
        room = (xs[-1] / xs[0]) ** 0.06
        axes.set_xlim(xs[0] / room, xs[-1] * room)
    else:
        room = 0.06 * (xs[-1] - xs[0])
        axes.set_xlim(xs[0] - room, xs[-1] + room)
    turned = {"rotation": 35, "ha": "right"} if len(xs) > 5 else {}
    axes.set_xticks(xs, [f"{x:g}" for x in xs], fontsize=7.5, **turned)
    axes.tick_params(axis="y", labelsize=7.5)
    axes.set_ylim(*limits(ys or [0.0], scale, 0.02, 0.06))
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)


def _draw(axes: Any, one: Series, style: Mapping[str, Any], aside: float) -> None:
    """A line with its intervals, broken where a number is missing; or a dashed one.

    Args:
        aside: of the x axis, how far the line is moved.
    """
    colour = style["markeredgecolor"]
    if (flat := one.entries.get(None)) and flat.mean is not None:
        # Where two lie on each other, their dashes take turns
        dashes = (DASH * (style["marker"] != MARKERS[0]), (DASH, DASH))
        axes.axhline(flat.mean, color=colour, linewidth=1.0, linestyle=dashes, zorder=1)
    at = sorted(
        ((x, entry) for x, entry in one.entries.items() if x is not None), key=lambda pair: pair[0]
    )
    if not at:
        return
    first, last = axes.get_xlim()
    log = axes.get_xscale() == "log"
    moved = (last / first) ** aside if log else aside * (last - first)
    xs = [x * moved if log else x + moved for x, _ in at]
    means = [math.nan if entry.mean is None else entry.mean for _, entry in at]
    ends = [_reach(entry) for _, entry in at]
    own = {**style, "color": colour, "linestyle": "-", "linewidth": 1.4, "markersize": 5}
    axes.errorbar(xs, means, yerr=list(zip(*ends, strict=True)), elinewidth=0.8, **own)


def _reach(entry: Entry) -> tuple[float, float]:
    """How far the interval reaches below and above."""
    mean, low, high = entry.mean, entry.ci_low, entry.ci_high
    if mean is None or low is None or high is None:
        return 0.0, 0.0
    return max(0.0, mean - low), max(0.0, high - mean)


def _legend(
    figure: Figure,
    styles: Mapping[str, Mapping[str, Any]],
    flat: set[str],
    safe: bool,
    left: float,
) -> None:
    from matplotlib.lines import Line2D

    own = {"linestyle": "-", "markersize": 5}
    handles = [
        Line2D(
            [],
            [],
            **{**style, **own, **({"linestyle": "--", "marker": ""} if name in flat else {})},
            color=style["markeredgecolor"],
            label=name,
        )
        for name, style in styles.items()
    ]
    figure.legend(
        handles=handles,
        title="filled: tested with\na safety prompt" if safe else None,
        title_fontsize=7.5,
        loc="upper left",
        bbox_to_anchor=(left, 0.97),
        frameon=False,
        alignment="left",
        fontsize=7.5,
    )


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
