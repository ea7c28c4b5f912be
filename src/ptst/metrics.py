"""From scores to numbers one can publish: shares and means with n, missing count and interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum, sqrt
from statistics import pstdev
from typing import Any, Literal, TypeVar

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

MEAN = "mean"
"""In `metrics:`, in the place of a label: the mean of the judge's values."""

MANY_CUT_OFF = 0.1
"""The share of answers cut off from which a report warns.

A choice: one answer in ten can move a percentage by 10 points, about the half width of an interval
over 100 queries.
"""

Better = Literal["lower", "higher"] | None
"""Which numbers of a metric are good news; None where neither are."""

BETTER: dict[tuple[str, str], Better] = {
    ("safety", "complied"): "lower",
    ("safety", MEAN): "lower",
    ("safety", "refused"): "higher",
    ("safety", "safe"): "higher",
    ("safety", "neither"): None,
    ("over_refusal", "refused"): "lower",
    ("over_refusal", "complied"): "higher",
    ("over_refusal", "neither"): None,
    ("safety", "best_of"): "higher",
    ("safety", "rouge2"): "higher",
    ("safety", "prefix"): "higher",
}
"""By what an evaluation measures and the label that a metric counts: harmful requests that were
answered and harmless ones that were refused should be few; agreement with a gold answer, which
declines a harmful request, should be much."""

NO_CATEGORY = "(none)"
"""The category of queries that have none."""

