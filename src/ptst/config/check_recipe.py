"""Refuse a recipe whose numbers make no sense together."""

from __future__ import annotations

import math

from ptst.errors import ConfigError
from ptst.schema import Finetune


def within(where: str, value: float, low: float, high: float, above: bool = False) -> None:
    """Refuse a number that is not in [low, high], or with `above` in (low, high]; and infinity."""
    if math.isfinite(value) and (low < value if above else low <= value) and value <= high:
        return
    start = f"more than {low}" if above else f"at least {low}"
    end = "" if high == math.inf else f" and at most {high}"
    raise ConfigError(f"{where}={value} must be {start}{end}.")


def check_recipe(recipe: Finetune) -> None:
    for name in ("epochs", "learning_rate"):
        within(f"finetune.{name}", getattr(recipe, name), 0, math.inf, above=True)
    for name in ("batch_size", "device_batch_size", "devices", "save_steps", "max_length"):
        within(f"finetune.{name}", getattr(recipe, name), 1, math.inf)
    for name in ("weight_decay", "max_grad_norm"):
        within(f"finetune.{name}", getattr(recipe, name), 0, math.inf)
    within("finetune.gamma", recipe.gamma, 0, 1, above=True)
    within("finetune.warmup_ratio", recipe.warmup_ratio, 0, 1)
    within("finetune.lora.r", recipe.lora.r, 1, math.inf)
    within("finetune.lora.alpha", recipe.lora.alpha, 1, math.inf)
    within("finetune.lora.dropout", recipe.lora.dropout, 0, 0.99)
    if recipe.max_steps != -1:
        within("finetune.max_steps", recipe.max_steps, 1, math.inf)
    if recipe.epoch is not None and recipe.method != "none":
        if not 1 <= recipe.epoch <= recipe.epochs:
            raise ConfigError(
                f"finetune.epoch={recipe.epoch} must be a whole epoch of finetune.epochs="
                f"{recipe.epochs:g}, from 1, or null for the last."
            )
        if recipe.epoch != recipe.epochs and not recipe.keep_epochs:
            raise ConfigError(
                f"finetune.epoch={recipe.epoch}: only the last epoch's weights are kept; "
                "set finetune.keep_epochs=true."
            )
    if recipe.schedule == "step" and recipe.warmup_ratio:
        raise ConfigError("finetune.warmup_ratio has no effect with schedule=step; set it to 0.")
    if recipe.batch_size % recipe.devices:
        raise ConfigError(
            f"finetune.batch_size={recipe.batch_size} is not a multiple of "
            f"finetune.devices={recipe.devices}."
        )
    share = recipe.batch_size // recipe.devices
    if share % min(recipe.device_batch_size, share):
        raise ConfigError(
            f"{'finetune.batch_size' if recipe.devices == 1 else 'a device: its share of finetune.batch_size'}"
            f"={share} is not a multiple of finetune.device_batch_size={recipe.device_batch_size}."
        )
    if recipe.fsdp and recipe.devices == 1:
        raise ConfigError("finetune.fsdp=true shards over several devices; set finetune.devices.")
    if recipe.fsdp and recipe.method == "qlora":
        raise ConfigError("finetune.fsdp=true does not shard quantised weights; use lora or full.")
