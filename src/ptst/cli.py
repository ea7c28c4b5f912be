"""The command line: `ptst` runs one cell, `ptst -m` a grid; the other commands tell about what there is.

Nothing here imports torch; an error in the configuration is answered before anything heavy loads.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from ptst.config import CONF, ROOT, Config, compose, left_out
from ptst.errors import ConfigError, PtstError

if TYPE_CHECKING:
    from ptst.cell import CellResult
    from ptst.store import Store

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

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which one needs them."""
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
        """Commands, and what may stand without one."""
        first = _complete(ctx, self, incomplete)
        return [*super().shell_complete(ctx, incomplete), *map(CompletionItem, first)]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What can be chosen, as it stands in conf/ now."""
        formatter.write(ABOUT.format(groups=_groups(), sweeps=", ".join(_choices("sweeps", ROOT))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 if a cell of a grid, or an upload, failed, or a model is not right; 2 after an error that is the user's to
        mend (all printed).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        for argument in given:
            if not argument.isascii() and "\udc80" <= max(argument) <= "\udcff":
                raise ConfigError(f"{argument!r} is not text in UTF-8.")
        return app.main(given, prog_name="ptst", standalone_mode=False) or 0
    except click.ClickException as error:
        said = re.sub(r"'--(\w+)'", r"\1=", error.format_message())
        print(f"ptst: {said}", file=sys.stderr)  # noqa: T201
        return 2
    except PtstError as error:
        print(f"ptst: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f"ptst: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except click.Abort:
        print("ptst: interrupted; run again to resume.", file=sys.stderr)  # noqa: T201
        return 130


@click.group(cls=App, context_settings={"max_content_width": 100})
@click.version_option(package_name="ptst", message="ptst %(version)s")
def app() -> None:
    """What does fine-tuning do to the safety of a chat model, and how much do templates decide?

    ptst [OVERRIDES] runs one cell: fine-tune, generate, judge; it prints the cell's metrics.
    ptst -m [OVERRIDES] runs a grid: overrides with several values, or +sweeps=table1.
    """


def _choices(group: str, where: Path = CONF) -> list[str]:
    return sorted(path.stem for path in (where / group).glob("*.yaml"))


def _groups() -> str:
    return "\n".join(f"  {group:<11} {', '.join(_choices(group))}" for group in GROUPS)


def _complete(context: click.Context, parameter: object, incomplete: str) -> list[str]:
    """Overrides that begin like this: a group's name, then its choices."""
    known = {group: _choices(group) for group in GROUPS if group != "template"}
    known |= {f"template@{end}_template": _choices("template") for end in ("train", "test")}
    known |= {"+sweeps": _choices("sweeps", ROOT), "hydra/launcher": ["joblib", "slurm"]}
    # bash takes "=" for a word of its own
    before = os.environ.get("COMP_WORDS", "").split()[: int(os.environ.get("COMP_CWORD", "0"))]
    if incomplete == "=" or before[-1:] == ["="]:
        group = before[-1] if incomplete == "=" else before[-2]
        return [
            choice for choice in known.get(group, []) if choice.startswith(incomplete.lstrip("="))
        ]
    words = [f"{group}={choice}" for group in known for choice in known[group]]
    if "=" not in incomplete:
        words = [f"{group}=" for group in known]
    return [word for word in words if word.startswith(incomplete)]


overrides_argument = click.argument(
    "overrides", nargs=-1, type=click.UNPROCESSED, shell_complete=_complete
)
output_option = click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What is printed.",
)


def _config(overrides: Sequence[str]) -> Config:
    _check_words(overrides)
    return compose(overrides)


def _check_words(overrides: Sequence[str]) -> None:
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    options = {
        name.lstrip("-") for own in app.commands.values() for p in own.params for name in p.opts
    }
    for key, override in zip(keys, overrides, strict=True):
        if override in app.commands:
            raise ConfigError(f"{override}: a command comes first, and without -m.")
        if key in options:
            raise ConfigError(
                f"{override} is no override; ptst --help says which command takes it."
            )
        if key.startswith("sweep.") and "sweeps" not in keys:
            raise ConfigError(f"{override} changes a sweep, and none is named: add +sweeps=...")
        if key == "hydra/sweeper":
            raise ConfigError(f"{override}: ptst -m is a sweeper of its own; leave it out.")
        if "=" not in override and not override.startswith("~"):
            commands = ", ".join(name for name in app.commands if name != "run")
            raise ConfigError(
                f"{override!r} is no command and no override; commands are: {commands}. "
                "Overrides look like group=choice or key=value; see ptst --help."
            )


