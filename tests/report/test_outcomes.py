"""Correlations of analyses with outcomes: against hand-made numbers and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from ptst.report.analyses import Found
from ptst.report.outcomes import (
    FEWEST,
    Relation,
    counted_spearman,
    outcomes_csv,
    relations_of,
    spearman,
)
from ptst.report.tables.analyses import outcome_lines, strongest_lines
from ptst.sweep.grid import expand

X, Y = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0]
MODELS = ["a", "b", "c", "d", "e"]


def test_spearman_is_the_one_worked_out_by_hand() -> None:
    # Differences of ranks 1, 1, 1, 1, 0: 1 - 6 * 4 / (5 * 24)
    assert spearman(X, Y, MODELS).value == pytest.approx(0.8)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4], MODELS[:4]).value == pytest.approx(0.9486833)


def test_what_does_not_vary_has_no_correlation() -> None:
    for x, y in (([1.0] * 5, Y), (X, [0.0] * 5), (X[:2], Y[:2])):
        found = spearman(x, y, MODELS[: len(x)])
        assert (found.value, found.low, found.high) == (None, None, None)


def test_rounding_is_no_variation_and_does_not_break_a_tie() -> None:
    noise = [1.0, 1 - 2e-16, 1.0, 1 - 1e-16, 1.0]  # as a cosine of a vector with itself
    assert spearman(noise, Y, MODELS).value is None
    tied = spearman([0.3, 0.1 + 0.2, 1.0, 2.0, 3.0], Y, MODELS)
    assert tied == spearman([0.3, 0.3, 1.0, 2.0, 3.0], Y, MODELS)
    assert tied == spearman(Y, [0.3, 0.1 + 0.2, 1.0, 2.0, 3.0], MODELS)


def test_samples_with_counts_have_scipys_correlation() -> None:
    draw = np.random.default_rng(1)
    x, y = draw.integers(0, 4, 12).astype(float), draw.normal(size=12).round(1)
    counts = draw.multinomial(12, np.full(12, 1 / 12), size=50)
    found = counted_spearman(x, y, counts)
    for own, rho in zip(counts, found, strict=True):
        assert rho == pytest.approx(spearmanr(np.repeat(x, own), np.repeat(y, own)).statistic)
    assert np.isnan(counted_spearman(x, y, np.eye(12, dtype=int)[:1])).all()


def test_a_model_under_many_templates_counts_once() -> None:
    once = spearman(X, Y, MODELS)
    assert once.low is not None and once.high is not None and once.low < 0.8 < once.high
    many = spearman(X * 6, Y * 6, MODELS * 6)
    assert (many.value, many.low, many.high) == pytest.approx((once.value, once.low, once.high))
    apart = spearman(X * 6, Y * 6, [str(i) for i in range(30)])
    assert apart.low is not None and apart.low > once.low  # 30 models would say more


def test_few_models_have_no_interval() -> None:
    found = spearman(X[: FEWEST - 1], Y[: FEWEST - 1], MODELS[: FEWEST - 1])
    assert found.value == pytest.approx(0.6) and (found.low, found.high) == (None, None)


@pytest.fixture(scope="module")
def relations() -> list[Relation]:
    """The quick sweep's ten cells of five models: two fine-tunings, two seeds, and the base, which
    is left out."""
    words = ["+sweeps=quick", "seed=0,1", "evaluation=[hazards]", "tracking=none"]
    grid = expand([*words, "analysis=[norm_of_change]"])
    found: list[Found] = []
    outcomes: dict[str, dict[str, float]] = {"hazards/asr": {}, "gsm8k/exact_match": {}}
    models = list(dict.fromkeys(cell.keys.model for cell in grid.cells))
    for cell in grid.cells:
        key = cell.keys.analyses["norm_of_change"][0]
        number = float(models.index(cell.keys.model))
        outcomes["hazards/asr"][cell.keys.cell] = 10 - number
        outcomes["gsm8k/exact_match"][cell.keys.cell] = 50.0
        for value, own in (("norm_of_change/l2", number), ("norm_of_change/constant", 1.0)):
            found.append(Found(cell.coordinates, value, own, key))
    tuned = next(cell for cell in grid.cells if cell.keys.finetune)
    del outcomes["hazards/asr"][tuned.keys.cell]  # of one cell there is no ASR yet
    titles = {"hazards/asr": "ASR", "gsm8k/exact_match": "Exact match"}
    return relations_of(grid, found, outcomes, titles)


def test_every_value_is_set_against_every_metric_over_the_cells_with_both(
    relations: list[Relation],
) -> None:
    assert [(one.value, one.title, one.cells, one.models) for one in relations] == [
        ("norm_of_change/l2", "ASR", 7, 4),
        ("norm_of_change/l2", "Exact match", 8, 4),
        ("norm_of_change/constant", "ASR", 7, 4),
        ("norm_of_change/constant", "Exact match", 8, 4),
    ]
    first, *others = [one.rho.value for one in relations]
    assert first == pytest.approx(-1) and others == [None] * 3


def test_models_that_one_fine_tuning_became_count_once() -> None:
    """Seven points of the path of each of two fine-tunings, under two test templates."""
    grid = expand(["+sweeps=path", "tracking=none", "analysis=[norm_of_change]"])
    keys = {cell.keys.analyses["norm_of_change"][0] for cell in grid.cells}
    found = [Found({}, "norm_of_change/l2", float(n), key) for n, key in enumerate(sorted(keys))]
    outcomes = {"hazards/asr": {cell.keys.cell: 1.0 for cell in grid.cells}}
    (one,) = relations_of(grid, found, outcomes, {"hazards/asr": "ASR"})
    assert (len(keys), one.cells, one.models) == (14, 28, 2)


def test_what_has_no_correlation_is_a_dash_and_how_many_there_are_is_said(
    relations: list[Relation],
) -> None:
    (lines,) = outcome_lines(relations)
    assert lines.heads == ("value", "ASR", "Exact match")
    # Whatever is drawn, it falls: an interval would claim certainty
    assert lines.rows == (
        ("norm_of_change/l2", "−1.00", "—"),
        ("norm_of_change/constant", "—", "—"),
    )
    assert lines.about.startswith(
        "1 correlation computed, over 7 cells of 4 models or 8 cells of 4 models; untouched models count only where there are no others. Intervals are not corrected"
    )
    (short,) = strongest_lines(relations)
    assert short.title.endswith("the strongest of 4")
    assert short.rows == (("norm_of_change/l2", "ASR", "−1.00", "7"),)
    text = outcomes_csv(relations)
    assert text is not None and text.splitlines()[:3] == [
        "value,metric,spearman,ci_low,ci_high,cells,models",
        "norm_of_change/l2,hazards/asr,-1.0000,,,7,4",
        "norm_of_change/l2,gsm8k/exact_match,,,,8,4",
    ]
    assert outcomes_csv([]) is None and outcome_lines([]) == strongest_lines([]) == []
