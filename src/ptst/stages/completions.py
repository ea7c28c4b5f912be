"""Rows of completions.jsonl, as judges, metrics and reports read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ptst.engine import THINKING_CUT_OFF
from ptst.errors import DataError
from ptst.keys import EvaluationKeys
from ptst.metrics import NO_CATEGORY, Answer
from ptst.schema import Evaluation
from ptst.store import Store, read_jsonl


def is_cut_off(row: Mapping[str, Any]) -> bool | None:
    """Whether a row of completions.jsonl ended at max_new_tokens; None where the row does not
    say."""
    if "finished" not in row:
        return None
    return not row["finished"] and row.get("withheld", THINKING_CUT_OFF) == THINKING_CUT_OFF


def read_completions(store: Store, keys: EvaluationKeys) -> list[dict[str, Any]]:
    """The queries of an evaluation with their answers, from the store."""
    rows: list[dict[str, Any]] = read_jsonl(
        store.path("generate", keys.generate) / "completions.jsonl"
    )
    return rows


def scored(
    rows: Iterable[Mapping[str, Any]], scores: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of completions.jsonl with label, score and reason; a query's own column of such a name
    keeps it apart."""
    ours = ("label", "score", "reason")
    return [
        {
            **{f"query {column}" if column in ours else column: row[column] for column in row},
            "label": score["label"],
            "score": score["value"],
            "reason": score["reason"],
        }
        for row, score in zip(rows, scores, strict=True)
    ]


def answer_of(row: Mapping[str, Any], score: Mapping[str, Any], evaluation: Evaluation) -> Answer:
    """A row of completions.jsonl and its row of scores.jsonl, as metrics count them."""
    unit, category = unit_of(row, evaluation.unit), None
    if evaluation.category:
        category = value_in(row, evaluation.category, f"category={evaluation.category}")
    named = NO_CATEGORY if category is None or not str(category).strip() else str(category)
    sample = row["sample"] if evaluation.decoding.samples > 1 else 0
    value, values = score.get("value"), score.get("values", {})
    outside = frozenset(
        metric
        for metric, where in evaluation.only.items()
        if any(str(row.get(column)) != wanted for column, wanted in where.items())
    )
    return Answer(score["label"], value, unit, sample, named, is_cut_off(row), values, outside)


def unit_of(row: Mapping[str, Any], unit: str | None) -> Any:
    """Which queries a query belongs with: those of the same value in the column `unit`, or none but
    itself.

    Raises:
        DataError: the row does not have the column, or a list or an object in it.
    """
    value = value_in(row, unit, f"unit={unit}") if unit else row["id"]
    if isinstance(value, list | dict):
        raise DataError(
            f"unit={unit}, but query {row['id']} has a {type(value).__name__} there, {value}; it must be "
            "text or a number."
        )
    return value


def value_in(row: Mapping[str, Any], column: str, setting: str) -> Any:
    """A row's value in a column that a setting of its evaluation names.

    Raises:
        DataError: there is no such column.
    """
    if column not in row:
        raise DataError(
            f"{setting}, but query {row['id']} has no column {column!r}; its columns are: "
            f"{', '.join(row)}."
        )
    return row[column]
