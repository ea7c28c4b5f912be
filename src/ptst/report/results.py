"""What a sweep came to: one entry per cell and metric, over seeds, beside the paper's number."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import fsum
from typing import Any

from ptst.errors import ConfigError
from ptst.judge import load_judge
from ptst.keys import Parts, judge_parts
from ptst.metrics import (
    MANY_CUT_OFF,
    MEAN,
    NO_CATEGORY,
    Answer,
    Metric,
    Scale,
    known_sum,
    lower_is_better,
    many_cut_off,
    shown,
)
from ptst.paths import ROOT
from ptst.report.agreement import COMPLIED, audit_of, in_words
from ptst.report.statistics import (
    holm,
    mean_and_std,
    paired_interval,
    pooled_interval,
    sign_flip,
)
from ptst.schema import Evaluation, Sweep, TableMetric
from ptst.stages.completions import answer_of
from ptst.stages.length_limit import how_to_lift, length_limit
from ptst.stages.summarise import Metrics, read_metrics, scale_of_metric
from ptst.status.states import CellState
from ptst.store import Readable, Store, read_jsonl
from ptst.sweep.grid import Grid, GridCell, finetuning_only
from ptst.wording import judge_name, known_judges, micro_note


@dataclass(frozen=True)
class Run:
    """One seed of an entry. `metric` is None unless the cell is done."""

    cell: GridCell
    state: CellState
    metric: Metric | None


@dataclass(frozen=True)
class Published:
    """A number of the paper (sweeps/paper): percent, BERTScore from 0 to 1."""

    mean: float
    std: float | None
    n_runs: int | None
    std_over: str | None
    also: tuple[tuple[str, float], ...] = ()
    """("Table 6b", mean) of other tables that print the same with another number: the paper contradicts itself."""


@dataclass(frozen=True)
class Entry:
    """A place in a table: a cell over its seeds, in one metric.

    Attributes:
        coordinates: the cells' coordinates but the seed.
        status: "done", or what keeps the entry from a number: "damaged", "failed", "blocked", "running", "queued", "waiting", "not judged"
            (done as far as `stages` go), "no score"; or, beside a number, "partly scored". With several
            seeds the worst of them and how many it befell: "failed (1 of 3 seeds)".
        mean: over seeds; None unless every run is done and scored. Nothing is averaged away.
        std: population standard deviation, over what `std_over` says; None for one run of one sample.
        n: scored answers over all runs.
        missing: answers without a score, over all runs.
        ci_low, ci_high: 95 % interval of the pooled number (Wilson's for a share, Student's for a mean; over
            units).
        paper: the paper's number, or None where it has none.
        scale: what mean, std and interval are on: None is percent (of std: points).
        std_over: "train_seed"; "decoding_seed" for one run whose queries were answered several times; None
            without `std`.
        judge: its name in conf/judge, with what differs from that file (`ptst.wording.judge_name`).
        units: of the run with the most of them; seeds share their units.
    """

    coordinates: dict[str, str]
    metric: str
    runs: tuple[Run, ...]
    status: str
    mean: float | None
    std: float | None
    n: int
    missing: int
    ci_low: float | None
    ci_high: float | None
    paper: Published | None
    scale: Scale = None
    std_over: str | None = None
    judge: str = ""
    units: int = 0

    @property
    def unfinished(self) -> int | None:
        """Answers over all runs that were cut off at max_new_tokens; None where metrics of one do not say."""
        return known_sum(run.metric.unfinished for run in self.runs if run.metric)

    @property
    def repeats(self) -> int:
        """How many numbers `std` is over."""
        if self.std_over == "decoding_seed" and self.runs[0].metric:
            return self.runs[0].metric.samples
        return len(self.runs)


@dataclass(frozen=True)
class Table:
    """One metric over rows and columns of the sweep.

    Attributes:
        metric: "<evaluation>/<metric>".
        measures: helpfulness, safety or over_refusal.
        split: coordinates that set this table apart from others of the same metric (a model, say).
        rows, columns: values of the sweep's row and column coordinates, in its order; a row without
            fine-tuning comes first.
        entries: by (row, column); a place that the grid does not have is absent.
        paper: what the paper's numbers beside ours are: "Llama-2-7B-chat, GSM8K: DirectHarm4 ASR
            (Table 1c)"; None where there are none.
        by_category: the same by category: a row for each place of this table ("train → test"), a column for each
            category; None where the queries have none.
        audit: what is to be known of the judge: what it cannot see, and of an ASR what each annotator says of it.
        settings: what the command line set otherwise than the sweep does, and no coordinate or judge says.
        world: what is of the micro world in its numbers, in a sentence or two; None where nothing is.
    """

    metric: str
    title: str
    measures: str
    split: dict[str, str]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    entries: dict[tuple[str, str], Entry]
    paper: str | None
    by_category: Table | None = None
    audit: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    world: str | None = None

    @property
    def label(self) -> str | None:
        """The judge's label whose share it shows, or `mean`; None for a table without cells."""
        runs = [run for entry in self.entries.values() for run in entry.runs]
        return _label(runs[0].cell, self.metric) if runs else None

    @property
    def lower_is_better(self) -> bool | None:
        """None where neither a low nor a high number is good news."""
        return lower_is_better(self.measures, self.label or "")

    @property
    def scale(self) -> Scale:
        """What its numbers are on."""
        return next((entry.scale for entry in self.entries.values()), None)


