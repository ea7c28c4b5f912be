"""Refuse a layout of tables that the cells of a sweep do not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptst.config.check import check_name
from ptst.errors import ConfigError
from ptst.sweep.axes import values_of
from ptst.sweep_schema import Sweep

if TYPE_CHECKING:
    from ptst.sweep.grid import GridCell


def check_layout(sweep: Sweep, file: str, templates: Sequence[str]) -> None:
    check_name(f"{file}: sweep.name={sweep.name}", sweep.name)
    for side in ("rows", "columns"):
        if averaged := {*sweep.side(side)} & {*sweep.repeats, ""}:
            raise ConfigError(
                f"{file}: sweep.{side}={getattr(sweep, side)}: runs that differ in their "
                f"{averaged.pop() or 'seed'} are averaged; choose another coordinate."
            )
    if both := {*sweep.side("rows")} & {*sweep.side("columns")}:
        raise ConfigError(f"{file}: sweep.rows and sweep.columns are both {both.pop()}.")
    basics = ("model", "dataset", "finetune")
    if unknown := [key for key in sweep.over if key not in basics]:
        raise ConfigError(f"{file}: sweep.over={unknown[0]} is not one of: {', '.join(basics)}.")
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
    sides = [(side, key) for side in ("rows", "columns") for key in sweep.side(side)]
    for side, key in sides:
        if cells and not any(key in cell.coordinates for cell in cells):
            raise ConfigError(
                f"{file}: sweep.{side}={key} is not a coordinate of these cells, which are: "
                f"{', '.join(cells[0].coordinates)}."
            )


def _named(spelled: str) -> str:
    """What a coordinate calls an axis' value: [a,b], of an axis of lists, is "a+b"."""
    if not spelled.startswith("["):
        return spelled
    return spelled.strip("[]").replace(",", "+") or "none"


def check_contrasts(sweep: Sweep, cells: Sequence[GridCell], file: str) -> None:
    """Refuse a contrast that can be of no cells of the sweep, whatever the command line leaves out
    of it."""
    known: dict[str, set[str]] = {}
    for cell in cells:
        for key, value in cell.coordinates.items():
            known.setdefault(key, set()).add(value)
    known.pop("seed", None)
    for grid in sweep.grids:
        for key, value in grid.items():
            if (name := key.lstrip("+").rpartition("@")[2]) in known:
                known[name].update(_named(spelled) for spelled in values_of(value, file))
    for number, contrast in enumerate(sweep.contrasts):
        where = f"{file}: sweep.contrasts[{number}]"
        if not contrast.name or contrast.a.keys() != contrast.b.keys() or contrast.a == contrast.b:
            raise ConfigError(
                f"{where}: it needs a name, and two different values of the same coordinates: "
                "{name: ..., a: {test_template: ...}, b: {test_template: ...}}."
            )
        for side, named in (("a", contrast.a), ("b", contrast.b)):
            for key, value in named.items():
                if key not in known:
                    raise ConfigError(
                        f"{where}.{side}.{key}: there is no such coordinate to contrast; the coordinates "
                        f"are: {', '.join(known)}."
                    )
                if value not in known[key]:
                    raise ConfigError(
                        f"{where}.{side}.{key}={value}: no cell of the sweep has it; the values are: "
                        f"{', '.join(sorted(known[key]))}."
                    )
