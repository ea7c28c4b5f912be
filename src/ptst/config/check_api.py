"""Refuse to mix what runs here and what runs at an API."""

from __future__ import annotations

import math

from ptst.api.settings import check_address, check_send, check_variable
from ptst.config.check_recipe import within
from ptst.errors import ConfigError
from ptst.schema import Config


def check_model_at_api(config: Config) -> None:
    """Refuse to mix what runs here and what runs at an API."""
    model, method = config.model, config.finetune.method
    if model.api is None:
        if method == "openai":
            raise ConfigError(
                f"finetune.method=openai needs a model behind an API; {model.name} has weights. Use lora "
                "or full, or a model with `api`, such as gpt35_turbo_0613."
            )
        return
    if method not in ("openai", "none"):
        raise ConfigError(
            f"finetune.method={method} trains weights, and model {model.name} is behind an API: use "
            "finetune=openai, or none."
        )
    check_address("model.api.base_url", model.api.base_url)
    check_variable("model.api.key_env", model.api.key_env)
    check_send(
        "model.api.send", model.api.send or {}, ("max_tokens", "temperature", "seed", "top_p")
    )
    within("model.api.concurrency", model.api.concurrency, 1, math.inf)
    within("model.api.timeout", model.api.timeout, 0, math.inf, above=True)
    for mount in ("train_template", "test_template"):
        template = getattr(config, mount)
        used = mount == "test_template" or method != "none"
        if template.mode == "text" and used:
            raise ConfigError(
                f"{mount}={template.name}: model {model.name} is behind a chat API, which takes no bare "
                "text; choose a chat template."
            )
    for name, evaluation in config.evaluations.items():
        if evaluation.decoding.top_k:
            raise ConfigError(
                f"{name}.decoding.top_k={evaluation.decoding.top_k}: the API of model {model.name} has no "
                "top_k; set it to 0."
            )
    if method == "openai" and config.finetune.epochs != int(config.finetune.epochs):
        raise ConfigError(f"finetune.epochs={config.finetune.epochs}: the API takes whole epochs.")
    if method == "openai" and (config.finetune.mix or config.finetune.epoch is not None):
        which = "mix" if config.finetune.mix else "epoch"
        raise ConfigError(
            f"finetune.{which}: the API trains on whole passes and gives its last weights alone; leave "
            f"finetune.{which} at null."
        )
    if method == "openai" and config.finetune.max_steps != -1:
        raise ConfigError("finetune.max_steps: the API counts in epochs; leave it at -1.")