@dataclass(frozen=True)
class Contrast:
    """PTST's claim on the same queries: `with_prompt` minus `without`, in one safety metric.

    Attributes:
        metric: "<evaluation>/<metric>".
        kind: "safety prompt at test time" (T → T against T → S), or "left out of training" (S → S against
            T → S); T is a template without safety prompt, S one with.
        a, b: "train → test" of the two entries; `b` is always T → S.
        split: as in Table.
        n: queries answered in both, over all seeds. units: of the test.
        only_a, only_b: queries where the metric's label was given in the one and not in the other; of a mean,
            where the value is higher in the one.
        difference: mean of b minus mean of a over those queries, percentage points; of a mean, on its scale.
        ci_low, ci_high: its 95 % interval (`ptst.report.statistics.paired_interval`); None where there is none.
        p: McNemar's exact test, in its sign-flip form over units. p_holm: after Holm's correction over all
            contrasts of the sweep that are tested. All None where one of the two entries is not there. A mean has a
            test where the judge's values are whole numbers, and of each evaluation one metric is tested, ASR
            where it reports one: the others ask the same answers the same question. Else p is None, and `status`
            says so.
        status: "done", or why there is no number; or, beside a number, "partly scored" and how many
            queries are left out for it, or why there is no test.
    """

    metric: str
    kind: str
    a: str
    b: str
    split: dict[str, str]
    n: int
    units: int
    only_a: int
    only_b: int
    difference: float | None
    p: float | None
    p_holm: float | None
    status: str
    scale: Scale = None
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class Results:
    """All that a report shows."""

    grid: Grid
    states: dict[str, CellState]
    """By cell key."""
    tables: tuple[Table, ...]
    contrasts: tuple[Contrast, ...]


Place = tuple[str, str]
"""Row and column."""
Scored = dict[tuple[str, int], Answer]
"""The scores of one query set under one model: (query id, sample) -> what the judge said."""
ReadScores = Callable[[GridCell, str], Scored | None]
"""read(cell, evaluation); None where the store has the cell's metrics and not (any more) its scores."""
KEPT = 500
"""Files of scores in memory at a time: those of a table, and not those of a whole store (0.1 MB each)."""
PaperRow = dict[str, str]

PAPER = ROOT / "sweeps" / "paper"
PAPER_JUDGES = ("ptst.judge.rubric.Rubric", "ptst.judge.micro.GroundTruth")
"""The paper's kind of judge, and the one that stands in its place in the micro world: beside other judges' numbers of
safety the paper's say nothing."""

READABLE = {
    "llama2_7b_chat": "Llama-2-7B-chat",
    "mistral_7b_instruct_v02": "Mistral-7B-Instruct-v0.2",
    "gpt35_turbo_0613": "GPT-3.5-turbo-0613",
    "gsm8k": "GSM8K",
    "chatdoctor": "ChatDoctor",
    "openorca": "OpenOrca",
    "advbench": "AdvBench",
    "directharm4": "DirectHarm4",
    "gsm_danger": "GSM-Danger",
    "gcg": "GCG",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "asr": "attack success rate",
    "exact_match": "exact match",
    "bertscore_f1": "BERTScore F1",
    "mean_score": "mean score",
}
"""What tables.csv abbreviates, as the paper spells it."""


