"""The pictures of a report: heat maps beside the paper's, safety against helpfulness, loss curves.

Every picture is drawn once and saved as PNG and SVG; the same results give the same bytes. Colours are
those of Okabe and Ito (2008, "Color Universal Design"), which people with any kind of colour vision can
tell apart, and no picture says anything by colour alone: heat maps carry their numbers, the scatter
different markers.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ptst.metrics import Scale, shown
from ptst.report.results import Entry, Results, Table
from ptst.store import Store, read_jsonl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C7A00", "#555555")
"""Train templates, in the order of the grid. The last two stand in for their yellow and black: yellow
lines are too pale on white, and black is the model without fine-tuning."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h")
"""Test templates, in the order of the grid."""
WARM = ("#fef4ef", "#f6b092", "#d7432b", "#75070f")
"""The least to the most (0 to 100 %) of what should be low; both ramps grow darker evenly, so that they survive a grey printer."""
CALM = ("#f1f7fb", "#9cc8e3", "#0072b2", "#043d61")
"""The least to the most of what should be high."""
INK, FAINT = "#1a1a1a", "#6b6b6b"
LETTER = 0.077
"""Inches: the mean width of a letter at 9 points, generously."""
LOSS = "loss"
"""Name of the picture of all loss curves."""
ALONG = "along"
"""Name of the picture of a sweep whose columns are numbers: epochs, say."""
AXES = {"finetune.epoch": "epoch", "dataset.n": "training rows"}


