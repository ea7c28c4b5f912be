"""A base model is loaded once, adapters that take turns on it leave nothing behind, and one that
cannot be had is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from peft import LoraConfig, get_peft_model

from ptst import data, models
from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.errors import ConfigError
from ptst.schema import Config, Model

IDS = torch.tensor([[1, 5, 9, 12]])


def adapter(model: Model, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(models.load_model(model, "cpu"), config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])  # merged into a copy; attached
def test_adapters_take_turns_on_one_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    model = dataclasses.replace(compose([]).model, dtype=dtype)
    first, second = (adapter(model, tmp_path / str(seed), seed) for seed in (1, 2))
    apart = [
        models.BaseModel().untouched(model, "cpu")(IDS).logits,
        models.BaseModel().adapted(model, "cpu", "lora", first)(IDS).logits,
        models.BaseModel().adapted(model, "cpu", "lora", second)(IDS).logits,
    ]
    assert len({str(logits.tolist()) for logits in apart}) == 3
    loads = []
    load = models.load_model
    monkeypatch.setattr(
        "ptst.models.held.load_model", lambda *a, **k: loads.append(a) or load(*a, **k)
    )
    base = models.BaseModel()
    in_turn = [
        base.adapted(model, "cpu", "lora", first)(IDS).logits,
        base.untouched(model, "cpu")(IDS).logits,
        base.adapted(model, "cpu", "lora", second)(IDS).logits,
        base.adapted(model, "cpu", "lora", first)(IDS).logits,
        base.untouched(model, "cpu")(IDS).logits,
    ]
    assert len(loads) == 1
    for logits, which in zip(in_turn, (1, 0, 2, 1, 0), strict=True):
        assert torch.equal(logits, apart[which])
    base.untouched(
        dataclasses.replace(model, name="other", path=model.path, attention="eager"), "cpu"
    )
    assert len(loads) == 2


# Models that cannot be had


def refusing(error: type[RepositoryNotFoundError], told: str) -> Callable[..., str]:
    def download(path: str, name: str, **_: object) -> str:
        request = httpx2.Request("GET", f"https://huggingface.co/{path}/resolve/main/{name}")
        raise error(told, response=httpx2.Response(403, request=request))

    return download


@pytest.mark.parametrize(
    ("error", "told", "parts"),
    [
        (
            GatedRepoError,
            "403 Client Error.\n\nCannot access gated repo for url https://huggingface.co/...",
            ("licence at https://huggingface.co/meta-llama/Llama-2-7b-chat-hf", "hf auth login"),
        ),
        (
            RepositoryNotFoundError,
            "404 Client Error.\n\nRepository Not Found for url: https://huggingface.co/...",
            ("its path", "its revision=f5db02db", "https://huggingface.co/meta-llama"),
        ),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_before_data_is_read(
    composed: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    error: type[RepositoryNotFoundError],
    told: str,
    parts: tuple[str, ...],
) -> None:
    read: list[object] = []
    monkeypatch.setattr(data, "read_rows", lambda *a: read.append(a) or iter(()))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refusing(error, told))
    config = composed("model=llama2_7b_chat")
    with pytest.raises(ConfigError) as caught:
        run_cell(config)
    missing = [part for part in ("llama2_7b_chat", *parts) if part not in str(caught.value)]
    assert not missing, str(caught.value)
    assert read == []


def test_off_line_a_model_that_is_not_here_is_refused_with_the_way_out() -> None:
    # Not faked: conftest puts the hub's own client off line.
    model = compose(["model=qwen25_7b_instruct"]).model
    with pytest.raises(ConfigError, match=r"Qwen/Qwen2\.5-7B-Instruct[\s\S]*hf download"):
        models.Held().check_access(model)


def test_a_run_asks_the_hub_once_about_a_model_and_the_next_run_asks_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = compose(["model=qwen25_7b_instruct"]).model
    alike = dataclasses.replace(model, name="alike")
    refuse = refusing(RepositoryNotFoundError, "404")
    asked = []

    def download(path: str, name: str, **_: object) -> str:
        asked.append(path)
        return refuse(path, name) if refused else name

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for run, refused in enumerate((False, True, False), 1):
        held = models.Held()
        for one in (model, alike, model):
            if refused:
                with pytest.raises(ConfigError, match=f"model {one.name} "):
                    held.check_access(one)
            else:
                held.check_access(one)
        assert asked == [model.path] * run


def test_nothing_but_safetensors_and_no_code_of_the_hub_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = compose([]).model
    loaded = models.load_model(model, "cpu")
    loaded.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    torch.save(loaded.state_dict(), tmp_path / "pytorch_model.bin")
    weights.unlink()
    pickled = dataclasses.replace(model, path=str(tmp_path))
    with pytest.raises(ConfigError, match="safetensors"):
        models.load_model(pickled, "cpu")
