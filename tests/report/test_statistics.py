"""Spread, intervals and tests of a report, against scipy, statsmodels and values worked by hand."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, norm, permutation_test, t
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from ptst.metrics import mean_interval
from ptst.report.statistics import (
    holm,
    mean_and_std,
    paired_interval,
    pooled_interval,
    sign_flip,
)


def test_std_over_seeds_is_the_population_s() -> None:
    # (1, 2, 6): mean 3, squares 4 + 1 + 9 = 14, over 3 (not 2)
    mean, std = mean_and_std([1.0, 2.0, 6.0])
    assert mean == pytest.approx(3.0)
    assert std == pytest.approx((14 / 3) ** 0.5)
    assert std == pytest.approx(np.std([1.0, 2.0, 6.0], ddof=0))


def test_one_seed_has_no_spread() -> None:
    assert mean_and_std([42.0]) == (42.0, None)


def test_interval_of_one_seed_without_clusters_equals_statsmodels() -> None:
    low, high = proportion_confint(7, 20, alpha=0.05, method="wilson")
    interval = pooled_interval([True] * 7 + [False] * 13, range(20))
    assert interval == pytest.approx((100 * low, 100 * high))


def test_seeds_that_agree_do_not_make_the_interval_narrower() -> None:
    # p = 7/20. With three equal seeds the residuals of units are 3 times as large and n is, too, so
    # v = 20/19 p (1-p) / 20 and n_eff = 19: a little less than the 20 units, and nowhere near 60.
    hits = ([True] * 7 + [False] * 13) * 3
    low, high = proportion_confint(0.35 * 19, 19, alpha=0.05, method="wilson")
    assert pooled_interval(hits, [*range(20)] * 3) == pytest.approx((100 * low, 100 * high))


def test_seeds_that_disagree_count_as_at_most_the_number_of_units() -> None:
    hits = [True, False] * 6 + [
        False,
        True,
    ] * 6  # every unit is hit under one seed and not the other
    low, high = proportion_confint(6, 12, alpha=0.05, method="wilson")
    assert pooled_interval(hits, [*range(12)] * 2) == pytest.approx((100 * low, 100 * high))


def pairs(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[float], list[float]]:
    """Answers of the two cells with these counts."""
    a = [1.0] * (both + only_a) + [0.0] * (only_b + neither)
    return a, [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither


def test_the_interval_of_a_paired_difference_is_newcombe_s() -> None:
    # Airway hyper-responsiveness before and after a transplant (Bentur et al. 2009), the example of
    # Fagerland, Lydersen and Laake 2014 ("Recommended tests and confidence intervals for paired
    # binomial proportions"): 1 both, 1 before only, 7 after only, 12 neither. Newcombe's interval
    # there is (2.6, 50.7) with phi corrected to 0; here phi is (1 * 12 - 1 * 7) / sqrt(2 * 19 * 8 *
    # 13) = 0.0795, so that ours lies a little within it.
    a, b = pairs(1, 1, 7, 12)
    phi = np.corrcoef(a, b)[0, 1]
    assert phi == pytest.approx(0.0795, abs=1e-4)
    (l1, u1), (l2, u2) = (proportion_confint(k, 21, method="wilson") for k in (2, 8))
    p1, p2 = 2 / 21, 8 / 21
    for r, expected in ((0.0, (0.026, 0.507)), (phi, None)):
        low = p2 - p1 - np.sqrt((p2 - l2) ** 2 - 2 * r * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
        high = p2 - p1 + np.sqrt((u2 - p2) ** 2 - 2 * r * (u2 - p2) * (p1 - l1) + (p1 - l1) ** 2)
        if expected:
            assert (low, high) == pytest.approx(expected, abs=5e-4)
    assert paired_interval(a, b, range(21)) == pytest.approx((100 * low, 100 * high))
    assert 2.6 < 100 * low < 100 * high < 50.7


def test_the_interval_of_a_difference_without_any_spread_is_not_certain() -> None:
    low, high = paired_interval([1.0] * 8, [0.0] * 8, range(8))
    # Wilson of 0 of 8 ends at z^2 / (8 + z^2) = 0.32441: 1 - sqrt(2) * 0.3244
    assert (low, high) == pytest.approx((-100.0, -100 * (1 - 2**0.5 * 0.32441)), abs=1e-3)
    assert paired_interval([0.0] * 8, [0.0] * 8, range(8)) == pytest.approx((-32.441, 32.441), abs=1e-3)  # fmt: skip


def test_the_interval_of_a_difference_is_over_units() -> None:
    # Four units of two queries: a hits both of the first two, b one of the first. Residuals of
    # units with p_a = .5: (1, 1, -1, -1), p_b = .125: (.75, -.25, -.25, -.25); r = 1 / sqrt(4 *
    # .75) = .5774. n_eff of a: v = 4/3 * 4 / 64 = .0833, .25 / .0833 = 3; of b: v = 4/3 * .75 / 64
    # = .015625, .109375 / v = 7, capped at 4 units.
    a, b = [1, 1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]
    units = ["p", "p", "q", "q", "r", "r", "s", "s"]
    (l_a, u_a), (l_b, u_b) = (
        proportion_confint(p * n, n, method="wilson") for p, n in ((0.5, 3), (0.125, 4))
    )
    r = 1 / 3**0.5
    low = -0.375 - np.sqrt((0.125 - l_b) ** 2 - 2 * r * (0.125 - l_b) * (u_a - 0.5) + (u_a - 0.5) ** 2)  # fmt: skip
    high = -0.375 + np.sqrt((u_b - 0.125) ** 2 - 2 * r * (u_b - 0.125) * (0.5 - l_a) + (0.5 - l_a) ** 2)  # fmt: skip
    found = paired_interval([float(x) for x in a], [float(x) for x in b], units)
    assert found == pytest.approx((100 * low, 100 * high))
    narrow = paired_interval([float(x) for x in a], [float(x) for x in b], range(8))
    assert narrow[0] > found[0]  # type: ignore[operator]


def test_the_interval_of_a_difference_of_means_is_student_s() -> None:
    a, b = [1.0, 2.0, 5.0, 4.0], [3.0, 2.0, 5.0, 1.0]
    differences = np.subtract(b, a)
    half = t.ppf(0.975, 3) * differences.std(ddof=1) / 2
    found = paired_interval(a, b, range(4), (1.0, 5.0))
    assert found == pytest.approx((max(-4, -0.25 - half), min(4, -0.25 + half)))
    assert found == mean_interval(list(differences), range(4), (-4.0, 4.0))


@pytest.mark.parametrize(("b", "c"), [(0, 1), (0, 5), (1, 9), (3, 3), (4, 5), (12, 40), (0, 300)])
def test_sign_flip_of_single_queries_is_exact_mcnemar(b: int, c: int) -> None:
    table = [[10, b], [c, 10]]
    expected = mcnemar(table, exact=True).pvalue
    p = sign_flip([1] * b + [-1] * c + [0] * 20)
    assert p == pytest.approx(expected, rel=1e-9)
    assert p == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9)


def test_sign_flip_by_hand() -> None:
    assert sign_flip([1, 1, 1, 1, 1]) == pytest.approx(2 / 32)  # all plus, or all minus
    # ±3 ±1: 4, 2, -2, -4 with 1/4 each
    assert sign_flip([3, 1]) == pytest.approx(2 / 4)
    assert sign_flip([3, -1]) == pytest.approx(1.0)
    # ±2 ±1 ±1: |4| twice, |2| four times, |0| twice, of 8
    assert sign_flip([2, 1, -1]) == pytest.approx(6 / 8)
    assert sign_flip([2, 1, 1]) == pytest.approx(2 / 8)


def test_sign_flip_of_units_equals_scipy_s_permutation_test() -> None:
    differences = [3, 2, -1, 0, 2, 3, -2, 1, 1, -1]
    a, b = np.zeros(10), np.array(differences, float)

    def sum_of_differences(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.sum(y - x, axis=axis)

    exact = permutation_test(
        (a, b),
        sum_of_differences,
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert sign_flip(differences) == pytest.approx(exact.pvalue, rel=1e-12)


def test_sign_flip_equals_the_list_of_all_signs() -> None:
    draw = random.Random(0)
    for _ in range(20):
        differences = [draw.randint(-4, 4) for _ in range(9)]
        sums = [
            sum(s * d for s, d in zip(signs, differences, strict=True))
            for signs in product((1, -1), repeat=9)
        ]
        expected = np.mean([abs(s) >= abs(sum(differences)) for s in sums])
        assert sign_flip(differences) == pytest.approx(expected, rel=1e-12)


def test_sign_flip_does_not_care_which_of_the_two_comes_first() -> None:
    differences = [5, -2, 1, 1, 0, -3, 2]
    assert sign_flip(differences) == sign_flip([-d for d in differences])


@pytest.mark.parametrize("nothing", [[], [0], [0, 0, 0]])
def test_where_nothing_differs_p_is_one(nothing: list[int]) -> None:
    assert sign_flip(nothing) == 1.0


def test_sign_flip_is_accurate_far_out_and_with_many_units() -> None:
    assert sign_flip([1] * 500) == pytest.approx(2 * 0.5**500, rel=1e-9)
    # 4,000 units of ±1..±5: the sum is near normal, with variance sum of d^2
    differences = [(i % 5 + 1) * (1 if i % 40 else -1) * (1 if i % 2 else -1) for i in range(4000)]
    z = abs(sum(differences)) / sum(d * d for d in differences) ** 0.5
    assert sign_flip(differences) == pytest.approx(2 * norm.sf(z), rel=0.02)


def test_holm_by_hand() -> None:
    # sorted .01 .03 .04 .5 -> x4 .04, x3 .09, x2 .08 raised to .09, x1 .5
    assert holm([0.04, 0.01, 0.5, 0.03]) == pytest.approx([0.09, 0.04, 0.5, 0.09])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_holm_equals_statsmodels(seed: int) -> None:
    draw = random.Random(seed)
    p_values = [draw.random() ** 4 for _ in range(12)]
    p_values[3] = p_values[7]  # a tie
    expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(list(expected), rel=1e-12)
