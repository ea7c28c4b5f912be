"""`ptst sync`: upload W&B runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptst.cli.group import Command
from ptst.cli.words import check_words, overrides_argument
from ptst.config.compose import compose
from ptst.schema import Tracking

if TYPE_CHECKING:
    from ptst.sync import Synced


@click.command(cls=Command)
@overrides_argument
def sync(overrides: tuple[str, ...]) -> int:
    """Upload W&B runs: the store's, or those of a grid."""
    check_words(overrides)
    from ptst.progress import say
    from ptst.store import Store
    from ptst.sync import sync as upload
    from ptst.tracking import check_key, chosen

    check_key("ptst sync", "do without: all that it uploads is in the store")
    root, tracking, wanted = _runs_of(overrides)
    place, said = chosen(tracking, ("entity", "project"))
    if said:
        say(said)
    done = upload(Store(Path(root).expanduser()), wanted, **place)
    _tell(done)
    return 1 if done.failed else 0


def _runs_of(overrides: Sequence[str]) -> tuple[str, Tracking, set[str] | None]:
    """The store's folder, where to upload to, and the ids of a grid's runs; None for all runs.

    Overrides of tracking say where to; any other override chooses a grid.
    """
    if all(word.lstrip("+").startswith(("paths.", "tracking.", "tracking=")) for word in overrides):
        config = compose(overrides)
        return config.paths.store, config.tracking, None
    from ptst.sweep.grid import expand

    grid = expand(overrides)
    wanted = {f"cell-{cell.keys.cell}" for cell in grid.cells}
    wanted |= {f"finetune-{c.keys.finetune}" for c in grid.cells if c.keys.finetune}
    return grid.store, grid.cells[0].config.tracking, wanted


def _tell(done: Synced) -> None:
    from ptst.redact import redacted
    from ptst.tracking import server

    for id, address in done.uploaded.items():
        print(f"uploaded: {id} ({done.names[id]}): {address}")
    for id, reason in done.failed.items():
        print(redacted(f"not uploaded: {id}: {reason}"), file=sys.stderr)
    addresses = [*done.uploaded.values(), *done.there.values()]
    projects = dict.fromkeys(address.partition("/runs/")[0] for address in addresses if address)
    print(
        f"W&B runs: {len(done.uploaded)} uploaded to {' and '.join(projects) or server()}, "
        f"{len(done.there)} there already, {done.unfinished} not finished, {len(done.failed)} failed"
    )
