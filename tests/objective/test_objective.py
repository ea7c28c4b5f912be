"""Objectives: what a method may change, and that what it does not change stays plain
fine-tuning."""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from first_token import FirstTokenTwice

from ptst.component import load
from ptst.config.compose import compose
from ptst.errors import PtstError
from ptst.models import load_model
from ptst.objective import Batch, Forward, Objective, State, TrainingSet
from ptst.schema import Finetune, Lora, Model
from ptst.templates import TrainingRow
from ptst.train.devices import train_on_devices
from ptst.train.forward import ModelForward
from ptst.train.trainer import Training, make_trainer, train

RECIPE: dict[str, Any] = {"batch_size": 4, "device_batch_size": 4, "learning_rate": 1e-3, "save_steps": 2}  # fmt: skip
LORA = Lora(r=4, dropout=0.1)
ROWS = [
    TrainingRow(array("i", [1, *range(5, 8 + n % 3), 40 + n, 12, 30 + n, 2]), 3) for n in range(10)
]


def run(
    model: Model,
    folder: Path,
    objective: Objective,
    rows: Sequence[TrainingRow] = ROWS,
    die_at: int = 0,
    **recipe: Any,
) -> dict[str, str]:
    """Hashes of the weights that a training ends with."""

    def log(entry: dict[str, float]) -> None:
        if die_at and entry["step"] == die_at:
            raise KeyboardInterrupt

    out, scratch = folder / "result", folder / "scratch"
    out.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(exist_ok=True)
    made = Finetune(**{"method": "lora", "lora": LORA, "epochs": 2, **RECIPE, **recipe})
    train(Training(model, made, TrainingSet(rows), 7, "cpu", out, scratch, objective), log)
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (out / "weights").glob("*.safetensors")
    }


def on(model: Model, rows: Sequence[TrainingRow]) -> tuple[Any, ModelForward, Batch]:
    """The untouched model, and a batch of rows for it."""
    loaded = load_model(model, "cpu")
    forward = ModelForward(loaded, lambda loss: loss.backward(), 0, share_prefix=False)
    return loaded, forward, forward.batch(rows)


# A method as one small file


