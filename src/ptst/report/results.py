"""What a sweep came to: one entry per cell and metric, over seeds, beside the paper's number."""

from __future__ import annotations

from dataclasses import dataclass

from ptst.metrics import Metric
from ptst.sweep.grid import Grid, GridCell
from ptst.sweep.status import CellState


@dataclass(frozen=True)
class Run:
    """One seed of an entry. `metric` is None unless the cell is done."""

    cell: GridCell
    state: CellState
    metric: Metric | None


@dataclass(frozen=True)
class Published:
    """A number of the paper (sweeps/paper/tables.csv); percent."""

    mean: float
    std: float | None
    n_runs: int | None
    std_over: str | None


@dataclass(frozen=True)
class Entry:
    """A place in a table: a cell over its seeds, in one metric.

    Attributes:
        coordinates: the cells' coordinates but the seed.
        status: "done", or what keeps the entry from a number: "failed", "running", "waiting", and with
            several seeds how many of them: "failed (1 of 3 seeds)".
        mean: percent, over seeds; None unless every run is done and scored. Nothing is averaged away.
        std: population standard deviation over seeds, percentage points; None for one run.
        n: scored queries over all runs.
        missing: queries without a score, over all runs.
        ci_low, ci_high: 95 % interval of the pooled share (Wilson; over units), percent.
        paper: the paper's number, or None where it has none.
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
    """

    metric: str
    title: str
    measures: str
    split: dict[str, str]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    entries: dict[tuple[str, str], Entry]
    paper: str | None


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
        only_a, only_b: queries where the metric's label was given in the one and not in the other.
        difference: mean of b minus mean of a, percentage points.
        p: McNemar's exact test, in its sign-flip form over units. p_holm: after Holm's correction over all
            contrasts of the sweep. All None where one of the two entries is not there.
        status: "done", or why there is no number.
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


@dataclass(frozen=True)
class Results:
    """All that a report shows."""

    grid: Grid
    states: dict[str, CellState]
    """By cell key."""
    tables: tuple[Table, ...]
    contrasts: tuple[Contrast, ...]
