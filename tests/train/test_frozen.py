"""What LoRA does not train is rounded to bfloat16 once, where training computes in bfloat16."""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path
from typing import Any

import pytest
import torch

from ptst.objective import TrainingSet
from ptst.schema import Finetune, Lora, Model
from ptst.templates import TrainingRow
from ptst.train import trainer as trainer_module
from ptst.train.trainer import Training, make_trainer, train

ROWS = [TrainingRow(array("i", [1, *range(60, 90), 5 + n, 9, 12, 2]), 30) for n in range(8)]
RECIPE: dict[str, Any] = {"batch_size": 4, "device_batch_size": 4, "epochs": 2, "lora": Lora(r=4)}


def training(model: Model, folder: Path, **recipe: Any) -> Training:
    out, scratch = folder / "result", folder / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    made = Finetune(**{"method": "lora", "bf16": True, "learning_rate": 1e-2, **RECIPE, **recipe})
    return Training(model, made, TrainingSet(ROWS), 7, "cpu", out, scratch)


def trained(given: Training) -> tuple[str, list[float]]:
    """A hash of the adapter, and the losses."""
    losses: list[float] = []
    train(given, lambda entry: losses.append(entry["loss"]))
    file = given.out / "weights" / "adapter_model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest(), losses


def test_weights_that_are_rounded_once_give_the_same_adapter(
    micro: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = trained(training(micro, tmp_path / "once"))
    monkeypatch.setattr(trainer_module, "keep_in_bfloat16", lambda model: None)
    always = trained(training(micro, tmp_path / "always"))
    assert once == always
    assert once[1][0] != once[1][-1]


def test_only_linear_weights_that_are_not_trained_are_rounded(micro: Model, tmp_path: Path) -> None:
    def dtypes(folder: str, **recipe: Any) -> dict[str, torch.dtype]:
        made = make_trainer(training(micro, tmp_path / folder, **recipe), lambda _: None)
        return {name: p.dtype for name, p in made.model.named_parameters()}

    def rounded(found: dict[str, torch.dtype]) -> set[str]:
        names = {name for name, dtype in found.items() if dtype == torch.bfloat16}
        return {name.split(".")[-2].removesuffix("base_layer") or name.split(".")[-3] for name in names}  # fmt: skip

    layers = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert rounded(dtypes("lora")) == layers | {"lm_head"}  # the embedding that it shared stays
    assert rounded(dtypes("plain", bf16=False)) == set()
    assert rounded(dtypes("full", method="full")) == set()
