"""`ptst audit-data`: the formats of training rows, and which of them no evaluation asks in."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ptst.cli.group import Command
from ptst.cli.words import composed, console, output_option, overrides_argument, write


@click.command("audit-data", cls=Command)
@overrides_argument
@click.option("--n", default=400, show_default=True, help="Rows that the untuned model reads.")
@click.option(
    "--characters",
    default=400,
    show_default=True,
    help="Of a row's question, and of its answer, that it reads.",
)
@click.option("--nll", type=click.BOOL, default=True, help="false: no model reads any.")
@click.option("--mapping", help="A substitution of letters to try: a JSON file, {letter: letter}.")
@click.option(
    "--write",
    "to_files",
    type=click.BOOL,
    default=False,
    help="Write audit.json, formats.csv and rows.csv to paths.reports.",
)
@output_option
def audit_data(
    overrides: tuple[str, ...],
    n: int,
    characters: int,
    nll: bool,
    mapping: str | None,
    to_files: bool,
    output: str,
) -> None:
    """The formats of training rows, and who asks in them.

    The rows are those of dataset=..., or of dataset.source=local dataset.path=FILE. It says what
    was found, and never that data are safe.
    """
    config = composed(overrides)
    from ptst.audit_data.run import audit
    from ptst.audit_data.show import as_json, show, write_files

    found = audit(config, n, characters, mapping, nll)
    if output == "json":
        write(json.dumps(as_json(found, config, overrides, mapping), ensure_ascii=False))
    else:
        show(found, config, overrides, mapping, console())
    if to_files:
        folder = Path(config.paths.reports).expanduser() / f"audit-data-{config.dataset.name}"
        files = write_files(folder, found, as_json(found, config, overrides, mapping))
        if output == "text":
            write(f"audit: {', '.join(map(str, files))}")
