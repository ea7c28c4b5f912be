"""The pictures of a report: heat maps, safety against helpfulness, loss curves, points."""

from ptst.report.pictures.along import along_names
from ptst.report.pictures.draw import LOSS, draw_all
from ptst.report.pictures.frontier import frontier_names
from ptst.report.pictures.points import point_names
from ptst.report.pictures.roc import ROC
from ptst.report.pictures.scatter import scatter_pairs
from ptst.report.pictures.style import (
    CALM,
    WARM,
    heatmap_name,
    named,
    on_ramp,
    scale_note,
    scatter_name,
)

__all__ = [
    "CALM",
    "LOSS",
    "ROC",
    "WARM",
    "along_names",
    "draw_all",
    "frontier_names",
    "heatmap_name",
    "named",
    "on_ramp",
    "point_names",
    "scale_note",
    "scatter_name",
    "scatter_pairs",
]
