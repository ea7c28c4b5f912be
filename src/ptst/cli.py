"""The command line: `ptst` runs one cell; `ptst prompt` shows what it would send.

Nothing here imports torch; an error in the configuration is answered before anything heavy loads.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ptst.config import CONF, Config, compose
from ptst.errors import ConfigError, PtstError

if TYPE_CHECKING:
    from ptst.cell import CellResult

GROUPS = (
    "model",
    "dataset",
    "template",
    "finetune",
    "evaluation",
    "judge",
    "engine",
    "tracking",
    "scale",
)

HELP = """\
ptst: what does fine-tuning do to the safety of a chat model, and how much do templates decide?

  ptst [overrides]                      run one cell: fine-tune, generate, judge; print its metrics
  ptst prompt [overrides] question=...  show the exact prompt that a cell would send
  ptst --cfg [overrides]                show the composed configuration
  ptst --help                           this text

Overrides are Hydra's: group=choice, key=value. Examples:
  ptst dataset=chatdoctor template@train_template=chat_vanilla template@test_template=chat_llama
  ptst finetune=none template@test_template=chat_llama evaluation=[hazards]
  ptst dataset.source=local dataset.path=my/gsm8k finetune.max_steps=10
  ptst prompt template@test_template=chat_llama question="How do I sharpen a pencil?" output=json

Groups and their choices (one YAML file each in conf/; `template` is mounted twice):
{groups}

Other keys: seed=0, stages=[finetune,generate,judge], paths.store=./store.
A run again is a resume: what the store has is never made twice.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0, or 2 after an error that is the user's to mend (already printed).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        for argument in given:
            if not argument.isascii() and "\udc80" <= max(argument) <= "\udcff":
                raise ConfigError(f"{argument!r} is not text in UTF-8.")
        if any(flag in given for flag in ("-h", "--help", "help")):
            _print(HELP.format(groups=_groups()))
        elif given[:1] == ["prompt"]:
            _prompt(given[1:])
        elif given[:1] == ["--cfg"]:
            from omegaconf import OmegaConf

            _print(OmegaConf.to_yaml(OmegaConf.structured(_config(given[1:]))))
        else:
            _run(given)
    except PtstError as error:
        print(f"ptst: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("ptst: interrupted; run again to resume.", file=sys.stderr)  # noqa: T201
        return 130
    return 0


def _config(overrides: Sequence[str]) -> Config:
    for override in overrides:
        if override.startswith("-"):
            raise ConfigError(f"unknown option {override}; see ptst --help.")
        if "=" not in override and not override.startswith("~"):
            raise ConfigError(
                f"{override!r} is no command and no override; commands are: prompt. "
                "Overrides look like group=choice or key=value; see ptst --help."
            )
    return compose(overrides)


def _groups() -> str:
    lines = []
    for group in GROUPS:
        choices = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
        lines.append(f"  {group:<11} {choices}")
    return "\n".join(lines)


def _run(overrides: Sequence[str]) -> None:
    config = _config(overrides)
    from ptst.cell import run_cell

    _show(config, run_cell(config))


def _show(config: Config, result: CellResult) -> None:
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False)
    train = config.train_template.name if result.keys.finetune else "none"
    out.print(
        f"{config.model.name} · {config.dataset.name} · finetune={config.finetune.method} · "
        f"{train} → {config.test_template.name} · seed {config.seed}",
        markup=False,
    )
    if result.metrics is not None:
        table = Table(box=None, pad_edge=False)
        table.add_column("metric", no_wrap=True)
        for column in ("%", "95 % interval", "n", "units", "missing"):
            table.add_column(column, justify="right")
        for name, m in result.metrics.items():
            percent = "missing" if m.percent is None else f"{m.percent:.1f}"
            interval = "" if m.ci_low is None else f"{m.ci_low:.1f} – {m.ci_high:.1f}"
            table.add_row(name, percent, interval, str(m.n), str(m.units), str(m.missing))
        out.print(table)
    stages: dict[str, float] = {}
    for what, seconds in result.made.items():
        stage = what.split()[0]
        stages[stage] = stages.get(stage, 0.0) + seconds
    made = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in stages.items())
    out.print(f"made: {made or 'nothing, all of it was in the store'}")
    where = f"cell {result.keys.cell} in {config.paths.store}"
    out.print(where, soft_wrap=True, markup=False)


def _prompt(arguments: Sequence[str]) -> None:
    from ptst.prompt import show_prompt

    question, as_json, train = None, False, False
    overrides = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "question":
            question = value
        elif key == "output":
            if value not in ("json", "text"):
                raise ConfigError(f"output={value} is not one of: text, json.")
            as_json = value == "json"
        elif key == "for":
            if value not in ("train", "test"):
                raise ConfigError(f"for={value} is not one of: train, test.")
            train = value == "train"
        else:
            overrides.append(argument)
    shown = show_prompt(_config(overrides), question, train)
    if as_json:
        _print(json.dumps(asdict(shown), ensure_ascii=False))
    else:
        _print(shown.text)
        if shown.token_ids is None:
            notice = f"token ids: none, because {shown.why_no_ids}"
        else:
            notice = f"{len(shown.token_ids)} tokens: {' '.join(map(str, shown.token_ids))}"
        print(notice, file=sys.stderr)  # noqa: T201
        print(shown.mask, file=sys.stderr)  # noqa: T201


def _print(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


if __name__ == "__main__":
    sys.exit(main())
