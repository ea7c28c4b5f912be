"""Lisa: whose turn each step is, the pull and its gradient, and a kill in the middle of a state."""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path
from typing import Any

import pytest
import torch

from ptst.config.compose import compose
from ptst.errors import ConfigError
from ptst.keys import cell_keys, objective_of
from ptst.models import load_tokenizer
from ptst.objective import Batch, Forward, Objective
from ptst.objective.lisa import Lisa
from ptst.schema import Finetune, Lora, Model
from ptst.templates import TrainingRow
from ptst.train.rows import RowReader, epoch_ends
from ptst.train.trainer import Training, train


def row(n: int) -> TrainingRow:
    return TrainingRow(array("i", [1, *range(5, 8 + n % 3), 40 + n, 12, 30 + n, 2]), 3)


TASK, SAFETY = [row(n) for n in range(18)], [row(20 + n) for n in range(5)]
OWN = "defence.lisa.objective"


def kinds(order: Any, batch_size: int, tasks: int) -> str:
    """Of each step: s, t, or ? where it has rows of both."""
    steps = [order[n : n + batch_size] for n in range(0, len(order), batch_size)]
    said = [{"t" if n < tasks else "s" for n in step} for step in steps]
    return "".join(kind.pop() if len(kind) == 1 else "?" for kind in said)


def test_states_take_turns_all_task_rows_are_seen_and_the_last_state_is_the_tasks() -> None:
    made = Lisa(safety_steps=2, task_steps=3).alternated(TASK, SAFETY, 2, 4, 0)
    assert made.order is not None
    assert kinds(made.order, 4, 18) == "ssttt" * 3  # 36 rows of the task are 9 steps
    tasks = [n for n in made.order if n < 18]
    assert sorted(tasks[:18]) == sorted(tasks[18:]) == list(range(18))
    assert tasks[:18] != tasks[18:] != list(range(18))
    safety = [n for n in made.order if n >= 18]
    assert len(safety) == 3 * 2 * 4
    assert all(sorted(safety[n : n + 5]) == [*range(18, 23)] for n in range(0, 20, 5))
    rest = Lisa(safety_steps=2, task_steps=3).alternated(TASK, SAFETY, 1.5, 4, 0)
    assert rest.order is not None
    assert kinds(rest.order, 4, 18) == "ssttt" * 2 + "sst"
    assert len(rest.order) == 27 + 24
    other = Lisa(safety_steps=2, task_steps=3).alternated(TASK, SAFETY, 2, 4, 1)
    assert other.order != made.order


def test_an_epoch_ends_with_the_step_that_has_its_last_row() -> None:
    made = Lisa(safety_steps=2, task_steps=3).alternated(TASK, SAFETY, 2, 4, 0)
    assert epoch_ends(made, Finetune(batch_size=4, epochs=2)) == [9, 15]
    for end, epoch in zip(made.ends, (1, 2), strict=True):
        seen = [n for n in (made.order or ())[:end] if n < 18]
        assert len(seen) == 18 * epoch and (made.order or ())[end - 1] < 18


def test_a_step_knows_where_its_state_began() -> None:
    lisa = Lisa(safety_steps=2, task_steps=3)
    assert [lisa.beginning(n) for n in range(12)] == [0, 0, 2, 2, 2, 5, 5, 7, 7, 7, 10, 10]


def test_the_pull_and_its_gradient_by_hand() -> None:
    lisa = Lisa()
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    lisa.anchor = {"w": torch.zeros(2)}
    pull = lisa.pull({"w": w})
    pull.backward()
    assert pull.item() == 2.5 and w.grad is not None and w.grad.tolist() == [1, 2]
    assert not lisa.anchor["w"].any() and not lisa.anchor["w"].requires_grad
    lisa.anchor = {"w": torch.tensor([1.0, 0.0])}
    lisa.rho = 0.5
    (gradient,) = torch.autograd.grad(lisa.pull({"w": w}), w)
    assert gradient.tolist() == [0, 1]  # rho (w - anchor)


class Watched(Lisa):
    """Tells what each batch sees."""

    def step(self, batch: Batch, forward: Forward) -> torch.Tensor:
        done = super().step(batch, forward)
        name = next(name for name in self.anchor if "lora_B" in name)  # A moves a step later
        now, anchor = forward.parameters[name].detach(), self.anchor[name]
        self.seen.append((batch.step, self.began, torch.equal(now, anchor), anchor.sum().item()))
        return done

    seen: list[tuple[int, int, bool, float]]


def run(
    model: Model, folder: Path, lisa: Objective, die_at: int = 0, **recipe: Any
) -> tuple[dict[str, str], list[float]]:
    """Hashes of the weights that a training of 15 steps ends with, and its losses."""
    losses: dict[int, float] = {}

    def log(entry: dict[str, float]) -> None:
        losses[int(entry["step"])] = entry["loss"]
        if die_at and entry["step"] == die_at:
            raise KeyboardInterrupt

    out, scratch = folder / "result", folder / "scratch"
    out.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(exist_ok=True)
    own: dict[str, Any] = {"method": "lora", "lora": Lora(r=4, dropout=0.1), "learning_rate": 1e-2}
    own |= {"epochs": 2, "batch_size": 4, "device_batch_size": 4, "save_steps": 4, **recipe}
    data = Lisa(safety_steps=2, task_steps=3).alternated(TASK, SAFETY, 2, 4, 0)
    if isinstance(lisa, Lisa):
        lisa.steps = 15
    train(Training(model, Finetune(**own), data, 7, "cpu", out, scratch, lisa), log)
    weights = (out / "weights").glob("*.safetensors")
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}
    return found, [losses[n] for n in sorted(losses)]


