"""A fine-tuning for others: `ptst card` prints its model card, `ptst push` uploads it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptst.cli.group import Command
from ptst.cli.words import composed, overrides_argument, write
from ptst.errors import ConfigError
from ptst.schema import Config

if TYPE_CHECKING:
    from ptst.store import Store


@click.command(cls=Command)
@overrides_argument
def card(overrides: tuple[str, ...]) -> None:
    """The model card of a cell's fine-tuning."""
    config, store = _one_finetuning(overrides)
    from ptst.report.card import model_card, weights_of

    write(model_card(config, store))
    print(f"its weights: {weights_of(config, store)}", file=sys.stderr)


@click.command(cls=Command)
@overrides_argument
@click.option(
    "--repo", required=True, help="The repository on the Hugging Face hub: my-team/my-model."
)
@click.option(
    "--private",
    type=click.BOOL,
    default=True,
    show_default=True,
    help="Who may see it, if it is made now.",
)
def push(overrides: tuple[str, ...], repo: str, private: bool) -> None:
    """Upload a fine-tuning and its card to the Hugging Face hub."""
    config, store = _one_finetuning(overrides)
    from ptst.push import push as upload

    write(f"uploaded: {upload(config, store, repo, private)}")


def _one_finetuning(overrides: Sequence[str]) -> tuple[Config, Store]:
    from ptst.store import Store

    config = composed(overrides)
    if config.sweep is not None:
        raise ConfigError(
            "+sweeps=... is a grid; a card is of one fine-tuning: name its own values."
        )
    return config, Store(Path(config.paths.store).expanduser())