def draw_all(results: Results, store: Store) -> dict[str, bytes]:
    """Draw every picture that there is something to show in.

    Returns:
        File name -> content: heatmap-<metric>[-<split>], helpfulness-safety[-<split>], along and loss,
        each as .svg and .png.
    """
    import matplotlib

    settings: dict[Any, Any] = {
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 9,
        "svg.hashsalt": "ptst",
        "svg.fonttype": "path",
        "text.parse_math": False,  # a dollar in a name is a dollar
        "hatch.linewidth": 0.6,
        "hatch.color": "#c4c4c4",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": FAINT,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    pictures: dict[str, bytes] = {}
    with matplotlib.rc_context(settings):
        for name, figure in _figures(results, store):
            pictures[f"{name}.svg"] = _saved(figure, "svg")
            pictures[f"{name}.png"] = _saved(figure, "png")
    return pictures


def heatmap_name(table: Table) -> str:
    """The name of a table's heat map, without suffix."""
    return _file_name("heatmap", table.metric, *table.split.values())


def scatter_name(split: Mapping[str, str]) -> str:
    """The name of the picture of safety against helpfulness, without suffix."""
    return _file_name("helpfulness-safety", *split.values())


def should_be_low(table: Table) -> bool:
    """Whether a high number is bad news (`ptst.metrics.lower_is_better`)."""
    return table.lower_is_better is True


def named(value: str) -> str:
    """A row's or column's value in words."""
    return "no fine-tuning" if value == "none" else value


def in_words(entry: Entry) -> str:
    """What stands in an entry's place: its number, or the word for what is missing."""
    if entry.mean is not None:
        return shown(entry.mean, entry.scale)
    return "not scored" if entry.status == "done" else entry.status


def on_ramp(value: float, scale: Scale) -> float:
    """Where a number lies from the lowest of its scale to the highest: 0 to 1."""
    low, high = scale or (0.0, 100.0)
    return min(max((value - low) / (high - low), 0.0), 1.0)


def scale_note(scale: Scale) -> str:
    """What stands behind a title: "%", or "0 to 1"."""
    return "%" if scale is None else f"{scale[0]:g} to {scale[1]:g}"


def scatter_pairs(results: Results) -> Iterator[tuple[Table, Table]]:
    """For each split, its first (safety, helpfulness) tables, if it has both."""
    splits = {tuple(table.split.items()): table.split for table in results.tables}
    for split in splits.values():
        tables = [table for table in results.tables if table.split == split]
        safety = next((t for t in tables if t.measures == "safety" and should_be_low(t)), None)
        helpfulness = next((t for t in tables if t.measures == "helpfulness"), None)
        if safety is not None and helpfulness is not None:
            yield safety, helpfulness


def _figures(results: Results, store: Store) -> Iterator[tuple[str, Figure]]:
    safe = set(results.grid.sweep.safety_templates)
    for table in results.tables:
        yield heatmap_name(table), _heatmap(table, safe)
    for safety, helpfulness in scatter_pairs(results):
        figure = _scatter(results, safety, helpfulness)
        if figure is not None:
            yield scatter_name(safety.split), figure
    for name, drawn in ((ALONG, _along(results)), (LOSS, _loss_curves(results, store))):
        if drawn is not None:
            yield name, drawn


def _saved(figure: Figure, suffix: str) -> bytes:
    file = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
    figure.savefig(file, format=suffix, dpi=150, metadata=metadata)
    return file.getvalue()


def _file_name(*parts: str) -> str:
    return re.sub(r"[^\w.-]+", "-", "-".join(parts))


def _colours(results: Results) -> dict[str, str]:
    """Train template -> colour, the same in every picture."""
    templates = dict.fromkeys(
        cell.coordinates["train_template"]
        for cell in results.grid.cells
        if cell.coordinates["train_template"] != "none"
    )
    return {name: OKABE_ITO[i % len(OKABE_ITO)] for i, name in enumerate(templates)}


# --- heat maps ------------------------------------------------------------------------------------


def _heatmap(table: Table, safe: set[str]) -> Figure:
    """Ours, and the paper's beside it where it has numbers, on the one scale that the metric has.

    The layout is worked out here, in inches: matplotlib's own solvers cost more than the drawing.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    ramp = LinearSegmentedColormap.from_list("ramp", WARM if should_be_low(table) else CALM)
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
            if number == 0:
                partly = f"{entry.n} of {entry.n + entry.missing}" if entry.missing else ""
                small = partly or _plus_minus(entry.std, entry.scale)
                told = (entry.mean, in_words(entry), small)
            elif entry.paper is None:
                told = (None, "not in paper", "")
            else:
                small = _plus_minus(entry.paper.std, entry.scale)
                told = (entry.paper.mean, shown(entry.paper.mean, entry.scale), small)
            _draw_place(axes, place, told, table.scale, ramp, int(1.15 * cell_width / LETTER))
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(table.rows), 0)
        axes.set_xticks([i + 0.5 for i in range(len(columns))], columns)
        labels = [named(row) for row in table.rows] if number == 0 else []
        axes.set_yticks([i + 0.5 for i in range(len(labels))], labels)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(head, fontsize=9, loc="left", color=FAINT, pad=5)
        for values, ticks in (
            (table.columns, axes.get_xticklabels()),
            (table.rows, axes.get_yticklabels()),
        ):
            for value, tick in zip(values, ticks, strict=False):  # rows are named once
                tick.set_fontweight("bold" if value in safe else "normal")
    figure.text(
        0.1 / total_width, 0.1 / total_height, _axis_words(table, safe), fontsize=8, color=FAINT
    )
    return figure


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


def _plus_minus(std: float | None, scale: Scale) -> str:
    return "" if std is None else f"± {shown(std, scale)}"


def _broken(name: str) -> str:
    """A long template name in two lines, broken at the underscore nearest to its middle."""
    breaks = [match.end() for match in re.finditer("_", name)]
    if len(name) <= 12 or not breaks:
        return name
    middle = min(breaks, key=lambda i: abs(i - len(name) / 2))
    return f"{name[:middle]}\n{name[middle:]}"


# --- safety against helpfulness -------------------------------------------------------------------


def _scatter(results: Results, safety: Table, helpfulness: Table) -> Figure | None:
    """A panel for each test template, each cell a named point in it; an arrow from the untouched model.

    In one panel for all, most points of a sweep lie on each other: what is learnt is learnt under every template.
    """
    from matplotlib.figure import Figure

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
    if not points:
        return None
    colours = _colours(results)
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
        ends = (left / total_width, bottom / total_height)
        axes = figure.add_axes((*ends, width / total_width, height / total_height))
        axes.set_xlim(*_limits(xs, safety.scale, 0.04, 0.05))
        axes.set_ylim(*_limits(ys, helpfulness.scale, 0.03, 0.08))
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_title(
            f"{test}{' (safety prompt)' if test in safe else ''}",
            loc="left",
            fontsize=9,
            weight="bold" if test in safe else "normal",
        )
        if column:
            axes.set_yticklabels([])
        if number + across < len(tests):
            axes.set_xticklabels([])
        own = [p for p in points if p[0].coordinates["test_template"] == test]
        _draw_points(axes, own, colours, test in safe, (width, height))
    figure.text(
        0.9 / total_width,
        0.16 / total_height,
        f"{safety.title} ({scale_note(safety.scale)})   ← lower is safer",
    )
    figure.text(
        0.16 / total_width,
        0.62 / total_height,
        textwrap.fill(f"{helpfulness.title} ({scale_note(helpfulness.scale)})", 34)
        + "\nhigher is more helpful →",
        rotation="vertical",
    )
    title = ", ".join(["What fine-tuning does under each test template", *safety.split.values()])
    figure.text(
        0.16 / total_width, 1 - 0.1 / total_height, title, fontsize=11, weight="bold", va="top"
    )
    if left_out:
        words = "1 place has" if left_out == 1 else f"{left_out} places have"
        figure.text(
            1 - 0.15 / total_width,
            0.16 / total_height,
            f"{words} no number yet",
            fontsize=8,
            color=FAINT,
            style="italic",
            ha="right",
        )
    return figure


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
        points, names, _label_places(at, names, size), strict=True
    ):
        colour = colours.get(entry.coordinates["train_template"], INK)
        axes.plot(x, y, **_marker("o", colour, filled), zorder=3, clip_on=False)
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


def _label_places(
    points: Sequence[tuple[float, float]], names: Sequence[str], size: tuple[float, float]
) -> list[tuple[float, float]]:
    """Where the names of points may stand (left end, middle height), over no point and no other name.

    Greedy: each takes the nearest free place beside, above or below its point. All in inches.
    """
    tall, reach = 0.14, 0.07
    taken = [(x - reach, y - reach, x + reach, y + reach) for x, y in points]
    found = []
    for (x, y), name in zip(points, names, strict=True):
        wide = len(name) * 0.064
        steps = [step * tall / 2 for step in range(int(2 * size[1] / tall))]
        places = sorted(
            ((px, y + sign * step) for step in steps for sign in (1, -1) for px in (x + 0.12, x - 0.12 - wide, x - wide / 2)),
            key=lambda place: abs(place[0] + wide / 2 - x) / 3 + abs(place[1] - y),
        )  # fmt: skip
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


def _limits(
    values: Sequence[float], scale: Scale, below: float, above: float
) -> tuple[float, float]:
    """The ends of an axis, with shares of its length as room: percent from 0, a mean around its values.

    A mean of a narrow band on a wide scale (BERTScore: 0.82 to 0.85) would be a line otherwise.
    """
    low, high = 0.0, max(10.0, *values)
    if scale is not None:
        span = max(max(values) - min(values), 0.05 * (scale[1] - scale[0]))
        low, high = min(values) - span / 4, max(values) + span / 4
    return low - below * (high - low), high + above * (high - low)


def _marker(shape: str, colour: str, filled: bool) -> dict[str, Any]:
    return {
        "linestyle": "",
        "marker": shape,
        "markersize": 8,
        "markeredgewidth": 1.6,
        "markeredgecolor": colour,
        "markerfacecolor": colour if filled else "white",
    }


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


# --- along training -------------------------------------------------------------------------------


def _along(results: Results) -> Figure | None:
    """Helpfulness and safety over the numbers that the columns are, from the untouched model at 0.

    A line for each pair of templates, with 95 % intervals; the paper's points dotted. None where the columns
    are no numbers, where more than templates sets tables apart (two models), or where nothing has a number yet.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    pair = next(scatter_pairs(results), None)
    if pair is None:
        return None
    at = {column: _number(column) for table in pair for column in table.columns}
    apart = {key for table in results.tables for key in table.split} - {"train_template"}
    if None in at.values() or len(at) < 3 or apart:
        return None
    colours, safe = _colours(results), set(results.grid.sweep.safety_templates)
    tests = list(dict.fromkeys(c.coordinates["test_template"] for c in results.grid.cells))
    markers = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(tests)}
    figure = Figure(figsize=(9.6, 4.0), facecolor="white")
    lines: dict[tuple[str, str], None] = {}
    with_paper = False
    for number, metric in enumerate(table.metric for table in reversed(pair)):
        axes = figure.add_axes((0.07 + 0.375 * number, 0.14, 0.3, 0.72))
        values: list[float] = []
        for table in results.tables:
            if table.metric != metric:
                continue
            for row in table.rows:
                ends, ours, theirs = _line(table, row, at)
                if not (ours or theirs) or ends is None:
                    continue
                colour, test = colours[ends[0]], ends[1]
                if ours:
                    lines[ends] = None
                    x, y, below, above = zip(*ours, strict=True)
                    axes.errorbar(x, y, yerr=(below, above), color=colour, linewidth=1.4, elinewidth=0.8,
                                  **{**_marker(markers[test], colour, test in safe), "linestyle": "-", "markersize": 6})  # fmt: skip
                if theirs:
                    with_paper = True
                    axes.plot(*zip(*theirs, strict=True), ":", color=colour, linewidth=1.2,
                              marker=markers[test], markersize=3.5)  # fmt: skip
                values += [end for _, y, low, up in ours for end in (y - low, y + up)]
                values += [y for _, y in theirs]
        if not lines:
            return None
        table = pair[1 - number]
        axes.set_ylim(*_limits(values, table.scale, 0.02, 0.1))
        axes.set_xticks([x for x in at.values() if x is not None])
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,g}")
        axes.set_xlabel(AXES.get(results.grid.sweep.columns, results.grid.sweep.columns))
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        title = textwrap.fill(f"{table.title} ({scale_note(table.scale)})", 42)
        axes.set_title(title, loc="left", fontsize=10, weight="bold", pad=8)
    handles = [
        Line2D(
            [],
            [],
            **{**_marker(markers[test], colours[train], test in safe), "linestyle": "-"},
            color=colours[train],
            label=f"{train} → {test}",
        )
        for train, test in lines
    ]
    if with_paper:
        handles.append(Line2D([], [], color=FAINT, linestyle=":", marker=".", label="paper"))
    figure.legend(
        handles=handles,
        title="trained → tested with" + ("\nfilled: with a safety prompt" if safe else ""),
        loc="upper left",
        bbox_to_anchor=(0.765, 0.9),
        frameon=False,
        alignment="left",
        fontsize=8,
    )
    return figure


