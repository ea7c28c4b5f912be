"""The panels of a sweep's dashboard, and which runs and columns they show."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from ptst.metrics import decimals
from ptst.report.pictures import CALM, WARM, named, scatter_pairs
from ptst.report.results import Results, Table
from ptst.report.tables.captions import heading
from ptst.stages.summarise import run_labels
from ptst.store import key_of
from ptst.sweep.grid import BASICS, Grid, finetuning_only

CHART_ROWS = 500
"""Runs that W&B reads for a custom chart (`limit` of its query)."""

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


def heatmap(table: Table, grid: Grid, chart: str) -> Any:
    import wandb_workspaces.reports.v2 as wr

    places = [
        f"{run.cell.keys.cell}={table.rows.index(row)},{table.columns.index(column)}"
        for (row, column), entry in table.entries.items()
        for run in entry.runs
    ]
    low, high = table.scale or (0.0, 100.0)
    colours = WARM if table.better == "lower" else CALM
    return wr.CustomChart(
        query={"summary": {"keys": ["key", table.metric, f"{table.metric}/missing"]}},
        chart_name=chart,
        chart_fields={"key": "key", "value": table.metric, "missing": f"{table.metric}/missing"},
        chart_strings={
            "title": heading(table),
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
    """Words for the heat map, each behind a bar, as part of a quoted string."""
    quoted = (w.replace("|", "/").replace("\\", "\\\\").replace("'", "\\'") for w in words)
    return "".join(f"|{word}" for word in quoted)


def scatters(results: Results) -> list[Any]:
    """One for each pair of metrics; W&B tells the points of several models apart."""
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


def loss_curves(title: str, by: str) -> Any:
    """Loss curves: of the seeds of a fine-tuning their mean and a band of a standard deviation."""
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


def cost_bars(runs: int) -> list[Any]:
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


def cell_runs(grid: Grid) -> list[str]:
    """W&B's ids of the cells' runs, those that are still to come included."""
    return [f"cell-{cell.keys.cell}" for cell in grid.distinct if not cell.problem]


def tuning_runs(grid: Grid) -> dict[str, list[str]]:
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


def grouped_by(grid: Grid) -> str:
    """What tells fine-tunings apart: the train template, where that is enough."""
    tuned = [cell for cell in grid.cells if cell.keys.finetune]
    apart = {run_labels(cell.config, cell.keys)["fine_tuning"] for cell in tuned}
    return (
        "train"
        if len(apart) <= len({c.coordinates["train_template"] for c in tuned})
        else "fine_tuning"
    )


def summaries(results: Results) -> list[str]:
    metrics = dict.fromkeys(table.metric for table in results.tables)
    return [f"summary:{name}" for name in (*metrics, "seconds", "completion_tokens")]


def title_of(grid: Grid) -> str:
    """The sweep's title and name, in the characters and the length that W&B allows."""
    title = (grid.sweep.title or grid.sweep.name).replace("×", "x")
    plain = "".join(c for c in title if unicodedata.category(c)[0] != "S")
    room = 125 - len(grid.report_name)
    return f"{plain[:room].strip()} [{grid.report_name.replace('=', ' ')}]"


def id_of(grid: Grid, *path: str) -> str:
    """The id of a view, panel or run set: a dozen letters and digits."""
    return key_of({"dashboard": [grid.report_name, *path]})[:12]


def identified(panels: Sequence[Any], grid: Grid, *path: str) -> list[Any]:
    for number, panel in enumerate(panels):
        panel._id = id_of(grid, *path, str(number))
    return list(panels)
