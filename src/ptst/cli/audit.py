"""`ptst audit`: completions for people to label, and their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ptst.cli.group import Command
from ptst.cli.words import grid_and_store, overrides_argument, write
from ptst.errors import ConfigError


def _count(context: click.Context, option: click.Parameter, value: Any) -> int | None:
    """A whole number; None for "all"."""
    return None if value == "all" else click.INT.convert(value, option, context)


@click.group(no_args_is_help=True)
def audit() -> None:
    """A sheet of completions for people to label, and their labels."""


@audit.command("export", cls=Command)
@overrides_argument
@click.option("--n", default="100", callback=_count, show_default=True, help="How many rows; all.")
@click.option(
    "--draw_seed", type=int, default=0, show_default=True, help="Which of them are drawn."
)
@click.option("--file", type=click.Path(path_type=Path), help="Where the sheet goes.")
@click.option(
    "--parts", type=int, default=1, show_default=True, help="Sheets that the rows are dealt to."
)
@click.option(
    "--measures",
    type=click.Choice(["safety", "over_refusal"]),
    default="safety",
    show_default=True,
    help="Of which evaluations.",
)
def export_sheet(
    overrides: tuple[str, ...],
    n: int | None,
    draw_seed: int,
    file: Path | None,
    parts: int,
    measures: str,
) -> None:
    """Write the sheet; equal answers stand in it once."""
    from ptst.audit import LABELS, export

    path = file.expanduser() if file else None
    files = export(*grid_and_store(overrides), n, draw_seed, path, parts, measures)
    said = [f"sheet: {sheet}" for sheet in files]
    write("\n".join([*said, f"Fill the column label with {', '.join(LABELS)}, or leave it empty."]))


@audit.command("import", cls=Command)
@click.argument("sheet", type=click.Path(path_type=Path))
@overrides_argument
@click.option("--annotator", help="Whose labels they are; a .jsonl file says it itself.")
def import_sheet(sheet: Path, overrides: tuple[str, ...], annotator: str | None) -> None:
    """Take the labels of a sheet, or of a file of ptst audit labels; ptst judges shows them from
    then on."""
    if "=" in str(sheet):
        raise ConfigError("name the sheet: ptst audit import FILE +sweeps=... annotator=...")
    from ptst.audit import import_labels
    from ptst.audit.published import import_file

    path = sheet.expanduser()
    if path.suffix == ".jsonl":
        if annotator is not None:
            raise ConfigError(
                f"annotator={annotator}: {path} says itself whose labels it has; leave it out."
            )
        for name, kept in import_file(*grid_and_store(overrides), path).items():
            write(
                f"{kept.labelled} labels of {name} kept, {kept.blank} of answers that are not here, "
                f"{kept.changed} labels changed"
            )
        return
    if annotator is None:
        raise ConfigError("whose labels are they? annotator=NAME says it.")
    done = import_labels(*grid_and_store(overrides), path, annotator)
    write(
        f"{done.labelled} labels of {annotator} kept, {done.blank} rows without one, "
        f"{done.changed} labels changed"
    )


@audit.command("labels", cls=Command)
@overrides_argument
@click.option("--file", type=click.Path(path_type=Path), required=True, help="Where they go.")
def write_file(overrides: tuple[str, ...], file: Path) -> None:
    """Write everybody's labels without any text, for judge=reading and to publish."""
    from ptst.audit.published import write_labels

    path = file.expanduser()
    found = write_labels(*grid_and_store(overrides), path)
    said = ", ".join(f"{n} of {name}" for name, n in found.items())
    write(f"labels: {path} ({said})")
