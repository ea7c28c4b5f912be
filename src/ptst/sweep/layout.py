"""Refuse a layout of tables that the cells of a sweep do not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptst.config.check import check_name
from ptst.errors import ConfigError
from ptst.schema import Sweep

if TYPE_CHECKING:
    from ptst.sweep.grid import GridCell


def check_layout(sweep: Sweep, file: str, templates: Sequence[str]) -> None:
    check_name(f"{file}: sweep.name={sweep.name}", sweep.name)
    for side in ("rows", "columns"):
        if getattr(sweep, side) in ("seed", ""):
            raise ConfigError(
                f"{file}: sweep.{side}={getattr(sweep, side)}: runs that differ in their seed are "
                "averaged; choose another coordinate."
            )
    if sweep.rows == sweep.columns:
        raise ConfigError(f"{file}: sweep.rows and sweep.columns are both {sweep.rows}.")
    for name in sweep.safety_templates:
        if name not in templates:
            raise ConfigError(
                f"{file}: sweep.safety_templates: there is no template {name}; the templates are: "
                f"{', '.join(templates)}."
            )


def check_metrics(
    sweep: Sweep, scale: str, cells: Sequence[GridCell], file: str, there: Sequence[str]
) -> None:
    known: dict[str, set[str]] = {}
    for cell in cells:
        for name, evaluation in cell.config.evaluations.items():
            known.setdefault(name, set()).update(evaluation.metrics, evaluation.left_out)
    for metric, shown in sweep.metrics.items():
        evaluation_name, _, name = metric.partition("/")
        metrics = known.get(evaluation_name)
        if metrics is None and evaluation_name not in there:
            raise ConfigError(
                f"{file}: sweep.metrics: there is no evaluation {evaluation_name!r}; the evaluations "
                f"are: {', '.join(there)}."
            )
        elsewhere = shown.scale is not None and shown.scale != scale
        if metrics is not None and name not in metrics and not elsewhere:
            raise ConfigError(
                f"{file}: sweep.metrics: evaluation {evaluation_name} reports no {name!r}, but: "
                f"{', '.join(sorted(metrics))}."
            )
    for side in ("rows", "columns"):
        if cells and not any(getattr(sweep, side) in cell.coordinates for cell in cells):
            raise ConfigError(
                f"{file}: sweep.{side}={getattr(sweep, side)} is no coordinate of these cells, which "
                f"are: {', '.join(cells[0].coordinates)}."
            )
