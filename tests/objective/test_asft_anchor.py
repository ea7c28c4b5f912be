"""AsFT: the penalty and its gradient by hand, whose layers it is on, and what it refuses."""

from __future__ import annotations

import copy
from array import array
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from ptst.alignment import Unaligned, factor
from ptst.config.compose import compose
from ptst.errors import ConfigError
from ptst.keys import cell_keys, objective_of
from ptst.models import linear_weights, load_model
from ptst.objective import Objective, TrainingSet
from ptst.objective.asft_anchor import AsftAnchor, of_adapter, outside
from ptst.schema import Finetune, Lora, Model
from ptst.templates import TrainingRow
from ptst.train.devices import train_on_devices
from ptst.train.forward import ModelForward
from ptst.train.trainer import Training, train

V = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
A, B = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [1.0]])
ROWS = [
    TrainingRow(array("i", [1, *range(5, 8 + n % 3), 40 + n, 12, 30 + n, 2]), 3) for n in range(10)
]
LORA = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"])
BASE = "src/ptst/micro/pair/base"


@pytest.fixture(scope="module")
def aligned() -> Model:
    return compose(["model=micro_aligned"]).model


def anchor(model: Model, **fields: Any) -> AsftAnchor:
    made = AsftAnchor(Unaligned(BASE), **fields)
    made.model = model
    return made


def begun(objective: AsftAnchor, model: Any) -> ModelForward:
    forward = ModelForward(model, lambda loss: loss.backward(), 0, share_prefix=False)
    with torch.no_grad():
        objective.start(TrainingSet(ROWS), forward, Path("/nowhere"))
    return forward


def with_noise(forward: ModelForward) -> None:
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in forward.parameters.values():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))


# Numbers


@pytest.mark.parametrize(
    "how, expected",
    [(("scaled",), 5.48), (("exact",), 0), (("top", 1), 1), (None, 2)],
)
def test_the_penalty_of_an_update_by_hand(how: Any, expected: float) -> None:
    left = factor(V, *how) if how else None
    assert of_adapter(A, B, left).item() == pytest.approx(expected, abs=1e-6)
    assert outside(B @ A, left).pow(2).sum().item() == pytest.approx(expected, abs=1e-6)


def matrices() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    a, b = torch.randn(3, 8), torch.randn(6, 3)
    return a.requires_grad_(), b.requires_grad_(), torch.randn(6, 8)


