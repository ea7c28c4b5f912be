"""Draw all pictures of a report. Every picture is drawn once and saved as PNG and SVG; the same
results give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ptst.report.pictures.along import along_figures
from ptst.report.pictures.frontier import frontiers
from ptst.report.pictures.heatmap import heatmap
from ptst.report.pictures.loss import loss_curves
from ptst.report.pictures.points import point_figures
from ptst.report.pictures.roc import ROC, roc_curves
from ptst.report.pictures.scatter import scatter, scatter_pairs
from ptst.report.pictures.style import FAINT, INK, heatmap_name, scatter_name
from ptst.report.results import Results
from ptst.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSS = "loss"
"""Name of the picture of all loss curves."""


def draw_all(results: Results, store: Store) -> dict[str, bytes]:
    """Draw every picture that there is something to show in.

    Returns:
        File name -> content: heatmap-<metric>[-<split>], helpfulness-safety[-<split>], roc, loss,
        along[-<coordinate>] and analysis-<analysis>-<number>[-<split>], each as .svg and .png.
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


def _figures(results: Results, store: Store) -> Iterator[tuple[str, Figure]]:
    safe = set(results.grid.sweep.safety_templates)
    for table in results.tables:
        yield heatmap_name(table), heatmap(table, safe)
    yield from frontiers(results)
    for safety, helpfulness in () if results.protections else scatter_pairs(results):
        figure = scatter(results, safety, helpfulness)
        if figure is not None:
            yield scatter_name(safety.split), figure
    for name, drawn in ((ROC, roc_curves(results)), (LOSS, loss_curves(results, store))):
        if drawn is not None:
            yield name, drawn
    yield from along_figures(results)
    yield from point_figures(results, store)


def _saved(figure: Figure, suffix: str) -> bytes:
    file = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
    figure.savefig(file, format=suffix, dpi=150, metadata=metadata)
    return file.getvalue()