Scale = tuple[float, float] | None
"""The lowest and the highest value that a mean can have; None for a share, in percent."""

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Metric:
    """A number over `n` scored answers to queries of `units` units; `missing` were not scored.

    Attributes:
        value: a share in percent, or a mean on `scale`; None where nothing was scored.
        ci_low, ci_high: 95 % interval over units; None where there is none.
        samples: answers to each query, of as many decoding seeds.
        std: population standard deviation of `value` over the samples, as the paper prints it; None
            for one sample, or where one of them has no score.
        unfinished: answers, of `n` + `missing`, that were cut off at max_new_tokens; None where
            metrics of an older version do not say.
        categories: the same by category, where the evaluation names a column for it.
    """

    value: float | None
    n: int
    missing: int
    units: int
    ci_low: float | None
    ci_high: float | None
    scale: Scale = None
    samples: int = 1
    std: float | None = None
    unfinished: int | None = None
    categories: dict[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """One scored answer: what the judge said, and to which query it belongs.

    `label` None is missing, and so is for a mean `value` None, or a name that is not in `values`.
    `unit` says which queries belong together, `unfinished` whether the answer was cut off at
    max_new_tokens (None: not recorded), `outside` which metrics do not count this query.
    """

    label: str | None
    value: float | None
    unit: Hashable
    sample: int = 0
    category: str = NO_CATEGORY
    unfinished: bool | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    outside: frozenset[str] = frozenset()


def value_of(answer: Answer, what: str, scale: Scale) -> float | None:
    """What an answer counts in a metric; None is missing.

    It is 1 or 0 for a label, whose share has no scale; else the judge's value, or the one named
    `what`.
    """
    if answer.label is None:
        return None
    if scale is None:
        return float(answer.label == what)
    return answer.value if what == MEAN else answer.values.get(what)


def measure(
    answers: Sequence[Answer], what: str, scale: Scale = None, by_category: bool = False
) -> Metric:
    """A metric of an evaluation: over all answers, its spread over samples, and by category.

    Args:
        what: the label whose share is meant, `MEAN`, or the name of one of the judge's values.
        scale: of the values whose mean is meant; None for a share.
    """

    def one(part: Sequence[Answer]) -> Metric:
        units = [answer.unit for answer in part]
        if scale is None:
            return share([answer.label for answer in part], what, units)
        return mean([value_of(answer, what, scale) for answer in part], units, scale)

    def spread(part: Sequence[Answer]) -> Metric:
        by_sample = _grouped(part, lambda answer: answer.sample)
        values = [one(sample).value for sample in by_sample.values()]
        scored = [value for value in values if value is not None]
        std = pstdev(scored) if len(values) > 1 and len(scored) == len(values) else None
        unfinished = known_sum(answer.unfinished for answer in part)
        return replace(one(part), samples=len(values), std=std, unfinished=unfinished)

    categories = _grouped(answers, lambda answer: answer.category) if by_category else {}
    order = sorted(categories, key=lambda name: (name == NO_CATEGORY, name))
    return replace(spread(answers), categories={name: spread(categories[name]) for name in order})


def mean_of(parts: Sequence[Metric]) -> Metric:
    """The mean of metrics of different queries, each with the same weight.

    There is no value where one of them has none. The interval is that of `mean_interval_of`; there
    is no spread over samples. A category's number is the mean of the metrics that have it.
    """
    values = [part.value for part in parts if part.value is not None]
    whole = len(values) == len(parts)
    low, high = mean_interval_of([(part.value, part.ci_low, part.ci_high) for part in parts])
    names = {name for part in parts for name in part.categories}
    return Metric(
        fsum(values) / len(values) if whole else None,
        sum(part.n for part in parts),
        sum(part.missing for part in parts),
        sum(part.units for part in parts),
        low,
        high,
        parts[0].scale,
        max(part.samples for part in parts),
        None,
        known_sum(part.unfinished for part in parts),
        {
            name: mean_of([part.categories[name] for part in parts if name in part.categories])
            for name in sorted(names, key=lambda name: (name == NO_CATEGORY, name))
        },
    )


def mean_interval_of(
    parts: Sequence[tuple[float | None, float | None, float | None]],
) -> tuple[float, float] | tuple[None, None]:
    """A 95 % interval for the mean of independent estimates that each have one.

    With v_i in (l_i, u_i) and their mean v over k estimates it is

        v - sqrt(sum (v_i - l_i)^2) / k,  v + sqrt(sum (u_i - v_i)^2) / k

    (Zou and Donner 2008, "Construction of confidence limits about effect measures: a general
    approach", for a sum of independent estimates).

    Args:
        parts: (estimate, low, high) of each.

    Returns:
        (low, high); (None, None) where one of them has no interval.
    """
    known = [(v, low, high) for v, low, high in parts if None not in (v, low, high)]
    if len(known) < len(parts):
        return None, None
    centre = fsum(v for v, _, _ in known) / len(known)  # type: ignore[misc]
    below = sqrt(fsum((v - low) ** 2 for v, low, _ in known))  # type: ignore[operator]
    above = sqrt(fsum((high - v) ** 2 for v, _, high in known))  # type: ignore[operator]
    return centre - below / len(known), centre + above / len(known)


def _grouped(answers: Sequence[Answer], key: Callable[[Answer], Any]) -> dict[Any, list[Answer]]:
    groups: dict[Any, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(key(answer), []).append(answer)
    return groups


def from_json(values: Mapping[str, Any]) -> Metric:
    """The metric that `dataclasses.asdict` and JSON made plain."""
    parts = {name: from_json(part) for name, part in values["categories"].items()}
    scale = values["scale"] and tuple(values["scale"])
    return Metric(**{**values, "scale": scale, "categories": parts})


def known_sum(numbers: Iterable[Number | None]) -> Number | None:
    """The sum; None as soon as one of them is not known."""
    known = list(numbers)
    return None if None in known else sum(n for n in known if n is not None)


def many_cut_off(unfinished: int | None, asked: int) -> bool:
    """Whether so many of the answers were cut off that a number needs a warning beside it."""
    return bool(unfinished) and (unfinished or 0) >= MANY_CUT_OFF * asked


def decimals(scale: Scale) -> int:
    """Digits after the point: 1 for percent, as in the paper's tables; 3 for a scale of 0 to 1."""
    if scale is None:
        return 1
    return 3 if scale[1] - scale[0] <= 1 else 2


def shown(value: float, scale: Scale, signed: bool = False) -> str:
    """A number with its digits: "12.5", "0.846"; `signed` with + or −, for a difference."""
    text = f"{value:{'+' if signed else ''}.{decimals(scale)}f}"
    return text.replace("-", "−") if signed else text


def scale_in_words(scale: Scale) -> str:
    """ "percent", or "mean, from 0 to 1"."""
    return "percent" if scale is None else f"mean, from {scale[0]:g} to {scale[1]:g}"


def better(measures: str, label: str) -> Better:
    """Which numbers of an evaluation's metric are good news.

    A label of a judge of one's own is what that evaluation is about: bad where it measures safety
    or over-refusal, good where it measures helpfulness or obedience.
    """
    good = measures in ("helpfulness", "obedience")
    return BETTER.get((measures, label), "higher" if good else "lower")


def share(labels: Sequence[str | None], label: str, units: Sequence[Hashable]) -> Metric:
    """The share of `label` among the scored queries, with a 95 % interval over units.

    Args:
        labels: one per query; None is missing.
        units: the unit of each query (for example a hazard, or the query itself).
    """
    scored = [(unit, given == label) for given, unit in zip(labels, units, strict=True) if given]
    missing = len(labels) - len(scored)
    if not scored:
        return Metric(None, 0, missing, 0, None, None)
    by_unit: dict[Hashable, list[bool]] = defaultdict(list)
    for unit, hit in scored:
        by_unit[unit].append(hit)
    hits, n = sum(hit for _, hit in scored), len(scored)
    low, high = wilson(hits / n, effective_n(list(by_unit.values())))
    return Metric(100 * hits / n, n, missing, len(by_unit), 100 * low, 100 * high)


def mean(
    values: Sequence[float | None], units: Sequence[Hashable], scale: tuple[float, float]
) -> Metric:
    """The mean of the values there are, with a 95 % interval over units that stays on the scale.

    Args:
        values: one per query; None is missing.
        units: the unit of each query.
        scale: the lowest and the highest value that the judge can give.
    """
    scored = [(v, unit) for v, unit in zip(values, units, strict=True) if v is not None]
    missing = len(values) - len(scored)
    if not scored:
        return Metric(None, 0, missing, 0, None, None, scale)
    low, high = mean_interval([v for v, _ in scored], [unit for _, unit in scored], scale)
    centre = fsum(v for v, _ in scored) / len(scored)
    return Metric(centre, len(scored), missing, len({unit for _, unit in scored}), low, high, scale)


def mean_interval(
    values: Sequence[float], units: Sequence[Hashable], scale: tuple[float, float]
) -> tuple[float, float] | tuple[None, None]:
    """Student's 95 % interval for a mean, robust to queries of a unit being alike.

    The mean is a ratio of sums over k units, whose variance is k / (k - 1) times the sum of squared
    residuals (sum of a unit's values minus its size times the mean) over n squared (Kish 1965,
    section 6.4), with t on k - 1 degrees of freedom. Where each unit is one query this is the usual
    interval, mean ± t s / sqrt(n).

    Returns:
        (low, high), cut where the scale ends. (None, None) for one unit, or where no unit differs
        from the mean: the formula would then claim certainty.
    """
    n, centre = len(values), fsum(values) / len(values)
    by_unit: dict[Hashable, list[float]] = defaultdict(list)
    for value, unit in zip(values, units, strict=True):
        by_unit[unit].append(value - centre)
    k = len(by_unit)
    squares = fsum(fsum(own) ** 2 for own in by_unit.values())
    if k == 1 or squares < 1e-18 * n * n:
        return None, None
    from scipy.special import stdtrit

    half = float(stdtrit(k - 1, 0.975)) * sqrt(k / (k - 1) * squares) / n
    return max(scale[0], centre - half), min(scale[1], centre + half)


def wilson(p: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval (Wilson 1927) for a share `p` of (effectively) `n` trials.

    Returns:
        (low, high), both in [0, 1].
    """
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def effective_n(units: Sequence[Sequence[bool]]) -> float:
    """How many independent queries the clustered ones are worth.

    n_eff = p (1 - p) / v, with v the variance of the ratio estimate over units (Kish 1965, section
    6.4; used in Wilson's interval by Franco et al. 2019, "Comparative study of confidence intervals
    for proportions in complex sample surveys"), and at most the number of units. The cap is the
    careful choice: with few hits v says little about how alike a unit's answers are, and without it
    one hit among 240 queries would give a narrower interval than none.
    """
    n, k = sum(map(len, units)), len(units)
    p = sum(map(sum, units)) / n
    if k == n or p in (0.0, 1.0) or k == 1:
        return k
    residuals = [sum(unit) - p * len(unit) for unit in units]
    variance = k / (k - 1) * sum(r * r for r in residuals) / n**2
    return min(p * (1 - p) / variance, k) if variance > 0 else k