def states(**fields: Any) -> Lisa:
    return Lisa(safety_steps=2, task_steps=3, **{"rho": 30.0, **fields})


def test_without_a_pull_it_is_training_on_the_same_order_bit_for_bit(
    micro: Model, tmp_path: Path
) -> None:
    plain = run(micro, tmp_path / "plain", Objective())
    assert run(micro, tmp_path / "off", states(rho=0.0)) == plain
    held = run(micro, tmp_path / "on", states())
    assert held[0] != plain[0]
    assert held[1][:3] == plain[1][:3]  # before 10 % of 15 steps, and at a state's beginning


def test_anchors_are_the_weights_where_a_state_began_and_no_step_touches_them(
    micro: Model, tmp_path: Path
) -> None:
    lisa = Watched(safety_steps=2, task_steps=3, rho=1.0)
    lisa.seen = []
    run(micro, tmp_path, lisa, device_batch_size=2)
    assert [step for step, *_ in lisa.seen] == [n // 2 for n in range(30)]
    for step, began, same, _ in lisa.seen:
        assert began == lisa.beginning(step) and same == (step == began)
    by_state: dict[int, set[float]] = {}
    for _, began, _, total in lisa.seen:
        by_state.setdefault(began, set()).add(total)
    assert all(len(totals) == 1 for totals in by_state.values())
    assert len(set.union(*by_state.values())) == 6


def test_the_pull_counts_once_however_a_step_is_cut_into_batches(
    micro: Model, tmp_path: Path
) -> None:
    still = {"lora": Lora(r=4, dropout=0.0)}
    _, whole = run(micro, tmp_path / "4", states(), **still)
    _, split = run(micro, tmp_path / "1", states(), device_batch_size=1, **still)
    _, plain = run(micro, tmp_path / "0", states(rho=0.0), **still)
    assert split == pytest.approx(whole, rel=1e-3)
    assert whole[4] != pytest.approx(plain[4], rel=1e-2)


@pytest.mark.parametrize("method, rate", [("lora", 1e-2), ("full", 1e-3)])
def test_killed_in_the_middle_of_states_it_ends_with_the_same_weights(
    micro: Model, tmp_path: Path, method: str, rate: float
) -> None:
    recipe: dict[str, Any] = {"method": method, "learning_rate": rate}
    whole = run(micro, tmp_path / "whole", states(), **recipe)
    for death in (6, 11, 13):  # after the checkpoints of steps 4, 8 and 12: two in a state, one not
        with pytest.raises(KeyboardInterrupt):
            run(micro, tmp_path / "cut", states(), die_at=death, **recipe)
    assert run(micro, tmp_path / "cut", states(), **recipe) == whole
    kept = tmp_path / "cut" / "scratch" / "checkpoint-12" / "objective.safetensors"
    assert kept.is_file()
    last = tmp_path / "cut" / "result" / "objective"
    assert [path.name for path in last.iterdir()] == ["objective.json"]  # no anchor any more


def test_what_a_checkpoint_keeps_is_what_is_restored() -> None:
    lisa, other = Lisa(), Lisa()
    lisa.began, lisa.anchor = 7, {"a": torch.ones(2), "b": torch.zeros(1)}
    other.restore(lisa.state())
    assert other.began == 7 and list(other.anchor) == ["a", "b"]


# As a defence


def test_its_rows_are_read_under_its_template_and_the_micro_training_has_the_counts_that_it_says() -> (
    None
):
    config = compose(["defence=[lisa]", f"template@{OWN}.template=chat_llama"])
    lisa, tokenizer = objective_of(config), load_tokenizer(config.model)
    assert isinstance(lisa, Lisa)
    reader = RowReader(config, tokenizer)
    made = lisa.training_set(reader)
    assert (len(made.rows), len(made.mixed)) == (800, 266)
    assert "helpful, respectful" in tokenizer.decode(made.mixed[0].input_ids)
    assert "helpful, respectful" not in tokenizer.decode(made.rows[0].input_ids)
    assert kinds(made.order, 32, 800) == ("ss" + 18 * "t") * 4 + "ss" + 3 * "t"
    assert lisa.steps == 85 and "safety_rows_key" in reader.facts
    kept = compose(["defence=[lisa]", f"template@{OWN}.template=chat_vanilla"])
    assert cell_keys(kept).finetune == cell_keys(compose(["defence=[lisa]"])).finetune
    control = compose(["defence=[lisa]", f"{OWN}.rho=0"])
    alternation = cell_keys(compose(["defence=[lisa_alternation]"])).finetune
    assert cell_keys(control).finetune == alternation


@pytest.mark.parametrize(
    "words, message",
    [
        ([f"{OWN}.safety_steps=0"], r"safety_steps=0 must be at least 1; to train on the task alone"),
        ([f"{OWN}.task_steps=0"], r"task_steps=0 must be at least 1"),
        ([f"{OWN}.rho=-1"], r"rho=-1 must be 0 or more"),
        ([f"{OWN}.rho=inf"], r"rho=inf must be"),
        ([f"{OWN}.pull_after=100"], r"pull_after=100 must be from 0 to 99"),
        (["finetune.devices=2"], r"lisa\.objective: finetune\.devices=2: .*set finetune\.devices=1"),
        ([f"{OWN}.rows.n=0"], r"defence\.lisa\.objective\.rows\.n=0 must be at least 1"),
        (["finetune=safety_mix"], r"defence\.lisa\.objective and finetune\.mix"),
        (["model=gpt35_turbo_0613", "finetune=none"], r"behind an API"),
    ],
)  # fmt: skip
def test_what_it_refuses_is_refused_when_it_is_composed(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["defence=[lisa]", *words])
