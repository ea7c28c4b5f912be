"""Receiver operating characteristics of guards: a panel for each, a curve for each pair of train
and test template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptst.report.pictures.style import FAINT, MARKERS, OKABE_ITO, legend, marker, panel_at, write_at
from ptst.report.results import Detection, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROC = "roc"
"""Name of the picture."""
SIDE, LEFT, BOTTOM, GAP, HEAD, NAMES = 2.9, 0.7, 0.6, 0.35, 0.4, 2.4
"""Of a panel, and around it, in inches."""


def roc_curves(results: Results) -> Figure | None:
    """None where no guard gives scores, or one kind of answers is missing everywhere."""
    from matplotlib.figure import Figure

    drawn = [one for one in results.guards if one.curve]
    if not drawn:
        return None
    panels: dict[str, list[Detection]] = {}
    for one in drawn:
        panels.setdefault(_panel(one, drawn), []).append(one)
    ends = list(dict.fromkeys(one.ends for one in drawn))
    width = LEFT + len(panels) * (SIDE + GAP) + NAMES
    height = BOTTOM + SIDE + HEAD
    figure = Figure(figsize=(width, height), facecolor="white")
    for number, (name, found) in enumerate(panels.items()):
        axes = panel_at(figure, LEFT + number * (SIDE + GAP), BOTTOM, SIDE, SIDE)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.6, linestyle=":")
        axes.set_title(name, loc="left", fontsize=9)
        axes.tick_params(labelleft=not number)
        for one in found:
            which = ends.index(one.ends)
            colour, shape = OKABE_ITO[which % len(OKABE_ITO)], MARKERS[which % len(MARKERS)]
            axes.plot(*zip(*one.curve, strict=True), color=colour, linewidth=1.2)
            if one.tpr is not None and one.fpr is not None:
                style = marker(shape, colour, filled=True) | {"markersize": 5.5}
                axes.plot(one.fpr.value / 100, one.tpr.value / 100, **style, clip_on=False)
    _write_names(figure, ends)
    write_at(figure, LEFT, 0.14, "False positive rate")
    write_at(figure, 0.12, BOTTOM, "True positive rate", rotation="vertical")
    return figure


def _panel(one: Detection, drawn: Sequence[Detection]) -> str:
    """The defence, and other coordinates than the templates in which the cells differ."""
    others = one.apart(drawn, ("defence", "train_template", "test_template"))
    return ", ".join([one.coordinates.get("defence", one.guard), *others])


def _write_names(figure: Figure, ends: Sequence[str]) -> None:
    """Which curve is which, with the marker of the guard's own threshold."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D(
            [],
            [],
            **marker(MARKERS[n % len(MARKERS)], OKABE_ITO[n % len(OKABE_ITO)], True)
            | {"markersize": 5.5, "linestyle": "-"},
            color=OKABE_ITO[n % len(OKABE_ITO)],
            label=name,
        )
        for n, name in enumerate(ends)
    ]
    width, height = figure.get_size_inches()
    title = "train → test; the marker is\nthe guard's own threshold"
    legend(
        figure, lines, width - NAMES, height - HEAD, title=title, title_fontsize=7.5, fontsize=7.5
    )
