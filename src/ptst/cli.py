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

from ptst.config import CONF, ROOT, Config, compose, left_out
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

COMMANDS = (
    "plan",
    "status",
    "report",
    "dashboard",
    "cancel",
    "judges",
    "audit",
    "card",
    "sync",
    "prompt",
    "check-model",
)

HELP = """\
ptst: what does fine-tuning do to the safety of a chat model, and how much do templates decide?

  ptst [overrides]                      run one cell: fine-tune, generate, judge; print its metrics
  ptst -m [overrides]                   run a grid: overrides with several values, or +sweeps=table1
  ptst plan [overrides]                 what a grid comes to before it runs: cells, time, cost
  ptst status [overrides]               how far each of its cells is (watch=true: go on showing)
  ptst report [overrides]               print its tables and write its report
  ptst dashboard [overrides]            make or update its workspace and its report in W&B
  ptst judges [overrides]               how far judges of its completions agree: judges=[a,b] chooses them
  ptst judges test=rubric [overrides]   ask that judge's endpoint one harmless question, before a sweep
  ptst audit export [overrides]         a sheet of them for people to label: n=100 draw_seed=0 file=...
  ptst audit import FILE [overrides]    take the labels of annotator=..., which ptst judges then shows
  ptst card [overrides]                 the model card of its fine-tuning, with what was measured of it
  ptst cancel [overrides]               cancel its jobs that wait or run on SLURM, and no others
  ptst sync [overrides]                 upload W&B runs: all of the store, or with overrides a grid's
  ptst prompt [overrides] question=...  show the exact prompt that a cell would send
  ptst check-model [overrides]          what its model's chat format says, and whether it is spelled rightly
  ptst --cfg [overrides]                show the composed configuration
  ptst --help                           this text

Overrides are Hydra's: group=choice, key=value. Examples:
  ptst dataset=chatdoctor template@train_template=chat_vanilla template@test_template=chat_llama
  ptst -m +sweeps=table1 seed=0,1,2
  ptst -m +sweeps=table1 hydra/launcher=slurm
  ptst -m template@train_template=chat_vanilla,chat_llama template@test_template=chat_llama
  ptst status +sweeps=table1 seed=0,1,2
  ptst finetune=none template@test_template=chat_llama evaluation=[hazards]
  ptst dataset.source=local dataset.path=my/gsm8k finetune.max_steps=10
  ptst prompt template@test_template=chat_llama question="How do I sharpen a pencil?" output=json
  ptst prompt scale=paper dataset=openorca for=arc_easy question="Why do stars shine?"

Sweeps (one YAML file each in sweeps/): {sweeps}

Groups and their choices (one YAML file each in conf/; `template` is mounted twice):
{groups}

Other keys: seed=0, stages=[finetune,generate,judge], paths.store=./store.
plan, status, dashboard, judges, prompt and check-model take output=json, too.
A run again is a resume: what the store has is never made twice.
Exit status: 0; 1 where a cell of a grid, or an upload, failed, or a model is not right; 2 after a mistake in what was asked for.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 if a cell of a grid, or an upload, failed, or a model is not right; 2 after an error that is the user's to mend
        (all printed).
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
        elif given[:1] in (["plan"], ["status"], ["report"], ["dashboard"], ["cancel"]):
            _about(given[0], given[1:])
        elif given[:1] == ["judges"]:
            return _judges(given[1:])
        elif given[:1] == ["audit"]:
            _audit(given[1:])
        elif given[:1] == ["sync"]:
            return _sync(given[1:])
        elif given[:1] == ["card"]:
            _card(given[1:])
        elif given[:1] == ["check-model"]:
            return _check_model(given[1:])
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
        if key in (
            "output",
            "watch",
            "question",
            "for",
            "judges",
            "test",
            "annotator",
            "draw_seed",
        ):
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
    if launcher := [word for word in overrides if word.startswith("hydra/launcher=")]:
        raise ConfigError(
            f"{launcher[0]} is for grids, also of one cell: ptst -m {' '.join(overrides)}"
        )
    from ptst.cell import run_cell
    from ptst.progress import say

    for line in left_out([config]):
        say(line)
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
        "dashboard": {"output": ("text", "json")},
        "cancel": {},
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
    if command == "cancel":
        from ptst.slurm.command import cancel

        cancel(grid, store)
    elif command == "report":
        from ptst.sweep.command import report

        report(grid, store)
    elif command == "dashboard":
        from ptst.dashboard.definition import as_json as defined
        from ptst.dashboard.definition import define
        from ptst.report.results import load_results
        from ptst.sweep.status import states_of

        dashboard = define(load_results(grid, store, states_of(grid, store)))
        if as_json:
            _print(json.dumps(defined(dashboard), ensure_ascii=False))
            return
        from ptst.dashboard.send import send

        for what, (how, address) in send(dashboard).items():
            out.print(f"{what} {how}: {address}", markup=False, soft_wrap=True)
    elif command == "plan":
        from ptst.sweep import plan

        made = plan.make_plan(grid, store)
        if as_json:
            _print(json.dumps(plan.as_json(made)))
        else:
            plan.show(made, out)
    else:
        from ptst.sweep import live, status

        if chosen["watch"] == "true":
            live.watch(grid, store, out)
        else:
            states = status.states_of(grid, store)
            if as_json:
                _print(json.dumps(status.as_json(grid, states)))
            else:
                out.print(status.shown(grid, states))


def _judges(arguments: Sequence[str]) -> int:
    named, others = _own(arguments, ("judges", "test"))
    if "test" in named:
        return _try_judge(named["test"], others)
    chosen, overrides = _options(others, {"output": ("text", "json")})
    _check_words(overrides)
    wanted = None
    if "judges" in named:
        wanted = [name.strip() for name in named["judges"].strip("[]").split(",")]
        if not all(wanted):
            raise ConfigError(f"judges={named['judges']} names no judges; write judges=[a,b].")
    from rich.console import Console

    from ptst.report.agreement import load_agreement
    from ptst.report.judges import as_json, show, write_judges
    from ptst.store import Store
    from ptst.sweep.grid import expand

    grid = expand(overrides)
    agreement = load_agreement(grid, Store(Path(grid.store).expanduser()), wanted)
    page = write_judges(agreement, grid)
    if chosen["output"] == "json":
        _print(json.dumps(as_json(agreement), ensure_ascii=False))
        return 0
    out = Console(highlight=False)
    show(agreement, out)
    out.print(f"judges: {page}", markup=False, soft_wrap=True)
    return 0


def _try_judge(name: str, overrides: Sequence[str]) -> int:
    """Ask the judge's endpoint one harmless question; `name` is a choice of judge=, or true for the composed one."""
    config = _config([*overrides, *([] if name == "true" else [f"judge={name}"])])
    from ptst.judge import load_judge
    from ptst.judge.rubric import Rubric

    judge = load_judge(config.judge, "judge")
    if not isinstance(judge, Rubric):
        raise ConfigError(f"the judge, {type(judge).__name__}, asks no endpoint to test.")
    trial = judge.try_out()
    answer, score = trial.answer, trial.score
    lines = [f"{judge.model} at {judge.base_url}, asked to rate a harmless answer:", ""]
    lines += [answer.text or f"no answer: {answer.refused or answer.finish_reason}", ""]
    label = "complied" if score == 5 else f"score_{score}"
    lines.append(
        f"score: {score} ({label}); 1 is right" if score else "score: none that can be read"
    )
    tokens = "tokens not told"
    if answer.input_tokens is not None and answer.output_tokens is not None:
        tokens = f"{answer.input_tokens:,} tokens read, {answer.output_tokens:,} written"
    lines.append(f"{trial.seconds:.1f} s, {tokens}")
    _print("\n".join(lines))
    return 0 if score else 1


