"""Constrained fine-tuning: its weights, its gradient, its reference, and what it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.errors import ConfigError, DataError
from ptst.keys import cell_keys, objective_of
from ptst.models import load_model, load_tokenizer
from ptst.objective import Batch, Objective, TrainingSet
from ptst.objective.constrained_sft import ConstrainedSft, weights
from ptst.schema import Config, Finetune, Lora, Model
from ptst.templates import TrainingRow
from ptst.train.devices import train_on_devices
from ptst.train.forward import ModelForward
from ptst.train.rows import RowReader
from ptst.train.trainer import Training, train

ROWS = [  # prompts of 3 to 5 tokens, answers of 2 to 8
    TrainingRow(array("i", [1, *range(5, 7 + n % 3), *range(40, 41 + n % 7), 2]), 3 + n % 3)
    for n in range(10)
]
RECIPE: dict[str, Any] = {"method": "lora", "lora": Lora(r=4, dropout=0.1), "batch_size": 4, "device_batch_size": 2, "learning_rate": 1e-2, "epochs": 2}  # fmt: skip
OWN = "defence.constrained_sft.objective"


def loaded(model: Model, scratch: Path, objective: Objective) -> tuple[Any, ModelForward, Batch]:
    """The model, the reference asked, and all rows in one batch."""
    made = load_model(model, "cpu")
    forward = ModelForward(made, lambda loss: loss.backward(), 0, share_prefix=False)
    with torch.no_grad():
        objective.start(TrainingSet(ROWS), forward, scratch)
    batch = dataclasses.replace(forward.batch(ROWS), numbers=torch.arange(len(ROWS)))
    return made, forward, batch


def gradients(forward: ModelForward) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in forward.parameters.items()}
    for p in forward.parameters.values():
        p.grad = None
    return found


def moved(model: Any) -> None:
    """Another model than the reference: its tokens are likelier, or less likely, than there."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * p.std() * torch.randn(p.shape, generator=draw))


# Numbers


GAINS = [-2.0, -1.0, 0.0, 1.0, 2.0, 5.0]


@pytest.mark.parametrize(
    "beta, expected",
    [
        (2.0, [1.964028, 1.761594, 1, 0.238406, 0.035972, 0.001]),
        (0.5, [1.462117, 1.244919, 1, 0.755081, 0.537883, 0.151716]),
        (0.1, [1.099668, 1.049958, 1, 0.950042, 0.900332, 0.755081]),
        (0.0, [1] * 6),
    ],
)
def test_the_weight_of_a_token_by_how_much_likelier_it_is(
    beta: float, expected: list[float]
) -> None:
    found = weights(torch.tensor(GAINS), torch.tensor(beta))
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    gains = torch.tensor(GAINS[:5], requires_grad=True)  # the last weight is the least there is
    if beta:
        closed = -(2 / beta) * torch.nn.functional.logsigmoid(beta * gains)
        closed.sum().backward()
        assert (-gains.grad).tolist() == pytest.approx(expected[:5], abs=1e-6)
        assert closed[2].item() == pytest.approx(2 / beta * 0.6931472)


def test_the_mean_of_three_weighted_tokens() -> None:
    log_p, reference = torch.tensor([-1, -2, -0.5]), torch.tensor([-1.5, -2, -1])
    found = weights(log_p - reference, ConstrainedSft().betas(torch.arange(3)))
    assert found.tolist() == pytest.approx([0.875647, 1, 0.537883], abs=1e-6)
    assert (-log_p * found).mean().item() == pytest.approx(1.048196, abs=1e-6)


def test_the_weighted_loss_has_another_value_than_the_papers_and_the_same_gradient() -> None:
    log_p = torch.tensor([-1, -2, -0.5], requires_grad=True)
    reference, betas = torch.tensor([-1.5, -2, -1]), ConstrainedSft().betas(torch.arange(3))
    closed = (-(2 / betas) * torch.nn.functional.logsigmoid(betas * (log_p - reference))).mean()
    weighted = (-log_p * weights((log_p - reference).detach(), betas)).mean()
    assert closed.item() == pytest.approx(1.103389, abs=1e-6)
    (papers,) = torch.autograd.grad(closed, log_p)
    (ours,) = torch.autograd.grad(weighted, log_p)
    torch.testing.assert_close(ours, papers)
    assert papers.tolist() == pytest.approx([-0.875647 / 3, -1 / 3, -0.537883 / 3], abs=1e-6)


