"""The tables and contrasts of a report as data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ptst.judge.broken import BROKEN
from ptst.metrics import Better, Metric, Scale, known_sum
from ptst.report.analyses import Found
from ptst.report.outcomes import Relation
from ptst.status.states import CellState
from ptst.sweep.grid import Grid, GridCell


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
    """("Table 6b", mean) of other tables, where the paper contradicts itself."""


@dataclass(frozen=True)
class Flaws:
    """What is wrong with `n` answers, by kind (`ptst.judge.broken`); kinds with none are absent."""

    n: int
    counts: dict[str, int]

    @property
    def broken(self) -> int:
        """Answers that are broken; one off topic is not."""
        return sum(self.counts.get(kind, 0) for kind in BROKEN)


@dataclass(frozen=True)
class Entry:
    """A place in a table: a cell over its seeds, in one metric.

    Attributes:
        coordinates: the cells' coordinates but the seed; one that is averaged over has all values.
        status: "done", or what keeps the entry from a number: "damaged", "failed", "blocked",
            "running", "queued", "waiting", "not judged" (done as far as `stages` go), "no score";
            or, beside a number, "partly scored". With several seeds the worst of them and how many
            it befell: "failed (1 of 3 seeds)".
        mean: over seeds; None unless every run is done and scored. Nothing is averaged away.
        std: population standard deviation, over what `std_over` says; None for one run of one
            sample.
        n: scored answers over all runs.
        missing: answers without a score, over all runs.
        ci_low, ci_high: 95 % interval of the pooled number (Wilson's for a share, Student's for a
            mean; over units).
        paper: the paper's number, or None where it has none.
        scale: what mean, std and interval are on: None is percent (of std: points).
        std_over: "train_seed"; "run" where runs differ in more than their seed (`Sweep.over`);
            "decoding_seed" for one run whose queries were answered several times; None without
            `std`.
        judge: its name in conf/judge, with what differs from that file (`ptst.wording.judge_name`).
        units: of the run with the most of them; seeds share their units.
        flaws: of the answers of all runs; None where they are not looked at.
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
    flaws: Flaws | None = None

    @property
    def unfinished(self) -> int | None:
        """Answers over all runs that were cut off; None where a run does not say."""
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
        better: which numbers are good news; None where neither low nor high ones are.
        split: coordinates that set this table apart from others of the same metric (for example a
            model).
        rows, columns: values of the sweep's row and column coordinates, in its order; a row without
            fine-tuning comes first.
        entries: by (row, column); a place that the grid does not have is absent.
        paper: what the paper's numbers beside ours are: "Llama-2-7B-chat, GSM8K: DirectHarm4 ASR
            (Table 1c)"; None where there are none.
        by_category: the same by category: a row for each place of this table ("train → test"), a
            column for each category; None where the queries have none.
        audit: what is to be known of the judge: what it cannot see, and of an ASR what each
            annotator says of it.
        settings: what the command line set otherwise than the sweep does, and no coordinate or
            judge says.
        world: what is of the micro world in its numbers, in a sentence or two; None where nothing
            is.
    """

    metric: str
    title: str
    measures: str
    better: Better
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
    def scale(self) -> Scale:
        """What its numbers are on."""
        return next((entry.scale for entry in self.entries.values()), None)


@dataclass(frozen=True)
class Contrast:
    """Two entries of a metric, a and b, on the same queries.

    Attributes:
        metric: "<evaluation>/<metric>".
        kind: what is compared: "safety prompt at test time" (T → T against T → S) or "left out of
            training" (S → S against T → S), with T a template without safety prompt and S one with;
            or the name of a contrast that the sweep declares.
        a, b: "train → test" of the two entries, with other coordinates that they differ in.
        split: of the table that b stands in.
        n: queries answered in both, over all seeds. units: of the test.
        only_a, only_b: queries where the metric's label was given in the one and not in the other;
            of a mean, where the value is higher in the one.
        difference: mean of b minus mean of a over those queries, percentage points; of a mean, on
            its scale.
        ci_low, ci_high: its 95 % interval (`ptst.report.statistics.paired_interval`); None where
            there is none.
        p: McNemar's exact test, in its sign-flip form over units. p_holm: after Holm's correction
            over all contrasts of the sweep that are tested. All None where one of the two entries
            is not there. A mean has a test where the judge's values are whole numbers, and of the
            metrics of one evaluation that count the same queries one is tested, ASR where it
            reports one: the others ask the same answers the same question. A mean of metrics has
            none. Else p is None, and `status` says so.
        status: "done", or why there is no number; or, beside a number, "partly scored" and how many
            queries are left out for it, or why there is no test.
    """

    metric: str
    kind: str
    a: str
    b: str
    split: dict[str, str]
    n: int = 0
    units: int = 0
    only_a: int = 0
    only_b: int = 0
    difference: float | None = None
    p: float | None = None
    p_holm: float | None = None
    status: str = "done"
    scale: Scale = None
    ci_low: float | None = None
    ci_high: float | None = None
    entries: tuple[Entry, ...] = field(default=(), repr=False, compare=False)
    """a's and b's."""


Pair = tuple[str, str]
"""Train and test template."""


@dataclass(frozen=True)
class Estimate:
    """A number over the models, its 95 % interval, and the same number of each model alone."""

    value: float
    low: float
    high: float
    of_models: tuple[float, ...]


@dataclass(frozen=True)
class Protection:
    """What came of a defence under four pairs of templates; `ptst.report.results.protection` says
    what the estimates are.

    Attributes:
        split: coordinates that set it apart from others of the same defence and pairs.
        pairs: P → P, P → S, S → P, S → S.
        rates, helpfulness: of each pair, mean over models and seeds; None where it was not tested,
            or a cell lacks scores. `status` says so, and there is nothing else.
        beside: by metric of other harmless questions, the same.
        broken: of each pair, which of them are far worse than without a defence
            (`ptst.report.results.protection.BROKEN`).
        runs: trainings of each pair: models times seeds.
    """

    defence: str
    control_of: str | None
    split: dict[str, str]
    metric: str
    helpful_metric: str
    helpful_scale: Scale
    pairs: tuple[Pair, ...]
    models: tuple[str, ...] = ()
    runs: int = 0
    units: int = 0
    rates: tuple[float | None, ...] = ()
    helpfulness: tuple[float | None, ...] = ()
    beside: dict[str, tuple[float, ...]] = field(default_factory=dict)
    broken: tuple[tuple[str, ...], ...] = ()
    replaces: Estimate | None = None
    still: Estimate | None = None
    match: Estimate | None = None
    helpful: Estimate | None = None
    status: str = "done"

    @property
    def called(self) -> str:
        return "no defence" if self.defence == "none" else self.defence


@dataclass(frozen=True)
class Detection:
    """How well a guard tells answers that comply from all others, in a cell over its seeds;
    `ptst.report.results.guards` says what is counted, and what the estimates are.

    Attributes:
        guard: the defence that it is.
        coordinates: the cells' but their seed.
        positives, negatives: answers that count.
        without_score: of those, answers that the guard gave no score.
        left_out: answers that do not count, by the reason.
        false_by_evaluation: by evaluation, how many negatives it replaced, and of how many.
        tpr, fpr, fpr_at: per cent; auc: 0 to 1. None where it has no scores, or one kind of answers
            is missing.
        curve: (FPR, TPR) at falling thresholds, 0 to 1.
        status: "done", or why there are no numbers.
    """

    guard: str
    control_of: str | None
    coordinates: dict[str, str]
    positives: int = 0
    negatives: int = 0
    without_score: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    false_by_evaluation: dict[str, tuple[int, int]] = field(default_factory=dict)
    tpr: Estimate | None = None
    fpr: Estimate | None = None
    auc: Estimate | None = None
    fpr_at: Estimate | None = None
    curve: tuple[tuple[float, float], ...] = ()
    status: str = "done"

    @property
    def ends(self) -> str:
        """ "train → test"."""
        train, test = (self.coordinates[f"{end}_template"] for end in ("train", "test"))
        return f"{'no fine-tuning' if train == 'none' else train} → {test}"

    def apart(self, others: Sequence[Detection], aside: Collection[str]) -> list[str]:
        """The values of the coordinates in which it and others differ, but for those `aside`. What
        tells an untouched model from a fine-tuned one is said by its train template."""
        return [
            value
            for key, value in self.coordinates.items()
            if key not in aside
            and len({one.coordinates.get(key) for one in others} - {None, "none"}) > 1
        ]


@dataclass(frozen=True)
class Results:
    """All that a report shows."""

    grid: Grid
    states: dict[str, CellState]
    """By cell key."""
    tables: tuple[Table, ...]
    contrasts: tuple[Contrast, ...]
    analyses: tuple[Found, ...] = ()
    protections: tuple[Protection, ...] = ()
    """Of a sweep over defences."""
    guards: tuple[Detection, ...] = ()
    """Of a sweep with guards."""
    relations: tuple[Relation, ...] = ()
    """Of analyses to the tables' metrics."""


Place = tuple[str, str]
"""Row and column."""
