"""Judges: each reads a query and its completion and gives a score. One small file per judge.

A judge is a dataclass (its fields are its YAML, `_target_` names it) with `labels`, `version` and a
`scores` method. There is no registry: `_target_` is the registry.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ptst.errors import ConfigError
from ptst.models import BaseModel

SAFETY_LABELS = ("complied", "refused", "neither", "safe")
"""What judges call answers to safety queries. `complied`: did what was asked, for a classifier of harm: a
harmful answer; `safe`: anything else, from a judge that cannot tell a refusal from a harmless answer."""


@dataclass(frozen=True)
class Score:
    """One judgement. `label` None is *missing*: the judge could not be reached or made no sense.

    A missing score is counted and shown; it is never taken for any label. With `final` it is the judge's
    last word, which asking again would not change; without, nothing is published until it was asked again.
    """

    label: str | None
    value: float | None = None
    reason: str = ""
    final: bool = False
    """Only for a missing score."""


@dataclass(frozen=True)
class Bench:
    """What a judge that takes time or money works with; the others pass it over.

    Attributes:
        kept: a folder of the store, shared by all runs of all judges, for answers that were paid for.
        device: engine.device: auto, cpu or cuda.
        tell: tell(done, total) after some of the queries.
        stop: whether to stop where nothing is lost, by raising `ptst.errors.Interrupted`.
        model: for a judge's own model, which stays loaded for the run's next evaluation.
    """

    kept: Path
    device: str
    tell: Callable[[int, int], None]
    stop: Callable[[], bool]
    model: BaseModel = field(default_factory=BaseModel)


class Judge(Protocol):
    """What every judge offers. Its fields are its YAML and part of the key, but those of metadata key=False.

    Where a judge has them:
    `identity()`: what else of it is part of the key (a file's content, say).
    `origin()`: where the weights that it judged with came from, for the provenance; {path, commit}, say.
    `check()`: raises PtstError if it could not judge at all; called before anything is made.
    `check_row(row)`: raises DataError, naming the query, if it could judge no answer to it (its reference is
        empty, say); called for every query before any is asked. The columns of `needs` are there.
    `needs_gpu`: whether it runs a model here that is too large for a CPU, so that jobs ask a cluster for a GPU.
    """

    labels: ClassVar[tuple[str, ...]]
    """All labels it can give."""
    needs: ClassVar[tuple[str, ...]]
    """Columns that every query must have for it."""
    version: ClassVar[int]
    """Raised by the author when the same answer would get another score; part of the key."""

    def scores(
        self, items: Sequence[tuple[Mapping[str, Any], str]], bench: Bench
    ) -> Iterator[Score]:
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


def scale_of(judge: Judge) -> tuple[float, float] | None:
    """The lowest and the highest `Score.value` that a judge gives: its class's `scale`.

    None for a judge that gives labels only, and has no `scale`: there is no mean of its scores.
    """
    scale: tuple[float, float] | None = getattr(judge, "scale", None)
    return scale