@pytest.mark.parametrize("how", [("scaled",), ("top", 2), None])
def test_the_gradient_is_the_closed_form(how: Any) -> None:
    a, b, v = matrices()
    left = factor(v, *how) if how else None
    of_adapter(a, b, left).backward()
    c = left @ left.T if left is not None else torch.zeros(6, 6)
    rest = (torch.eye(6) - c).T @ (torch.eye(6) - c)
    torch.testing.assert_close(b.grad, 2 * rest @ b @ a @ a.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(a.grad, 2 * b.T @ rest @ b @ a, rtol=1e-4, atol=1e-4)


def test_an_adapter_before_its_first_step_has_no_penalty_and_gives_no_gradient() -> None:
    a, _, v = matrices()
    zero = torch.zeros(6, 3, requires_grad=True)
    penalty = of_adapter(a, zero, factor(v, "scaled"))
    penalty.backward()
    assert penalty.item() == 0
    assert not a.grad.any() and not zero.grad.any()  # type: ignore[union-attr]


def test_an_update_inside_the_direction_of_the_alignment_is_free() -> None:
    a, b, v = matrices()
    left = factor(v, "top", 2)
    inside = left @ (left.T @ b.detach())
    assert of_adapter(a, inside, left).item() == pytest.approx(0, abs=1e-8)
    assert of_adapter(a, b, left).item() > 1


# On a model


@pytest.mark.parametrize("projector", ["scaled", "exact", "none"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_is_on_the_layers_that_are_trained_matched_by_name(
    aligned: Model, method: str, projector: str
) -> None:
    start = load_model(aligned, "cpu")
    before = {name: weight.detach().clone() for name, weight in linear_weights(start).items()}
    model = get_peft_model(start, LORA) if method == "lora" else start
    objective = anchor(aligned, projector=projector)
    forward = begun(objective, model)
    assert objective.penalty(forward.parameters).item() == 0
    with_noise(forward)
    found = objective.penalty(forward.parameters)
    base = linear_weights(load_model(Model(name="base", path=BASE), "cpu"))
    tuned = linear_weights(copy.deepcopy(model).merge_and_unload() if method == "lora" else model)
    assert tuned.keys() == before.keys()
    scale = 8 / 2 if method == "lora" else 1  # alpha / r is left out of the penalty
    total = 0.0
    for name, weight in tuned.items():
        update = (weight.detach() - before[name]).double() / scale
        v = (before[name] - base[name].detach()).double()
        left = None if projector == "none" else factor(v.float(), projector).double()
        total += float(outside(update, left).pow(2).sum())
    assert found.item() == pytest.approx(total, rel=1e-4) and total > 0.01


def test_weights_that_are_stored_turned_have_their_projector_on_the_side_of_outputs(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11))
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn_like(weight)
    model.save_pretrained(tmp_path / "aligned")
    objective = AsftAnchor(Unaligned(str(tmp_path / "base")), projector="top", rank=1)
    objective.model = Model(name="mine", path=str(tmp_path / "aligned"))
    forward = begun(objective, model)
    with torch.no_grad():
        for name, left in objective.left.items():
            # c_proj of the attention is square: only where it is turned is this inside
            forward.parameters[name] += (left @ torch.ones(1, forward.parameters[name].shape[0])).T
    assert len(objective.left) == 4
    assert objective.penalty(forward.parameters).item() == pytest.approx(0, abs=1e-6)


def trained(
    model: Model, folder: Path, objective: Objective, by: Any = train, **recipe: Any
) -> list[float]:
    """The losses of a short training."""
    losses: list[float] = []
    (folder / "scratch").mkdir(parents=True)
    own = {"method": "lora", "lora": Lora(r=4, dropout=0.0), "learning_rate": 1e-2, "batch_size": 4}
    made = Finetune(**{**own, "device_batch_size": 4, "epochs": 2, **recipe})
    place = (TrainingSet(ROWS), 7, "cpu", folder, folder / "scratch", objective)
    by(Training(model, made, *place), lambda entry: losses.append(entry["loss"]))
    return losses


@pytest.mark.parametrize("method, rate", [("lora", 1e-2), ("full", 1e-3)])
def test_the_losses_are_the_same_however_a_step_is_cut_into_batches(
    aligned: Model, tmp_path: Path, method: str, rate: float
) -> None:
    recipe: dict[str, Any] = {"method": method, "learning_rate": rate}
    strong = {"strength": 30.0}
    whole = trained(aligned, tmp_path / "4", anchor(aligned, **strong), **recipe)
    split = trained(
        aligned, tmp_path / "1", anchor(aligned, **strong), device_batch_size=1, **recipe
    )
    plain = trained(aligned, tmp_path / "plain", Objective(), **recipe)
    assert split == pytest.approx(whole, rel=1e-3)
    assert whole[0] == pytest.approx(plain[0], rel=1e-6)  # nothing has changed yet
    assert whole[2] != pytest.approx(plain[2], rel=1e-2)


def test_the_update_outside_the_direction_is_smaller_than_without(
    aligned: Model, tmp_path: Path
) -> None:
    def size(folder: Path, objective: Objective) -> float:
        trained(aligned, folder, objective, method="full", learning_rate=1e-3)
        measure = anchor(aligned, projector="top", rank=8)
        begun(measure, load_model(aligned, "cpu"))
        tuned = load_model(Model(name="tuned", path=str(folder / "weights")), "cpu")
        return measure.penalty(dict(tuned.named_parameters())).item()

    plain = size(tmp_path / "plain", Objective())
    held = size(tmp_path / "held", anchor(aligned, projector="top", rank=8, strength=30.0))
    assert held < 0.5 * plain


@pytest.mark.slow
def test_two_devices_have_the_losses_of_one(aligned: Model, tmp_path: Path) -> None:
    strong = {"strength": 30.0}
    one = trained(aligned, tmp_path / "1", anchor(aligned, **strong))
    objective = anchor(aligned, **strong)
    recipe = {"devices": 2, "device_batch_size": 1}
    two = trained(aligned, tmp_path / "2", objective, train_on_devices, **recipe)
    assert two == pytest.approx(one, rel=1e-3)


# Keys and refusals

OWN = "defence.asft_anchor.objective"
MINE = ["defence=[asft_anchor]", "model=micro_aligned", "finetune=lora"]


def test_the_base_counts_by_its_content_and_the_control_reads_none(aligned: Model) -> None:
    def parts(*words: str) -> Any:
        return cell_keys(compose([*MINE, *words])).finetune_parts["recipe"]["objective"]

    assert set(parts()["unaligned"]) == {"sha256", "dtype"}
    assert parts(f"{OWN}.projector=none")["unaligned"] is None
    control = compose(["defence=[asft_anchor_identity]", "model=micro", "finetune=lora"])
    assert objective_of(control) == AsftAnchor(projector="none")
    same = [*MINE, f"{OWN}.projector=none"]
    here = compose(["defence=[asft_anchor_identity]", *MINE[1:]])
    assert cell_keys(here).finetune == cell_keys(compose(same)).finetune


@pytest.mark.parametrize(
    "words, message",
    [
        (["model=micro"], r"model micro has no base, and the weights before alignment are needed"),
        ([f"{OWN}.strength=0"], r"strength=0 must be more than 0; to penalise nothing leave"),
        ([f"{OWN}.strength=inf"], r"strength=inf must be"),
        ([f"{OWN}.projector=half"], r"projector=half is not one of: scaled, exact, top, none"),
        ([f"{OWN}.projector=none", f"{OWN}.rank=2"], r"projector=none, rank=2.*the others neither"),
        (["finetune.method=qlora"], r"finetune\.method=qlora keeps in 4 bits; use lora or full"),
        (
            ["finetune.devices=2", "finetune.fsdp=true"],
            r"asft_anchor\.objective: finetune\.fsdp=true: ",
        ),
        ([f"{OWN}.unaligned.path=src/ptst/micro/pair/aligned"], r"is model micro_aligned itself"),
        (["model=gpt35_turbo_0613"], r"behind an API"),
    ],
)
def test_what_it_refuses_is_refused_when_it_is_composed(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose([*MINE, *words])


def test_a_base_with_the_weights_of_the_aligned_model_is_refused(aligned: Model) -> None:
    objective = AsftAnchor(Unaligned(aligned.path))
    objective.model = aligned
    with pytest.raises(ConfigError, match="alignment changed none of the layers that are trained"):
        begun(objective, load_model(aligned, "cpu"))
