"""Two kinds of rows, by one number of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import ndarray

GAP = 3.0
"""Standard deviations between the means of two modes."""
FEWEST = 5
"""Values of a mode."""
VALLEY = 0.02
"""Share of the values that may lie in the middle third between both means: the halves of one broad
mode are far apart, too, but nothing separates them."""


@dataclass(frozen=True)
class Split:
    """A second mode.

    Attributes:
        cut: halfway between both modes: values above it are of the upper one.
        gap: between their means, in standard deviations within a mode (Ashman et al. 1994, eq. 5).
        lower, upper: how many values each mode has.
    """

    cut: float
    gap: float
    lower: int
    upper: int


def second_mode(values: Sequence[float]) -> Split | None:
    """The two normal distributions that fit sorted values best, if they are apart.

    The values below a cut make the one, those above it the other; the cut is where the likelihood
    is greatest. None where the gap is `GAP` or less, where a mode has less than `FEWEST` values, or
    where values lie between the modes.
    """
    import numpy as np

    x = np.sort(np.asarray(values, dtype="float64"))
    n = len(x)
    if n < 2 * FEWEST or x[-1] - x[0] < 1e-9:
        return None
    least = ((x[-1] - x[0]) / 100) ** 2  # equal values have no width, and are no infinite gap
    sizes = np.arange(FEWEST, n - FEWEST + 1)
    below, above = _moments(x, sizes), _moments(-x[::-1], n - sizes)
    cost = sizes * np.log(below[1] + least) + (n - sizes) * np.log(above[1] + least)
    cost -= 2 * (sizes * np.log(sizes) + (n - sizes) * np.log(n - sizes))
    k = int(cost.argmin())
    low, high = float(below[0][k]), float(-above[0][k])
    width = float(((below[1][k] + above[1][k]) / 2 + least) ** 0.5)
    third = (high - low) / 3
    between = int(((x > low + third) & (x < high - third)).sum())
    gap = (high - low) / width
    if gap <= GAP or between > VALLEY * n:
        return None
    size = int(sizes[k])
    return Split(float((x[size - 1] + x[size]) / 2), gap, size, n - size)


def _moments(x: ndarray, sizes: ndarray) -> tuple[ndarray, ndarray]:
    """Means and variances of the first values, as many as each of `sizes` says."""
    import numpy as np

    centre = x.mean()  # sums of squares lose digits far from zero
    total, squares = np.cumsum(x - centre), np.cumsum((x - centre) ** 2)
    mean = total[sizes - 1] / sizes
    return mean + centre, np.maximum(squares[sizes - 1] / sizes - mean**2, 0)
