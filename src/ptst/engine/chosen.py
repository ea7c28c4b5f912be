"""The engine that a configuration comes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptst.component import load
from ptst.engine import Engine
from ptst.engine.api import Api
from ptst.engine.transformers import Transformers
from ptst.errors import ConfigError
from ptst.schema import Config


def engine_of(config: Config) -> Engine:
    """The engine of a cell: the configured one, or the API of a model that has one.

    Raises:
        ConfigError: see `ptst.component.load`; or an engine was chosen for a model on this machine,
            and the model has an API.
    """
    chosen: Any = config.engine
    if isinstance(chosen, Mapping) and "_target_" in chosen:
        engine = load(chosen, "engine", Engine)
    else:
        engine = _named(chosen if isinstance(chosen, Mapping) else vars(chosen))
    if config.model.api is not None and engine.reads == "tokens":
        if not isinstance(engine, Transformers):  # that one is the default, and chosen by nobody
            raise ConfigError(
                f"engine={engine.key_name or type(engine).__name__} runs a model on this machine, and "
                f"{config.model.name} is behind an API; leave engine= out."
            )
        return Api(engine.device)
    return engine


def _named(values: Mapping[str, Any]) -> Engine:
    """The engine of a configuration that is older than `_target_` there: it knew one, by name."""
    return Transformers(**{name: value for name, value in values.items() if name != "name"})
