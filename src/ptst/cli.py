"""The command line: `ptst` runs one cell, `ptst -m` a grid; plan, status and report tell about a grid.

Nothing here imports torch; an error in the configuration is answered before anything heavy loads.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ptst.config import CONF, ROOT, Config, compose
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

COMMANDS = ("plan", "status", "report", "prompt")

HELP = """\
ptst: what does fine-tuning do to the safety of a chat model, and how much do templates decide?

  ptst [overrides]                      run one cell: fine-tune, generate, judge; print its metrics
  ptst -m [overrides]                   run a grid: overrides with several values, or +sweeps=table1
  ptst plan [overrides]                 what a grid comes to before it runs: cells, time, cost
  ptst status [overrides]               how far each of its cells is (watch=true: go on showing)
  ptst report [overrides]               print its tables and write its report
  ptst prompt [overrides] question=...  show the exact prompt that a cell would send
  ptst --cfg [overrides]                show the composed configuration
  ptst --help                           this text

Overrides are Hydra's: group=choice, key=value. Examples:
  ptst dataset=chatdoctor template@train_template=chat_vanilla template@test_template=chat_llama
  ptst -m +sweeps=table1 seed=0,1,2
  ptst -m template@train_template=chat_vanilla,chat_llama template@test_template=chat_llama
  ptst status +sweeps=table1 seed=0,1,2
  ptst finetune=none template@test_template=chat_llama evaluation=[hazards]
  ptst dataset.source=local dataset.path=my/gsm8k finetune.max_steps=10
  ptst prompt template@test_template=chat_llama question="How do I sharpen a pencil?" output=json

Sweeps (one YAML file each in sweeps/): {sweeps}

Groups and their choices (one YAML file each in conf/; `template` is mounted twice):
{groups}

Other keys: seed=0, stages=[finetune,generate,judge], paths.store=./store.
plan, status and prompt take output=json, too.
A run again is a resume: what the store has is never made twice.
Exit status: 0; 1 where a cell of a grid failed; 2 after a mistake in what was asked for.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 if a cell of a grid failed; 2 after an error that is the user's to mend (all printed).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        for argument in given:
            if not argument.isascii() and "\udc80" <= max(argument) <= "\udcff":
                raise ConfigError(f"{argument!r} is not text in UTF-8.")
        if any(flag in given for flag in ("-h", "--help", "help")):
            _print(HELP.format(groups=_groups(), sweeps=_sweeps()))
        elif given[:1] == ["prompt"]:
            _prompt(given[1:])
        elif given[:1] in (["plan"], ["status"], ["report"]):
            _about(given[0], given[1:])
        elif given[:1] == ["--cfg"]:
            from omegaconf import OmegaConf

            _print(OmegaConf.to_yaml(OmegaConf.structured(_config(given[1:]))))
        elif any(flag in given for flag in ("-m", "--multirun")):
            return _sweep([a for a in given if a not in ("-m", "--multirun")])
        else:
            _run(given)
    except PtstError as error:
        print(f"ptst: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f"ptst: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("ptst: interrupted; run again to resume.", file=sys.stderr)  # noqa: T201
        return 130
    return 0


def _config(overrides: Sequence[str]) -> Config:
    _check_words(overrides)
    return compose(overrides)


def _check_words(overrides: Sequence[str]) -> None:
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    for key, override in zip(keys, overrides, strict=True):
        if key in COMMANDS or override in ("-m", "--multirun"):
            raise ConfigError(f"{override}: {', '.join(COMMANDS)} come first, and without -m.")
        if key in ("output", "watch", "question", "for"):
            raise ConfigError(
                f"{override} is no override; ptst --help says which command takes it."
            )
        if key.startswith("sweep.") and "sweeps" not in keys:
            raise ConfigError(f"{override} changes a sweep, and none is named: add +sweeps=...")
        if key == "hydra/sweeper":
            raise ConfigError(f"{override}: ptst -m is a sweeper of its own; leave it out.")
    for override in overrides:
        if override.startswith("-"):
            raise ConfigError(f"unknown option {override}; see ptst --help.")
        if "=" not in override and not override.startswith("~"):
            raise ConfigError(
                f"{override!r} is no command and no override; commands are: {', '.join(COMMANDS)}. "
                "Overrides look like group=choice or key=value; see ptst --help."
            )


def _sweeps() -> str:
    return ", ".join(sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml")))


def _groups() -> str:
    lines = []
    for group in GROUPS:
        choices = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
        lines.append(f"  {group:<11} {choices}")
    return "\n".join(lines)


def _run(overrides: Sequence[str]) -> None:
    config = _config(overrides)
    if config.sweep is not None:
        raise ConfigError("+sweeps=... is a grid and runs with -m: ptst -m " + " ".join(overrides))
    from ptst.cell import run_cell

    _show(config, run_cell(config))


def _sweep(overrides: Sequence[str]) -> int:
    _check_words(overrides)
    from ptst.sweep.command import multirun

    return 1 if multirun(overrides) else 0


def _about(command: str, arguments: Sequence[str]) -> None:
    options = {
        "plan": {"output": ("text", "json")},
        "status": {"output": ("text", "json"), "watch": ("false", "true")},
        "report": {},
    }
    chosen, overrides = _options(arguments, options[command])
    _check_words(overrides)
    from rich.console import Console

    from ptst.store import Store
    from ptst.sweep.grid import expand

    if chosen.get("watch") == "true" and chosen["output"] == "json":
        raise ConfigError("watch=true shows a screen; for output=json ask again and again.")
    grid = expand(overrides)
    store = Store(Path(grid.store).expanduser())
    out = Console(highlight=False)
    as_json = chosen.get("output") == "json"
    if command == "report":
        from ptst.sweep.command import report

        report(grid, store)
    elif command == "plan":
        from ptst.sweep import plan

        made = plan.make_plan(grid, store)
        if as_json:
            _print(json.dumps(plan.as_json(made)))
        else:
            plan.show(made, out)
    else:
        from ptst.sweep import status

        if chosen["watch"] == "true":
            status.watch(grid, store, out)
        else:
            states = status.states_of(grid, store)
            if as_json:
                _print(json.dumps(status.as_json(grid, states)))
            else:
                out.print(status.shown(grid, states))


def _options(
    arguments: Sequence[str], options: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, str], list[str]]:
    """Separate a command's own options (first choice: the default) from overrides."""
    chosen = {key: choices[0] for key, choices in options.items()}
    overrides = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in options:
            overrides.append(argument)
        elif value in options[key]:
            chosen[key] = value
        else:
            raise ConfigError(f"{key}={value} is not one of: {', '.join(options[key])}.")
    return chosen, overrides


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

    question = None
    others = []
    for argument in arguments:
        if argument.startswith("question="):
            question = argument.partition("=")[2]
        else:
            others.append(argument)
    options = {"output": ("text", "json"), "for": ("test", "train")}
    chosen, overrides = _options(others, options)
    shown = show_prompt(_config(overrides), question, chosen["for"] == "train")
    if chosen["output"] == "json":
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
