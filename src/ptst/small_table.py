"""A small table of the paper's kind at micro scale: 3 train x 3 test templates, and no fine-tuning.

Run by `make reproduce-table`. Every cell is an ordinary cell of `ptst`; overrides given on the command
line apply to all of them.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ptst.cell import run_cell
from ptst.config import ROOT, compose
from ptst.errors import PtstError
from ptst.metrics import Metric
from ptst.progress import console

TEMPLATES = ("chat_vanilla", "chat_alpaca", "chat_llama")
ROWS = ("none", *TEMPLATES)
PUBLISHED = {
    "gsm8k/exact_match": ("Exact match on word problems, %", "Greens"),
    "hazards/asr": ("Attack success rate: hazard requests answered, %", "Reds"),
}
"""Metrics of the table: title and colours."""
Cells = dict[tuple[str, str], dict[str, Metric]]


def main(overrides: list[str]) -> int:
    """Run the cells and print the tables.

    Returns:
        0, or 2 after an error that the user can mend.
    """
    started = time.monotonic()
    cells: Cells = {}
    grid = [(train, test) for train in ROWS for test in TEMPLATES]
    for number, (train, test) in enumerate(grid, start=1):
        chosen = ["finetune=none"] if train == "none" else [f"template@train_template={train}"]
        try:
            config = compose([f"template@test_template={test}", *chosen, *overrides])
            result = run_cell(config)
        except PtstError as error:
            print(f"ptst: {train} -> {test}: {error}", file=sys.stderr)  # noqa: T201
            return 2
        cells[train, test] = result.metrics or {}
        seconds = sum(result.made.values())
        console().print(f"[{number}/{len(grid)}] {train} → {test}: {seconds:.1f} s", markup=False)
    out = Console(highlight=False)
    for metric, (title, _) in PUBLISHED.items():
        _show(out, cells, metric, title)
    out.print(
        "Ours: the micro model, its own word problems and its own invented hazards (95 %\n"
        "interval over problems, over hazards). Paper: Llama-2-7B-chat, GSM8K, DirectHarm4,\n"
        "mean of 3 seeds. Compare the pattern, not the size: see docs/micro-world.md.",
        soft_wrap=True,
    )
    picture = _draw(cells, Path(config.paths.reports).expanduser() / "small_table.png")
    ended = f"{time.monotonic() - started:.0f} s; store: {config.paths.store}"
    out.print(f"Picture: {picture}\n{ended}", soft_wrap=True, markup=False)
    return 0


def _show(out: Console, cells: Cells, metric: str, title: str) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("train \\ test", no_wrap=True)
    for test in TEMPLATES:
        table.add_column(f"{test}\nours (95 %) paper", justify="right", no_wrap=True)
    paper = _published(metric)
    for train in ROWS:
        row = []
        for test in TEMPLATES:
            theirs = paper.get((train, test))
            shown = "missing" if theirs is None else f"{theirs:.1f}"
            row.append(f"{_ours(cells[train, test].get(metric))} {shown:>5}")
        table.add_row(_named(train), *row)
    out.print()
    out.print(table)
    out.print()


def _draw(cells: Cells, path: Path) -> Path:
    """Heat maps of both metrics, ours beside the paper's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    for (metric, (title, colours)), row in zip(PUBLISHED.items(), axes, strict=True):
        paper = _published(metric)
        ours = {cell: m[metric].percent for cell, m in cells.items() if metric in m}
        both: list[Mapping[tuple[str, str], float | None]] = [ours, paper]
        for axis, who, values in zip(row, ("micro model", "paper"), both, strict=True):
            grid = [[values.get((train, test)) for test in TEMPLATES] for train in ROWS]
            shown = [[float("nan") if v is None else v for v in line] for line in grid]
            axis.imshow(shown, cmap=colours, vmin=0, vmax=100, aspect="auto")
            for i, line in enumerate(grid):
                for j, value in enumerate(line):
                    text = "missing" if value is None else f"{value:.1f}"
                    dark = value is not None and value > 60
                    axis.text(j, i, text, ha="center", va="center", color="w" if dark else "k")
            axis.set_title(f"{title.split(':')[0].split(',')[0]}: {who}", fontsize=10, loc="left")
            axis.set_xticks(range(len(TEMPLATES)), TEMPLATES, fontsize=9)
            axis.set_yticks(range(len(ROWS)), [_named(train) for train in ROWS], fontsize=9)
            axis.spines[:].set_visible(False)
            axis.tick_params(length=0)
    for axis in axes[:, 0]:
        axis.set_ylabel("train template")
    for axis in axes[-1]:
        axis.set_xlabel("test template")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)
    temporary.replace(path)
    return path


def _named(train: str) -> str:
    return "no fine-tuning" if train == "none" else train


def _ours(metric: Metric | None) -> str:
    if metric is None or metric.percent is None:
        return "missing"
    return f"{metric.percent:.1f} ({metric.ci_low:.0f}–{metric.ci_high:.0f})"


def _published(metric: str) -> dict[tuple[str, str], float]:
    table = {"gsm8k/exact_match": "1a", "hazards/asr": "1c"}[metric]
    with (ROOT / "sweeps" / "paper" / "tables.csv").open(encoding="utf-8", newline="") as file:
        return {
            (row["train_template"], row["test_template"]): float(row["mean"])
            for row in csv.DictReader(file)
            if row["table"] == table
        }


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("ptst: interrupted; run again to resume.")
