"""A step of a large model takes rows of about one length together; its loss and gradient are those
of the whole batch."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.nn.functional import linear

from ptst.models import load_model
from ptst.objective import Batch, Forward, Objective, TrainingSet
from ptst.objective.constrained_sft import ConstrainedSft
from ptst.objective.derta import Derta
from ptst.objective.lisa import Lisa
from ptst.objective.panacea import Panacea
from ptst.schema import Finetune, Lora, Model
from ptst.templates import TrainingRow
from ptst.train import forward
from ptst.train.parts import cuts
from ptst.train.trainer import Training, make_trainer

BEGINNING = [1, *range(60, 90)]
"""31 tokens: longer than `SHARED_FROM`."""


def row(n: int, length: int) -> TrainingRow:
    """A prompt of 33 tokens, and an answer of `length`."""
    rest = [100 + n, 7, *(200 + (n * 13 + i) % 300 for i in range(length - 1)), 2]
    return TrainingRow(array("i", [*BEGINNING, *rest]), 33)


ROWS = [row(n, length) for n, length in enumerate([5, 100, 7, 210, 95, 6, 220, 5])]


def gradient_of_a_step(
    model: Model,
    folder: Path,
    rows: Sequence[TrainingRow] = ROWS,
    objective: Objective | None = None,
    **recipe: Any,
) -> tuple[float, dict[str, torch.Tensor], list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Loss and gradient of one step, the shapes that went through the model, and through its
    head."""
    made = Finetune(**{"method": "full", "batch_size": 8, "device_batch_size": 8, **recipe})
    given = Training(model, made, TrainingSet(rows), 0, "cpu", folder, folder)
    if objective:
        given = dataclasses.replace(given, objective=objective)
    trainer = make_trainer(given, lambda _: None)
    torch.manual_seed(1)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:  # zero at the start: nothing would reach lora_A
            torch.nn.init.normal_(parameter, std=0.02)
    read, scored = [], []
    trainer.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    trainer.model.get_output_embeddings().register_forward_hook(
        lambda _, args, output: scored.append(tuple(output.shape))
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    tokens = (inputs["labels"] != -100).sum()
    trainer.state.global_step = 0
    loss = trainer.training_step(trainer.model, inputs, tokens)
    named = trainer.model.named_parameters()
    return loss.item(), {n: p.grad for n, p in named if p.grad is not None}, read, scored


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_step_in_parts_has_the_loss_and_gradient_of_the_whole_batch(
    micro: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    recipe = {"method": method, "lora": Lora(r=4, dropout=0.0)}
    whole = gradient_of_a_step(micro, tmp_path / "whole", **recipe)
    monkeypatch.setattr(forward, "LARGE", 0)
    parts = gradient_of_a_step(micro, tmp_path / "parts", **recipe)
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    assert parts[1].keys() == whole[1].keys() != set()
    for name, gradient in parts[1].items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, whole[1][name], rtol=1e-3, atol=1e-6)
    # the beginning once, and what is behind it of all rows, as wide as the longest
    assert whole[2] == [(1, 31), (8, 222)]
    assert parts[2] == [(1, 31), (2, 222), (1, 31), (2, 102), (1, 31), (4, 9)]
    # the last token of the beginning; then all positions behind the prompt, or those with a label
    assert whole[3] == [(1, 1, 1280), (8, 221, 1280)]
    ones = [(1, 1, 1280)]
    assert parts[3] == [*ones, (1, 430, 1280), *ones, (1, 195, 1280), *ones, (1, 23, 1280)]


def test_weights_and_labels_of_a_rows_own_stay_with_it(
    micro: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(ROWS)
    for n in (1, 6):
        targets = array("i", rows[n].labels)
        targets[40:60] = array("i", [-100] * 20)
        weights = array("f", [0.5 + (i % 3) for i in range(len(targets))])
        rows[n] = TrainingRow(rows[n].ids, 33, targets, weights)
    whole = gradient_of_a_step(micro, tmp_path / "whole", rows)
    monkeypatch.setattr(forward, "LARGE", 0)
    parts = gradient_of_a_step(micro, tmp_path / "parts", rows)
    assert len(parts[2]) > len(whole[2])
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    for name, gradient in parts[1].items():
        torch.testing.assert_close(gradient, whole[1][name], rtol=1e-3, atol=1e-6)


class RowMean(Objective):
    """The mean over rows of each row's mean: not a sum over tokens."""

    def loss(self, batch: Batch, forward: Forward) -> torch.Tensor:
        found = forward(batch)
        return torch.stack([found.losses[found.rows == n].mean() for n in range(8)]).mean()


class Additive(RowMean):
    """The same, and it says that it may be cut."""

    additive: ClassVar[bool] = True

    def loss(self, batch: Batch, forward: Forward) -> torch.Tensor:
        return batch.mean(forward(batch).losses)


def test_a_loss_of_ones_own_sees_the_whole_batch_unless_it_says_that_it_is_a_sum(
    micro: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "LARGE", 0)
    assert len(gradient_of_a_step(micro, tmp_path / "own", objective=RowMean())[2]) == 2
    assert len(gradient_of_a_step(micro, tmp_path / "sum", objective=Additive())[2]) == 6
    said = {kind: kind.additive for kind in (Objective, ConstrainedSft, Derta, Panacea, Lisa)}
    assert [bool(said[kind]) for kind in (ConstrainedSft, Derta)] == [True, True]
    assert (Objective().additive, RowMean().additive, Lisa().additive) == (True, False, False)
    assert not Panacea().additive  # its step has a gradient of its own in each batch


@pytest.mark.parametrize(
    "recipe",
    [
        {"method": "lora", "lora": Lora(r=4, dropout=0.1)},  # drawn for the whole batch
        {"activation_checkpointing": True},
        {},
    ],
)
def test_what_is_drawn_for_a_batch_is_drawn_for_all_of_it(
    micro: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]
) -> None:
    monkeypatch.setattr(forward, "LARGE", 0)
    seen = gradient_of_a_step(micro, tmp_path, **recipe)[2]
    if "lora" in recipe:
        assert seen == [(8, 253)]
    elif recipe:
        assert seen == [(2, 253), (2, 133), (4, 40)]  # nothing shared: it has no cache
    else:
        assert sum(rows * width for rows, width in seen) < 8 * 253 / 2


def test_a_models_own_dropout_keeps_a_batch_whole(micro: Model) -> None:
    model = load_model(micro, "cpu").train()
    made = forward.ModelForward(model, lambda loss: loss.backward(), 0, share_prefix=True)
    made.large = True
    batch = made.batch(ROWS)
    assert len(made.parts(batch)) == 3
    model.model.layers[0].mlp.act_fn = torch.nn.Dropout(0.1)
    assert made.parts(batch) == [batch]
    model.model.layers[0].mlp.act_fn = torch.nn.Dropout(0.0)
    assert len(made.parts(batch)) == 3
    model.config.attention_dropout = 0.1
    assert made.parts(batch) == [batch]


def test_rows_are_cut_where_least_tokens_run_through_the_model() -> None:
    # 64 tokens is what another pass costs: 2 rows of 100 and 2 of 60 are 400 tokens in one pass
    # and 320 + 64 in two; of 90 and 80 (360; 340 + 64) they stay together.
    assert cuts([100, 100, 60, 60], 0) == [2, 4]
    assert cuts([90, 90, 80, 80], 0) == [4]
    # What is shared is read anew in every part.
    assert cuts([200, 200, 160, 160], 100) == [4]
    # However alike, at most 512 tokens in a part; a longer row stands alone.
    assert cuts([250] * 5, 0) == [1, 3, 5]
    assert cuts([2000, 150, 150], 0) == [1, 3]
    assert cuts([7], 0) == [1]


def test_the_micro_models_numbers_stay_what_they_were(micro: Model) -> None:
    model = load_model(micro, "cpu")
    made = forward.ModelForward(model, lambda loss: loss.backward(), 0, share_prefix=True)
    assert not made.large
    batch = made.batch(ROWS)
    assert made.parts(batch) == [batch]


def test_logits_at_positions_are_those_of_the_head(micro: Model) -> None:
    model = load_model(micro, "cpu")
    made = forward.ModelForward(model, lambda loss: loss.backward(), 0, share_prefix=False)
    made.large = True
    batch = made.batch(ROWS[:2])
    found = made(batch)
    hidden = model.model(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    expected = linear(hidden[:, :-1][batch.labels[:, 1:] != -100], model.lm_head.weight)
    torch.testing.assert_close(found.logits, expected)
    assert not model.lm_head._forward_pre_hooks


class Wrapped(torch.nn.Module):
    """As DDP wraps a model."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Any) -> Any:
        return self.module(**inputs)


def test_a_model_that_is_wrapped_for_several_devices_has_the_same_logits(micro: Model) -> None:
    model = load_model(micro, "cpu")
    found = []
    for each in (model, Wrapped(model)):
        made = forward.ModelForward(each, lambda loss: loss.backward(), 0, share_prefix=False)
        made.large = True
        found.append(made(made.batch(ROWS[:2])).logits)
    torch.testing.assert_close(*found, rtol=0, atol=0)
