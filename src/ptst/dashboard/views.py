"""The workspace and the report of a sweep, as W&B keeps them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ptst.dashboard.panels import (
    COLUMNS,
    COSTS,
    cell_runs,
    cost_bars,
    grouped_by,
    heatmap,
    id_of,
    identified,
    loss_curves,
    scatters,
    summaries,
    title_of,
    tuning_runs,
)
from ptst.report.results import Results
from ptst.report.tables import markdown

SECTIONS = {
    "safety": "Safety",
    "helpfulness": "Helpfulness",
    "over_refusal": "Over-refusal",
    "obedience": "Rules kept",
}

WIDE, HIGH = 12, 10
"""Of a panel in a report, whose grid is 24 wide."""


@dataclass(frozen=True)
class View:
    """A workspace (type "project-view") or report ("runs"). W&B finds it again by its name."""

    type: str
    name: str
    title: str
    description: str
    spec: dict[str, Any]


def workspace_of(results: Results, entity: str, project: str, chart: str) -> View:
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    grid = results.grid
    cells, tunings = cell_runs(grid), [key for keys in tuning_runs(grid).values() for key in keys]

    def section(name: str, panels: Sequence[Any], columns: int = 2) -> Any:
        rows = max(1, -(-len(panels) // columns))
        layout = ws.SectionLayoutSettings(columns=columns, rows=rows)
        panels = identified(panels, grid, "workspace", name)
        return ws.Section(name=name, panels=panels, is_open=True, layout_settings=layout)

    sections = [
        section(title, [heatmap(table, grid, chart) for table in tables])
        for measures, title in SECTIONS.items()
        if (tables := [table for table in results.tables if table.measures == measures])
    ]
    if against := scatters(results):
        sections.append(section("Safety against helpfulness", against))
    if tunings:
        loss = loss_curves("Loss by train template", grouped_by(grid))
        sections.append(section("Fine-tuning", [loss], columns=1))
    sections.append(section("Costs", cost_bars(len(cells) + len(tunings))))
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=title_of(grid),
        sections=sections,
        settings=ws.WorkspaceSettings(max_runs=max(10, len(cells) + len(tunings))),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("ID").isin([*cells, *tunings])),
            order=[
                expr.Ordering(expr.Metric("JobType"), ascending=True),
                expr.Ordering(expr.Metric("Name"), ascending=True),
            ],
            pinned_columns=["run:displayName", *COLUMNS, *summaries(results)],
        ),
    )
    workspace._internal_runset_id = id_of(grid, "workspace", "runs")
    # W&B's names are nw-...-v around what stands in the address
    name = f"nw-{id_of(grid, 'workspace')[:11]}-v"
    return View("project-view", name, title_of(grid), "", _spec(workspace._to_model()))


def report_of(results: Results, entity: str, project: str, chart: str) -> View:
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    grid = results.grid
    cells, tunings = cell_runs(grid), tuning_runs(grid)

    def panels(name: str, runs: Sequence[str], shown: Sequence[Any], columns: Sequence[str]) -> Any:
        runset = wr.Runset(  # without a project: the report's own
            name=name,
            filters=expr.And(expr.Metric("ID").isin(list(runs))),
            order=[wr.OrderBy("Name", ascending=True)],
            pinned_columns=["run:displayName", *columns],
        )
        runset._id = id_of(grid, "report", "runs", name)
        for number, panel in enumerate(shown):
            at = {"x": WIDE * (number % 2), "y": HIGH * (number // 2), "w": WIDE, "h": HIGH}
            panel.layout = wr.Layout(**at)
        return wr.PanelGrid(runsets=[runset], panels=identified(shown, grid, "report", name))

    _, _, tables = markdown(results).partition("\n\n")  # the report has its title already
    heatmaps = [heatmap(table, grid, chart) for table in results.tables]
    blocks = [
        wr.MarkdownBlock(text=tables),
        wr.H2(text="Cells"),
        panels("cells", cells, [*heatmaps, *scatters(results)], [*COLUMNS, *summaries(results)]),
    ]
    if tunings:
        blocks.append(wr.H2(text="Loss by train template"))
    for title, keys in tunings.items():
        columns = [*COLUMNS, "summary:seconds", "summary:tokens_per_epoch", "summary:final_loss"]
        blocks.append(panels(title, keys, [loss_curves(title, "train")], columns))
    everything = [*cells, *(key for keys in tunings.values() for key in keys)]
    costs = [f"summary:{name}" for name in COSTS]
    blocks += [
        wr.H2(text="Costs"),
        panels("costs", everything, cost_bars(len(everything)), [*COLUMNS, *costs]),
    ]
    report = wr.Report(
        entity=entity,
        project=project,
        title=title_of(grid),
        description=f"{grid.report_name}, kept up to date by ptst dashboard",
        blocks=blocks,
        width="fluid",
    )
    name = f"ptst{id_of(grid, 'report')[:8]}"
    return View("runs", name, report.title, report.description, _spec(report._to_model()))


def _spec(model: Any) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    return spec