@app.command(hidden=True)
@overrides_argument
@click.option(
    "-m", "--multirun", is_flag=True, help="Run a grid: each key may have several values."
)
@click.option("--cfg", is_flag=True, help="Show the composed configuration, and run nothing.")
def run(overrides: tuple[str, ...], multirun: bool, cfg: bool) -> int:
    """Run one cell (ptst [OVERRIDES]), or a grid (ptst -m [OVERRIDES])."""
    if cfg:
        from omegaconf import OmegaConf

        words = [word for word in overrides if word != "job"]  # as Hydra spells it: --cfg job
        _print(OmegaConf.to_yaml(OmegaConf.structured(_config(words))))
        return 0
    _check_words(overrides)
    if multirun:
        from ptst.sweep.command import multirun as run_grid

        return 1 if run_grid(overrides) else 0
    config = compose(overrides)
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
    return 0


def _grid(overrides: Sequence[str]) -> tuple[Any, Store]:
    _check_words(overrides)
    from ptst.store import Store
    from ptst.sweep.grid import expand

    grid = expand(overrides)
    return grid, Store(Path(grid.store).expanduser())


def _store(words: Sequence[str]) -> tuple[Store, list[str]]:
    """The store that is named, or the configuration's, and the other words."""
    from ptst.store import Store

    named = [word for word in words if word.startswith("paths.")]
    store = Store(Path(compose(named).paths.store).expanduser())
    return store, [word for word in words if word not in named]


@app.command()
@overrides_argument
@output_option
def plan(overrides: tuple[str, ...], output: str) -> None:
    """What a grid comes to before it runs: cells, time, cost."""
    from ptst.sweep.plan import make_plan
    from ptst.sweep.plan_shown import as_json, show

    grid, store = _grid(overrides)
    made = make_plan(grid, store)
    if output == "json":
        _print(json.dumps(as_json(made)))
    else:
        show(made, _console())


@app.command()
@overrides_argument
@output_option
@click.option("--watch", type=click.BOOL, default=False, help="Go on showing, until Ctrl-C.")
def status(overrides: tuple[str, ...], output: str, watch: bool) -> None:
    """How far each cell of a grid is."""
    if watch and output == "json":
        raise ConfigError("watch=true shows a screen; for output=json ask again and again.")
    from ptst.sweep import live
    from ptst.sweep import status as state

    grid, store = _grid(overrides)
    if watch:
        live.watch(grid, store, _console())
        return
    states = state.states_of(grid, store)
    if output == "json":
        _print(json.dumps(state.as_json(grid, states)))
    else:
        _console().print(state.shown(grid, states))
        _console().print(f"store: {grid.store}", markup=False, soft_wrap=True)


@app.command()
@overrides_argument
def report(overrides: tuple[str, ...]) -> None:
    """Print a grid's tables and write its report."""
    from ptst.sweep.command import report as write

    write(*_grid(overrides))


@app.command()
@click.argument("a")
@click.argument("b")
@overrides_argument
@output_option
def compare(a: str, b: str, overrides: tuple[str, ...], output: str) -> None:
    """Two sweeps, judges or models side by side, tested.

    A and B are the override in which they differ: ptst compare judge=micro judge=keywords +sweeps=quick, or
    ptst compare +sweeps=quick +sweeps=mine. Cells are compared whose other coordinates are the same.
    """
    from ptst.report import compare as comparing

    _check_words([a, b, *overrides])
    lines = comparing.compare(a, b, overrides)
    if output == "json":
        _print(json.dumps(comparing.as_json(lines)))
    else:
        comparing.show(lines, a, b, _console())


@app.command()
@overrides_argument
@output_option
def dashboard(overrides: tuple[str, ...], output: str) -> None:
    """Make or update a grid's workspace and its report in W&B."""
    from ptst.dashboard.definition import as_json, define
    from ptst.report.results import load_results
    from ptst.sweep.status import states_of

    grid, store = _grid(overrides)
    made = define(load_results(grid, store, states_of(grid, store)))
    if output == "json":
        _print(json.dumps(as_json(made), ensure_ascii=False))
        return
    from ptst.dashboard.send import send

    for what, (how, address) in send(made).items():
        _console().print(f"{what} {how}: {address}", markup=False, soft_wrap=True)


