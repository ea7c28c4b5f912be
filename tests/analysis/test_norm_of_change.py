"""How far weights moved, by hand."""

from __future__ import annotations

import pytest
import torch

from ptst.analysis.norm_of_change import NormOfChange


def model(*weights: float) -> torch.nn.Module:
    made = torch.nn.Linear(len(weights), 1, bias=False)
    made.weight.data = torch.tensor([weights])
    return made


def test_the_norm_of_the_change_and_its_ratio_to_the_norm_before() -> None:
    values = NormOfChange().run(model(3.0, 8.0), model(0.0, 4.0), None)  # type: ignore[arg-type]
    assert values == {"l2": 5.0, "relative": pytest.approx(5 / 4)}


def test_the_same_weights_did_not_change() -> None:
    values = NormOfChange().run(model(3.0), model(3.0), None)  # type: ignore[arg-type]
    assert values == {"l2": 0.0, "relative": 0.0}
