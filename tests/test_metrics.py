"""Shares and intervals, against statsmodels and values worked by hand."""

from __future__ import annotations

import itertools

import pytest
from statsmodels.stats.proportion import proportion_confint

from ptst.metrics import effective_n, share, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (18, 100), (1, 520)])
def test_wilson_equals_statsmodels(hits: int, n: int) -> None:
    expected = proportion_confint(hits, n, alpha=0.05, method="wilson")
    assert wilson(hits / n, n) == pytest.approx(expected, abs=1e-12)


def test_share_counts_percent_n_units_and_missing() -> None:
    metric = share(["complied", "refused", None, "complied", "neither"], "complied", range(5))
    assert metric.percent == pytest.approx(50.0)
    assert (metric.n, metric.missing, metric.units) == (4, 1, 4)
    low, high = proportion_confint(2, 4, alpha=0.05, method="wilson")
    assert (metric.ci_low, metric.ci_high) == pytest.approx((100 * low, 100 * high))


def test_nothing_scored_is_missing_not_zero() -> None:
    metric = share([None, None], "complied", ["a", "b"])
    assert metric.percent is None
    assert metric.ci_low is None
    assert (metric.n, metric.missing) == (0, 2)


def test_effective_n_of_independent_queries_is_their_number() -> None:
    assert effective_n([[True], [False], [True]]) == 3


def test_effective_n_of_units_that_always_agree_is_about_their_number() -> None:
    units = [[True] * 4] * 5 + [[False] * 4] * 5
    # p = 1/2; residuals are +-2; v = 10/9 * 10 * 4 / 1600 = 1/36; n_eff = (1/4) / (1/36) = 9
    assert effective_n(units) == pytest.approx(9.0)


def test_effective_n_never_exceeds_the_number_of_units() -> None:
    assert effective_n([[True, False]] * 6) == 6


def test_more_hits_never_give_a_lower_bound() -> None:
    units = [i // 3 for i in range(240)]
    metrics = [
        share(["complied"] * hits + ["refused"] * (240 - hits), "complied", units)
        for hits in range(241)
    ]
    for fewer, more in itertools.pairwise(metrics):
        assert fewer.ci_high <= more.ci_high + 0.6  # whole units jump by a fraction of a point
        assert fewer.ci_low <= more.ci_low + 0.6
    assert metrics[0].ci_high <= metrics[1].ci_high


@pytest.mark.parametrize("value", [True, False])
def test_effective_n_where_all_answers_are_alike_is_the_number_of_units(value: bool) -> None:
    assert effective_n([[value] * 3] * 80) == 80


def test_interval_of_clustered_queries_is_wider() -> None:
    labels = ["complied"] * 20 + ["refused"] * 20
    alone = share(labels, "complied", range(40))
    in_units = share(labels, "complied", [i // 4 for i in range(40)])
    assert in_units.units == 10
    assert in_units.ci_low < alone.ci_low < alone.ci_high < in_units.ci_high
