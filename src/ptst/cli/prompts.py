"""What a model reads and answers: `ptst ask`, `prompt`, `check-model`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from ptst.cli.completion import choices
from ptst.cli.group import Command
from ptst.cli.words import composed, console, output_option, overrides_argument, write
from ptst.config.compose import compose
from ptst.errors import ConfigError


@click.command(cls=Command)
@overrides_argument
@click.option(
    "--question", help="What is asked; without, a chat: one line a turn, until an empty line."
)
def ask(overrides: tuple[str, ...], question: str | None) -> None:
    """Ask a cell's model, beside the untouched one.

    The question is spelled under the test template; the answer is greedy.
    """
    config = composed(overrides)
    from ptst.ask import ask as ask_once
    from ptst.ask import chat

    if question is None:
        chat(config, console())
    else:
        ask_once(config, question, console())


@click.command(cls=Command)
@overrides_argument
@click.option("--question", help="What is asked; without, the first row.")
@click.option(
    "--for", "what", default="test", show_default=True, help="test, train, or an evaluation."
)
@output_option
def prompt(overrides: tuple[str, ...], question: str | None, what: str, output: str) -> None:
    """The exact prompt that a cell would send."""
    from ptst.prompt import show_prompt

    shown = show_prompt(composed(overrides), question, what)
    if output == "json":
        write(json.dumps(asdict(shown), ensure_ascii=False))
        return
    write(shown.text)
    if shown.token_ids is None:
        notice = f"token ids: none, because {shown.why_no_ids}"
    else:
        notice = f"{len(shown.token_ids)} tokens: {' '.join(map(str, shown.token_ids))}"
    print(notice, file=sys.stderr)
    print(shown.mask, file=sys.stderr)


@click.command("check-model", cls=Command)
@overrides_argument
@output_option
def check_model(overrides: tuple[str, ...], output: str) -> int:
    """Whether a model's chat format is spelled rightly."""
    config = composed(overrides)
    if config.model.api is not None:
        raise ConfigError(
            f"model {config.model.name} is behind an API, which spells its conversations itself."
        )
    from ptst import model_check
    from ptst.quiet import quiet

    quiet()
    shown = [
        compose([*overrides, f"template@test_template={name}"]).test_template
        for name in choices("template")
    ]
    check = model_check.check_model(config, shown)
    if output == "json":
        write(json.dumps(model_check.as_json(check), ensure_ascii=False))
    else:
        console().print(model_check.shown(check))
    return 1 if check.wrong else 0