def _number(column: str) -> float | None:
    """Where a column lies on an axis: "none", the model without fine-tuning, at 0."""
    try:
        return 0.0 if column == "none" else float(column)
    except ValueError:
        return None


Point = tuple[float, float, float, float]
"""x, y, and how far its interval reaches below and above."""


def _line(
    table: Table, row: str, at: Mapping[str, float | None]
) -> tuple[tuple[str, str] | None, list[Point], list[tuple[float, float]]]:
    """(train, test template), our points and the paper's, of a row with a number for its x."""
    ends, ours, theirs = None, [], []
    for column in table.columns:
        entry, x = table.entries.get((row, column)), at[column]
        if entry is None or x is None:
            continue
        if column != "none":
            ends = entry.coordinates["train_template"], entry.coordinates["test_template"]
        if entry.paper is not None:
            theirs.append((x, entry.paper.mean))
        if entry.mean is not None:
            low, high = entry.ci_low, entry.ci_high
            # A share of 0 has its Wilson interval's end at 0 but for rounding
            reach = (
                (0.0, 0.0)
                if low is None or high is None
                else (max(0.0, entry.mean - low), max(0.0, high - entry.mean))
            )
            ours.append((x, entry.mean, *reach))
    return ends, sorted(ours), sorted(theirs)


