"""Seconds and tokens by formula, over the figures of conf/estimates.yaml: what a plan falls back on.

The formulas count arithmetic and memory traffic, and know nothing of what a store has measured.
"""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ptst.config import CONF, Finetune, Model
from ptst.errors import ConfigError
from ptst.models import local_folder
from ptst.store import read_json
from ptst.sweep.gpus import visible_gpus

ESTIMATES = CONF / "estimates.yaml"
BATCH_SHARE = 0.5
"""Of the price, for calls in batches: OpenAI's, as published in 2025."""
BYTES_PER_WEIGHT = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}


@dataclass
class Gpu:
    """A GPU's peaks: dense bf16 TFLOP/s, and memory bandwidth in GB/s."""

    pattern: str = MISSING
    """Regular expression in the name that nvidia-smi gives."""
    tflops: float = MISSING
    gb_per_s: float = MISSING
    usd_per_hour: float | None = None


@dataclass
class Cpu:
    """A generic CPU's peaks: float32 TFLOP/s of one core, and memory bandwidth in GB/s of all."""

    tflops_per_core: float = MISSING
    gb_per_s: float = MISSING


@dataclass
class Utilisation:
    """Shares of the peaks that are reached: arithmetic in training and prefill, memory in decoding."""

    training: float = MISSING
    inference: float = MISSING
    bandwidth: float = MISSING


@dataclass
class Lengths:
    """Tokens of a row: its question, and its answer."""

    input: float = MISSING
    output: float = MISSING


@dataclass
class Call:
    """Tokens of one call of a judge that is a language model."""

    input_tokens: int = MISSING
    output_tokens: int = MISSING


@dataclass
class Price:
    """USD per million tokens."""

    input: float = MISSING
    output: float = MISSING

    def of(self, input_tokens: float, output_tokens: float) -> float:
        """What so many tokens cost, in USD."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


@dataclass
class Judging:
    """Judges: tokens and seconds of a call, and prices by the judge's `model`."""

    call: Call = field(default_factory=Call)
    seconds: float = MISSING
    local_seconds: float = MISSING
    prices: dict[str, Price] = field(default_factory=dict)


@dataclass
class Estimates:
    """conf/estimates.yaml."""

    assumed_gpu: str = MISSING
    gpus: dict[str, Gpu] = field(default_factory=dict)
    cpu: Cpu = field(default_factory=Cpu)
    utilisation: Utilisation = field(default_factory=Utilisation)
    models: dict[str, float] = field(default_factory=dict)
    characters_per_token: float = MISSING
    tokens: dict[str, Lengths] = field(default_factory=dict)
    judging: Judging = field(default_factory=Judging)


@dataclass(frozen=True)
class Hardware:
    """What would run the grid. The peaks are None for a GPU that conf/estimates.yaml does not list."""

    name: str
    gpu: bool
    where: str
    """How it is known, in words: "this machine's"."""
    tflops: float | None
    gb_per_s: float | None
    usd_per_hour: float | None = None


def read_estimates() -> Estimates:
    """conf/estimates.yaml.

    Raises:
        ConfigError: a key or a value in it is wrong, or assumed_gpu is not among the gpus.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Estimates), OmegaConf.load(ESTIMATES))
        estimates = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{ESTIMATES}: {str(error).splitlines()[0]}") from error
    assert isinstance(estimates, Estimates)
    if estimates.assumed_gpu not in estimates.gpus:
        raise ConfigError(
            f"{ESTIMATES}: assumed_gpu={estimates.assumed_gpu} is not among gpus: "
            f"{', '.join(estimates.gpus)}."
        )
    return estimates


def training_tokens(recipe: Finetune, rows: int | None, tokens_per_row: float) -> float | None:
    """Tokens that a fine-tuning runs through, over all epochs; None if that depends on unknown `rows`."""
    tokens_per_row = min(tokens_per_row, recipe.max_length)
    if rows is None:
        known = recipe.max_steps > 0
        return recipe.max_steps * recipe.batch_size * tokens_per_row if known else None
    steps_per_epoch = math.ceil(rows / recipe.batch_size)
    steps = recipe.max_steps if recipe.max_steps > 0 else round(steps_per_epoch * recipe.epochs)
    return max(1, steps) / steps_per_epoch * rows * tokens_per_row


def training_seconds(
    parameters: float, tokens: float, full: bool, tflops: float, utilisation: float
) -> float:
    """Arithmetic over the arithmetic rate that is reached.

    A token takes 2 FLOPs per parameter forward and 2 for the gradients of activations; full fine-tuning
    takes 2 more for those of weights, which LoRA's frozen weights do not need.
    """
    return (6 if full else 4) * parameters * tokens / (tflops * 1e12 * utilisation)


def generation_seconds(
    parameters: float,
    bytes_per_weight: float,
    queries: int,
    prompt_tokens: float,
    batch_size: int,
    max_new_tokens: int,
    hardware: Hardware,
    utilisation: Utilisation,
) -> float:
    """Prefill, bounded by arithmetic, and then max_new_tokens steps for every batch.

    A step reads all weights once (what bounds a GPU) and computes one token for each query (what bounds
    a CPU); the slower of the two counts. Batches whose answers all end early are done sooner.

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
    """Read the header of a safetensors file: 8 bytes of length, then JSON with every tensor's shape."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")


def own_gpu() -> str | None:
    """Name of the GPU that a run on this machine would use, without loading PyTorch; None: the CPU."""
    gpus = visible_gpus()
    if not gpus or version("torch").endswith("+cpu"):
        return None
    command = ["nvidia-smi", f"--id={gpus[0]}", "--query-gpu=name", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None
