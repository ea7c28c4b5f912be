"""`ptst judges`: how far a grid's judges agree, and whether an endpoint answers one."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from ptst.cli.group import Command
from ptst.cli.words import (
    composed,
    console,
    grid_and_store,
    output_option,
    overrides_argument,
    write,
)
from ptst.errors import ConfigError


@click.command(cls=Command)
@overrides_argument
@click.option("--judges", help="Which of them: judges=[a,b].")
@click.option("--test", help="Ask that judge's endpoint one harmless question, before a sweep.")
@output_option
def judges(overrides: tuple[str, ...], judges: str | None, test: str | None, output: str) -> int:
    """How far the judges of a grid's completions agree."""
    if test is not None:
        return _try_judge(test, overrides)
    wanted = None
    if judges is not None:
        wanted = [name.strip() for name in judges.strip("[]").split(",")]
        if not all(wanted):
            raise ConfigError(f"judges={judges} names no judges; write judges=[a,b].")
    from ptst.report.agreement import load_agreement
    from ptst.report.judges import as_json, show, write_judges

    grid, store = grid_and_store(overrides)
    agreement = load_agreement(grid, store, wanted)
    page = write_judges(agreement, grid)
    if output == "json":
        write(json.dumps(as_json(agreement), ensure_ascii=False))
        return 0
    show(agreement, console())
    console().print(f"judges: {page}", markup=False, soft_wrap=True)
    return 0


def _try_judge(name: str, overrides: Sequence[str]) -> int:
    """Try a choice of judge= out, or the composed judge if the name is "true"."""
    config = composed([*overrides, *([] if name == "true" else [f"judge={name}"])])
    from ptst.judge.trial import try_judge

    text, score = try_judge(config.judge)
    write(text)
    return 0 if score else 1
