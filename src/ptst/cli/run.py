"""`ptst` and `ptst -m`: run a cell, or a grid."""

from __future__ import annotations

import click

from ptst.cli.group import Command
from ptst.cli.words import check_words, composed, console, overrides_argument, write
from ptst.config.check_evaluation import left_out
from ptst.errors import ConfigError


@click.command(cls=Command, hidden=True)
@overrides_argument
@click.option(
    "-m", "--multirun", is_flag=True, help="Run a grid: each key may have several values."
)
@click.option("--cfg", is_flag=True, help="Show the composed configuration, and run nothing.")
def run(overrides: tuple[str, ...], multirun: bool, cfg: bool) -> int:
    """Run one cell (ptst [OVERRIDES]), or a grid (ptst -m [OVERRIDES])."""
    if cfg:
        from omegaconf import OmegaConf

        words = [word for word in overrides if word != "job"]  # as Hydra spells it: --cfg job
        write(OmegaConf.to_yaml(OmegaConf.structured(composed(words))))
        return 0
    if multirun:
        check_words(overrides)
        from ptst.multirun.launch import multirun as run_grid

        return 1 if run_grid(overrides) else 0
    config = composed(overrides)
    if config.sweep is not None:
        raise ConfigError("+sweeps=... is a grid and runs with -m: ptst -m " + " ".join(overrides))
    if launcher := [word for word in overrides if word.startswith("hydra/launcher=")]:
        raise ConfigError(
            f"{launcher[0]} is for grids, also of one cell: ptst -m {' '.join(overrides)}"
        )
    from ptst.cell import run_cell
    from ptst.progress import say
    from ptst.report.cell import show_cell

    for line in left_out([config]):
        say(line)
    show_cell(config, run_cell(config), console())
    return 0
