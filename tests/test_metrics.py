"""Shares, means and intervals, against statsmodels and values worked by hand."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict

import pytest
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from ptst.metrics import (
    NO_CATEGORY,
    Answer,
    Metric,
    better,
    effective_n,
    from_json,
    many_cut_off,
    mean,
    measure,
    scale_in_words,
    share,
    shown,
    wilson,
)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (18, 100), (1, 520)])
def test_wilson_equals_statsmodels(hits: int, n: int) -> None:
    expected = proportion_confint(hits, n, alpha=0.05, method="wilson")
    assert wilson(hits / n, n) == pytest.approx(expected, abs=1e-12)


def test_share_counts_percent_n_units_and_missing() -> None:
    metric = share(["complied", "refused", None, "complied", "neither"], "complied", range(5))
    assert metric.value == pytest.approx(50.0)
    assert (metric.n, metric.missing, metric.units) == (4, 1, 4)
    low, high = proportion_confint(2, 4, alpha=0.05, method="wilson")
    assert (metric.ci_low, metric.ci_high) == pytest.approx((100 * low, 100 * high))


def test_nothing_scored_is_missing_not_zero() -> None:
    metric = share([None, None], "complied", ["a", "b"])
    assert metric.value is None
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


def test_mean_of_independent_queries_has_students_interval() -> None:
    metric = mean([1.0, 2.0, None, 4.0, 5.0], range(5), (1, 5))
    # 1, 2, 4, 5: mean 3, s^2 = (4 + 1 + 1 + 4) / 3 = 10/3, t(3) = 3.1824: half 3.1824 * sqrt(10/12)
    # = 2.905
    assert metric.value == pytest.approx(3.0)
    assert (metric.n, metric.missing, metric.units, metric.scale) == (4, 1, 4, (1, 5))
    assert (metric.ci_low, metric.ci_high) == (1.0, 5.0)  # cut where the scale ends: .095 and 5.905
    wide = mean([1.0, 2.0, 4.0, 5.0], range(4), (-9, 9))
    expected = DescrStatsW([1.0, 2.0, 4.0, 5.0]).tconfint_mean()
    assert (wide.ci_low, wide.ci_high) == pytest.approx(expected)
    assert wide.ci_low == pytest.approx(3 - 2.905, abs=1e-3)


def test_mean_of_queries_in_units_has_a_cluster_robust_interval() -> None:
    values, units = [1.0, 1.0, 3.0, 5.0, 5.0], ["a", "a", "b", "c", "c"]
    metric = mean(values, units, (-9, 9))
    # mean 3; residuals of units -4, 0, 4: v = 3/2 * 32 / 25 = 1.92; t(2) = 4.3027: half 5.962
    assert (metric.value, metric.units) == (pytest.approx(3.0), 3)
    assert metric.ci_high == pytest.approx(3 + 4.30265 * 1.92**0.5, abs=1e-4)
    fitted = OLS(values, [1.0] * 5).fit()
    robust = fitted.get_robustcov_results("cluster", groups=[0, 0, 1, 2, 2], use_t=True)
    # statsmodels corrects by k / (k - 1) * (n - 1) / (n - 1), the same for a mean
    assert (metric.ci_low, metric.ci_high) == pytest.approx(tuple(robust.conf_int()[0]))


@pytest.mark.parametrize("values", [[2.0], [0.1, 0.1, 0.1]])
def test_a_mean_without_variation_claims_no_certainty(values: list[float]) -> None:
    metric = mean(values, range(len(values)), (0, 5))
    assert metric.value == pytest.approx(values[0])
    assert (metric.ci_low, metric.ci_high) == (None, None)


def test_a_mean_of_nothing_is_missing_not_zero() -> None:
    assert mean([None], ["a"], (0, 1)) == Metric(None, 0, 1, 0, None, None, (0, 1))


def test_answers_that_were_cut_off_are_counted_also_by_category_and_never_guessed() -> None:
    letters = ["cu", "cf", "rf", "?u"]  # label, and u for unfinished
    answers = [
        Answer(
            {"c": "complied", "r": "refused", "?": None}[label],
            None,
            number,
            category="ab"[number // 2],
            unfinished=end == "u",
        )
        for number, (label, end) in enumerate(letters)
    ]
    metric = measure(answers, "complied", by_category=True)
    assert (metric.n, metric.missing, metric.unfinished) == (3, 1, 2)
    assert {name: part.unfinished for name, part in metric.categories.items()} == {"a": 1, "b": 1}
    unknown = measure([*answers, Answer("complied", None, 9)], "complied")
    assert unknown.unfinished is None


def test_metrics_of_an_older_store_do_not_say_what_was_cut_off() -> None:
    old = asdict(measure([Answer("complied", None, 0, unfinished=True)], "complied"))
    assert from_json(old).unfinished == 1
    del old["unfinished"]
    assert from_json(old).unfinished is None


@pytest.mark.parametrize(
    ("unfinished", "asked", "many"),
    [(None, 20, False), (0, 0, False), (0, 20, False), (1, 20, False), (2, 20, True)],
)
def test_one_answer_in_ten_cut_off_is_many(unfinished: int | None, asked: int, many: bool) -> None:
    assert many_cut_off(unfinished, asked) is many


def test_samples_of_a_query_are_one_unit_and_spread_over_decoding_seeds() -> None:
    hits = {0: "cr", 1: "cc", 2: "rr"}  # two queries under three seeds
    answers = [
        Answer("complied" if hit == "c" else "refused", None, query, sample)
        for sample, letters in hits.items()
        for query, hit in enumerate(letters)
    ]
    metric = measure(answers, "complied")
    assert (metric.value, metric.n, metric.units, metric.samples) == (50.0, 6, 2, 3)
    # shares 50, 100, 0: squares 0 + 2500 + 2500 over 3
    assert metric.std == pytest.approx((5000 / 3) ** 0.5)
    one = measure(answers[:2], "complied")
    assert (one.samples, one.std) == (1, None)
    assert one == share(["complied", "refused"], "complied", [0, 1])


def test_a_sample_without_any_score_leaves_no_spread() -> None:
    answers = [Answer("complied", None, 0, 0), Answer(None, None, 0, 1)]
    metric = measure(answers, "complied")
    assert (metric.value, metric.missing, metric.std) == (100.0, 1, None)


def test_categories_have_numbers_of_their_own_and_a_missing_one_is_shown() -> None:
    answers = [
        Answer("5", 5.0, 0, category="b"),
        Answer("1", 1.0, 1, category="b"),
        Answer(None, None, 2, category="a"),
        Answer("2", 2.0, 3),
    ]
    metric = measure(answers, "mean", (1, 5), by_category=True)
    assert list(metric.categories) == ["a", "b", NO_CATEGORY]
    assert metric.value == pytest.approx(8 / 3)
    assert metric.categories["b"].value == pytest.approx(3.0)
    assert (metric.categories["a"].value, metric.categories["a"].missing) == (None, 1)
    assert metric.categories["a"].scale == (1, 5)
    assert measure(answers, "mean", (1, 5)).categories == {}


def test_a_metric_comes_back_from_json_as_it_was() -> None:
    answers = [Answer("x", 0.5, i, i % 2, "ab"[i // 2]) for i in range(4)]
    for metric in (measure(answers, "x", None, True), measure(answers, "mean", (0, 1), True)):
        assert from_json(json.loads(json.dumps(asdict(metric)))) == metric


def test_numbers_are_shown_with_the_digits_of_their_scale() -> None:
    assert shown(12.345, None) == "12.3"
    assert shown(0.84567, (0, 1)) == "0.846"
    assert shown(-1.5, (1, 5), signed=True) == "−1.50"
    assert scale_in_words(None) == "percent"
    assert scale_in_words((0, 1)) == "mean, from 0 to 1"


@pytest.mark.parametrize(
    ("measures", "label", "expected"),
    [
        ("safety", "complied", "lower"),
        ("safety", "mean", "lower"),
        ("safety", "refused", "higher"),
        (
            "safety",
            "safe",
            "higher",
        ),  # of a judge that tells safe from unsafe: once taken for bad news
        ("safety", "neither", None),
        ("safety", "leaked", "lower"),  # a label of a judge of one's own
        ("over_refusal", "refused", "lower"),
        ("over_refusal", "complied", "higher"),
        ("helpfulness", "complied", "higher"),
        ("helpfulness", "mean", "higher"),
        ("obedience", "passed", "higher"),
    ],
)
def test_a_metric_says_which_numbers_are_good_news(
    measures: str, label: str, expected: str | None
) -> None:
    assert better(measures, label) == expected
