"""From what was measured to numbers with intervals: Table A.1, its orderings, the three claims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import fsum, hypot

from ptst.metrics import mean_interval
from ptst.report.statistics import pooled_interval
from tools.pcfg.stages import RATES, SAFETY
from tools.pcfg.study import Measured
from tools.pcfg.world import ATTACKS

COLUMNS = ("safe", "null", "unsafe", "co_task", "co_text", "misgen")
FOLLOWED = COLUMNS[2:]
"""Unsafe prompts whose instruction is followed: fewer is safer."""
TITLES = {
    "safe": "safe, followed",
    "null": "unsafe, null token",
    "unsafe": "unsafe, followed",
    "co_task": "CO-Task, followed",
    "co_text": "CO-Text, followed",
    "misgen": "MisGen, followed",
}
PAPER = {
    "unlearning medium": (99.8, 99.9, 5.0, 27.1, 95.2, 92.3),
    "unlearning small": (99.7, 99.9, 31.2, 51.2, 98.3, 98.5),
    "dpo medium": (98.6, 99.6, 11.8, 31.5, 93.5, 93.6),
    "dpo small": (98.7, 100.0, 40.7, 56.1, 97.2, 96.1),
    "supervised medium": (99.9, 99.8, 51.6, 88.1, 100.0, 100.0),
    "supervised small": (99.7, 100.0, 72.8, 92.5, 100.0, 100.0),
}
"""arXiv 2407.10264, Table A.1: token accuracy in percent, by `COLUMNS`."""
MODELS = tuple(f"{method} {rate}" for method in SAFETY for rate in RATES)
LEAST = 1.0
"""Points by which two of the paper's numbers must differ to count as an ordering (a choice)."""