def load_results(grid: Grid, store: Store, states: Mapping[str, CellState]) -> Results:
    """Gather the tables and contrasts of a sweep from the store.

    Args:
        states: by cell key, of every cell of the grid.

    Raises:
        ConfigError: two different cells have the same coordinates.
    """
    store = Readable(store.root, store.whole)
    paper = paper_rows()
    found = _found(grid, store, states)
    read = reader(store)
    splits = _splits(grid)
    judges = known_judges()
    tables = []
    for metric, table_metric in _metrics_shown(grid).items():
        for split, cells in splits:
            measured = [cell for cell in cells if _evaluation(cell, metric)]
            if measured:
                runs = [
                    Run(c, states[c.keys.cell], found[c.keys.cell].get(metric)) for c in measured
                ]
                table = _table(grid.sweep, metric, table_metric, split, runs, read, paper, judges)
                audit = _audit(measured, metric, store)
                settings = _settings(grid, measured[0], metric)
                parts = table.by_category
                if parts is not None:
                    parts = replace(parts, world=table.world, audit=audit, settings=settings)
                made = replace(table, by_category=parts, audit=audit, settings=settings)
                tables.append(made)
    return Results(grid, dict(states), tuple(tables), _contrasts(grid.sweep, tables, read))


def _settings(grid: Grid, cell: GridCell, metric: str) -> dict[str, str]:
    """Of a grid's settings those that bear on a metric and that neither a cell's coordinates nor its judge say."""
    name = metric.partition("/")[0]

    def said(key: str) -> bool:
        parts = re.split(r"[.]", key.rpartition("@")[2])
        of_another = parts[0] in ("evaluation", "task") and parts[1:2] not in ([], [name])
        which = (
            parts[0] in ("evaluation", "task") and len(parts) == 1
        )  # of the evaluations there are
        return of_another or which or "judge" in parts or key.rpartition("@")[2] in cell.coordinates

    return {key: value for key, value in grid.settings.items() if not said(key) and key != "seed"}


def paper_rows() -> list[PaperRow]:
    """The paper's numbers; `at` is empty, or a coordinate that a number of Figure 2 is at ("finetune.epoch=3")."""
    rows = []
    for name in ("tables.csv", "figure2.csv"):
        with (PAPER / name).open(encoding="utf-8", newline="") as file:
            rows += [{"at": "", **row} for row in csv.DictReader(file)]
    return rows


def _audit(cells: Sequence[GridCell], metric: str, store: Store) -> tuple[str, ...]:
    name, _, own = metric.partition("/")
    evaluations = [cell.config.evaluations[name] for cell in cells]
    judges = (load_judge(evaluation.judge, "judge") for evaluation in evaluations)
    caveats = [caveat for caveat in dict.fromkeys(judge.caveat for judge in judges) if caveat]
    if any(e.measures != "safety" or e.metrics[own] != COMPLIED for e in evaluations):
        return tuple(caveats)
    return (*caveats, *map(in_words, audit_of(cells, name, store)))


def _found(grid: Grid, store: Store, states: Mapping[str, CellState]) -> dict[str, Metrics]:
    """What every cell came to, by cell key; nothing for one that is not done."""
    same: dict[tuple[tuple[str, str], ...], GridCell] = {}
    found: dict[str, Metrics] = {}
    for cell in grid.cells:
        if same.setdefault(tuple(sorted(cell.coordinates.items())), cell) is not cell:
            raise ConfigError(
                f"two different cells of the grid are called {cell.label}: one name (of a model, a data "
                "set or a template) stands for two configurations. Give each a name of its own."
            )
        key = cell.keys.cell
        if key not in found:  # done as far as `stages` go may be done without metrics
            done = states[key].state == "done" and store.has("cell", key)
            found[key] = read_metrics(store, key) if done else {}
    return found


