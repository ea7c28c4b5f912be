"""Safety against helpfulness: a panel for each test template."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ptst.report.pictures.style import (
    FAINT,
    INK,
    colours_of,
    limits,
    marker,
    named,
    panel_at,
    scale_note,
    write_at,
)
from ptst.report.results import Entry, Results, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scatter_pairs(results: Results) -> Iterator[tuple[Table, Table]]:
    """For each split, its first (safety, helpfulness) tables, if it has both."""
    splits = {tuple(table.split.items()): table.split for table in results.tables}
    for split in splits.values():
        tables = [table for table in results.tables if table.split == split]
        safety = next((t for t in tables if t.measures == "safety" and t.better == "lower"), None)
        helpfulness = next((t for t in tables if t.measures == "helpfulness"), None)
        if safety is not None and helpfulness is not None:
            yield safety, helpfulness


def scatter(results: Results, safety: Table, helpfulness: Table) -> Figure | None:
    """A panel for each test template, a named point for each cell, arrows from the untouched model.

    In one panel for all, most points of a sweep lie on each other: what is learnt is learnt under
    every template.
    """
    from matplotlib.figure import Figure

    points, left_out = _points(safety, helpfulness)
    if not points:
        return None
    colours = colours_of(results)
    safe = set(results.grid.sweep.safety_templates)
    named_tests = dict.fromkeys(c.coordinates["test_template"] for c in results.grid.cells)
    there = {entry.coordinates["test_template"] for entry, _, _ in points}
    tests = [test for test in named_tests if test in there]
    across = min(3, len(tests))
    down = -(-len(tests) // across)
    width, height, gap, head = 2.75, 2.3, 0.22, 0.34
    total_width = 0.9 + across * width + (across - 1) * gap + 0.15
    total_height = 0.62 + down * (height + head) + 0.34
    figure = Figure(figsize=(total_width, total_height), facecolor="white")
    xs, ys = zip(*[(x, y) for _, x, y in points], strict=True)
    for number, test in enumerate(tests):
        row, column = divmod(number, across)
        left, bottom = 0.9 + column * (width + gap), 0.62 + (down - 1 - row) * (height + head)
        axes = panel_at(figure, left, bottom, width, height)
        axes.set_xlim(*limits(xs, safety.scale, 0.04, 0.05))
        axes.set_ylim(*limits(ys, helpfulness.scale, 0.03, 0.08))
        axes.set_title(
            f"{test}{' (safety prompt)' if test in safe else ''}",
            loc="left",
            fontsize=9,
            weight="bold" if test in safe else "normal",
        )
        axes.tick_params(labelleft=not column, labelbottom=number + across >= len(tests))
        own = [p for p in points if p[0].coordinates["test_template"] == test]
        _draw_points(axes, own, colours, test in safe, (width, height))
    _write_around(figure, safety, helpfulness, left_out)
    return figure


def _points(safety: Table, helpfulness: Table) -> tuple[list[tuple[Entry, float, float]], int]:
    """(entry, safety, helpfulness) of places with both numbers; how many places lack one."""
    points: list[tuple[Entry, float, float]] = []
    left_out = 0
    for place, entry in safety.entries.items():
        other = helpfulness.entries.get(place)
        if other is None:
            continue
        if entry.mean is None or other.mean is None:
            left_out += 1
        else:
            points.append((entry, entry.mean, other.mean))
    return points, left_out


def _write_around(figure: Figure, safety: Table, helpfulness: Table, left_out: int) -> None:
    """The axes' names, the title, and how many places have no point; distances in inches."""
    width, height = figure.get_size_inches()
    words = f"{safety.title} ({scale_note(safety.scale)})   ← lower is safer"
    write_at(figure, 0.9, 0.16, words)
    words = textwrap.fill(f"{helpfulness.title} ({scale_note(helpfulness.scale)})", 34)
    write_at(figure, 0.16, 0.62, f"{words}\nhigher is more helpful →", rotation="vertical")
    title = ", ".join(["What fine-tuning does under each test template", *safety.split.values()])
    write_at(figure, 0.16, height - 0.1, title, fontsize=11, weight="bold", va="top")
    if left_out:
        words = "1 place has" if left_out == 1 else f"{left_out} places have"
        faint = {"fontsize": 8, "color": FAINT, "style": "italic", "ha": "right"}
        write_at(figure, width - 0.15, 0.16, f"{words} no number yet", **faint)