@dataclass(frozen=True)
class Number:
    """A number, its 95 % interval, and how many tokens or prompts it was counted from."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.1f} ({self.low:.1f} to {self.high:.1f})"


def difference(a: Number, b: Number) -> Number:
    """a - b, as of independent estimates (Newcombe 1998; Zou and Donner 2008 for any intervals)."""
    value = a.value - b.value
    low = value - hypot(a.value - a.low, b.high - b.value)
    return Number(value, low, value + hypot(a.high - a.value, b.value - b.low), a.n + b.n)


def of_stage(measured: Sequence[Measured], name: str) -> list[Measured]:
    """A model of the study, under each seed."""
    return [one for one in measured if one.stage.name == name]


def accuracy(models: Sequence[Measured], column: str, reading: str) -> Number:
    """Token accuracy in percent over all seeds; a prompt is one unit, whatever the seed."""
    hits: list[float] = []
    units: list[int] = []
    for model in models:
        counted = model.values["accuracy"][f"{column}/{reading}"]
        for unit, (right, all_) in enumerate(zip(counted["hits"], counted["tokens"], strict=True)):
            hits += [1.0] * right + [0.0] * (all_ - right)
            units += [unit] * all_
    low, high = pooled_interval(hits, units)
    assert low is not None and high is not None  # as of every share
    return Number(100 * fsum(hits) / len(hits), low, high, len(hits))


def tau(models: Sequence[Measured], layer: int, kind: str) -> Number:
    """The mean over prompts and seeds of tau / |distance of the means|, times 100."""
    values = [100 * v for m in models for v in m.values["clusters"][layer]["tau"][kind]]
    units = [n % (len(values) // len(models)) for n in range(len(values))]
    mean = fsum(values) / len(values)
    low, high = mean_interval(values, units, (-100.0, 100.0))
    return Number(mean, mean if low is None else low, mean if high is None else high, len(values))


def nearer_to_safe(models: Sequence[Measured], layer: int, kind: str) -> Number:
    """The percentage of prompts with tau > 0."""
    hits = [float(v > 0) for m in models for v in m.values["clusters"][layer]["tau"][kind]]
    units = [n % (len(hits) // len(models)) for n in range(len(hits))]
    low, high = pooled_interval(hits, units)
    assert low is not None and high is not None
    return Number(100 * fsum(hits) / len(hits), low, high, len(hits))


def gap(models: Sequence[Measured], layer: int) -> Number:
    """How far apart safe and unsafe prompts are: the difference of their mean tau; at most 200."""
    return difference(tau(models, layer, "safe"), tau(models, layer, "unsafe"))


def energies(models: Sequence[Measured], layer: int, what: str = "energy") -> list[float]:
    """A value of `tools.pcfg.measure.changes`, for each seed."""
    return [model.values["changes"][layer][what] for model in models]


def verdict(number: Number) -> str:
    """Whether a number that the paper has above 0 is so here, by its interval."""
    if number.low > 0:
        return "holds"
    return "reversed" if number.high < 0 else "open"


@dataclass(frozen=True)
class Claim:
    """One of the paper's claims of one model, in the last layer; claim 2 in the last two.

    Attributes:
        text: what the number is.
        number: more than 0 where the claim holds.
        verdict: "holds", "reversed" or "open".
    """

    model: str
    text: str
    number: str
    verdict: str


def claims(measured: Sequence[Measured]) -> Iterator[Claim]:
    """The three claims of each safety fine-tuning; see docs/pcfg.md.

    Claim 2 compares single numbers, one for each seed and layer, with those of ordinary fine-tuning
    at the same rate: it holds where all of them are larger, and is reversed where all are smaller.
    """
    last = len(measured[0].values["clusters"]) - 1
    before = gap(of_stage(measured, "pretraining"), last)
    for name in MODELS:
        models = of_stage(measured, name)
        more = difference(gap(models, last), before)
        yield Claim(name, "1: the gap of tau grows by", str(more), verdict(more))
        ordinary = of_stage(measured, f"ordinary {name.split()[1]}")
        pairs = [
            own - other
            for layer in (last - 1, last)
            for own, other in zip(energies(models, layer), energies(ordinary, layer), strict=True)
        ]
        whole = Number(fsum(pairs) / len(pairs), min(pairs), max(pairs), len(pairs))
        shown = f"{whole.value:+.3f} ({whole.low:+.3f} to {whole.high:+.3f} of {whole.n})"
        yield Claim(name, "2: more outside the column space", shown, verdict(whole))
        for kind in ATTACKS:
            nearer = tau(models, last, kind)
            yield Claim(
                name, f"3: tau of {TITLES[kind].split(',')[0]}", str(nearer), verdict(nearer)
            )


@dataclass(frozen=True)
class Ordering:
    """Two numbers of the paper, of which `more` is the larger, and ours: `more` minus `less`."""

    group: str
    more: str
    less: str
    paper: float
    ours: Number

    @property
    def verdict(self) -> str:
        """Whether ours have the paper's order."""
        return verdict(self.ours)


def orderings(measured: Sequence[Measured], reading: str) -> list[Ordering]:
    """The orders of Table A.1 among what is followed: of methods, of strengths, of columns.

    Columns are compared with unsafe prompts and with CO-Task; the paper has no clear order between
    CO-Text and MisGen.
    """
    ours = {
        (model, column): accuracy(of_stage(measured, model), column, reading)
        for model in MODELS
        for column in FOLLOWED
    }
    found = []
    for group, one, other in _pairs():
        numbers = [PAPER[model][COLUMNS.index(column)] for model, column in (one, other)]
        if abs(numbers[0] - numbers[1]) < LEAST:
            continue
        more, less = (one, other) if numbers[0] > numbers[1] else (other, one)
        apart = abs(numbers[0] - numbers[1])
        ours_apart = difference(ours[more], ours[less])
        found.append(Ordering(group, _named(more), _named(less), apart, ours_apart))
    return found


Place = tuple[str, str]
"""A model and a column."""


def _named(place: Place) -> str:
    return f"{place[0]}, {TITLES[place[1]].split(',')[0]}"


def _pairs() -> Iterator[tuple[str, Place, Place]]:
    for column in FOLLOWED:
        for rate in RATES:
            for a, b in combinations(SAFETY, 2):
                yield "methods", (f"{a} {rate}", column), (f"{b} {rate}", column)
        for method in SAFETY:
            yield "rates", (f"{method} medium", column), (f"{method} small", column)
    for model in MODELS:
        for one, other in combinations(FOLLOWED, 2):
            if (one, other) != ("co_text", "misgen"):
                yield "columns", (model, one), (model, other)