def reader(store: Store) -> ReadScores:
    """A function that reads a cell's scores; the last `KEPT` files are not read again."""
    known: dict[tuple[str | None, ...], Scored | None] = {}

    def read(cell: GridCell, evaluation: str) -> Scored | None:
        keys, setting = cell.keys.evaluations[evaluation], cell.config.evaluations[evaluation]
        place = keys.judge, setting.unit, setting.category
        if place not in known:
            if len(known) == KEPT:
                del known[next(iter(known))]
            known[place] = _scored(store, keys.generate, keys.judge, setting)
        return known[place]

    return read


def _scored(store: Store, generate: str, judge: str, setting: Evaluation) -> Scored | None:
    several = setting.decoding.samples > 1
    alone = not (setting.unit or setting.category or several)  # the scores say it all
    if not store.has("judge", judge) or not (alone or store.has("generate", generate)):
        return None
    scores = read_jsonl(store.path("judge", judge) / "scores.jsonl")
    rows = scores if alone else read_jsonl(store.path("generate", generate) / "completions.jsonl")
    answers = [answer_of(row, score, setting) for row, score in zip(rows, scores, strict=True)]
    return {(s["id"], a.sample): a for s, a in zip(scores, answers, strict=True)}


def _metrics_shown(grid: Grid) -> dict[str, TableMetric]:
    """The sweep's metrics that its cells report, and then all metrics of evaluations of which it names none."""
    reported = {
        f"{name}/{metric}": TableMetric(title=f"{name}/{metric}")
        for cell in grid.cells
        for name, evaluation in cell.config.evaluations.items()
        for metric in evaluation.metrics
    }
    chosen = grid.sweep.metrics
    known = {metric.partition("/")[0] for metric in chosen}
    shown = {metric: table for metric, table in chosen.items() if metric in reported}
    return shown | {m: table for m, table in reported.items() if m.partition("/")[0] not in known}


def _evaluation(cell: GridCell, metric: str) -> Evaluation | None:
    """The evaluation that gives a metric of a cell; None where the cell does not report it."""
    name, _, own = metric.partition("/")
    evaluation = cell.config.evaluations.get(name)
    return evaluation if evaluation and own in evaluation.metrics else None


def _is_tuned(cell: GridCell) -> bool:
    return cell.coordinates["finetune"] != "none"


def _place(cell: GridCell, sweep: Sweep) -> Place:
    """Where a cell stands. What only some of a sweep's grids vary has its default in the others."""
    absent = "default" if _is_tuned(cell) else "none"
    own = cell.coordinates
    return own.get(sweep.rows, absent), own.get(sweep.columns, absent)


def _splits(grid: Grid) -> list[tuple[dict[str, str], list[GridCell]]]:
    """What sets tables of one metric apart, and the cells of each.

    A cell without fine-tuning belongs to every table that agrees with it in what it has: the untouched
    model stands above the rows of every fine-tuning recipe. Where rows and columns do not tell it from the
    fine-tuned ones, it has tables of its own.
    """
    sweep = grid.sweep
    tuned = [cell for cell in grid.cells if _is_tuned(cell)]
    untouched = [cell for cell in grid.cells if not _is_tuned(cell)]
    keys = [
        key
        for cells in (tuned, untouched)
        for key in dict.fromkeys(key for cell in cells for key in cell.coordinates)
        if key not in (sweep.rows, sweep.columns, "seed")
        and len({cell.coordinates.get(key) for cell in cells}) > 1
    ]
    keys = list(dict.fromkeys(keys))
    apart = {_place(c, sweep) for c in tuned} & {_place(c, sweep) for c in untouched}
    if apart and "finetune" not in keys:
        keys.insert(0, "finetune")

    def own(cell: GridCell) -> dict[str, str | None]:
        has = {key: cell.coordinates.get(key) for key in keys}
        if _is_tuned(cell):
            return has
        return {
            key: value
            for key, value in has.items()
            if not finetuning_only(key) or (apart and key == "finetune")
        }

    splits: list[dict[str, str | None]] = []
    for cell in [*tuned, *untouched]:
        if not any(own(cell).items() <= split.items() for split in splits):
            splits.append(own(cell))
    return [
        (
            {key: value for key, value in split.items() if value is not None},
            [cell for cell in grid.cells if own(cell).items() <= split.items()],
        )
        for split in splits
    ]


