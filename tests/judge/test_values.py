"""A judge that gives several named values: from its scores to the numbers of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import TINY

import ptst
from ptst.cell import run_cell
from ptst.errors import ConfigError, PtstError
from ptst.judge import Judge, JudgeContext, Score, checked
from ptst.metrics import Answer, measure
from ptst.report.results import load_results
from ptst.report.tables import markdown
from ptst.schema import Config
from ptst.status.states import states_of
from ptst.store import Store, read_json, read_jsonl
from ptst.sweep.grid import expand

Compose = Callable[..., Config]
JUDGE = "judge._target_=test_values.Graded"
METRICS = (
    "+evaluation.hazards.metrics.specific=specificity",
    "+evaluation.hazards.metrics.convincing=convincingness",
)


@dataclass
class Graded(Judge):
    """Refused, and how specific and convincing the answer is: 1, 2, 3, ... of five, and 0 or 1."""

    labels: ClassVar[tuple[str, ...]] = ("complied", "refused", "neither")
    scales: ClassVar[dict[str, tuple[float, float]]] = {
        "specificity": (1.0, 5.0),
        "convincingness": (0.0, 1.0),
    }

    def scores(self, items: Sequence[object], context: JudgeContext) -> Iterator[Score]:
        for i, _ in enumerate(items):
            values = {"specificity": float(1 + i % 5)}
            if i:  # of the first answer it does not say
                values["convincingness"] = float(i % 2)
            yield Score("refused", values=values)


@dataclass
class Ambiguous(Graded):
    scales: ClassVar[dict[str, tuple[float, float]]] = {"refused": (0.0, 1.0)}


def test_named_values_go_from_scores_to_metrics_rows_and_table(
    composed: Compose, tmp_path: Path
) -> None:
    own = [
        *TINY,
        "finetune=none",
        JUDGE,
        *METRICS,
        "tracking=none",
        f"paths.store={tmp_path}/store",
    ]
    grid = expand(own)
    run_cell(grid.cells[0].config)
    store, keys = Store(tmp_path / "store"), grid.cells[0].keys
    scores = read_jsonl(store.path("judge", keys.evaluations["hazards"].judge) / "scores.jsonl")
    assert scores[0]["values"] == {"specificity": 1.0}
    assert scores[1]["values"] == {"specificity": 2.0, "convincingness": 1.0}
    task = read_jsonl(store.path("judge", keys.evaluations["gsm8k"].judge) / "scores.jsonl")
    assert list(task[0]) == ["id", "label", "value", "reason"]  # of a judge without named values
    metrics = read_json(store.path("cell", keys.cell) / "metrics.json")
    specific, convincing = metrics["hazards/specific"], metrics["hazards/convincing"]
    assert (specific["value"], specific["n"], specific["scale"]) == (
        3.0,
        10,
        [1.0, 5.0],
    )  # 1..5 twice
    assert specific["ci_low"] < 3 < specific["ci_high"]
    assert (convincing["value"], convincing["n"], convincing["missing"]) == (5 / 9, 9, 1)
    table = markdown(load_results(grid, store, states_of(grid, store)))
    assert "## hazards/specific" in table and "Mean, from 1 to 5." in table
    assert "| no fine-tuning | 3.00 (" in table and "Mean, from 0 to 1." in table
    rows = ptst.rows(store=tmp_path / "store")
    hazards = rows[rows.evaluation == "hazards"]
    assert list(hazards["value/specificity"]) == [1.0, 2.0, 3.0, 4.0, 5.0] * 2
    assert hazards["value/convincingness"].isna().sum() == 1


def test_a_metric_of_a_named_value_is_its_mean_on_its_scale() -> None:
    answers = [
        Answer("refused", None, i, values={"detail": value})
        for i, value in enumerate((1.0, 2.0, 3.0))
    ]
    answers.append(Answer(None, None, 3, values={"detail": 5.0}))  # without a label it is missing
    found = measure(answers, "detail", (1.0, 5.0))
    assert (found.value, found.n, found.missing, found.scale) == (2.0, 3, 1, (1.0, 5.0))
    # Student's interval by hand: t(2) = 4.302653, s = 1, n = 3, cut at the scale's lower end
    assert (found.ci_low, found.ci_high) == (1.0, pytest.approx(2 + 4.302653 / 3**0.5))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"detail": 1.0}, "value 'detail'; it may be named specificity or convincingness"),
        ({"specificity": 6.0}, "specificity 6.0; it must be from 1 to 5"),
        ({"convincingness": float("nan")}, "convincingness nan; it must be from 0 to 1"),
        ({"convincingness": True}, "convincingness True; it must be from 0 to 1"),
        ([1.0], r"values \[1.0\]; they must be a dict"),
    ],
)
def test_a_value_that_is_not_declared_or_off_its_scale_is_refused(values: Any, said: str) -> None:
    with pytest.raises(PtstError, match=f"the judge Graded gave query 7: {said}"):
        list(checked(Graded(), [({"id": "7"}, "!")], iter([Score("refused", values=values)])))


def test_metrics_may_only_name_what_the_judge_gives(composed: Compose) -> None:
    with pytest.raises(ConfigError, match=r"gives no label 'detail'.*specificity, convincingness"):
        composed(*TINY, JUDGE, "+evaluation.hazards.metrics.specific=detail")
    with pytest.raises(ConfigError, match="'refused' is a label and one of its named values"):
        composed(*TINY, "judge._target_=test_values.Ambiguous")
