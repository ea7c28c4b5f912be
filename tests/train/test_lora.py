"""LoRA: its modules are those that the model has, and what is tested is what was trained."""

from __future__ import annotations

import dataclasses
import json
import shutil
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig

from ptst import data, models
from ptst.cell import run_cell
from ptst.errors import ConfigError, PtstError
from ptst.objective import TrainingSet
from ptst.schema import Config, Finetune, Lora, Model
from ptst.templates import TrainingRow
from ptst.train.trainer import Training, make_trainer

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROWS = [TrainingRow(array("i", [1, 5 + n, 9, 12, 2]), 2) for n in range(4)]
RECIPE: dict[str, Any] = {"method": "lora", "batch_size": 4, "device_batch_size": 4, "max_steps": 2}


def trainer(model: Model, folder: Path, targets: list[str]) -> Any:
    lora = Lora(r=4, dropout=0.0, target_modules=targets)
    recipe = Finetune(lora=lora, learning_rate=0.01, **RECIPE)
    return make_trainer(
        Training(model, recipe, TrainingSet(ROWS), 0, "cpu", folder, folder), lambda _: None
    )


# Modules


def test_the_linear_layers_of_an_architecture_are_known_without_its_weights(
    micro: Model, tmp_path: Path
) -> None:
    assert models.linear_layers(micro) == LAYERS  # lm_head is none of them
    AutoConfig.for_model("phi3", pad_token_id=0).save_pretrained(tmp_path)  # 3.8B parameters
    phi = dataclasses.replace(micro, path=str(tmp_path))
    fused = ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"]
    assert models.linear_layers(phi) == fused
    assert models.missing_modules(phi, ["q_proj", "v_proj", "o_proj"]) == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("target", "there"),
    [
        ("q_proj", True),
        ("self_attn.q_proj", True),
        ("model.layers.0.self_attn.q_proj", True),
        ("lm_head", True),
        ("embed_tokens", True),
        ("proj", False),  # PEFT wants a whole name, or what follows a dot
        ("layers.9.self_attn.q_proj", False),
        ("all-linear", True),
    ],
)
def test_a_target_is_there_as_peft_reads_it(micro: Model, target: str, there: bool) -> None:
    assert models.missing_modules(micro, [target]) == ([] if there else [target])


def test_a_module_that_the_model_lacks_is_refused_before_rows_are_read(
    composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    monkeypatch.setattr(data, "read_rows", lambda *a, **k: read.append(a) or iter(()))
    words = [*TINY, "finetune=lora", "finetune.lora.target_modules=[q_proj,k_prj,qkv]"]
    with pytest.raises(ConfigError) as caught:
        run_cell(composed(*words, "stages=[finetune]"))
    assert read == []
    assert f"micro has no k_prj, qkv; its linear layers are: {', '.join(LAYERS)}" in str(
        caught.value
    )


def test_the_head_is_refused_because_its_adapter_would_not_be_trained(
    composed: Callable[..., Config],
) -> None:
    words = [*TINY, "finetune=lora", "finetune.lora.target_modules=[q_proj,lm_head]"]
    with pytest.raises(ConfigError, match="target_modules: lm_head is the head of micro"):
        run_cell(composed(*words, "stages=[finetune]"))


def test_all_linear_is_every_linear_layer_but_the_head(micro: Model, tmp_path: Path) -> None:
    made = trainer(micro, tmp_path, ["all-linear"])
    names = [name for name, _ in made.model.named_parameters() if "lora_A" in name]
    adapted = {name.partition(".lora_A")[0].rpartition(".")[2] for name in names}
    assert adapted == set(LAYERS)


def test_what_peft_cannot_do_is_said_in_one_line(micro: Model, tmp_path: Path) -> None:
    with pytest.raises(
        PtstError, match=r"finetune=lora of micro cannot begin: .*RMSNorm"
    ) as caught:
        trainer(micro, tmp_path, ["input_layernorm"])
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_adapter_that_does_not_fit_is_an_error_in_one_line(micro: Model, tmp_path: Path) -> None:
    trainer(micro, tmp_path, ["q_proj"]).save_model(str(tmp_path / "weights"))
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "weights", broken)
    config = json.loads((broken / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    with pytest.raises(PtstError, match=f"the adapter in {broken} .*size mismatch") as caught:
        models.BaseModel().adapted(micro, "cpu", "lora", broken)
    assert "\n" not in str(caught.value)


# What is tested

IDS = torch.tensor([[1, 5, 9, 12, 30, 31]])
EACH = [
    ["q_proj", "down_proj"],
    ["lm_head"],
    ["embed_tokens"],
    ["embed_tokens", "lm_head"],
    ["q_proj", "lm_head"],
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("targets", EACH, ids=",".join)
def test_the_model_that_is_tested_is_the_one_that_was_trained(
    micro: Model, tmp_path: Path, targets: list[str], tied: bool
) -> None:
    if not tied:  # a copy of the micro model whose head has weights of its own
        loaded = models.load_model(micro, "cpu")
        loaded.config.tie_word_embeddings = False
        loaded.lm_head.weight = torch.nn.Parameter(loaded.lm_head.weight.detach().clone())
        folder = tmp_path / "untied"
        shutil.copytree(models.local_folder(micro), folder)
        loaded.save_pretrained(folder)
        micro = dataclasses.replace(micro, path=str(folder))
    before = models.BaseModel().untouched(micro, "cpu")(IDS).logits
    if "lm_head" in targets:  # TRL trains none, but an adapter may come from elsewhere
        torch.manual_seed(0)
        lora = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
        tuned = get_peft_model(models.load_model(micro, "cpu"), lora).eval()
        tuned.save_pretrained(tmp_path / "weights")
    else:
        made = trainer(micro, tmp_path / "scratch", targets)
        made.train()
        made.save_model(str(tmp_path / "weights"))
        tuned = made.model.eval()
    trained = tuned(IDS).logits
    assert (trained - before).abs().max() > 0.1
    base = models.BaseModel()
    base.untouched(micro, "cpu")
    tested = base.adapted(micro, "cpu", "lora", tmp_path / "weights")(IDS).logits
    torch.testing.assert_close(tested, trained, rtol=0, atol=1e-3)
    # ... and the base model is itself again when an adapter has been on it.
    torch.testing.assert_close(base.untouched(micro, "cpu")(IDS).logits, before, rtol=0, atol=0)