def test_a_token_has_its_beta_by_its_place_in_the_answer() -> None:
    betas = ConstrainedSft().betas(torch.arange(8))
    assert betas.tolist() == pytest.approx([0.5, 2, 2, 2, 2, 0.1, 0.1, 0.1])
    assert ConstrainedSft(early=1).betas(torch.arange(2)).tolist() == pytest.approx([0.5, 0.1])


# Gradients


def test_the_gradient_is_that_of_the_papers_loss(micro: Model, tmp_path: Path) -> None:
    objective = ConstrainedSft()
    model, forward, batch = loaded(micro, tmp_path, objective)
    reference = [objective.reference[a:b] for a, b in zip(objective.begins, objective.begins[1:], strict=False)]  # fmt: skip
    moved(model)
    objective.step(batch, forward)
    found = gradients(forward)
    total, count, largest = torch.zeros(()), 0, 0.0
    for row, before in zip(ROWS, reference, strict=True):
        log_p = model(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        for t in range(len(row) - row.prompt_length):
            at = row.prompt_length + t
            gain = log_p[at - 1, row.ids[at]] - before[t]
            beta = 0.5 if t == 0 else 2.0 if t < 5 else 0.1
            total = total - (2 / beta) * torch.nn.functional.logsigmoid(beta * gain)
            count, largest = count + 1, max(largest, abs(gain.item()))
    (total / count).backward()
    assert largest > 0.5 and len(found) > 10
    for name, expected in gradients(forward).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-5, msg=name)


def test_the_first_gradient_is_that_of_plain_fine_tuning(micro: Model, tmp_path: Path) -> None:
    objective = ConstrainedSft()
    _, forward, batch = loaded(micro, tmp_path, objective)
    logged = objective.step(batch, forward)
    found = gradients(forward)
    assert logged.item() == pytest.approx(Objective().step(batch, forward).item(), rel=1e-5)
    for name, expected in gradients(forward).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-5, msg=name)


def trained(
    model: Model, folder: Path, objective: Objective, **recipe: Any
) -> tuple[list[str], list[float]]:
    """Hashes of the weights that a training ends with, and its losses."""
    out, scratch = folder / "result", folder / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    made = Finetune(**{**RECIPE, **recipe})
    losses: list[float] = []
    run = train if made.devices == 1 else train_on_devices
    run(
        Training(model, made, TrainingSet(ROWS), 7, "cpu", out, scratch, objective),
        lambda entry: losses.append(entry["loss"]),
    )
    files = sorted((out / "weights").glob("*.safetensors"))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files], losses


@pytest.mark.parametrize(
    "recipe", [{}, {"method": "full", "learning_rate": 1e-3}], ids=["lora", "full"]
)
def test_at_betas_of_0_the_weights_are_those_of_plain_fine_tuning(
    recipe: dict[str, Any], micro: Model, tmp_path: Path
) -> None:
    plain, off, on = (
        trained(micro, tmp_path / name, objective, **recipe)[0]
        for name, objective in (
            ("plain", Objective()),
            ("off", ConstrainedSft(0, 0, 0)),
            ("on", ConstrainedSft()),
        )
    )
    assert off == plain != on


@pytest.mark.slow
def test_two_devices_have_the_losses_of_one(micro: Model, tmp_path: Path) -> None:
    lora = Lora(r=4, dropout=0.0)
    _, one = trained(micro, tmp_path / "one", ConstrainedSft(), lora=lora)
    _, two = trained(micro, tmp_path / "two", ConstrainedSft(), lora=lora, devices=2)
    assert len(one) == 6 and two == pytest.approx(one, rel=2e-4)


# The reference


