"""What the defences of a cell take beside plain fine-tuning and plain answering, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ptst.component import Cost, load
from ptst.config.check_defence import KINDS
from ptst.schema import Config
from ptst.sweep.formulas import BYTES_PER_WEIGHT


def costs_of(config: Config) -> Iterator[tuple[str, Cost]]:
    """Name and cost of every component that a cell's defences put into a slot."""
    for name, defence in config.defence.items():
        for slot, kind in KINDS.items():
            if (node := getattr(defence, slot)) is not None:
                yield name, load(node, f"defence.{name}.{slot}", kind).cost(config)


def cost_in_words(cost: Cost, config: Config, parameters: float | None) -> str:
    """ "3 passes a step, +2 copies of the trained weights"; empty where it takes nothing more.

    Args:
        parameters: of the model; None where their number is not known.
    """
    said = []
    if cost.passes != 1:
        said.append(f"{cost.passes:g} passes a step")
    if cost.reads:
        passes = "pass" if cost.reads == 1 else "passes"
        said.append(f"{cost.reads:g} {passes} forward over all rows before training")
    if cost.rows is not None:
        n, times = cost.rows.known_count(), cost.seen * config.finetune.epochs
        rows = "rows" if n is None else f"{n:,} rows"
        often = "once" if math.isclose(times, 1) else f"{times:.3g} times"
        said.append(f"{rows} more, each {often} in {config.finetune.epochs:g} epochs")
    if cost.copies:
        copies = "copy" if cost.copies == 1 else "copies"
        size = _size(cost.copies, config, parameters) if config.finetune.method == "full" else ""
        said.append(f"+{cost.copies:g} {copies} of the trained weights{size}")
    if cost.models:
        models = "model" if cost.models == 1 else "models"
        size = _size(cost.models, config, parameters)
        said.append(f"+{cost.models:g} {models} in memory{size}")
    if cost.asks != 1:
        said.append(f"{cost.asks:g} asks for each question")
    return ", ".join(said)


def _size(copies: float, config: Config, parameters: float | None) -> str:
    """Of so many copies of the whole model, in its own precision."""
    if parameters is None:
        return ""
    size = copies * parameters * BYTES_PER_WEIGHT[config.model.dtype]
    return f" ({size / 1e9:.2g} GB in {config.model.dtype})"