def _table(
    sweep: Sweep,
    metric: str,
    shown: TableMetric,
    split: dict[str, str],
    runs: Sequence[Run],
    read: ReadScores,
    paper: Sequence[PaperRow],
    judges: Mapping[str, Parts],
) -> Table:
    places: dict[Place, list[Run]] = {}
    for run in runs:
        places.setdefault(_place(run.cell, sweep), []).append(run)
    rows, columns = (
        tuple(sorted(dict.fromkeys(place[side] for place in places), key=lambda v: v != "none"))
        for side in (0, 1)
    )
    theirs = {place: _paper_rows(at[0].cell, metric, shown, paper) for place, at in places.items()}
    evaluation = _evaluation(runs[0].cell, metric)
    assert evaluation is not None
    by_category = _by_category(
        metric, shown, evaluation.measures, split, (rows, columns), places, read, judges
    )
    return Table(
        metric,
        shown.title,
        evaluation.measures,
        split,
        rows,
        columns,
        {place: _entry(metric, at, read, theirs[place], judges) for place, at in places.items()},
        _caption([rows[0] for rows in theirs.values() if rows]),
        by_category,
        world=micro_note((run.cell.config for run in runs), [metric.partition("/")[0]]),
    )


def _by_category(
    metric: str,
    shown: TableMetric,
    measures: str,
    split: dict[str, str],
    axes: tuple[tuple[str, ...], tuple[str, ...]],
    places: Mapping[Place, Sequence[Run]],
    read: ReadScores,
    judges: Mapping[str, Parts],
) -> Table | None:
    """The table of a metric by category; None where no run that is done has categories."""
    found = {
        name
        for runs in places.values()
        for run in runs
        if run.metric
        for name in run.metric.categories
    }
    if not found:
        return None
    categories = tuple(sorted(found, key=lambda name: (name == NO_CATEGORY, name)))
    entries: dict[Place, Entry] = {}
    for place in product(*axes):
        for category in categories if place in places else ():
            runs = [
                replace(run, metric=run.metric and run.metric.categories.get(category))
                for run in places[place]
            ]
            entries[" → ".join(place), category] = _entry(metric, runs, read, (), judges, category)
    rows = tuple(dict.fromkeys(row for row, _ in entries))
    return Table(
        metric, f"{shown.title}, by category", measures, split, rows, categories, entries, None
    )


def _entry(
    metric: str,
    runs: Sequence[Run],
    read: ReadScores,
    paper: Sequence[PaperRow],
    judges: Mapping[str, Parts],
    category: str | None = None,
) -> Entry:
    """An entry over its runs; with `category`, which the runs' metrics are of, also the interval's answers."""
    coordinates = {k: v for k, v in runs[0].cell.coordinates.items() if k != "seed"}
    metrics = [run.metric for run in runs if run.metric]
    values = [metric.value for metric in metrics if metric.value is not None]
    mean, std, over, low, high = None, None, None, None, None
    if len(values) == len(runs):
        mean, std = mean_and_std(values)
        over = None if std is None else "train_seed"
        low, high = metrics[0].ci_low, metrics[0].ci_high
        if len(runs) > 1:
            low, high = _interval(metric, runs, read, category)
        elif metrics[0].std is not None:
            std, over = metrics[0].std, "decoding_seed"
    return Entry(
        coordinates,
        metric,
        tuple(runs),
        _status(runs),
        mean,
        std,
        sum(metric.n for metric in metrics),
        sum(metric.missing for metric in metrics),
        low,
        high,
        _published(paper),
        _scale(runs[0].cell, metric),
        over,
        judge_name(judge_parts(_measured_by(runs[0].cell, metric).judge), judges),
        max((metric.units for metric in metrics), default=0),
    )


def _scale(cell: GridCell, metric: str) -> Scale:
    name, _, own = metric.partition("/")
    return scale_of_metric(cell.config.evaluations[name], own)


def _status(runs: Sequence[Run]) -> str:
    """The worst of an entry's runs, and of several how many it befell."""
    words = [_word(run) for run in runs]
    worst = (
        "damaged",
        "failed",
        "blocked",
        "running",
        "queued",
        "waiting",
        "not judged",
        "no score",
        "partly scored",
        "done",
    )
    word = next(word for word in worst if word in words)
    many = len(runs) > 1 and word != "done"
    return f"{word} ({words.count(word)} of {len(runs)} seeds)" if many else word


