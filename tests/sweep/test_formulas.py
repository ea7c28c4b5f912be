"""The formulas that a plan falls back on, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptst.config.compose import compose
from ptst.estimates import Utilisation, read_estimates
from ptst.paths import CONF, ROOT
from ptst.schema import Finetune, Model
from ptst.store import write_json
from ptst.sweep import formulas
from ptst.sweep.formulas import (
    Hardware,
    generation_seconds,
    own_gpu,
    parameters_of,
    training_seconds,
    training_tokens,
)


@pytest.mark.parametrize(
    ("recipe", "rows", "tokens"),
    [
        (Finetune(epochs=3, batch_size=32), 100, 3 * 100 * 10),
        (Finetune(epochs=3, batch_size=32, max_length=4), 100, 3 * 100 * 4),
        (Finetune(epochs=3, batch_size=32, max_steps=2), 100, 2 / 4 * 100 * 10),
        (Finetune(epochs=0.1, batch_size=32), 100, 1 / 4 * 100 * 10),  # one step at least
        (Finetune(epochs=3, batch_size=32, max_steps=2), None, 2 * 32 * 10),
        (Finetune(epochs=3, batch_size=32), None, None),
    ],
)
def test_training_tokens(recipe: Finetune, rows: int | None, tokens: float | None) -> None:
    assert training_tokens(recipe, rows, 10.0) == tokens


def test_training_is_six_flops_per_parameter_and_token_in_full_and_four_with_lora() -> None:
    # 6 x 7e9 x 1e6 = 4.2e16 FLOPs at 300e12 x 0.5 = 1.5e14 a second
    assert training_seconds(7e9, 1e6, True, 300, 0.5) == pytest.approx(280)
    assert training_seconds(7e9, 1e6, False, 300, 0.5) == pytest.approx(280 * 4 / 6)


def test_a_gpu_decodes_as_fast_as_it_reads_the_weights() -> None:
    hardware = Hardware("big", True, "", tflops=1000, gb_per_s=2000)
    shares = Utilisation(training=0.1, inference=0.5, bandwidth=0.5)
    # prefill: 2 x 7e9 x 5e4 / 5e14 = 1.4 s; 14e9 bytes at 1e12 a second = 14 ms, 2 x 512 times
    seconds = generation_seconds(7e9, 2, 100, 50_000, 64, 512, hardware, shares)
    assert seconds == pytest.approx(1.4 + 2 * 512 * 0.014)


def test_a_cpu_decodes_as_fast_as_it_computes() -> None:
    hardware = Hardware("small", False, "", tflops=0.1, gb_per_s=40)
    shares = Utilisation(training=0.1, inference=0.5, bandwidth=0.5)
    # 2 x 2e6 x 10 queries / 5e10 = 0.8 ms, more than 8e6 bytes at 2e10 a second = 0.4 ms; 64 times
    assert generation_seconds(2e6, 4, 10, 0, 64, 64, hardware, shares) == pytest.approx(0.0512)


def test_the_gpu_is_asked_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\n[ "$1" = --id=3 ] && echo "NVIDIA L40S"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setattr(formulas, "version", lambda _: "2.13.0")
    assert own_gpu() == "NVIDIA L40S"
    monkeypatch.setattr(formulas, "version", lambda _: "2.13.0+cpu")
    assert own_gpu() is None
    monkeypatch.setattr(formulas, "version", lambda _: "2.13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert own_gpu() is None


def test_a_local_models_parameters_are_counted_in_its_files(tmp_path: Path) -> None:
    from safetensors import safe_open

    folder = ROOT / "src" / "ptst" / "micro" / "model"
    counted = 0
    with safe_open(folder / "model.safetensors", "numpy") as tensors:
        counted = sum(tensors.get_tensor(name).size for name in tensors.keys())  # noqa: SIM118
    model = compose([]).model
    assert parameters_of(model, read_estimates()) == counted > 1e6
    # Shards count once, and files beside them (another format's copy of the weights) do not.
    content = (folder / "model.safetensors").read_bytes()
    (tmp_path / "config.json").write_text("{}")
    for name in ("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"):
        (tmp_path / name).write_bytes(content)
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": shards})
    assert parameters_of(Model(path=str(tmp_path)), read_estimates()) == 2 * counted


def test_every_shipped_hub_model_and_hub_size_has_its_figures() -> None:
    figures = read_estimates()
    for path in (CONF / "model").glob("*.yaml"):
        model = compose([f"model={path.stem}", "finetune=none"]).model
        assert model.api or parameters_of(model, figures)
    assert {path.stem for path in (CONF / "dataset").glob("*.yaml")} <= set(figures.tokens)
