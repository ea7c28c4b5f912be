"""One cell on the terminal: what `ptst` prints when it has run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from ptst.cell import CellResult
from ptst.keys import defences
from ptst.metrics import Metric, scale_in_words, shown
from ptst.schema import Config
from ptst.stages.length_limit import cut_off_warnings
from ptst.wording import engine_in_words

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = ("", "95 % interval", "n", "units", "missing", "cut off")


def show_cell(config: Config, result: CellResult, out: Console) -> None:
    """Print which cell it is, its metrics, and what was made for it."""
    train = config.train_template.name if result.keys.finetune else "none"
    out.print(
        f"{config.model.name} · {config.dataset.name} · finetune={config.finetune.method} · "
        f"{train} → {config.test_template.name} · seed {config.seed}"
        + "".join(f" · {name}={value}" for name, value in _own(config).items()),
        markup=False,
    )
    if result.metrics is not None:
        table = Table(box=None, pad_edge=False)
        table.add_column("metric", no_wrap=True)
        for column in COLUMNS:
            table.add_column(column, justify="right")
        table.add_column("")
        for name, metric in result.metrics.items():
            table.add_row(name, *_figures(metric))
        out.print(table)
        for line in cut_off_warnings(config, result.metrics):
            out.print(line, markup=False, style="yellow", soft_wrap=True)
    for name, number in result.analyses.items():
        out.print(f"{name} {number:.4g}", markup=False)
    stages: dict[str, float] = {}
    for what, seconds in result.made.items():
        stage = what.split()[0]
        stages[stage] = stages.get(stage, 0.0) + seconds
    made = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in stages.items())
    out.print(f"made: {made or 'nothing, all of it was in the store'}")
    where = f"cell {result.keys.cell} in {config.paths.store}"
    out.print(where, soft_wrap=True, markup=False)


def _own(config: Config) -> dict[str, str]:
    """What most cells do not have: a defence, or another engine than transformers'."""
    named = {"defence": "+".join(defences(config)), "engine": engine_in_words(config.engine)}
    return {name: value for name, value in named.items() if value}


def _figures(m: Metric) -> list[str]:
    """What stands beside a metric's name: `COLUMNS`, and what its value is."""
    value = "missing" if m.value is None else shown(m.value, m.scale)
    interval = ""
    if m.ci_low is not None and m.ci_high is not None:
        interval = f"{shown(m.ci_low, m.scale)} – {shown(m.ci_high, m.scale)}"
    spread = "" if m.std is None else f", ± {shown(m.std, m.scale)} over {m.samples} samples"
    cut_off = "unknown" if m.unfinished is None else str(m.unfinished)
    counts = (str(m.n), str(m.units), str(m.missing), cut_off)
    return [value, interval, *counts, scale_in_words(m.scale) + spread]
