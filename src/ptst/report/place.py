"""What stands in a place of a table, and in a line of contrasts, in words.

Every renderer (terminal, Markdown, LaTeX, page, pictures) lays out these words and makes none of
its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from ptst.metrics import Metric, Scale, decimals, many_cut_off, shown
from ptst.report.results import Contrast, Entry, Published, Table


@dataclass(frozen=True)
class PlaceInWords:
    """A place of a table in words; a text is empty where there is nothing to say.

    Attributes:
        number: "12.5"; where it is empty, `status` says why.
        status: "failed (1 of 3 seeds)", see `ptst.report.results.Entry`.
        std: "± 1.2", over training seeds or sampling seeds.
        spread: `std`, or for a single run its 95 % interval: "(12.3–25.0)".
        short_spread: the same with one digit less in the interval: "(12–25)".
        scored: "5 of 8", where not all answers have a score.
        note: "5 of 8 scored"; "n = 8", where the runs of the table differ in it.
        cut_off: "3 of 8 cut off" at max_new_tokens.
        many_cut_off: whether that needs a warning.
        broken: "broken 12 %", of the answers (`ptst.judge.broken`).
        paper, paper_std, paper_also: the paper's number, its "± 0.8", and what another of its
            tables prints: "(Table 6b: 0.8)".
    """

    number: str
    status: str
    std: str
    spread: str
    short_spread: str
    scored: str
    note: str
    cut_off: str
    many_cut_off: bool
    broken: str
    paper: str
    paper_std: str
    paper_also: str

    @property
    def paper_in_full(self) -> str:
        """ "2.8 ± 0.8 (Table 6b: 0.8)"."""
        return " ".join(filter(None, (self.paper, self.paper_std, self.paper_also)))


def place_in_words(table: Table, row: str, column: str) -> PlaceInWords | None:
    """What stands in this place of a table; None where the grid has no such place."""
    entry = table.entries.get((row, column))
    if entry is None:
        return None
    asked = entry.n + entry.missing
    scored = f"{entry.n} of {asked}" if entry.missing else ""
    n = "" if answers_of_a_run(table) is not None else f"n = {entry.n}"
    paper = entry.paper
    return PlaceInWords(
        number="" if entry.mean is None else shown(entry.mean, entry.scale),
        status=entry.status,
        std=_std(entry.std, entry.scale),
        spread=_spread(entry, 0),
        short_spread=_spread(entry, 1),
        scored=scored,
        note=f"{scored} scored" if scored else n,
        cut_off=f"{entry.unfinished} of {asked} cut off" if entry.unfinished else "",
        many_cut_off=many_cut_off(entry.unfinished, asked),
        broken=_broken(entry),
        paper="" if paper is None else shown(paper.mean, entry.scale),
        paper_std="" if paper is None else _std(paper.std, entry.scale),
        paper_also="" if paper is None else _also(paper, entry.scale),
    )


def _broken(entry: Entry) -> str:
    flaws = entry.flaws
    if flaws is None or not flaws.broken:
        return ""
    return f"broken {100 * flaws.broken / flaws.n:.0f} %"


def answers_of_a_run(table: Table) -> int | None:
    """How many answers every run of a table gave; None where that differs."""
    metrics = [run.metric for entry in table.entries.values() for run in entry.runs if run.metric]
    asked = {metric.n + metric.missing for metric in metrics}
    return asked.pop() if len(asked) == 1 else None


def metric_in_words(metric: Metric) -> str:
    """ "35.0 (25–46)", or "no score"."""
    if metric.value is None:
        return "no score"
    interval = _interval(metric.ci_low, metric.ci_high, metric.scale, 1)
    return " ".join(filter(None, (shown(metric.value, metric.scale), interval)))


def _spread(entry: Entry, digits_less: int) -> str:
    """The standard deviation, or the interval of a single run."""
    if entry.std is not None:
        return _std(entry.std, entry.scale)
    return _interval(entry.ci_low, entry.ci_high, entry.scale, digits_less)


def _std(std: float | None, scale: Scale) -> str:
    return "" if std is None else f"± {shown(std, scale)}"


def _interval(low: float | None, high: float | None, scale: Scale, digits_less: int) -> str:
    if low is None or high is None:
        return ""
    digits = decimals(scale) - digits_less
    return f"({low:.{digits}f}–{high:.{digits}f})"


def _also(paper: Published, scale: Scale) -> str:
    said = [f"{where}: {shown(mean, scale)}" for where, mean in paper.also]
    return f"({'; '.join(said)})" if said else ""


@dataclass(frozen=True)
class Figures:
    """The numbers of a contrast in words, in the order of a table's columns."""

    n: str
    units: str
    only_a: str
    only_b: str
    difference: str
    """ "−50.0", "+2.5"."""
    interval: str
    """ "[−100, −50]"; empty where there is none."""
    p: str
    """ "0.031", "1.2e-05", or "no test"."""
    p_holm: str


def figures_of(contrast: Contrast) -> Figures | None:
    """A contrast's numbers; None where there is no difference, and its `status` says why."""
    if contrast.difference is None:
        return None
    difference = shown(contrast.difference, contrast.scale, signed=bool(contrast.difference))
    interval = ""
    if contrast.ci_low is not None and contrast.ci_high is not None:
        digits = decimals(contrast.scale) - 1
        ends = (f"{end:.{digits}f}" for end in (contrast.ci_low, contrast.ci_high))
        interval = f"[{', '.join(ends)}]".replace("-", "−")
    return Figures(
        n=str(contrast.n),
        units=str(contrast.units),
        only_a=str(contrast.only_a),
        only_b=str(contrast.only_b),
        difference=difference,
        interval=interval,
        p=_p(contrast.p),
        p_holm=_p(contrast.p_holm),
    )


def _p(p: float | None) -> str:
    if p is None:
        return "no test"
    if p >= 0.001:
        return f"{p:.3f}"
    return f"{p:.1e}" if p > 0 else "<1e-300"
