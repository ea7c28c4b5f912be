"""Panacea's last step: e, its controls, and the adapter's factors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file

from ptst.cell import run_cell
from ptst.component import Context
from ptst.config.compose import compose
from ptst.errors import ConfigError, PtstError
from ptst.keys import cell_keys
from ptst.models import load_model
from ptst.objective.panacea import learnt
from ptst.objective.perturbed import global_norm
from ptst.posthoc.add_perturbation import AddPerturbation, noise_like
from ptst.schema import Config
from ptst.store import read_json
from ptst.train.checkpoints import load_state, save_state

PANACEA = "defence=[panacea]"


def test_with_e_with_noise_and_without_are_three_tests_of_one_training() -> None:
    names = ("panacea", "panacea_random", "panacea_unperturbed", "panacea_once")
    keys = [cell_keys(compose([f"defence=[{name}]"])) for name in names]
    learnt_, noisy, bare, once = keys
    assert learnt_.finetune == noisy.finetune == bare.finetune
    assert once.finetune not in (bare.finetune, cell_keys(compose([])).finetune)
    assert bare.posthoc is None
    assert None not in {learnt_.posthoc, noisy.posthoc, once.posthoc}
    assert len({learnt_.posthoc, noisy.posthoc, once.posthoc}) == 3
    assert len({key.cell for key in keys}) == 4


def made(composed: Callable[..., Config], *words: str) -> tuple[dict[str, float], Any, Path, Path]:
    config = composed(*TINY, "stages=[finetune]", *words)
    result = run_cell(config)
    store = Path(config.paths.store)
    keys = result.keys
    training = store / "finetune" / str(keys.finetune)
    return result.made, config, training, store / "posthoc" / str(keys.posthoc)


def test_e_is_added_to_all_weights_of_one_training(composed: Callable[..., Config]) -> None:
    first, _, training, changed = made(composed, PANACEA)
    second, _, same, noisy = made(composed, "defence=[panacea_random]")
    assert "finetune" in first and same == training and list(second) == ["posthoc"]
    e = learnt(load_state(training / "objective"))
    before, after, other = (
        load_file(folder / "weights" / "model.safetensors") for folder in (training, changed, noisy)
    )
    assert before.keys() == after.keys() == e.keys()
    for name, weight in before.items():
        assert torch.equal(after[name], weight + e[name]), name
    norm = global_norm(list(e.values()))
    added = global_norm([other[name] - weight for name, weight in before.items()])
    assert added == pytest.approx(norm, rel=1e-3)
    for folder in (changed, noisy):
        facts = read_json(folder / "provenance.json")
        assert facts["added_norm"] == pytest.approx(norm, rel=1e-5)
        assert facts["weights"] == len(e)


def test_of_an_adapter_the_factors_are_moved(composed: Callable[..., Config]) -> None:
    recipe = ["finetune=lora", "finetune.lora.r=4", "finetune.lora.alpha=8"]
    _, config, training, changed = made(composed, PANACEA, *recipe)
    e = learnt(load_state(training / "objective"))
    factors = load_file(training / "weights" / "adapter_model.safetensors")
    base = dict(load_model(config.model, "cpu").named_parameters())
    after = load_file(changed / "weights" / "model.safetensors")
    adapted = 0
    for name, weight in base.items():
        start = f"base_model.model.{name.removesuffix('.weight')}"
        wanted = weight
        if f"{start}.lora_A.weight" in factors:
            adapted += 1
            a, b = (factors[f"{start}.lora_{x}.weight"] for x in "AB")
            e_a, e_b = (e[f"{start}.lora_{x}.default.weight"] for x in "AB")
            wanted = weight + 2 * (b + e_b) @ (a + e_a)
            assert not torch.allclose(wanted, weight + 2 * b @ a, atol=1e-6), name
        torch.testing.assert_close(after[name], wanted.detach(), atol=1e-6, rtol=1e-5, msg=name)
    assert 2 * adapted == len(e)


def test_noise_has_the_norm_of_e_over_all_tensors_together() -> None:
    e = {"b": torch.full((3, 4), 0.5), "a": torch.zeros(5)}
    noise = noise_like(e, 3)
    assert global_norm(list(noise.values())) == pytest.approx(12**0.5 / 2, rel=1e-6)
    assert {name: value.shape for name, value in noise.items()} == {"a": (5,), "b": (3, 4)}
    other = noise_like({"a": e["a"], "b": e["b"]}, 3)
    assert all(torch.equal(noise[name], other[name]) for name in e)
    assert not torch.equal(noise_like(e, 4)["a"], noise["a"])


def test_a_training_without_e_or_with_that_of_other_weights_is_refused(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    (tmp_path / "objective").mkdir()
    said = (Config(), None, "cpu", tmp_path, lambda done, total: None, lambda: False, tmp_path)
    for state in ({}, {"taken": 3}, {"taken": 3, "perturbation.other": torch.ones(1)}):
        save_state(state, tmp_path / "objective")
        with pytest.raises(PtstError, match="has no perturbation of this model's weights"):
            AddPerturbation().apply(model, model, Context(*said))


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["defence.panacea.objective=null"],
            r"no defence has that objective: choose defence=\[panacea\]",
        ),
        (["finetune=none"], r"finetune=none"),
        (
            ["finetune.epoch=1"],
            r"finetune\.epoch=1 tests earlier weights; set finetune\.epoch=null",
        ),
        (["finetune.method=qlora"], r"keeps in 4 bits"),
    ],
)
def test_what_it_cannot_be_combined_with_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose([PANACEA, *words])


def test_a_last_epoch_that_is_named_is_the_last() -> None:
    assert compose([PANACEA, "finetune.epoch=3"]).finetune.epochs == 3
