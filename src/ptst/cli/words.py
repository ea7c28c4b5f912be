"""What commands share: their arguments, what these name, and where results are printed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ptst.cli.completion import complete
from ptst.config.compose import compose
from ptst.errors import ConfigError
from ptst.schema import Config

if TYPE_CHECKING:
    from rich.console import Console

    from ptst.store import Store
    from ptst.sweep.grid import Grid

overrides_argument = click.argument(
    "overrides", nargs=-1, type=click.UNPROCESSED, shell_complete=complete
)
output_option = click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What is printed.",
)


def composed(overrides: Sequence[str]) -> Config:
    """The configuration of a cell.

    Raises:
        ConfigError: a word is not an override, or the configuration is wrong.
    """
    check_words(overrides)
    return compose(overrides)


def grid_and_store(overrides: Sequence[str]) -> tuple[Grid, Store]:
    """A grid, and the store that it names.

    Raises:
        ConfigError: a word is not an override, or the grid is wrong.
    """
    check_words(overrides)
    from ptst.store import Store
    from ptst.sweep.grid import expand

    grid = expand(overrides)
    return grid, Store(Path(grid.store).expanduser())


def named_store(words: Sequence[str]) -> tuple[Store, list[str]]:
    """The store that is named, or the configuration's, and the other words."""
    from ptst.store import Store

    named = [word for word in words if word.startswith("paths.")]
    store = Store(Path(compose(named).paths.store).expanduser())
    return store, [word for word in words if word not in named]


def check_words(overrides: Sequence[str]) -> None:
    """Check the words of a command that takes overrides.

    Raises:
        ConfigError: a word is not an override, or belongs somewhere else.
    """
    commands = cast(click.Group, click.get_current_context().find_root().command).commands
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    options = {name.lstrip("-") for c in commands.values() for p in c.params for name in p.opts}
    for key, override in zip(keys, overrides, strict=True):
        if override in commands:
            raise ConfigError(f"{override}: a command comes first, and without -m.")
        if key in options:
            raise ConfigError(
                f"{override} is not an override; ptst --help says which command takes it."
            )
        if key.split(".")[0] == "sweep" and "sweeps" not in keys:
            raise ConfigError(f"{override} changes a sweep, and none is named: add +sweeps=...")
        if key == "hydra/sweeper":
            raise ConfigError(f"{override}: ptst -m is a sweeper of its own; leave it out.")
        if "=" not in override and not override.startswith("~"):
            names = ", ".join(name for name in commands if name != "run")
            raise ConfigError(
                f"{override!r} is neither a command nor an override; commands are: {names}. "
                "Overrides look like group=choice or key=value; see ptst --help."
            )


def console() -> Console:
    """Standard output, for tables and colours."""
    from rich.console import Console

    return Console(highlight=False)


def write(text: str) -> None:
    """Print text as it is."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
