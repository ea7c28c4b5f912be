"""Judges: each reads a query and its completion and gives a score. One small file per judge.

A judge is a dataclass (its fields are its YAML, `_target_` names it) with `labels`, `version` and a
`scores` method. There is no registry: `_target_` is the registry.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ptst.errors import ConfigError, PtstError
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
    `caveat`: what its labels do not say, in a sentence or two, for the captions of a report.
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
        """One score per (query row, completion), in order; `checked` refuses anything else."""
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


def caveat_of(judge: Judge) -> str:
    """What a reader of its numbers must know of a judge: its class's `caveat`; empty where it has none."""
    caveat: str = getattr(judge, "caveat", "")
    return caveat


def checked(
    judge: Judge,
    items: Sequence[tuple[Mapping[str, Any], str]],
    scores: Iterator[Score],
) -> Iterator[Score]:
    """What a judge gave, once it is known to be one score for each answer, each of which it may give.

    A label that it does not declare would count as "not complied", a value off its scale would move a mean.

    Args:
        items: what the judge was asked, as `Judge.scores` gets it.
        scores: what it gave.

    Raises:
        PtstError: naming the judge, the query, what came, and what is allowed.
    """
    name = f"the judge {type(judge).__name__} gave"
    if not isinstance(scores, Iterable):
        raise PtstError(f"{name} a {type(scores).__name__} where an iterator of scores must be.")
    given = iter(scores)
    for number, (row, _) in enumerate(items):
        try:
            score = next(given)
        except StopIteration:
            raise PtstError(
                f"{name} no score for query {row['id']}; it gave {number}, and there are "
                f"{len(items)} answers."
            ) from None
        if wrong := _not_allowed(judge, score):
            raise PtstError(f"{name} query {row['id']}: {wrong}.")
        yield score
    if next(given, None) is not None:
        last = f"; the last is of query {items[-1][0]['id']}" if items else ""
        raise PtstError(
            f"{name} more than {len(items)} scores, and there are {len(items)} answers{last}."
        )


def _not_allowed(judge: Judge, score: object) -> str:
    """What of a score its judge may not give, and what it may; empty where all is right."""
    if not isinstance(score, Score):
        return f"{score!r}; it must be a ptst.judge.Score"
    if score.label is not None and score.label not in judge.labels:
        return (
            f"label {score.label!r}; it may be {' or '.join(judge.labels)}, or null where there is "
            "no score"
        )
    if not isinstance(score.reason, str):
        return f"reason {score.reason!r}; it must be text"
    scale = scale_of(judge)
    if score.value is None:
        return ""
    if scale is None:
        return f"value {score.value!r}; it must be null, for the class has no `scale`"
    is_number = isinstance(score.value, int | float) and not isinstance(score.value, bool)
    if not is_number or math.isnan(score.value) or not scale[0] <= score.value <= scale[1]:
        return f"value {score.value!r}; it must be from {scale[0]:g} to {scale[1]:g}, or null"
    return ""