@app.command()
@overrides_argument
def cancel(overrides: tuple[str, ...]) -> None:
    """Cancel a grid's jobs on SLURM, and no others."""
    from ptst.slurm.command import cancel as cancel_jobs

    cancel_jobs(*_grid(overrides))


@app.command()
@overrides_argument
@click.option("--judges", help="Which of them: judges=[a,b].")
@click.option("--test", help="Ask that judge's endpoint one harmless question, before a sweep.")
@output_option
def judges(overrides: tuple[str, ...], judges: str | None, test: str | None, output: str) -> int:
    """How far the judges of a grid's completions agree."""
    if test is not None:
        return _try_judge(test, overrides)
    wanted = None
    if judges is not None:
        wanted = [name.strip() for name in judges.strip("[]").split(",")]
        if not all(wanted):
            raise ConfigError(f"judges={judges} names no judges; write judges=[a,b].")
    from ptst.report.agreement import load_agreement
    from ptst.report.judges import as_json, show, write_judges

    grid, store = _grid(overrides)
    agreement = load_agreement(grid, store, wanted)
    page = write_judges(agreement, grid)
    if output == "json":
        _print(json.dumps(as_json(agreement), ensure_ascii=False))
        return 0
    show(agreement, _console())
    _console().print(f"judges: {page}", markup=False, soft_wrap=True)
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


@app.group(cls=click.Group, no_args_is_help=True)
def audit() -> None:
    """A sheet of completions for people to label, and their labels."""


audit.command_class = Command


@audit.command("export")
@overrides_argument
@click.option("--n", type=int, default=100, show_default=True, help="How many completions.")
@click.option(
    "--draw_seed", type=int, default=0, show_default=True, help="Which of them are drawn."
)
@click.option("--file", type=click.Path(path_type=Path), help="Where the sheet goes.")
def audit_export(overrides: tuple[str, ...], n: int, draw_seed: int, file: Path | None) -> None:
    """Write the sheet."""
    from ptst import audit

    path = file.expanduser() if file else None
    _print(
        f"sheet: {audit.export(*_grid(overrides), n, draw_seed, path)}\n"
        f"Fill the column label with {', '.join(audit.LABELS)}, or leave it empty."
    )


@audit.command("import")
@click.argument("sheet", type=click.Path(path_type=Path))
@overrides_argument
@click.option("--annotator", required=True, help="Whose labels they are.")
def audit_import(sheet: Path, overrides: tuple[str, ...], annotator: str) -> None:
    """Take a sheet's labels; ptst judges shows them from then on."""
    if "=" in str(sheet):
        raise ConfigError("name the sheet: ptst audit import FILE +sweeps=... annotator=...")
    from ptst import audit

    done = audit.import_labels(*_grid(overrides), sheet.expanduser(), annotator)
    _print(
        f"{done.labelled} labels of {annotator} kept, {done.blank} rows without one, "
        f"{done.changed} labels changed"
    )


@app.command()
@click.argument("filters", nargs=-1, type=click.UNPROCESSED)
@output_option
def ls(filters: tuple[str, ...], output: str) -> None:
    """What a store has: fine-tunings and cells.

    FILTERS choose among them, as in ptst ls dataset=gsm8k train_template=chat_*; any setting will do
    (finetune.epochs=1). paths.store=... names another store.
    """
    from ptst.inventory.artifacts import load_artifacts, matching
    from ptst.inventory.show import as_json, show_list

    store, words = _store(filters)
    found = matching(load_artifacts(store), words)
    if output == "json":
        _print(json.dumps([as_json(one) for one in found]))
    else:
        show_list(found, store, _console())


@app.command()
@click.argument("key")
@click.argument("filters", nargs=-1, type=click.UNPROCESSED)
@click.option("--label", help="Only rows with this label (complied, refused, ...; missing).")
@click.option(
    "--n", type=int, default=10, show_default=True, help="At most so many rows of each evaluation."
)
def show(key: str, filters: tuple[str, ...], label: str | None, n: int) -> None:
    """A cell's metrics and rows, a fine-tuning's losses, a log.

    KEY is the beginning of a key, as ptst ls prints it.
    """
    from ptst.inventory.show import show_one

    store, words = _store(filters)
    show_one(store, key, words, label, n, _console())


@app.command()
@click.argument("what")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--yes", type=click.BOOL, default=False, help="Remove it; without, only say what would go."
)
def rm(what: str, words: tuple[str, ...], yes: bool) -> None:
    """Remove artifacts: KEY, failed, unused or damaged. Says what would go; yes=true removes it.

    failed: what failed attempts left. unused: what no cell needs or waits for. damaged: what cannot be read.
    """
    from ptst.inventory.remove import remove

    store, others = _store(words)
    if others:
        raise ConfigError(f"{others[0]}: ptst rm takes one KEY, or failed, unused or damaged.")
    remove(store, what, yes, _console())


