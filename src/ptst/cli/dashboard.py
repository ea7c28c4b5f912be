"""`ptst dashboard`: a grid's workspace and its report in W&B."""

from __future__ import annotations

import json

import click

from ptst.cli.group import Command
from ptst.cli.words import console, grid_and_store, output_option, overrides_argument, write


@click.command(cls=Command)
@overrides_argument
@output_option
def dashboard(overrides: tuple[str, ...], output: str) -> None:
    """Make or update a grid's workspace and its report in W&B."""
    from ptst.dashboard.definition import as_json, define
    from ptst.report.results import load_results
    from ptst.status.states import states_of

    grid, store = grid_and_store(overrides)
    made = define(load_results(grid, store, states_of(grid, store)))
    if output == "json":
        write(json.dumps(as_json(made), ensure_ascii=False))
        return
    from ptst.dashboard.send import send

    for what, (how, address) in send(made).items():
        console().print(f"{what} {how}: {address}", markup=False, soft_wrap=True)
