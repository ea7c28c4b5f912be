"""Agreement between judges: Cohen's kappa, Krippendorff's alpha, bootstrapped intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


DRAWS = 2000
"""Bootstrap samples of an interval."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; all None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


def cohens_kappa(tables: np.ndarray) -> np.ndarray:
    """Cohen's kappa (Cohen 1960): (p_o - p_e) / (1 - p_e).

    Args:
        tables: (..., k, k) counts, a's category by b's.

    Returns:
        (...); NaN where it is not defined (no counts, or both always say the same one thing).
    """
    import numpy as np

    tables = np.asarray(tables, dtype=float)
    n = tables.sum((-1, -2))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(tables, axis1=-2, axis2=-1) / n
        expected = (tables.sum(-1) * tables.sum(-2)).sum(-1) / n**2
        kappa = (observed - expected) / (1 - expected)
    return np.where(expected < 1 - 1e-12, kappa, np.nan)


def coincidences(counts: np.ndarray) -> np.ndarray:
    """Krippendorff's coincidence matrix of each item: pairs of values from different judges.

    Args:
        counts: (items, k), how many judges gave an item each category; fewer than two are not a
            pair.

    Returns:
        (items, k, k), each adding up to the item's number of values.
    """
    import numpy as np

    counts = np.asarray(counts, dtype=float)
    values = counts.sum(-1)
    pairs = counts[:, :, None] * counts[:, None, :]
    diagonal = np.arange(counts.shape[-1])
    pairs[:, diagonal, diagonal] -= counts
    weight = np.where(values > 1, 1 / np.maximum(values - 1, 1), 0)
    return pairs * weight[:, None, None]


def krippendorff_alpha(matrices: np.ndarray) -> np.ndarray:
    """Krippendorff's alpha for nominal data.

    Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability":

    alpha = 1 - (n - 1) * sum of o_ck over c != k / sum of n_c n_k over c != k.

    Args:
        matrices: (..., k, k) coincidences, added up over items.

    Returns:
        (...); NaN where it is not defined (fewer than two categories occur).
    """
    import numpy as np

    matrices = np.asarray(matrices, dtype=float)
    margins = matrices.sum(-1)
    n = margins.sum(-1)
    differ = n - np.trace(matrices, axis1=-2, axis2=-1)
    chance = n**2 - (margins**2).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance > 0, 1 - (n - 1) * differ / chance, np.nan)


def bootstrapped(
    per_unit: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int = 0
) -> Interval:
    """A statistic of summed counts, and its 95 % percentile interval with units drawn anew.

    A query asked of many cells is one unit, so that its answers, which are alike, are drawn
    together.

    Args:
        per_unit: (units, k, k).
        statistic: of (..., k, k).
    """
    import numpy as np

    value = float(statistic(per_unit.sum(0)))
    if np.isnan(value):
        return Interval(None, None, None)
    units = len(per_unit)
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=DRAWS)
    sums = drawn @ per_unit.reshape(units, -1)
    return percentile_interval(value, statistic(sums.reshape(DRAWS, *per_unit.shape[1:])))


def percentile_interval(value: float, values: np.ndarray) -> Interval:
    """An estimate with the 95 % percentile interval of its bootstrap samples; NaN: not defined."""
    import numpy as np

    defined = values[~np.isnan(values)]
    # Too rare an event for an interval; or no unit differs, and an interval would claim certainty
    if len(defined) < 0.95 * len(values) or np.ptp(defined) < 1e-12:
        return Interval(value, None, None)
    low, high = np.quantile(defined, (0.025, 0.975))
    return Interval(value, float(low), float(high))
