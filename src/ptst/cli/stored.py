"""What a store has: `ptst ls`, `show`, `rm`, `export`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ptst.cli.group import Command
from ptst.cli.words import console, named_store, output_option, write
from ptst.errors import ConfigError


@click.command(cls=Command)
@click.argument("filters", nargs=-1, type=click.UNPROCESSED)
@output_option
def ls(filters: tuple[str, ...], output: str) -> None:
    """What a store has: fine-tunings and cells.

    FILTERS choose among them, as in ptst ls dataset=gsm8k train_template=chat_*; any setting will
    do (finetune.epochs=1). paths.store=... names another store.
    """
    from ptst.inventory.artifacts import load_artifacts, matching
    from ptst.inventory.show import as_json, show_list

    store, words = named_store(filters)
    found = matching(load_artifacts(store), words)
    if output == "json":
        write(json.dumps([as_json(one) for one in found]))
    else:
        show_list(found, store, console())


@click.command(cls=Command)
@click.argument("key")
@click.argument("filters", nargs=-1, type=click.UNPROCESSED)
@click.option("--label", help="Only rows with this label (complied, refused, ...; missing).")
@click.option(
    "--n", type=int, default=10, show_default=True, help="At most so many rows of each evaluation."
)
def show(key: str, filters: tuple[str, ...], label: str | None, n: int) -> None:
    """A cell's metrics and rows, a fine-tuning's losses, a log.

    KEY is the beginning of a key, as ptst ls prints it.
    """
    from ptst.inventory.show import show_one

    store, words = named_store(filters)
    show_one(store, key, words, label, n, console())


@click.command(cls=Command)
@click.argument("what")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--yes", type=click.BOOL, default=False, help="Remove it; without, only say what would go."
)
def rm(what: str, words: tuple[str, ...], yes: bool) -> None:
    """Remove artifacts: KEY, failed, unused or damaged. Says what would go; yes=true removes it.

    failed: what failed attempts left. unused: what no cell needs or waits for. damaged: what cannot
    be read.
    """
    from ptst.inventory.remove import remove

    store, others = named_store(words)
    if others:
        raise ConfigError(f"{others[0]}: ptst rm takes one KEY, or failed, unused or damaged.")
    remove(store, what, yes, console())


@click.command(cls=Command)
@click.argument("filters", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--what",
    type=click.Choice(["cells", "rows"]),
    default="cells",
    show_default=True,
    help="A line for each metric of each cell, or for each answer.",
)
@click.option(
    "--file", type=click.Path(path_type=Path), required=True, help="A .csv or .parquet file."
)
def export(filters: tuple[str, ...], what: str, file: Path) -> None:
    """Write a store's results as a table, CSV or Parquet.

    It is the frame of ptst.results() in Python, or of ptst.rows().
    """
    from ptst.inventory.frames import export as write_frame

    store, words = named_store(filters)
    lines = write_frame(store, words, what, file.expanduser())
    write(f"{lines:,} lines: {file}")
