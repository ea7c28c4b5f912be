"""Receiver operating characteristics: how well a score tells positives from negatives.

A threshold flags what has at least its score. Everything is computed for many weightings of the
items at once, so that a bootstrap over units is one call: `weights` is (draws, items).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def roc(scores: Array, positive: Array, weights: Array) -> tuple[Array, Array]:
    """False and true positive rates at falling thresholds: at none flagged, then at each score.

    Args:
        scores: (items,), the higher the more suspicious.
        positive: (items,) booleans.

    Returns:
        Two arrays (draws, 1 + distinct scores) from 0 to 1; NaN for a draw without negatives, or
        without positives.
    """
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(-scores[order], append=np.inf))

    def rates(counts: Array) -> Array:
        flagged = np.cumsum(counts[:, order], axis=1)[:, ends]
        flagged = np.concatenate([np.zeros((len(flagged), 1)), flagged], axis=1)
        with np.errstate(invalid="ignore"):
            return np.asarray(flagged / flagged[:, -1:])

    return rates(weights * ~positive), rates(weights * positive)


def area(false: Array, true: Array) -> Array:
    """The area under each curve, (draws,): ties count half."""
    import numpy as np

    return np.asarray(np.trapezoid(true, false, axis=1))


def false_at(false: Array, true: Array, wanted: float) -> Array:
    """The false positive rate at the first threshold with a true positive rate of `wanted` or more,
    (draws,)."""
    import numpy as np

    first = np.argmax(true >= wanted - 1e-12, axis=1)
    found = np.take_along_axis(false, first[:, None], axis=1)[:, 0]
    return np.where(np.isnan(true[:, -1]), np.nan, found)