def _audit(arguments: Sequence[str]) -> None:
    what = arguments[0] if arguments else ""
    if what not in ("export", "import"):
        raise ConfigError("ptst audit export [overrides], or ptst audit import FILE [overrides].")
    sheet = ""
    rest = list(arguments[1:])
    if what == "import":
        if not rest or "=" in rest[0]:
            raise ConfigError("name the sheet: ptst audit import FILE +sweeps=... annotator=...")
        sheet = rest.pop(0)
    options = ("n", "draw_seed", "file") if what == "export" else ("annotator",)
    named, overrides = _own(rest, options)
    _check_words(overrides)
    if what == "import" and "annotator" not in named:
        raise ConfigError("say whose labels they are: annotator=...")
    from ptst import audit
    from ptst.store import Store
    from ptst.sweep.grid import expand

    grid = expand(overrides)
    store = Store(Path(grid.store).expanduser())
    if what == "export":
        n, seed = _whole(named, "n", 100), _whole(named, "draw_seed", 0)
        file = Path(named["file"]).expanduser() if "file" in named else None
        _print(
            f"sheet: {audit.export(grid, store, n, seed, file)}\n"
            f"Fill the column label with {', '.join(audit.LABELS)}, or leave it empty."
        )
        return
    done = audit.import_labels(grid, store, Path(sheet).expanduser(), named["annotator"])
    _print(
        f"{done.labelled} labels of {named['annotator']} kept, {done.blank} rows without one, "
        f"{done.changed} labels changed"
    )


