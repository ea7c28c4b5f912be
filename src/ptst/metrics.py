"""From scores to numbers one can publish: shares with n, missing count and interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Metric:
    """A share in percent of `n` scored queries from `units` units; `missing` were not scored.

    `percent` and the interval are None where nothing was scored: missing is not zero.
    """

    percent: float | None
    n: int
    missing: int
    units: int
    ci_low: float | None
    ci_high: float | None


def share(labels: Sequence[str | None], label: str, units: Sequence[Hashable]) -> Metric:
    """The share of `label` among the scored queries, with a 95 % interval over units.

    Args:
        labels: one per query; None is missing.
        units: the unit of each query (a hazard, say, or the query itself).
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
    for proportions in complex sample surveys"), and at most the number of units. The cap is the careful
    choice: with few hits v says little about how alike a unit's answers are, and without it one hit
    among 240 queries would give a narrower interval than none.
    """
    n, k = sum(map(len, units)), len(units)
    p = sum(map(sum, units)) / n
    if k == n or p in (0.0, 1.0) or k == 1:
        return k
    residuals = [sum(unit) - p * len(unit) for unit in units]
    variance = k / (k - 1) * sum(r * r for r in residuals) / n**2
    return min(p * (1 - p) / variance, k) if variance > 0 else k
