"""What all pictures of a report have in common: colours, markers, axes and names.

Colours are those of Okabe and Ito (2008, "Color Universal Design"), which people with any kind of
colour vision can tell apart, and no picture says anything by colour alone: heat maps carry their
numbers, the scatter different markers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ptst.metrics import Scale
from ptst.report.results import Results, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C7A00", "#555555")
"""Train templates, in the order of the grid. The last two stand in for their yellow and black:
yellow lines are too pale on white, and black is the model without fine-tuning."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h")
"""Test templates, in the order of the grid."""

WARM = ("#fef4ef", "#f6b092", "#d7432b", "#75070f")
"""The least to the most (0 to 100 %) of what should be low; both ramps grow darker evenly, so that
they survive a grey printer."""

CALM = ("#f1f7fb", "#9cc8e3", "#0072b2", "#043d61")
"""The least to the most of what should be high."""

INK, FAINT = "#1a1a1a", "#6b6b6b"

LETTER = 0.077
"""Inches: the mean width of a letter at 9 points, generously."""


def heatmap_name(table: Table) -> str:
    """The name of a table's heat map, without suffix."""
    return file_name("heatmap", table.metric, *table.split.values())


def scatter_name(split: Mapping[str, str]) -> str:
    """The name of the picture of safety against helpfulness, without suffix."""
    return file_name("helpfulness-safety", *split.values())


def file_name(*parts: str) -> str:
    return re.sub(r"[^\w.-]+", "-", "-".join(parts))


def named(value: str) -> str:
    """A row's or column's value in words."""
    return "no fine-tuning" if value == "none" else value


def on_ramp(value: float, scale: Scale) -> float:
    """Where a number lies from the lowest of its scale to the highest: 0 to 1."""
    low, high = scale or (0.0, 100.0)
    return min(max((value - low) / (high - low), 0.0), 1.0)


def scale_note(scale: Scale) -> str:
    """What stands behind a title: "%", or "0 to 1"."""
    return "%" if scale is None else f"{scale[0]:g} to {scale[1]:g}"


def colours_of(results: Results) -> dict[str, str]:
    """Train template -> colour, the same in every picture."""
    templates = dict.fromkeys(
        cell.coordinates["train_template"]
        for cell in results.grid.cells
        if cell.coordinates["train_template"] != "none"
    )
    return {name: OKABE_ITO[i % len(OKABE_ITO)] for i, name in enumerate(templates)}


def marker(shape: str, colour: str, filled: bool) -> dict[str, Any]:
    return {
        "linestyle": "",
        "marker": shape,
        "markersize": 8,
        "markeredgewidth": 1.6,
        "markeredgecolor": colour,
        "markerfacecolor": colour if filled else "white",
    }


def panel_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Any:
    """Axes with faint lines; all in inches."""
    across, down = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / down, width / across, height / down))
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def write_at(figure: Figure, left: float, bottom: float, words: str, **style: Any) -> None:
    """Write words; where, in inches."""
    across, down = figure.get_size_inches()
    figure.text(left / across, bottom / down, words, **style)


def legend(figure: Figure, handles: Sequence[Any], left: float, top: float, **style: Any) -> None:
    """What lines stand for; its upper left corner in inches."""
    across, down = figure.get_size_inches()
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(left / across, top / down),
        frameon=False,
        alignment="left",
        **style,
    )


def limits(
    values: Sequence[float], scale: Scale, below: float, above: float
) -> tuple[float, float]:
    """The ends of an axis: percent from 0, a mean around its values; with room at both ends.

    A mean of a narrow band on a wide scale (BERTScore: 0.82 to 0.85) would be a line otherwise.
    """
    low, high = 0.0, max(10.0, *values)
    if scale is not None:
        span = max(max(values) - min(values), 0.05 * (scale[1] - scale[0]))
        low, high = min(values) - span / 4, max(values) + span / 4
    return low - below * (high - low), high + above * (high - low)
