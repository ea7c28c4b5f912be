"""conf/estimates.yaml: what machines reach, how long rows are, and what calls cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ptst.errors import ConfigError
from ptst.paths import CONF

ESTIMATES = CONF / "estimates.yaml"

BATCH_SHARE = 0.5
"""Of the price, for calls in batches: OpenAI's, as published in 2025."""


@dataclass
class Gpu:
    """A GPU's peaks: dense bf16 TFLOP/s, and memory bandwidth in GB/s."""

    pattern: str = MISSING
    """Regular expression in the name that nvidia-smi gives."""
    tflops: float = MISSING
    gb_per_s: float = MISSING
    usd_per_hour: float | None = None


@dataclass
class Utilisation:
    """Shares of the peaks that are reached: arithmetic in training and prefill, else memory."""

    training: float = MISSING
    inference: float = MISSING
    bandwidth: float = MISSING


@dataclass
class Cpu:
    """A generic CPU's peaks: float32 TFLOP/s of one core, and memory bandwidth in GB/s of all."""

    tflops_per_core: float = MISSING
    gb_per_s: float = MISSING
    large: float = MISSING
    """Parameters from which on a model reaches `utilisation`: a small one's time is PyTorch's
    own."""
    utilisation: Utilisation = field(default_factory=Utilisation)


@dataclass
class Serving:
    """Of an engine with a process of its own: shares of the peaks that are reached when it answers,
    and seconds until it does."""

    inference: float = MISSING
    bandwidth: float = MISSING
    start: float = MISSING


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
    engines: dict[str, Serving] = field(default_factory=dict)
    models: dict[str, float] = field(default_factory=dict)
    characters_per_token: float = MISSING
    tokens: dict[str, Lengths] = field(default_factory=dict)
    judging: Judging = field(default_factory=Judging)


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