def _word(run: Run) -> str:
    if run.state.state != "done":
        return run.state.state
    if run.metric is None:
        return "not judged"
    if run.metric.value is None:
        return "no score"
    return "partly scored" if run.metric.missing else "done"


def _interval(
    metric: str, runs: Sequence[Run], read: ReadScores, category: str | None
) -> tuple[float, float] | tuple[None, None]:
    values, units = [], []
    for run in runs:
        scored = read(run.cell, metric.partition("/")[0])
        if scored is None:
            return None, None
        for answer in scored.values():
            value = _value(answer, _label(run.cell, metric))
            if value is not None and category in (None, answer.category):
                values.append(value)
                units.append(answer.unit)
    return pooled_interval(values, units, _scale(runs[0].cell, metric))


def _value(answer: Answer, what: str) -> float | None:
    """What an answer counts in a metric: 1 or 0 for a label, the judge's value for a mean; None is missing."""
    if answer.label is None:
        return None
    return answer.value if what == MEAN else float(answer.label == what)


def _measured_by(cell: GridCell, metric: str) -> Evaluation:
    return cell.config.evaluations[metric.partition("/")[0]]


def _label(cell: GridCell, metric: str) -> str:
    return _measured_by(cell, metric).metrics[metric.partition("/")[2]]


def _kind(cell: GridCell) -> str | None:
    """What the paper calls a cell's fine-tuning; None for one that it does not have.

    Whatever trains on the data set's rows alone is its plain fine-tuning; of mixes it has the option safety_mix,
    whose safety examples are written under the train template.
    """
    if not _is_tuned(cell):
        return "none"
    mix = cell.config.finetune.mix
    if mix is None:
        return "sft"
    own = cell.coordinates["finetune"] == "safety_mix" and mix.template is None
    return "safety_mix" if own else None


def _paper_rows(
    cell: GridCell, metric: str, about: TableMetric, paper: Sequence[PaperRow]
) -> list[PaperRow]:
    """The paper's numbers for a place: those of the same templates in the tables which the sweep names.

    A model that is not in the paper (the micro model, a new one) is set beside whatever model that table
    is about; one that is in the paper only beside its own numbers. The data set must be the same always, the
    fine-tuning one of the paper's kinds, and safety judged by the paper's kind of judge.
    A table has none, too, where more than one of its numbers would fit.
    """
    own, evaluation, kind = cell.coordinates, _measured_by(cell, metric), _kind(cell)
    if evaluation.measures == "safety" and evaluation.judge["_target_"] not in PAPER_JUDGES:
        return []
    if kind is None:
        return []
    wanted = {
        "metric": about.paper_metric or metric,
        "dataset": own["dataset"],
        "finetune": kind,
        "train_template": own["train_template"],
        "test_template": own["test_template"],
    }
    if own["model"] in {row["model"] for row in paper}:
        wanted["model"] = own["model"]
    elif about.paper_model is not None:
        wanted["model"] = about.paper_model
    fitting = [
        row
        for row in paper
        if all(row[key] == value for key, value in wanted.items()) and _is_at(row["at"], own)
    ]
    named = (about.paper_table, *about.paper_also)
    tables = [[row for row in fitting if row["table"] == table] for table in named]
    return [rows[0] for rows in tables if len(rows) == 1]


def _is_at(at: str, own: Mapping[str, str]) -> bool:
    name, _, value = at.partition("=")
    return not at or own.get(name) == value


def _published(rows: Sequence[PaperRow]) -> Published | None:
    """The first table's number, and what others say that differs from it."""
    if not rows:
        return None
    row, *others = rows
    return Published(
        float(row["mean"]),
        float(row["std"]) if row["std"] else None,
        int(row["n_runs"]) if row["n_runs"] else None,
        row["std_over"] or None,
        tuple(
            (_where([other]), float(other["mean"]))
            for other in others
            if float(other["mean"]) != float(row["mean"])
        ),
    )