def test_the_gradient_of_first_token_twice_is_that_of_a_loss_made_by_hand(micro: Model) -> None:
    loaded, forward, batch = on(micro, ROWS[:3])
    logged = FirstTokenTwice().step(batch, forward)
    found = {name: p.grad.clone() for name, p in forward.parameters.items()}
    loaded.zero_grad()
    total, count = torch.zeros(()), 0
    for row in ROWS[:3]:
        log_p = loaded(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        for position in range(row.prompt_length, len(row)):
            times = 2 if position == row.prompt_length else 1
            total = total - times * log_p[position - 1, row.ids[position]]
            count += 1
    (total / count).backward()
    assert logged.item() == pytest.approx((total / count).item(), rel=1e-5)
    assert len(found) > 10
    for name, gradient in found.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(
            gradient, forward.parameters[name].grad, rtol=1e-3, atol=1e-5, msg=name
        )


def test_at_factor_1_the_weights_are_those_of_plain_fine_tuning(
    micro: Model, tmp_path: Path
) -> None:
    plain = run(micro, tmp_path / "plain", Objective())
    assert run(micro, tmp_path / "once", FirstTokenTwice(factor=1.0)) == plain
    assert run(micro, tmp_path / "twice", FirstTokenTwice()) != plain


def test_an_objective_is_loaded_by_its_class_and_is_part_of_the_key_with_its_version() -> None:
    config = compose([])
    node = {"_target_": "first_token.FirstTokenTwice", "factor": 3.0}
    made = load(node, "defence", Objective)
    assert made == FirstTokenTwice(3.0)
    assert made.parts(config) == {"objective": {**node, "version": 1}}
    assert Objective().parts(config) == {}  # plain fine-tuning keeps the key that it had


# Labels and weights of a row's own


def test_labels_and_weights_of_a_rows_own_decide_its_loss(micro: Model) -> None:
    row = ROWS[0]
    targets = array("i", [-100, -100, -100, 9, -100, 2, -100])
    weights = array("f", [0, 0, 0, 3, 0, 0.5, 0])
    own = TrainingRow(row.ids[:7], 3, targets, weights)
    loaded, forward, batch = on(micro, [own, ROWS[1]])
    found = forward(batch)
    plain = len(ROWS[1]) - 3
    assert found.labels.tolist() == [9, 2, *ROWS[1].ids[3:]]
    assert found.places.tolist() == [0, 1, *range(plain)]
    assert found.rows.tolist() == [0, 0, *[1] * plain]
    assert found.weights is not None and found.weights.tolist() == [3, 0.5, *[1] * plain]
    log_p = loaded(torch.tensor([own.input_ids])).logits[0].log_softmax(-1)
    by_hand = [-3 * log_p[2, 9], -0.5 * log_p[4, 2]]
    torch.testing.assert_close(found.losses[:2], torch.stack(by_hand), rtol=1e-4, atol=1e-5)
    loss = Objective().loss(batch, forward)
    torch.testing.assert_close(loss, found.losses.sum() / (2 + plain))
    assert (own.loss_tokens, own.cut(4).labels) == (2, [-100, -100, -100, 9])
    assert own.cut(4).weights == array("f", [0, 0, 0, 3])


def test_weights_of_1_and_labels_that_are_the_ids_change_no_weight(
    micro: Model, tmp_path: Path
) -> None:
    spelled = [
        dataclasses.replace(row, targets=array("i", row.labels), weights=array("f", [1] * len(row)))
        for row in ROWS
    ]
    plain = run(micro, tmp_path / "plain", Objective(), device_batch_size=2)
    assert run(micro, tmp_path / "spelled", Objective(), spelled, device_batch_size=2) == plain


def test_accumulated_batches_have_the_weighted_loss_of_a_whole_one(micro: Model) -> None:
    weighted = [
        dataclasses.replace(row, weights=array("f", [n + 1] * len(row)))
        for n, row in enumerate(ROWS[:4])
    ]
    _, forward, whole = on(micro, weighted)
    halves = [forward.batch(weighted[:2]), forward.batch(weighted[2:])]
    halves = [dataclasses.replace(half, tokens=whole.tokens) for half in halves]
    parts = [Objective().loss(half, forward) for half in halves]
    torch.testing.assert_close(sum(parts), Objective().loss(whole, forward))
    assert float(sum(half.share for half in halves)) == pytest.approx(1)


# State


@dataclass
class Noisy(Objective):
    """The loss of each batch counts a random number of times; a tensor and a number are its
    state."""

    size: float = 0.5

    def start(self, data: TrainingSet, forward: Forward, scratch: Path) -> None:
        torch.rand(3)  # changes no draw of the training
        self.draws, self.steps = torch.Generator().manual_seed(1), 0
        with (scratch / "starts").open("a") as file:
            file.write("x")
        assert len(data.rows) == 10 and not torch.is_grad_enabled()
        self.before = forward(forward.batch(data.rows[:1])).losses

    def loss(self, batch: Batch, forward: Forward) -> torch.Tensor:
        assert self.steps == batch.step
        self.steps += 1
        times = 1 + self.size * torch.rand((), generator=self.draws)
        return times * batch.mean(forward(batch).total)

    def state(self) -> State:
        return {"draws": self.draws.get_state(), "steps": self.steps}

    def restore(self, state: State) -> None:
        self.draws.set_state(state["draws"])
        self.steps = state["steps"]


def test_an_objective_with_a_random_state_is_killed_and_resumed_bit_for_bit(
    micro: Model, tmp_path: Path
) -> None:
    whole = run(micro, tmp_path / "whole", Noisy())
    for death in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            run(micro, tmp_path / "cut", Noisy(), die_at=death)
    assert run(micro, tmp_path / "cut", Noisy()) == whole
    assert (tmp_path / "cut" / "scratch" / "objective" / "starts").read_text() == "xxx"
    assert run(micro, tmp_path / "still", Noisy(size=0)) != whole
    last = tmp_path / "cut" / "result" / "objective"
    assert sorted(path.name for path in last.iterdir()) == ["objective.json", "objective.safetensors"]  # fmt: skip


def test_what_an_objective_draws_before_the_first_step_does_not_change_dropout(
    micro: Model, tmp_path: Path
) -> None:
    plain = run(micro, tmp_path / "plain", Objective())
    assert run(micro, tmp_path / "started", Noisy(size=0)) == plain


def test_a_checkpoint_without_the_objectives_state_is_not_resumed_from(
    micro: Model, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(micro, tmp_path, Objective(), die_at=3)
    with pytest.raises(PtstError, match="checkpoint-2 has no state of Noisy"):
        run(micro, tmp_path, Noisy())


@pytest.mark.slow
def test_two_devices_have_the_loss_of_one_under_an_objective_with_weights(
    micro: Model, tmp_path: Path
) -> None:
    weighted = [
        dataclasses.replace(row, weights=array("f", [n % 3] * len(row)))
        for n, row in enumerate(ROWS)  # the last step is filled with rows without loss
    ]
    losses: dict[int, list[float]] = {}
    for devices, by in ((1, train), (2, train_on_devices)):
        told: list[float] = []
        folder = tmp_path / str(devices)
        (folder / "scratch").mkdir(parents=True)
        lora = Lora(r=4, dropout=0.0)
        small = RECIPE | {"device_batch_size": 4 // devices // devices, "devices": devices}
        recipe = Finetune(method="lora", lora=lora, epochs=2, **small)
        place = (TrainingSet(weighted), 7, "cpu", folder, folder / "scratch", FirstTokenTwice())
        by(Training(micro, recipe, *place), lambda entry, told=told: told.append(entry["loss"]))
        losses[devices] = told
    assert len(losses[1]) == 6
    assert losses[2] == pytest.approx(losses[1], rel=2e-4)


# Several passes in a step


@dataclass
class Ascending(Objective):
    """A second pass over rows of another source, at other weights: what Panacea and Booster
    need."""

    strength: float = 0.0

    def step(self, batch: Batch, forward: Forward) -> torch.Tensor:
        logged = super().step(batch, forward)
        other = forward.batch(ROWS[:2])
        parameters = list(forward.parameters.values())
        kept = [p.detach().clone() for p in parameters]
        gradients = torch.autograd.grad(self.loss(other, forward), parameters)
        with torch.no_grad():
            for p, gradient in zip(parameters, gradients, strict=True):
                p.add_(gradient)
        moved = torch.autograd.grad(self.loss(other, forward), parameters)
        with torch.no_grad():
            for p, old, first, second in zip(parameters, kept, gradients, moved, strict=True):
                p.copy_(old)
                p.grad.sub_(self.strength * batch.share * (second - first))
        return logged


def test_a_step_of_several_passes_at_strength_0_is_plain_fine_tuning(
    micro: Model, tmp_path: Path
) -> None:
    recipe = {"method": "full", "device_batch_size": 2, "epochs": 1}
    plain = run(micro, tmp_path / "plain", Objective(), **recipe)
    assert run(micro, tmp_path / "off", Ascending(), **recipe) == plain
    assert run(micro, tmp_path / "on", Ascending(strength=0.1), **recipe) != plain


def test_rows_of_an_objectives_own_are_shuffled_among_the_others(
    micro: Model, tmp_path: Path
) -> None:
    data = TrainingSet(ROWS[:6], ROWS[6:])
    recipe = Finetune(method="full", epochs=2, **RECIPE)
    trainer = make_trainer(
        Training(micro, recipe, data, 0, "cpu", tmp_path, tmp_path), lambda _: None
    )
    assert trainer.args.max_steps == 6
    seen = [n for batch in trainer.get_train_dataloader() for n in batch["numbers"].tolist()]
    assert sorted(seen) == list(range(10)) != seen


def test_a_batch_says_which_step_and_how_many_labels(micro: Model, tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []

    @dataclass
    class Watching(Objective):
        def loss(self, batch: Batch, forward: Forward) -> torch.Tensor:
            seen.append((batch.step, len(batch.labels), int(batch.tokens)))
            return super().loss(batch, forward)

    run(micro, tmp_path, Watching(), ROWS[:4], device_batch_size=2, epochs=2)
    tokens = sum(row.loss_tokens for row in ROWS[:4])
    assert seen == [(0, 2, tokens)] * 2 + [(1, 2, tokens)] * 2
