"""The statistics of a report: spread over seeds, intervals over units, paired tests."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import fsum, sqrt

from ptst.metrics import Scale, effective_n, mean_interval, wilson


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and population standard deviation, as in the paper; None for one value."""
    mean = fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, sqrt(fsum((value - mean) ** 2 for value in values) / len(values))


def pooled_interval(
    values: Sequence[float], units: Sequence[Hashable], scale: Scale = None
) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval of a number pooled over seeds: Wilson's for a share, Student's for a mean.

    A query has the same unit under every seed, so that the same queries asked of three fine-tunings
    count as at most that many independent trials (`ptst.metrics.effective_n`), not as three times
    as many.

    Args:
        values: one per query and seed, at least one: for a share whether it is a hit.
        units: the unit of each.
        scale: of a mean's values; None for a share.
    """
    if scale is not None:
        return mean_interval(values, units, scale)
    hits = [bool(value) for value in values]
    by_unit: dict[Hashable, list[bool]] = {}
    for hit, unit in zip(hits, units, strict=True):
        by_unit.setdefault(unit, []).append(hit)
    low, high = wilson(sum(hits) / len(hits), effective_n(list(by_unit.values())))
    return 100 * low, 100 * high


def paired_interval(
    a: Sequence[float], b: Sequence[float], units: Sequence[Hashable], scale: Scale = None
) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval of b minus a on the same queries, in percentage points or on the scale.

    For shares it is Newcombe's interval for paired proportions, which squares and adds Wilson's
    (Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions
    based on paired data", without continuity corrections): with d = p_b - p_a, and l and u the
    bounds of each share,

        low  = d - sqrt((p_b - l_b)^2 - 2 r (p_b - l_b) (u_a - p_a) + (u_a - p_a)^2)
        high = d + sqrt((u_b - p_b)^2 - 2 r (u_b - p_b) (p_a - l_a) + (p_a - l_a)^2)

    Zou and Donner 2008 ("Construction of confidence limits about effect measures: a general
    approach") show that this holds for any two estimates with intervals and a correlation r of
    their own. So units enter as they do in the intervals of the two shares (`effective_n`), and r
    is that of the two ratio estimates over units, from the residuals of `effective_n`; with one
    query a unit it is Newcombe's phi. 0 where one of the shares has none.

    For means it is Student's interval of the differences, robust to units
    (`ptst.metrics.mean_interval`).

    Args:
        a, b: of each query and seed what it counts in the one cell and in the other, at least one.
        units: the unit of each.
        scale: of a mean's values; None for shares.
    """
    if scale is not None:
        span = scale[1] - scale[0]
        differences = [y - x for x, y in zip(a, b, strict=True)]
        return mean_interval(differences, units, (-span, span))
    n = len(units)
    p_a, p_b = fsum(a) / n, fsum(b) / n
    (l_a, u_a), (l_b, u_b) = (
        (low / 100, high / 100)
        for low, high in (pooled_interval(a, units), pooled_interval(b, units))
        if low is not None and high is not None
    )
    left: dict[Hashable, tuple[float, float]] = {}
    for x, y, unit in zip(a, b, units, strict=True):
        so_far = left.get(unit, (0.0, 0.0))
        left[unit] = so_far[0] + x - p_a, so_far[1] + y - p_b
    both = fsum(x * y for x, y in left.values())
    spread = sqrt(fsum(x * x for x, _ in left.values()) * fsum(y * y for _, y in left.values()))
    r = both / spread if spread > 1e-12 else 0.0

    def reach(of_b: float, of_a: float) -> float:
        return sqrt(max(0.0, of_b**2 - 2 * r * of_b * of_a + of_a**2))

    low = p_b - p_a - reach(p_b - l_b, u_a - p_a)
    high = p_b - p_a + reach(u_b - p_b, p_a - l_a)
    return 100 * max(-1.0, low), 100 * min(1.0, high)


def sign_flip(differences: Sequence[int]) -> float:
    """Exact two-sided paired test that neither of two cells has more hits, over units.

    Fisher's randomisation test for pairs (The Design of Experiments, 1935, section 21): were the
    two cells alike, each unit's difference would as likely have the other sign, whatever ties the
    unit's queries together. p = P(|sum of ±|d_k|| >= |sum of d_k|) with independent fair signs, by
    convolution, without sampling. With one query per unit and one seed each d_k is -1, 0 or 1 and
    this is McNemar's test in its exact form (McNemar 1947): the binomial test over discordant
    pairs.

    Args:
        differences: of each unit, hits in b minus hits in a, over its queries and seeds.

    Returns:
        p; 1.0 where nothing differs.
    """
    import numpy as np

    sizes = [abs(d) for d in differences if d]
    observed = abs(sum(differences))
    # A sum of ±|d_k| is at most -observed where the |d_k| with a plus add up to at most `reach`.
    # The distribution is symmetric, so its other end counts the same: p is twice that. Each
    # addition is of positive numbers, so that a small p has small relative error.
    reach = (sum(sizes) - observed) // 2
    chances = np.zeros(reach + 1)
    chances[0] = 1.0
    for size in sizes:
        halved = chances / 2
        chances = halved.copy()
        if size <= reach:
            chances[size:] += halved[:-size]
    return min(1.0, 2 * float(chances.sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979) of a family of p-values, in the given order.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none is below a smaller
    one's, none above 1.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