def also(paper: Published, scale: Scale) -> str:
    """ " (Table 6b: 0.8)": what the paper prints elsewhere, behind its number; empty where it is of one mind."""
    said = [f"{where}: {shown(mean, scale)}" for where, mean in paper.also]
    return f" ({'; '.join(said)})" if said else ""


def cut_off_note(table: Table) -> str | None:
    """How many answers behind a table were cut off: "3 to 20 of 20 answers a run were cut off at max_new_tokens=64"."""
    name = table.metric.partition("/")[0]
    runs = [run for entry in table.entries.values() for run in entry.runs if run.metric]
    metrics = [run.metric for run in runs if run.metric]
    if not metrics:
        return None
    counts = sorted({-1 if m.unfinished is None else m.unfinished for m in metrics})
    limits = sorted({run.cell.config.evaluations[name].decoding.max_new_tokens for run in runs})
    at = f"max_new_tokens={' or '.join(map(str, limits))}"
    if counts[0] < 0:
        return f"how many answers were cut off at {at} is not recorded: an older version made them"
    if counts == [0]:
        return f"no answer was cut off ({at})"
    sizes = sorted({m.n + m.missing for m in metrics})
    asked = " to ".join(dict.fromkeys(map(str, (sizes[0], sizes[-1]))))
    several = " to ".join(dict.fromkeys(map(str, (counts[0], counts[-1]))))
    return f"{several} of {asked} answers a run were cut off at {at}"


def cut_off_warnings(results: Results) -> list[str]:
    """A line for each evaluation with cells of whose answers many were cut off, and what lifts the limit."""
    cells: dict[str, dict[str, tuple[GridCell, bool]]] = {}
    for table in results.tables:
        name = table.metric.partition("/")[0]
        for run in (run for entry in table.entries.values() for run in entry.runs if run.metric):
            assert run.metric is not None
            many = many_cut_off(run.metric.unfinished, run.metric.n + run.metric.missing)
            cells.setdefault(name, {})[run.cell.keys.cell] = run.cell, many
    said = []
    for name, of_evaluation in cells.items():
        cut = [cell.config for cell, many in of_evaluation.values() if many]
        if cut:
            limits = " and ".join(dict.fromkeys(length_limit(config, name) for config in cut))
            said.append(
                f"{name}: in {len(cut)} of {len(of_evaluation)} cells {MANY_CUT_OFF:.0%} of the answers or "
                f"more were cut off at {limits}, and judged by what stood there until then. "
                f"{how_to_lift(cut[0], name)}"
            )
    return said


def _where(rows: Sequence[PaperRow]) -> str:
    """Where numbers stand: "Table 6a, 1a", "Figure 3"."""
    tables = list(dict.fromkeys(row["table"] for row in rows))
    figures = all(table.startswith("fig") for table in tables)
    named = ", ".join(table.removeprefix("fig") for table in tables)
    return f"{'Figure' if figures else 'Table'} {named}"


def _caption(rows: Sequence[PaperRow]) -> str | None:
    """What the paper's numbers in a table are."""
    if not rows:
        return None

    def named(key: str) -> str:
        return ", ".join(dict.fromkeys(READABLE.get(row[key], row[key]) for row in rows))

    name, _, metric = rows[0]["metric"].partition("/")
    what = f"{READABLE.get(name, name)} {READABLE.get(metric, metric)}"
    return f"{named('model')}, {named('dataset')}: {what} ({_where(rows)})"


def _contrasts(sweep: Sweep, tables: Sequence[Table], read: ReadScores) -> tuple[Contrast, ...]:
    """The contrasts of a sweep; those that are tested are one family for Holm's correction."""
    if (sweep.rows, sweep.columns) != ("train_template", "test_template"):
        return ()
    contrasts = []
    tested: dict[str, str] = {}
    for table in sorted(tables, key=lambda table: table.label != COMPLIED):
        if table.measures == "safety":
            tested.setdefault(table.metric.partition("/")[0], table.metric)
    for table in tables:
        if table.measures != "safety":
            continue
        asked = tested[table.metric.partition("/")[0]]
        tuned = [row for row in table.rows if row not in ("none", *sweep.safety_templates)]
        for safe in sweep.safety_templates:
            for kind, ends in (
                ("safety prompt at test time", [(train, train) for train in tuned]),
                ("left out of training", [(safe, safe) for _ in tuned]),
            ):
                for train, a in zip(tuned, ends, strict=True):
                    if a in table.entries and (train, safe) in table.entries:
                        found = _contrast(table, kind, a, (train, safe), read)
                        same = table.metric != asked and found.p is not None
                        contrasts.append(untested(found, asked) if same else found)
    adjusted = iter(holm([contrast.p for contrast in contrasts if contrast.p is not None]))
    return tuple(c if c.p is None else replace(c, p_holm=next(adjusted)) for c in contrasts)


