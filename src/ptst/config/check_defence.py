"""Refuse defences and analyses that cannot be combined with each other, or with the rest of a
cell."""

from __future__ import annotations

from typing import Any

from ptst.analysis import Analysis
from ptst.component import Component, load
from ptst.errors import ConfigError
from ptst.guard import Guard
from ptst.objective import Objective
from ptst.posthoc import PostHoc
from ptst.schema import Config

KINDS: dict[str, type[Component]] = {
    "objective": Objective,
    "posthoc": PostHoc,
    "guard": Guard,
}
"""What a component of each slot is derived from."""


def check_defences(config: Config) -> None:
    """Two defences for one slot, and what a component itself refuses.

    Raises:
        ConfigError: naming both settings, and what would be right.
    """
    filled: dict[str, str] = {}
    for name, defence in config.defence.items():
        slots = [slot for slot in KINDS if getattr(defence, slot) is not None]
        if not slots:
            raise ConfigError(f"defence.{name} fills no slot: give it one of: {', '.join(KINDS)}.")
        for slot in slots:
            if slot in filled:
                raise ConfigError(
                    f"defence=[{filled[slot]},{name}]: both fill the slot {slot!r}; choose one of them."
                )
            filled[slot] = name
            where = f"defence.{name}.{slot}"
            _check_model(config, where)
            _check_recipe(config, where)
            _check(getattr(defence, slot), where, KINDS[slot], config)
    for name, node in config.analysis.items():
        _check_model(config, f"analysis.{name}")
        _check(node, f"analysis.{name}", Analysis, config)


def _check(node: Any, where: str, kind: type[Component], config: Config) -> None:
    """What a component refuses, told with its place in front."""
    made = load(node, where, kind)
    try:
        made.check(config)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_recipe(config: Config, where: str) -> None:
    """A fine-tuning has one objective, and trains here.

    The untouched model that a sweep adds of its own accord goes without the objective.
    """
    if not where.endswith(".objective"):
        return
    if config.finetune.mix is not None:
        raise ConfigError(
            f"{where} and finetune.mix: a fine-tuning has one objective; choose another finetune=."
        )
    added = config.sweep is not None and config.sweep.no_finetuning
    if config.finetune.method == "none" and not added:
        raise ConfigError(
            f"{where} says how a model is trained, and finetune=none trains nothing: leave the defence "
            "out."
        )


def _check_model(config: Config, where: str) -> None:
    """Weights are changed and read here, in a precision that they can be computed with."""
    if config.model.api is not None and not where.endswith(".guard"):
        raise ConfigError(
            f"{where} works on weights, and model {config.model.name} is behind an API, which has none "
            "here; choose a model with weights."
        )
    if config.finetune.method == "qlora" and not where.endswith((".guard", ".objective")):
        raise ConfigError(
            f"{where} works on whole weights, which finetune.method=qlora keeps in 4 bits; use lora or "
            "full."
        )