def _draw_points(
    axes: Any,
    points: Sequence[tuple[Entry, float, float]],
    colours: Mapping[str, str],
    filled: bool,
    size: tuple[float, float],
) -> None:
    """The points of a panel, named by their train template; `size` of the panel is in inches."""
    for entry, x, y in points:
        start = _untouched(entry, points)
        if start is not None:
            axes.annotate(
                "",
                xy=(x, y),
                xytext=start,
                zorder=1,
                arrowprops={
                    "arrowstyle": "-|>,head_width=0.18,head_length=0.35",
                    "color": colours[entry.coordinates["train_template"]],
                    "alpha": 0.45,
                    "linewidth": 0.9,
                    "shrinkA": 5,
                    "shrinkB": 6,
                },
            )
    points = sorted(points, key=lambda point: -point[2])  # the highest name to the highest point
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    scale = (right - left) / size[0], (high - low) / size[1]
    at = [((x - left) / scale[0], (y - low) / scale[1]) for _, x, y in points]
    names = [named(entry.coordinates["train_template"]) for entry, _, _ in points]
    for (entry, x, y), name, (label_x, label_y) in zip(
        points, names, label_places(at, names, size), strict=True
    ):
        colour = colours.get(entry.coordinates["train_template"], INK)
        axes.plot(x, y, **marker("o", colour, filled), zorder=3, clip_on=False)
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(left + label_x * scale[0], low + label_y * scale[1]),
            fontsize=7.5,
            va="center",
            zorder=2,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4},
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "shrinkA": 0,
                "shrinkB": 4,
            },
        )


def label_places(
    points: Sequence[tuple[float, float]], names: Sequence[str], size: tuple[float, float]
) -> list[tuple[float, float]]:
    """Places for the names of points (left end, middle height), over no point and no other name.

    Greedy: each takes the nearest free place beside, above or below its point. All in inches.
    """
    tall, reach = 0.14, 0.07
    taken = [(x - reach, y - reach, x + reach, y + reach) for x, y in points]
    found = []
    for (x, y), name in zip(points, names, strict=True):
        wide = len(name) * 0.064
        steps = [step * tall / 2 for step in range(int(2 * size[1] / tall))]
        places = sorted(
            (
                (left, y + sign * step)
                for step in steps
                for sign in (1, -1)
                for left in (x + 0.12, x - 0.12 - wide, x - wide / 2)
            ),
            key=lambda place: abs(place[0] + wide / 2 - x) / 3 + abs(place[1] - y),
        )
        boxes = [(px, py - tall / 2, px + wide, py + tall / 2) for px, py in places]
        within = [
            box
            for box in boxes
            if box[0] >= 0.02 and box[2] <= size[0] and box[1] >= 0 and box[3] <= size[1]
        ]
        free = (box for box in within if not any(_overlap(box, other) for other in taken))
        box = next(free, boxes[0])
        taken.append(box)
        found.append((box[0], (box[1] + box[3]) / 2))
    return found


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _untouched(
    entry: Entry, points: Iterable[tuple[Entry, float, float]]
) -> tuple[float, float] | None:
    """Where the model without fine-tuning stands under the entry's test template."""
    if entry.coordinates["train_template"] == "none":
        return None
    ignored = ("finetune", "train_template")
    for other, x, y in points:
        theirs = {k: v for k, v in other.coordinates.items() if k not in ignored}
        if other.coordinates["train_template"] == "none" and theirs.items() <= (
            entry.coordinates.items()
        ):
            return x, y
    return None