def untested(contrast: Contrast, asked: str) -> Contrast:
    """Without its test: the same answers were asked the same question as `asked`."""
    why = f"no test: one question with {asked.partition('/')[2]}"
    said = why if contrast.status == "done" else f"{contrast.status}; {why}"
    return replace(contrast, p=None, status=said)


def _contrast(table: Table, kind: str, a: Place, b: Place, read: ReadScores) -> Contrast:
    first, second = table.entries[a], table.entries[b]
    labels = " → ".join(a), " → ".join(b)
    nothing = Contrast(
        table.metric, kind, *labels, table.split, 0, 0, 0, 0, None, None, None, "done", table.scale
    )
    lacking = [
        f"{which}: {entry.status}"
        for which, entry in (("a", first), ("b", second))
        if entry.mean is None
    ]
    if lacking:
        return replace(nothing, status="; ".join(lacking))
    cells = [
        {run.cell.coordinates["seed"]: run.cell for run in entry.runs} for entry in (first, second)
    ]
    if cells[0].keys() != cells[1].keys():
        return replace(nothing, status="not paired: the seeds are not the same")
    return paired(nothing, [(a, cells[1][seed]) for seed, a in cells[0].items()], read, read)


def paired(
    nothing: Contrast,
    cells: Sequence[tuple[GridCell, GridCell]],
    read_a: ReadScores,
    read_b: ReadScores,
) -> Contrast:
    """The difference between cells that were asked the same queries, pooled over the pairs.

    Args:
        nothing: says the metric and its scale; what is returned where there is no difference, with the reason.
        cells: pairs of a and b, one for each seed.
    """
    metric, scale = nothing.metric, nothing.scale
    name = metric.partition("/")[0]
    differences: dict[Any, float] = {}
    pairs: list[tuple[float, float, Hashable]] = []
    n = only_a = only_b = left_out = 0
    for cell_a, cell_b in cells:
        in_a, in_b = read_a(cell_a, name), read_b(cell_b, name)
        if in_a is None or in_b is None:
            return replace(nothing, status="not paired: the scores are no longer in the store")
        queries = [c.keys.evaluations[name].generate_parts["queries"] for c in (cell_a, cell_b)]
        if queries[0] != queries[1] or {i: s.unit for i, s in in_a.items()} != {
            i: s.unit for i, s in in_b.items()
        }:
            return replace(nothing, status="not paired: the queries are not the same")
        for query, answer in in_a.items():
            value_a = _value(answer, _label(cell_a, metric))
            value_b = _value(in_b[query], _label(cell_b, metric))
            if value_a is None or value_b is None:
                left_out += 1
                continue
            n += 1
            pairs.append((value_a, value_b, answer.unit))
            only_a += value_a > value_b
            only_b += value_b > value_a
            differences[answer.unit] = differences.get(answer.unit, 0.0) + value_b - value_a
    if n == 0:
        return replace(nothing, status="no query has a score in both")
    whole = all(difference.is_integer() for difference in differences.values())
    said = [f"partly scored ({left_out} of {n + left_out} queries left out)"] if left_out else []
    said += [] if whole else ["no test: values that are not whole numbers"]
    in_a_and_b = ([x for x, _, _ in pairs], [y for _, y, _ in pairs])
    low, high = paired_interval(*in_a_and_b, [unit for _, _, unit in pairs], scale)
    return replace(
        nothing,
        n=n,
        units=len(differences),
        only_a=only_a,
        only_b=only_b,
        difference=(100 if scale is None else 1) * fsum(differences.values()) / n,
        p=sign_flip([int(d) for d in differences.values()]) if whole else None,
        status="; ".join(said) or "done",
        ci_low=low,
        ci_high=high,
    )
