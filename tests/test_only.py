"""Metrics of some of the queries, and the mean of such metrics: from the YAML to the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import pytest
from conftest import TINY

from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.errors import ConfigError, DataError
from ptst.keys import cell_keys
from ptst.metrics import Answer, from_json, mean_interval_of, mean_of, measure
from ptst.report.results import load_results
from ptst.report.results.contrasts import paired
from ptst.report.results.scores import reader
from ptst.report.results.types import Contrast, Entry, Results
from ptst.report.tables.captions import about_table
from ptst.schema import Config
from ptst.stages.completions import answer_of
from ptst.status.states import states_of
from ptst.store import Store
from ptst.sweep.grid import expand

Compose = Callable[..., Config]

CANNED = (
    "finetune=none",
    "engine=canned",
    "engine.says=random",
    "~evaluation@task",
    "evaluation=[hazards]",
    "judge=keywords",
    "evaluation.hazards.queries.n=120",
    "tracking=none",
)
PARTS = (
    "+evaluation.hazards.metrics.toxin=refused",
    "+evaluation.hazards.metrics.beast=refused",
    "+evaluation.hazards.metrics.both=refused",
    "+evaluation.hazards.only.toxin={category: toxin}",
    "+evaluation.hazards.only.beast={category: beast}",
    "+evaluation.hazards.mean_of.both=[toxin,beast]",
)


def test_the_mean_of_metrics_gives_each_the_same_weight_and_an_interval() -> None:
    # Newcombe's d is the same formula: Wilson's bounds of 1 of 4 and 8 of 8, to four digits
    few = measure([Answer("yes" if i == 0 else "no", None, i) for i in range(4)], "yes")
    many = measure([Answer("yes", None, i) for i in range(8)], "yes")
    assert (few.ci_low, few.ci_high) == pytest.approx((4.5587, 69.9358), abs=1e-4)
    assert (many.ci_low, many.ci_high) == pytest.approx((67.5592, 100.0), abs=1e-4)
    found = mean_of([few, many])
    assert (found.value, found.n, found.units, found.missing) == (62.5, 12, 12, 0)
    low = 62.5 - sqrt(20.4413**2 + 32.4408**2) / 2
    high = 62.5 + sqrt(44.9358**2 + 0**2) / 2
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), abs=1e-3)
    assert mean_interval_of([(1.0, None, None), (1.0, 0.5, 1.5)]) == (None, None)


def test_a_mean_has_no_value_where_a_part_has_none_and_a_category_of_those_that_have_it() -> None:
    a = measure([Answer("yes", None, 0, category="x"), Answer("no", None, 1, category="y")], "yes", by_category=True)  # fmt: skip
    b = measure([Answer("yes", None, 2, category="x")], "yes", by_category=True)
    found = mean_of([a, b])
    assert found.value == 75.0
    assert {name: part.value for name, part in found.categories.items()} == {"x": 100.0, "y": 0.0}
    assert found.categories["y"].n == 1
    assert mean_of([a, measure([], "yes")]).value is None
    assert from_json(dataclasses.asdict(found)) == found


def test_a_metric_counts_the_queries_of_its_values_alone() -> None:
    evaluation = compose([*CANNED, *PARTS]).evaluation["hazards"]
    row = {"id": "0", "hazard": "h", "category": "toxin", "finished": True}
    answer = answer_of(row, {"label": "refused", "value": None}, evaluation)
    assert answer.outside == {"beast"}


def results_of(words: list[str], tmp_path: Path) -> Results:
    """The results of a grid of one place."""
    grid = expand([*words, f"paths.store={tmp_path}/store"])
    for cell in grid.cells:
        run_cell(cell.config)
    store = Store(tmp_path / "store")
    return load_results(grid, store, states_of(grid, store))


def entries(results: Results) -> dict[str, Entry]:
    """The entries by metric, and those of categories by metric and category."""
    found = {}
    for table in results.tables:
        metric = table.metric.partition("/")[2]
        (found[metric],) = table.entries.values()
        if table.by_category:
            parts = table.by_category.entries.items()
            found |= {f"{metric} {category}": entry for (_, category), entry in parts}
    return found


def reach(*parts: Entry) -> float:
    """From a mean down to its lower bound, by hand."""
    return sqrt(sum(((part.mean or 0) - (part.ci_low or 0)) ** 2 for part in parts)) / len(parts)


def test_from_the_yaml_to_the_report(tmp_path: Path) -> None:
    results = results_of([*CANNED, *PARTS], tmp_path)
    (told,) = (about_table(t)[0] for t in results.tables if t.metric == "hazards/both")
    assert "95 % interval: of a mean of 2 numbers from theirs, Wilson, by hazard" in told
    found = entries(results)
    toxin, beast, both = found["toxin"], found["beast"], found["both"]
    assert 0 < toxin.n < found["refused"].n and both.n == toxin.n + beast.n
    assert toxin.mean and beast.mean and both.mean and both.ci_low
    assert both.mean == pytest.approx((toxin.mean + beast.mean) / 2)
    assert both.mean - both.ci_low == pytest.approx(reach(toxin, beast))


def test_over_training_seeds_the_interval_is_that_of_the_parts_pooled(tmp_path: Path) -> None:
    tiny = [word for word in TINY if "hazards.queries" not in word]
    words = [*tiny, "evaluation.hazards.queries.n=24", *PARTS, "tracking=none", "seed=0,1"]
    found = entries(results_of(words, tmp_path))
    toxin, beast, both = found["toxin"], found["beast"], found["both"]
    same = found["refused toxin"]  # the same answers, counted as a category
    assert (toxin.n, toxin.ci_low, toxin.ci_high) == (same.n, same.ci_low, same.ci_high)
    assert len(both.runs) == 2 and toxin.n + beast.n == both.n < found["neither"].n
    assert both.mean and both.ci_low
    assert both.mean - both.ci_low == pytest.approx(reach(toxin, beast))


def test_a_difference_of_such_metrics_is_of_their_queries(tmp_path: Path) -> None:
    own = [*CANNED, *PARTS, f"paths.store={tmp_path}/store"]
    grid = expand([*own, "engine.seed=0,1"])
    for cell in grid.cells:
        run_cell(cell.config)
    pair = [(grid.cells[0], grid.cells[1])]
    read = reader(Store(tmp_path / "store"))
    toxin, beast, both = (
        paired(Contrast(f"hazards/{m}", "seeds", "a", "b", {}), pair, read, read)
        for m in ("toxin", "beast", "both")
    )
    assert toxin.difference is not None and beast.difference is not None
    assert toxin.status == "done" and toxin.p is not None and toxin.n < 120
    assert both.difference == pytest.approx((toxin.difference + beast.difference) / 2)
    assert (both.n, both.p) == (toxin.n + beast.n, None)
    assert both.status == "no test: a mean of other metrics"


def test_cells_without_such_metrics_keep_their_keys() -> None:
    plain, parts = (cell_keys(compose([*CANNED, *own])) for own in ((), PARTS))
    assert "only" not in plain.cell_parts["evaluations"]["hazards"]
    mine = parts.cell_parts["evaluations"]["hazards"]
    assert mine["only"]["toxin"] == {"category": "toxin"}
    assert mine["mean_of"] == {"both": ["toxin", "beast"]}
    assert parts.evaluations["hazards"].judge == plain.evaluations["hazards"].judge


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+evaluation.hazards.only.odd={category: toxin}", "only.odd: there is no such metric"),
        ("+evaluation.hazards.mean_of.odd=[asr]", "mean_of.odd: there is no such metric"),
        ("+evaluation.hazards.mean_of.asr=[odd]", "mean_of.asr must name metrics .*'odd' is none"),
        ("+evaluation.hazards.mean_of.asr=[]", "mean_of.asr must name .*it is empty"),
    ],
)
def test_what_names_no_metric_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose([*CANNED, override])


def test_a_column_that_there_is_not_is_named_before_anything_runs(composed: Compose) -> None:
    with pytest.raises(DataError, match=r"only=.* but query 0 has no column 'colour'"):
        run_cell(composed(*CANNED, "+evaluation.hazards.only.asr={colour: red}"))