def _sync(overrides: Sequence[str]) -> int:
    from ptst.tracking import check_key, server

    check_key("ptst sync", "do without: all that it uploads is in the store")
    _check_words(overrides)
    from ptst.store import Store
    from ptst.sweep.grid import expand
    from ptst.sync import sync

    wanted = None
    if all(override.startswith("paths.") for override in overrides):
        root = compose(overrides).paths.store
    else:
        grid = expand(overrides)
        root = grid.store
        wanted = {f"cell-{cell.keys.cell}" for cell in grid.cells}
        wanted |= {f"finetune-{c.keys.finetune}" for c in grid.cells if c.keys.finetune}
    done = sync(Store(Path(root).expanduser()), wanted)
    for run in done.uploaded:
        _print(f"uploaded: {run.id} ({run.name})")
    for id, reason in done.failed.items():
        print(f"not uploaded: {id}: {reason}", file=sys.stderr)  # noqa: T201
    _print(
        f"W&B runs: {len(done.uploaded)} uploaded to {server()}, {done.there} there already, "
        f"{done.unfinished} not finished, {len(done.failed)} failed"
    )
    return 1 if done.failed else 0


def _card(overrides: Sequence[str]) -> None:
    config = _config(overrides)
    if config.sweep is not None:
        raise ConfigError(
            "+sweeps=... is a grid; a card is of one fine-tuning: name its own values."
        )
    from ptst.report.card import model_card, weights_of
    from ptst.store import Store

    store = Store(Path(config.paths.store).expanduser())
    card = model_card(config, store)
    _print(card)
    print(f"its weights: {weights_of(config, store)}", file=sys.stderr)  # noqa: T201


def _check_model(arguments: Sequence[str]) -> int:
    chosen, overrides = _options(arguments, {"output": ("text", "json")})
    config = _config(overrides)
    if config.model.api is not None:
        raise ConfigError(
            f"model {config.model.name} is behind an API, which spells its conversations itself."
        )
    from rich.console import Console

    from ptst import model_check
    from ptst.cell import quiet

    quiet()
    names = sorted(path.stem for path in (CONF / "template").glob("*.yaml"))
    shown = [
        compose([*overrides, f"template@test_template={name}"]).test_template for name in names
    ]
    check = model_check.check_model(config, shown)
    if chosen["output"] == "json":
        _print(json.dumps(model_check.as_json(check), ensure_ascii=False))
    else:
        Console(highlight=False).print(model_check.shown(check))
    return 1 if check.wrong else 0


def _whole(named: Mapping[str, str], option: str, default: int) -> int:
    try:
        return int(named.get(option, default))
    except ValueError as error:
        raise ConfigError(f"{option}={named[option]} is no whole number.") from error


def _own(arguments: Sequence[str], options: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Separate a command's own options of any value from the other arguments."""
    named = {
        key: value
        for key, _, value in (argument.partition("=") for argument in arguments)
        if key in options
    }
    return named, [word for word in arguments if word.partition("=")[0] not in options]


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

    from ptst.cell import cut_off_warnings
    from ptst.metrics import scale_in_words, shown

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
        for column in ("", "95 % interval", "n", "units", "missing", "cut off"):
            table.add_column(column, justify="right")
        table.add_column("")
        for name, m in result.metrics.items():
            value = "missing" if m.value is None else shown(m.value, m.scale)
            interval = ""
            if m.ci_low is not None and m.ci_high is not None:
                interval = f"{shown(m.ci_low, m.scale)} – {shown(m.ci_high, m.scale)}"
            spread = (
                "" if m.std is None else f", ± {shown(m.std, m.scale)} over {m.samples} samples"
            )
            cut_off = "unknown" if m.unfinished is None else str(m.unfinished)
            counts = (str(m.n), str(m.units), str(m.missing), cut_off)
            table.add_row(name, value, interval, *counts, scale_in_words(m.scale) + spread)
        out.print(table)
        for line in cut_off_warnings(config, result.metrics):
            out.print(line, markup=False, style="yellow", soft_wrap=True)
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

    own: dict[str, str] = {}
    others = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in ("question", "for"):
            own[key] = value
        else:
            others.append(argument)
    chosen, overrides = _options(others, {"output": ("text", "json")})
    shown = show_prompt(_config(overrides), own.get("question"), own.get("for", "test"))
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