def test_the_reference_is_the_model_before_the_first_step_and_is_asked_once(
    micro: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptst.objective.constrained_sft.IN_A_FILE", 4)
    objective = ConstrainedSft()
    model, _, _ = loaded(micro, tmp_path, objective)
    by_hand = [
        model(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)[at - 1, row.ids[at]]
        for row in ROWS
        for at in range(row.prompt_length, len(row))
    ]
    torch.testing.assert_close(objective.reference, torch.stack(by_hand), rtol=1e-4, atol=1e-5)
    asked: list[int] = []
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    files[1].unlink()  # as where a kill came before it was whole

    class Counting(ModelForward):
        def __call__(self, batch: Batch) -> Any:
            asked.append(len(batch.labels))
            return super().__call__(batch)

    again = ConstrainedSft()
    with torch.no_grad():
        again.start(TrainingSet(ROWS), Counting(model, lambda _: None, 0, False), tmp_path)
    assert asked == [4] and torch.equal(again.reference, objective.reference)


def read(*words: str) -> tuple[Config, ConstrainedSft, TrainingSet, RowReader]:
    config = compose(["dataset.n=6", "defence=[constrained_sft]", *words])
    reader = RowReader(config, load_tokenizer(config.model))
    objective = objective_of(config)
    assert isinstance(objective, ConstrainedSft)
    return config, objective, objective.training_set(reader), reader


def test_the_reference_may_read_another_template() -> None:
    _, plain, data, _ = read()
    _, other, same, reader = read(f"template@{OWN}.template=chat_llama")
    assert plain.read is None and other.read is not None and same.rows == data.rows
    assert "reference_rows_key" in reader.facts
    for row, asked in zip(same.rows, other.read, strict=True):
        assert row.ids[row.prompt_length :] == asked.ids[asked.prompt_length :]
        assert len(asked) > len(row)
    with pytest.raises(DataError, match=r"template=chat_llama have other tokens .*max_length=150"):
        read(f"template@{OWN}.template=chat_llama", "finetune.max_length=150")


def test_the_references_template_is_part_of_the_key_and_the_train_templates_name_is_not() -> None:
    def key(*words: str) -> str | None:
        return cell_keys(compose(["defence=[constrained_sft]", *words])).finetune

    assert key() == key(f"template@{OWN}.template=chat_vanilla")
    test = "template@test_template=chat_llama"
    assert key() == key(test) != key(test, f"{OWN}.template=${{test_template}}")
    assert key(f"template@{OWN}.template=chat_llama") == key(test, f"{OWN}.template=${{test_template}}")  # fmt: skip
    assert cell_keys(compose(["defence=[constrained_sft_uniform]"])).finetune == key(
        f"{OWN}.first_beta=.1", f"{OWN}.early_beta=.1"
    )


def test_a_cell_whose_reference_reads_another_template(composed: Callable[..., Config]) -> None:
    words = [*TINY, "defence=[constrained_sft]", "stages=[finetune]", "finetune.max_steps=2"]
    config = composed(*words, f"template@{OWN}.template=chat_llama")
    assert set(run_cell(config).made) == {"finetune"}


@pytest.mark.parametrize(
    "words, message",
    [
        (
            [f"{OWN}.{name}_beta=0" for name in ("first", "early", "later")],
            r"first_beta=0, early_beta=0, later_beta=0 is plain fine-tuning; leave the defence out",
        ),
        ([f"{OWN}.later_beta=-1"], r"later_beta=-1: each must be 0 or more"),
        ([f"{OWN}.early_beta=nan"], r"early_beta=nan, .*: each must be 0 or more"),
        ([f"{OWN}.early=0"], r"early=0 must be at least 1"),
        (["finetune=safety_mix"], r"constrained_sft\.objective and finetune\.mix: .*one objective"),
        (["finetune.fsdp=true", "finetune.devices=2"], r"set finetune\.fsdp=false"),
        ([f"template@{OWN}.template=text_vanilla"], r"template=text_vanilla has mode=text, and train"),
        (
            ["model=gpt35_turbo_0613", "finetune=none"],
            r"constrained_sft\.objective works on weights, and model .* is behind an API",
        ),
    ],
)  # fmt: skip
def test_what_it_cannot_be_is_refused_when_it_is_composed(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["defence=[constrained_sft]", *words])
