"""Seconds and tokens by formula, over the figures of conf/estimates.yaml.

A plan falls back on them. The formulas count arithmetic and memory traffic, and know nothing of
what a store has measured.
"""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ptst.estimates import Estimates, Serving, Utilisation
from ptst.models import local_folder
from ptst.schema import Finetune, Model
from ptst.store import read_json
from ptst.sweep.gpus import visible_gpus

BYTES_PER_WEIGHT = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}


@dataclass(frozen=True)
class Hardware:
    """What would run the grid; no peaks are known of a GPU that conf/estimates.yaml does not
    list."""

    name: str
    gpu: bool
    where: str
    """How it is known, in words: "this machine's"."""
    tflops: float | None
    gb_per_s: float | None
    usd_per_hour: float | None = None


def training_tokens(recipe: Finetune, rows: int | None, tokens_per_row: float) -> float | None:
    """Tokens that a fine-tuning runs through, all epochs; None if unknown `rows` decide it."""
    tokens_per_row = min(tokens_per_row, recipe.max_length)
    if rows is None:
        known = recipe.max_steps > 0
        return recipe.max_steps * recipe.batch_size * tokens_per_row if known else None
    steps_per_epoch = math.ceil(rows / recipe.batch_size)
    steps = recipe.max_steps if recipe.max_steps > 0 else round(steps_per_epoch * recipe.epochs)
    return max(1, steps) / steps_per_epoch * rows * tokens_per_row


def training_flops(full: bool) -> int:
    """Of a token, per parameter; 2 of them are forward."""
    return 6 if full else 4


def training_seconds(
    parameters: float, tokens: float, full: bool, tflops: float, utilisation: float
) -> float:
    """Arithmetic over the arithmetic rate that is reached.

    A token takes 2 FLOPs per parameter forward and 2 for the gradients of activations; full
    fine-tuning takes 2 more for those of weights, which LoRA's frozen weights do not need.
    """
    return training_flops(full) * parameters * tokens / (tflops * 1e12 * utilisation)


def generation_seconds(
    parameters: float,
    bytes_per_weight: float,
    queries: int,
    prompt_tokens: float,
    batch_size: int,
    max_new_tokens: int,
    hardware: Hardware,
    utilisation: Utilisation | Serving,
) -> float:
    """Prefill, bounded by arithmetic, and then max_new_tokens steps for every batch.

    A step reads all weights once (what bounds a GPU) and computes one token for each query (what
    bounds a CPU); the slower of the two counts. Batches whose answers all end early are done
    sooner.

    Args:
        prompt_tokens: of all queries together, without what they share.
    """
    assert hardware.tflops is not None and hardware.gb_per_s is not None
    rate = hardware.tflops * 1e12 * utilisation.inference
    reading = parameters * bytes_per_weight / (hardware.gb_per_s * 1e9 * utilisation.bandwidth)
    computing = 2 * parameters * min(batch_size, queries) / rate
    steps = math.ceil(queries / batch_size) * max_new_tokens
    return 2 * parameters * prompt_tokens / rate + steps * max(reading, computing)


def parameters_of(model: Model, estimates: Estimates) -> float | None:
    """How many parameters a model has: counted in its files, or listed by its hub id; else None."""
    folder = local_folder(model)
    if folder is None:
        return estimates.models.get(model.path)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index)["weight_map"].values()))
    else:
        names = sorted(path.name for path in folder.glob("model*.safetensors"))
    counts = [_parameters_in(folder / name) for name in names]
    return float(sum(counts)) if counts else None


def _parameters_in(file: Path) -> int:
    """Read a safetensors file's header: 8 bytes of length, then JSON with every tensor's shape."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")


def own_gpu() -> str | None:
    """Name of the GPU that a run here would use, without loading PyTorch; None: the CPU."""
    gpus = visible_gpus()
    if not gpus or version("torch").endswith("+cpu"):
        return None
    command = ["nvidia-smi", f"--id={gpus[0]}", "--query-gpu=name", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None
