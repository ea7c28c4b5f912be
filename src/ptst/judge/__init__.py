"""Judges: each reads a query and its completion and gives a score. One small file per judge.

A judge is a dataclass (its fields are its YAML, `_target_` names it) with `labels`, `version` and a
`scores` method. There is no registry: `_target_` is the registry.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ptst.errors import ConfigError


@dataclass(frozen=True)
class Score:
    """One judgement. `label` None is *missing*: the judge could not be reached or made no sense.

    A missing score is counted and shown; it is never taken for any label.
    """

    label: str | None
    value: float | None = None
    reason: str = ""


class Judge(Protocol):
    """What every judge offers."""

    labels: ClassVar[tuple[str, ...]]
    """All labels it can give."""
    needs: ClassVar[tuple[str, ...]]
    """Columns that every query must have for it."""
    version: ClassVar[int]
    """Raised by the author when the same answer would get another score; part of the key."""

    def scores(self, items: Iterable[tuple[Mapping[str, Any], str]]) -> Iterator[Score]:
        """One score per (query row, completion), in order."""
        ...


def load_judge(node: Mapping[str, Any], where: str) -> Judge:
    """Make the judge that a configuration names.

    Args:
        node: `_target_` and the fields of that class.
        where: the node's place in the configuration, for messages.

    Raises:
        ConfigError: no such class, an unknown field, or a value of the wrong type.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise ConfigError(f"{where} has no _target_: give a judge of conf/judge/, or a class.")
    module_name, _, class_name = node["_target_"].rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{where}._target_={node['_target_']} cannot be imported: {error}."
        ) from error
    if not dataclasses.is_dataclass(cls) or not hasattr(cls, "scores"):
        raise ConfigError(
            f"{where}._target_={node['_target_']} is no judge (see ptst.judge.Judge)."
        )
    given = {key: value for key, value in node.items() if key != "_target_"}
    try:
        judge = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), given))
    except (OmegaConfBaseException, ValueError) as error:
        fields = ", ".join(f.name for f in dataclasses.fields(cls)) or "none"
        message = str(error).splitlines()[0]
        raise ConfigError(f"{where}: {message} ({class_name}'s fields: {fields}).") from error
    return judge  # type: ignore[return-value]
