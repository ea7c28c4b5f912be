"""`ptst audit`: completions for people to label, and their labels."""

from __future__ import annotations

from pathlib import Path

import click

from ptst.cli.group import Command
from ptst.cli.words import grid_and_store, overrides_argument, write
from ptst.errors import ConfigError


@click.group(no_args_is_help=True)
def audit() -> None:
    """A sheet of completions for people to label, and their labels."""


@audit.command("export", cls=Command)
@overrides_argument
@click.option("--n", type=int, default=100, show_default=True, help="How many completions.")
@click.option(
    "--draw_seed", type=int, default=0, show_default=True, help="Which of them are drawn."
)
@click.option("--file", type=click.Path(path_type=Path), help="Where the sheet goes.")
def export_sheet(overrides: tuple[str, ...], n: int, draw_seed: int, file: Path | None) -> None:
    """Write the sheet."""
    from ptst.audit import LABELS, export

    path = file.expanduser() if file else None
    write(
        f"sheet: {export(*grid_and_store(overrides), n, draw_seed, path)}\n"
        f"Fill the column label with {', '.join(LABELS)}, or leave it empty."
    )


@audit.command("import", cls=Command)
@click.argument("sheet", type=click.Path(path_type=Path))
@overrides_argument
@click.option("--annotator", required=True, help="Whose labels they are.")
def import_sheet(sheet: Path, overrides: tuple[str, ...], annotator: str) -> None:
    """Take a sheet's labels; ptst judges shows them from then on."""
    if "=" in str(sheet):
        raise ConfigError("name the sheet: ptst audit import FILE +sweeps=... annotator=...")
    from ptst.audit import import_labels

    done = import_labels(*grid_and_store(overrides), sheet.expanduser(), annotator)
    write(
        f"{done.labelled} labels of {annotator} kept, {done.blank} rows without one, "
        f"{done.changed} labels changed"
    )