@app.command()
@click.argument("filters", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--what",
    type=click.Choice(["cells", "rows"]),
    default="cells",
    show_default=True,
    help="A line for each metric of each cell, or for each answer.",
)
@click.option(
    "--file", type=click.Path(path_type=Path), required=True, help="A .csv or .parquet file."
)
def export(filters: tuple[str, ...], what: str, file: Path) -> None:
    """Write a store's results as a table, CSV or Parquet.

    It is the frame of ptst.results() in Python, or of ptst.rows().
    """
    from ptst.inventory.frames import export as write_frame

    store, words = _store(filters)
    lines = write_frame(store, words, what, file.expanduser())
    _print(f"{lines:,} lines: {file}")


@app.command()
@overrides_argument
@click.option(
    "--question", help="What is asked; without, a chat: one line a turn, until an empty line."
)
def ask(overrides: tuple[str, ...], question: str | None) -> None:
    """Ask a cell's model, beside the untouched one.

    The question is spelled under the test template; the answer is greedy.
    """
    config = _config(overrides)
    from ptst.ask import ask as put
    from ptst.ask import chat

    if question is None:
        chat(config, _console())
    else:
        put(config, question, _console())


@app.command()
@overrides_argument
@click.option("--question", help="What is asked; without, the first row.")
@click.option(
    "--for", "what", default="test", show_default=True, help="test, train, or an evaluation."
)
@output_option
def prompt(overrides: tuple[str, ...], question: str | None, what: str, output: str) -> None:
    """The exact prompt that a cell would send."""
    from ptst.prompt import show_prompt

    shown = show_prompt(_config(overrides), question, what)
    if output == "json":
        _print(json.dumps(asdict(shown), ensure_ascii=False))
        return
    _print(shown.text)
    if shown.token_ids is None:
        notice = f"token ids: none, because {shown.why_no_ids}"
    else:
        notice = f"{len(shown.token_ids)} tokens: {' '.join(map(str, shown.token_ids))}"
    print(notice, file=sys.stderr)  # noqa: T201
    print(shown.mask, file=sys.stderr)  # noqa: T201


@app.command("check-model")
@overrides_argument
@output_option
def check_model(overrides: tuple[str, ...], output: str) -> int:
    """Whether a model's chat format is spelled rightly."""
    config = _config(overrides)
    if config.model.api is not None:
        raise ConfigError(
            f"model {config.model.name} is behind an API, which spells its conversations itself."
        )
    from ptst import model_check
    from ptst.quiet import quiet

    quiet()
    shown = [
        compose([*overrides, f"template@test_template={name}"]).test_template
        for name in _choices("template")
    ]
    check = model_check.check_model(config, shown)
    if output == "json":
        _print(json.dumps(model_check.as_json(check), ensure_ascii=False))
    else:
        _console().print(model_check.shown(check))
    return 1 if check.wrong else 0


def _one_finetuning(overrides: Sequence[str]) -> tuple[Config, Store]:
    from ptst.store import Store

    config = _config(overrides)
    if config.sweep is not None:
        raise ConfigError(
            "+sweeps=... is a grid; a card is of one fine-tuning: name its own values."
        )
    return config, Store(Path(config.paths.store).expanduser())


@app.command()
@overrides_argument
def card(overrides: tuple[str, ...]) -> None:
    """The model card of a cell's fine-tuning."""
    config, store = _one_finetuning(overrides)
    from ptst.report.card import model_card, weights_of

    _print(model_card(config, store))
    print(f"its weights: {weights_of(config, store)}", file=sys.stderr)  # noqa: T201


@app.command()
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

    _print(f"uploaded: {upload(config, store, repo, private)}")


@app.command()
@overrides_argument
def sync(overrides: tuple[str, ...]) -> int:
    """Upload W&B runs: the store's, or those of a grid."""
    _check_words(overrides)
    from ptst.sync import command

    return command(overrides)


def _show(config: Config, result: CellResult) -> None:
    from rich.table import Table

    from ptst.metrics import scale_in_words, shown
    from ptst.stages.length_limit import cut_off_warnings

    out = _console()
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


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


def _print(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


if __name__ == "__main__":
    sys.exit(main())
