"""The linear layers of a model: which of them LoRA can adapt, and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptst.errors import ConfigError
from ptst.models.loading import load_config, unavailable
from ptst.schema import Model

ALL_LINEAR = "all-linear"
"""As the only target module: PEFT's word for every linear layer but the head."""


def linear_layers(model: Model) -> list[str]:
    """Names of the model's linear layers without the head, as LoRA's target modules take them.

    No weights are read, and no memory is taken for them.

    Raises:
        ConfigError: the model's configuration cannot be had, or is of no causal language model.
    """
    return _linear_layers(_architecture(model))


def missing_modules(model: Model, targets: Sequence[str]) -> list[str]:
    """Which of LoRA's target modules the model does not have; PEFT would leave them out in silence.

    A target is a module's whole name, or what follows a dot in it (PEFT 0.21,
    check_target_module_exists).

    Raises:
        ConfigError: as `linear_layers`.
    """
    return _missing_modules(_architecture(model), targets)


def check_targets(model: Model, targets: Sequence[str]) -> None:
    """Refuse target modules for LoRA that the model does not have, or that would not be trained.

    Raises:
        ConfigError: naming them, and the linear layers that there are.
    """
    built = _architecture(model)
    head = built.get_output_embeddings()
    names = [f".{name}" for name, module in built.named_modules() if module is head]
    if heads := [t for t in targets if any(name.endswith(f".{t}") for name in names)]:
        raise ConfigError(
            f"finetune.lora.target_modules: {heads[0]} is the head of {model.name}. TRL's loss reads its "
            "weights directly, so an adapter on it would not be trained; leave it out."
        )
    if missing := _missing_modules(built, targets):
        raise ConfigError(
            f"finetune.lora.target_modules: {model.name} has no {', '.join(missing)}; its linear layers "
            f"are: {', '.join(_linear_layers(built))}. Name some of them, or take all: [{ALL_LINEAR}]."
        )


def linear_weights(model: Any) -> dict[str, Any]:
    """Weights [d_out, d_in] of the linear layers without the head, by the parameter's name."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D  # GPT-2's, which are [d_in, d_out]

    head = model.get_output_embeddings()
    return {
        f"{name}.weight": module.weight.T if isinstance(module, Conv1D) else module.weight
        for name, module in model.named_modules()
        if isinstance(module, Linear | Conv1D) and module is not head
    }


def _architecture(model: Model) -> Any:
    """The model with all its modules and without a single weight."""
    import torch
    from transformers import AutoModelForCausalLM

    config = load_config(model)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ValueError as error:  # no causal language model
        raise ConfigError(unavailable(model, error)) from error


def _linear_layers(built: Any) -> list[str]:
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    head = built.get_output_embeddings()
    linear = (
        name
        for name, module in built.named_modules()
        if isinstance(module, Linear | Conv1D) and module is not head
    )
    return list(dict.fromkeys(name.rpartition(".")[2] for name in linear))


def _missing_modules(built: Any, targets: Sequence[str]) -> list[str]:
    if list(targets) == [ALL_LINEAR]:
        return []
    names = [f".{name}" for name, _ in built.named_modules()]
    return [t for t in targets if not any(name.endswith(f".{t}") for name in names)]
