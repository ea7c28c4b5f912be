"""What the dashboard of a sweep shows: a workspace, a report, and the heat map that W&B lacks.

Everything is a function of the grid and of what its store holds. The same gives the same, ids
included, so that it can be compared with what W&B has. Runs are shared by sweeps: those of a sweep
are chosen by their ids, and where a cell stands in a table is told to the heat map by the cell's
key. Only aggregated numbers are in here, never a question or an answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptst.dashboard.panels import cell_runs, tuning_runs
from ptst.dashboard.views import View, report_of, workspace_of
from ptst.errors import ConfigError
from ptst.report.results import Results
from ptst.store import key_of
from ptst.tracking import resolved

HEATMAP = Path(__file__).with_name("heatmap.json")
"""A Vega-Lite chart as W&B keeps it: it puts fields and strings in the places of ${...}."""


@dataclass(frozen=True)
class Chart:
    """A custom chart of an entity. W&B never changes one: another spec needs another name."""

    name: str
    title: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Dashboard:
    """All that is sent for a sweep."""

    entity: str
    project: str
    chart: Chart
    workspace: View
    report: View
    runs: int
    """Of the sweep, cells and fine-tunings."""

    @property
    def chart_id(self) -> str:
        """What panels call the chart."""
        return f"{self.entity}/{self.chart.name}"


def define(results: Results) -> Dashboard:
    """Work out the dashboard of a sweep, without asking W&B anything.

    Raises:
        ConfigError: tracking is off or names no entity, or wandb-workspaces is missing.
    """
    grid = results.grid
    tracking = resolved(grid.cells[0].config.tracking)
    project = str(tracking.project)
    if tracking.mode == "none":
        raise ConfigError(
            "tracking=none, or WANDB_MODE=disabled: these runs have no place in W&B, and no dashboard there."
        )
    if not tracking.entity:
        raise ConfigError(
            "a dashboard belongs to a user or team of W&B: name it, tracking.entity=... (and "
            f"tracking.project=..., if it is not {project})."
        )
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "ptst dashboard needs the package wandb-workspaces: pip install -e '.[dashboard]'"
        ) from error
    spec = json.loads(HEATMAP.read_text(encoding="utf-8"))
    chart = Chart(f"ptst-heatmap-{key_of(spec)[:8]}", "ptst heat map", spec)
    place = (tracking.entity, project, f"{tracking.entity}/{chart.name}")
    return Dashboard(
        tracking.entity,
        project,
        chart,
        workspace_of(results, *place),
        report_of(results, *place),
        runs=len(cell_runs(grid)) + sum(map(len, tuning_runs(grid).values())),
    )


def as_json(dashboard: Dashboard) -> dict[str, Any]:
    """The variables of the mutations that make a dashboard; each `spec` goes as a JSON string."""
    return {"createCustomChart": chart_variables(dashboard)} | {
        "upsertView": [
            view_variables(dashboard, view) for view in (dashboard.workspace, dashboard.report)
        ]
    }


def chart_variables(dashboard: Dashboard) -> dict[str, Any]:
    """Variables of CreateCustomChart."""
    return {
        "entity": dashboard.entity,
        "chartName": dashboard.chart.name,
        "displayName": dashboard.chart.title,
        "chartType": "vega2",
        "access": "PRIVATE",
        "spec": dashboard.chart.spec,
    }


def view_variables(dashboard: Dashboard, view: View) -> dict[str, Any]:
    """Variables of upsertView; where the view is there, its `id` comes to them."""
    return {
        "entityName": dashboard.entity,
        "projectName": dashboard.project,
        "type": view.type,
        "name": view.name,
        "displayName": view.title,
        "description": view.description,
        "spec": view.spec,
    }
