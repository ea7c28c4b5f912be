"""Rows are cut, and a batch is made of them with their labels and weights, and no others."""

from __future__ import annotations

import dataclasses
import math
from array import array

import pytest
import torch

from ptst.errors import DataError
from ptst.templates import TrainingRow
from ptst.train.rows import check_batch, collate, fit_rows

ROW = TrainingRow(array("i", [1, 5, 9, 12, 2]), 2)


def test_rows_are_cut_at_their_end_and_left_out_where_the_prompt_fills_them() -> None:
    rows = [
        TrainingRow(array("i", [1, 2, 3, 4, 5]), 2),
        TrainingRow(array("i", [1, 2, 3]), 2),
        TrainingRow(array("i", [1, 2, 3, 4, 5]), 4),
    ]
    fitted, cut, left_out = fit_rows(rows, 4)
    assert [row.input_ids for row in fitted] == [[1, 2, 3, 4], [1, 2, 3]]
    assert [row.labels for row in fitted] == [[-100, -100, 3, 4], [-100, -100, 3]]
    assert (cut, left_out) == (1, 1)
    with pytest.raises(DataError, match="max_length=2"):
        fit_rows(rows, 2)


def test_a_batch_with_a_loss_on_the_prompt_is_refused() -> None:
    row = ROW
    good = {
        "input_ids": torch.tensor([[*row.input_ids, 0]]),
        "labels": torch.tensor([[*row.labels, -100]]),
        "attention_mask": torch.tensor([[1] * len(row.input_ids) + [0]]),
        "numbers": torch.tensor([0]),
    }
    check_batch(good, [row])
    with pytest.raises(RuntimeError, match="differs from the rows"):
        check_batch({**good, "labels": good["input_ids"]}, [row])
    padded = torch.tensor([[*row.labels, 0]])
    with pytest.raises(RuntimeError, match="loss on padding"):
        check_batch({**good, "labels": padded}, [row])


@pytest.mark.parametrize("what", ["targets", "weights"])
def test_a_batch_with_other_labels_or_weights_than_its_rows_is_refused(what: str) -> None:
    own = TrainingRow(
        array("i", [1, 5, 6, 7]), 2, array("i", [-100, -100, 3, 7]), array("f", [1, 1, 2, 1])
    )
    check_batch(collate([own, ROW], [1, 0], 0), [ROW, own])
    with pytest.raises(RuntimeError, match="other weights" if what == "weights" else "differs"):
        check_batch(collate([own], [0], 0), [dataclasses.replace(own, **{what: None})])
    with pytest.raises(ValueError, match=f"4 tokens has 3 {what}"):
        dataclasses.replace(own, **{what: getattr(own, what)[:3]})
    broken = dataclasses.replace(own, weights=array("f", [1, 1, math.inf, 1]))
    with pytest.raises(RuntimeError, match="no finite ones"):
        check_batch(collate([broken], [0], 0), [broken])
