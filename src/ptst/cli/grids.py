"""A grid before, while and after it runs: `ptst plan`, `status`, `report`, `cancel`."""

from __future__ import annotations

import json

import click

from ptst.cli.group import Command
from ptst.cli.words import console, grid_and_store, output_option, overrides_argument, write
from ptst.errors import ConfigError


@click.command(cls=Command)
@overrides_argument
@output_option
def plan(overrides: tuple[str, ...], output: str) -> None:
    """What a grid comes to before it runs: cells, time, cost."""
    from ptst.sweep.plan import make_plan
    from ptst.sweep.plan_shown import as_json, show

    grid, store = grid_and_store(overrides)
    made = make_plan(grid, store)
    if output == "json":
        write(json.dumps(as_json(made)))
    else:
        show(made, console())


@click.command(cls=Command)
@overrides_argument
@output_option
@click.option("--watch", type=click.BOOL, default=False, help="Go on showing, until Ctrl-C.")
def status(overrides: tuple[str, ...], output: str, watch: bool) -> None:
    """How far each cell of a grid is."""
    if watch and output == "json":
        raise ConfigError("watch=true shows a screen; for output=json ask again and again.")
    from ptst.status import live
    from ptst.status import states as state

    grid, store = grid_and_store(overrides)
    if watch:
        live.watch(grid, store, console())
        return
    states = state.states_of(grid, store)
    if output == "json":
        write(json.dumps(state.as_json(grid, states)))
    else:
        console().print(state.shown(grid, states))
        console().print(f"store: {grid.store}", markup=False, soft_wrap=True)


@click.command(cls=Command)
@overrides_argument
def report(overrides: tuple[str, ...]) -> None:
    """Print a grid's tables and write its report."""
    from ptst.multirun.launch import report as write_report

    write_report(*grid_and_store(overrides))


@click.command(cls=Command)
@overrides_argument
def cancel(overrides: tuple[str, ...]) -> None:
    """Cancel a grid's jobs on SLURM, and no others."""
    from ptst.multirun.slurm import cancel as cancel_jobs

    cancel_jobs(*grid_and_store(overrides))
