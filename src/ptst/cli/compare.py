"""`ptst compare`: two sweeps, judges or models side by side."""

from __future__ import annotations

import json

import click

from ptst.cli.group import Command
from ptst.cli.words import check_words, console, output_option, overrides_argument, write


@click.command(cls=Command)
@click.argument("a")
@click.argument("b")
@overrides_argument
@output_option
def compare(a: str, b: str, overrides: tuple[str, ...], output: str) -> None:
    """Two sweeps, judges or models side by side, tested.

    A and B are the override in which they differ: ptst compare judge=micro judge=keywords
    +sweeps=quick, or ptst compare +sweeps=quick +sweeps=mine. Cells are compared whose other
    coordinates are the same.
    """
    from ptst.report import compare as comparing

    check_words([a, b, *overrides])
    lines = comparing.compare(a, b, overrides)
    if output == "json":
        write(json.dumps(comparing.as_json(lines)))
    else:
        comparing.show(lines, a, b, console())