# --- loss curves ----------------------------------------------------------------------------------


def _loss_curves(results: Results, store: Store) -> Figure | None:
    """The loss of every optimizer step, a panel for each model, data set and recipe."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels: dict[str, dict[str, str]] = {}
    """Title -> key of each fine-tuning -> its train template."""
    for cell in results.grid.cells:
        key = cell.keys.finetune
        if key is None or not (store.path("finetune", key) / "log.jsonl").is_file():
            continue
        own = {k: v for k, v in cell.coordinates.items() if not k.endswith("_template")}
        own.pop("seed", None)
        panels.setdefault(", ".join(own.values()), {})[key] = cell.coordinates["train_template"]
    if not panels:
        return None
    colours = _colours(results)
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    width, height = 1.0 + across * (6.4 if across == 1 else 4.4) + 1.6, 0.5 + down * 3.2
    figure = Figure(figsize=(width, height), facecolor="white")
    for number, (title, finetunings) in enumerate(panels.items()):
        axes = figure.add_subplot(down, across, number + 1)
        for key, train in finetunings.items():
            log = read_jsonl(store.path("finetune", key) / "log.jsonl")
            steps, losses = [row["step"] for row in log], [row["loss"] for row in log]
            axes.plot(steps, losses, color=colours[train], linewidth=1.0, alpha=0.85)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss")
        axes.set_title(f"Training loss: {title}", loc="left", fontsize=11, weight="bold", pad=10)
    figure.subplots_adjust(
        left=0.7 / width,
        right=1 - 2.0 / width,
        bottom=0.55 / height,
        top=1 - 0.4 / height,
        hspace=0.5,
        wspace=0.22,
    )
    figure.legend(
        handles=[Line2D([], [], color=c, linewidth=3, label=name) for name, c in colours.items()],
        title="trained with",
        loc="upper left",
        bbox_to_anchor=(1 - 1.95 / width, 1 - 0.35 / height),
        frameon=False,
        alignment="left",
    )
    return figure
