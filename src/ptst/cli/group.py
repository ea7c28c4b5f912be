"""How the command line reads its words: a command, or overrides; options spelled as overrides."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from ptst.cli.completion import GROUPS, choices, complete
from ptst.errors import ConfigError
from ptst.paths import ROOT

ABOUT = """
Overrides are Hydra's: group=choice, key=value; a command's own options may be spelled like them (output=json). Examples:
  ptst dataset=chatdoctor template@train_template=chat_vanilla template@test_template=chat_llama
  ptst -m +sweeps=table1 seed=0,1,2
  ptst -m +sweeps=table1 hydra/launcher=slurm
  ptst -m template@train_template=chat_vanilla,chat_llama template@test_template=chat_llama
  ptst status +sweeps=table1 seed=0,1,2
  ptst finetune=none template@test_template=chat_llama evaluation=[hazards]
  ptst dataset.source=local dataset.path=my/gsm8k finetune.max_steps=10
  ptst prompt template@test_template=chat_llama question="How do I sharpen a pencil?"
  ptst ls train_template=chat_vanilla
  ptst show 3f2a label=complied n=10

Sweeps (one YAML file each in sweeps/): {sweeps}

Groups and their choices (one YAML file each in conf/; `template` is mounted twice):
{groups}

Other keys: seed=0, stages=[finetune,generate,judge], paths.store=./store.
A run again is a resume: what the store has is never made twice.
Exit status: 0; 1 where a cell of a grid, or an upload, failed, or a model is not right; 2 after a mistake in
what was asked for.
Completion: eval "$(_PTST_COMPLETE=bash_source ptst)" in bash, zsh_source in zsh.
"""


class Command(click.Command):
    """A command whose options may be spelled as overrides are: output=json is --output=json."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments."""
        own = {
            name.lstrip("-") for p in self.params for name in p.opts if isinstance(p, click.Option)
        }
        words = [
            f"--{word}" if word.partition("=")[0] in own and "=" in word else word for word in args
        ]
        try:
            return super().parse_args(ctx, words)
        except click.NoSuchOption as error:
            said = f"unknown option {error.option_name}; see {ctx.command_path} --help."
            if error.option_name in ("-m", "--multirun"):
                said = f"{ctx.info_name}: a command comes first, and without -m."
            raise ConfigError(said) from error


class App(click.Group):
    """Without a command's name it runs a cell or, with -m, a grid."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which they were added."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments up to a command's own."""
        first = args[:1] or [""]
        if ctx.resilient_parsing and not args:  # a first word is being completed
            return super().parse_args(ctx, args)
        if first[0] in ("help", "-h"):
            args = ["--help"]
        elif first[0] not in (*self.commands, "--help", "--version"):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, and overrides, which may stand without a command."""
        first = complete(ctx, self, incomplete)
        return [*super().shell_complete(ctx, incomplete), *map(CompletionItem, first)]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What can be chosen, as it stands in conf/ now."""
        groups = "\n".join(f"  {group:<11} {', '.join(choices(group))}" for group in GROUPS)
        formatter.write(ABOUT.format(groups=groups, sweeps=", ".join(choices("sweeps", ROOT))))
