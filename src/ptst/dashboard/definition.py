"""What the dashboard of a sweep shows: a workspace, a report, and the heat map that W&B lacks.

Everything is a function of the grid and of what its store holds. The same gives the same, ids included,
so that it can be compared with what W&B has. Runs are shared by sweeps: those of a sweep are chosen by
their ids, and where a cell stands in a table is told to the heat map by the cell's key. Only aggregated
numbers are in here, never a question or an answer.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptst.errors import ConfigError
from ptst.metrics import decimals
from ptst.report.pictures import CALM, WARM, named, scatter_pairs, should_be_low
from ptst.report.results import Results, Table
from ptst.report.tables import markdown
from ptst.stages.summarise import run_labels
from ptst.store import key_of
from ptst.sweep.grid import BASICS, Grid, finetuning_only
from ptst.tracking import resolved

HEATMAP = Path(__file__).with_name("heatmap.json")
"""A Vega-Lite chart as W&B keeps it: it puts fields and strings in the places of ${...}."""
CHART_ROWS = 500
"""Runs that W&B reads for a custom chart (`limit` of its query)."""
SECTIONS = {"safety": "Safety", "helpfulness": "Helpfulness", "over_refusal": "Over-refusal"}
WIDE, HIGH = 12, 10
"""Of a panel in a report, whose grid is 24 wide."""
COLUMNS = (
    "run:jobType",
    "config:model.value.name",
    "config:dataset.value.name",
    "config:finetune.value.name",
    "config:judges.value",
    "config:train.value",
    "config:test.value",
    "config:seed.value",
)
NO_RECIPE = ("train_template", "seed", "finetune.epoch")
"""Coordinates that fine-tunings in one picture of loss curves may differ in."""
COSTS = ("seconds", "prompt_tokens", "completion_tokens", "tokens_per_epoch")
"""In the summary of a run, where they apply."""


@dataclass(frozen=True)
class Chart:
    """A custom chart as W&B keeps it for an entity, once and for good: another spec has another name."""

    name: str
    title: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class View:
    """A workspace (type "project-view") or report ("runs"). W&B finds it again by its name."""

    type: str
    name: str
    title: str
    description: str
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
        ConfigError: tracking is off, it names no entity, or the package wandb-workspaces is missing.
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
        _workspace(results, *place),
        _report(results, *place),
        runs=len(_cells(grid)) + sum(map(len, _tunings(grid).values())),
    )


def as_json(dashboard: Dashboard) -> dict[str, Any]:
    """The variables of the mutations that make a dashboard; W&B is sent each `spec` as a JSON string."""
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


# --- the workspace --------------------------------------------------------------------------------


def _workspace(results: Results, entity: str, project: str, chart: str) -> View:
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    grid = results.grid
    cells, tunings = _cells(grid), [key for keys in _tunings(grid).values() for key in keys]

    def section(name: str, panels: Sequence[Any], columns: int = 2) -> Any:
        rows = max(1, -(-len(panels) // columns))
        layout = ws.SectionLayoutSettings(columns=columns, rows=rows)
        panels = _identified(panels, grid, "workspace", name)
        return ws.Section(name=name, panels=panels, is_open=True, layout_settings=layout)

    sections = [
        section(title, [_heatmap(table, grid, chart) for table in tables])
        for measures, title in SECTIONS.items()
        if (tables := [table for table in results.tables if table.measures == measures])
    ]
    if scatters := _scatters(results):
        sections.append(section("Safety against helpfulness", scatters))
    if tunings:
        loss = _loss("Loss by train template", _grouped_by(grid))
        sections.append(section("Fine-tuning", [loss], columns=1))
    sections.append(section("Costs", _costs(len(cells) + len(tunings))))
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=_title(grid),
        sections=sections,
        settings=ws.WorkspaceSettings(max_runs=max(10, len(cells) + len(tunings))),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("ID").isin([*cells, *tunings])),
            order=[
                expr.Ordering(expr.Metric("JobType"), ascending=True),
                expr.Ordering(expr.Metric("Name"), ascending=True),
            ],
            pinned_columns=["run:displayName", *COLUMNS, *_summaries(results)],
        ),
    )
    workspace._internal_runset_id = _id(grid, "workspace", "runs")
    # W&B's names are nw-...-v around what stands in the address
    name = f"nw-{_id(grid, 'workspace')[:11]}-v"
    return View("project-view", name, _title(grid), "", _spec(workspace._to_model()))


def _heatmap(table: Table, grid: Grid, chart: str) -> Any:
    import wandb_workspaces.reports.v2 as wr

    places = [
        f"{run.cell.keys.cell}={table.rows.index(row)},{table.columns.index(column)}"
        for (row, column), entry in table.entries.items()
        for run in entry.runs
    ]
    low, high = table.scale or (0.0, 100.0)
    colours = WARM if should_be_low(table) else CALM
    return wr.CustomChart(
        query={"summary": {"keys": ["key", table.metric, f"{table.metric}/missing"]}},
        chart_name=chart,
        chart_fields={"key": "key", "value": table.metric, "missing": f"{table.metric}/missing"},
        chart_strings={
            "title": _titled(table),
            "places": _listed(places),
            "rows": _listed(map(named, table.rows)),
            "columns": _listed(map(named, table.columns)),
            "row_title": grid.sweep.rows.replace("_", " "),
            "column_title": grid.sweep.columns.replace("_", " "),
            "low": f"{low:g}",
            "high": f"{high:g}",
            "format": f".{decimals(table.scale)}f",
            **dict(zip(("lowest", "lower", "higher", "highest"), colours, strict=True)),
        },
    )


def _listed(words: Iterable[str]) -> str:
    """Words for the heat map, each behind a bar; they stand in a quoted string of an expression there."""
    quoted = (w.replace("|", "/").replace("\\", "\\\\").replace("'", "\\'") for w in words)
    return "".join(f"|{word}" for word in quoted)


def _scatters(results: Results) -> list[Any]:
    """One for each pair of metrics: the run set may hold several models, whose points W&B tells apart."""
    import wandb_workspaces.reports.v2 as wr

    pairs = {(s.metric, h.metric): (s, h) for s, h in scatter_pairs(results)}
    return [
        wr.ScatterPlot(
            title=f"{safety.title} against {helpfulness.title.lower()}",
            x=wr.SummaryMetric(helpfulness.metric),
            y=wr.SummaryMetric(safety.metric),
        )
        for safety, helpfulness in pairs.values()
    ]


def _loss(title: str, by: str) -> Any:
    """Loss curves, the seeds of a fine-tuning folded into their mean and a band of a standard deviation."""
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(
        title=title,
        x="Step",
        y=["loss"],
        groupby=wr.Config(by),
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        title_x="optimizer step",
        title_y="loss",
        max_runs_to_show=CHART_ROWS,
    )


def _costs(runs: int) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    def bars(title: str, metrics: list[str]) -> Any:
        return wr.BarPlot(
            title=title,
            metrics=metrics,
            groupby="JobType",
            groupby_aggfunc="sum",
            max_runs_to_show=runs,
        )

    return [
        bars("Seconds, of all runs", ["seconds"]),
        bars("Tokens read and written by cells", ["prompt_tokens", "completion_tokens"]),
        bars("Tokens of an epoch of fine-tuning", ["tokens_per_epoch"]),
    ]


# --- the report -----------------------------------------------------------------------------------


def _report(results: Results, entity: str, project: str, chart: str) -> View:
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    grid = results.grid
    cells, tunings = _cells(grid), _tunings(grid)

    def panels(name: str, runs: Sequence[str], shown: Sequence[Any], columns: Sequence[str]) -> Any:
        runset = wr.Runset(  # without a project: the report's own
            name=name,
            filters=expr.And(expr.Metric("ID").isin(list(runs))),
            order=[wr.OrderBy("Name", ascending=True)],
            pinned_columns=["run:displayName", *columns],
        )
        runset._id = _id(grid, "report", "runs", name)
        for number, panel in enumerate(shown):
            at = {"x": WIDE * (number % 2), "y": HIGH * (number // 2), "w": WIDE, "h": HIGH}
            panel.layout = wr.Layout(**at)
        return wr.PanelGrid(runsets=[runset], panels=_identified(shown, grid, "report", name))

    _, _, tables = markdown(results).partition("\n\n")  # the report has its title already
    heatmaps = [_heatmap(table, grid, chart) for table in results.tables]
    blocks = [
        wr.MarkdownBlock(text=tables),
        wr.H2(text="Cells"),
        panels("cells", cells, [*heatmaps, *_scatters(results)], [*COLUMNS, *_summaries(results)]),
    ]
    if tunings:
        blocks.append(wr.H2(text="Loss by train template"))
    for title, keys in tunings.items():
        columns = [*COLUMNS, "summary:seconds", "summary:tokens_per_epoch", "summary:final_loss"]
        blocks.append(panels(title, keys, [_loss(title, "train")], columns))
    everything = [*cells, *(key for keys in tunings.values() for key in keys)]
    costs = [f"summary:{name}" for name in COSTS]
    blocks += [
        wr.H2(text="Costs"),
        panels("costs", everything, _costs(len(everything)), [*COLUMNS, *costs]),
    ]
    report = wr.Report(
        entity=entity,
        project=project,
        title=_title(grid),
        description=f"{grid.report_name}, kept up to date by ptst dashboard",
        blocks=blocks,
        width="fluid",
    )
    name = f"ptst{_id(grid, 'report')[:8]}"
    return View("runs", name, report.title, report.description, _spec(report._to_model()))


# --- what both are made of ------------------------------------------------------------------------


def _cells(grid: Grid) -> list[str]:
    """W&B's ids of the cells' runs, those that are still to come included."""
    return [f"cell-{cell.keys.cell}" for cell in grid.distinct if not cell.problem]


def _tunings(grid: Grid) -> dict[str, list[str]]:
    """W&B's ids of the fine-tunings' runs, by what they have in common but template and seed."""
    found: dict[str, dict[str, None]] = {}
    for cell in grid.cells:
        if cell.keys.finetune is None or cell.problem:
            continue
        own = [
            value
            for key, value in cell.coordinates.items()
            if key in BASICS or (finetuning_only(key) and key not in NO_RECIPE)
        ]
        found.setdefault(", ".join(own), {})[f"finetune-{cell.keys.finetune}"] = None
    return {title: list(keys) for title, keys in found.items()}


def _grouped_by(grid: Grid) -> str:
    """What tells fine-tunings apart that differ in more than their seed: the template, where that is enough."""
    tuned = [cell for cell in grid.cells if cell.keys.finetune]
    apart = {run_labels(cell.config, cell.keys)["fine_tuning"] for cell in tuned}
    return (
        "train"
        if len(apart) <= len({c.coordinates["train_template"] for c in tuned})
        else "fine_tuning"
    )


def _summaries(results: Results) -> list[str]:
    metrics = dict.fromkeys(table.metric for table in results.tables)
    return [f"summary:{name}" for name in (*metrics, "seconds", "completion_tokens")]


def _title(grid: Grid) -> str:
    """The sweep's title and name, in characters that W&B takes for a name (no symbols) and as many."""
    title = (grid.sweep.title or grid.sweep.name).replace("×", "x")
    plain = "".join(c for c in title if unicodedata.category(c)[0] != "S")
    room = 125 - len(grid.report_name)
    return f"{plain[:room].strip()} [{grid.report_name.replace('=', ' ')}]"


def _titled(table: Table) -> str:
    split = ", ".join(f"{key} {value}" for key, value in table.split.items())
    return f"{table.title} ({split})" if split else table.title


def _id(grid: Grid, *path: str) -> str:
    """Of a view, panel or run set: W&B wants a dozen letters and digits, and the packages draw them."""
    return key_of({"dashboard": [grid.report_name, *path]})[:12]


def _identified(panels: Sequence[Any], grid: Grid, *path: str) -> list[Any]:
    for number, panel in enumerate(panels):
        panel._id = _id(grid, *path, str(number))
    return list(panels)


def _spec(model: Any) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    return spec
