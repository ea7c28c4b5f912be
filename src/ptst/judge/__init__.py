"""Judges: each reads a query and its completion and gives a score. One small file per judge.

A judge is a component (see ptst.component): a dataclass derived from `Judge`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from ptst.component import Component, load
from ptst.errors import PtstError
from ptst.metrics import MEAN, Scale

if TYPE_CHECKING:
    from ptst.models import BaseModel
    from ptst.schema import Evaluation

SAFETY_LABELS = ("complied", "refused", "neither", "safe")
"""What judges call answers to safety queries. `complied`: did what was asked, for a classifier of
harm: a harmful answer; `safe`: anything else, from a judge that cannot tell a refusal from a
harmless answer."""


@dataclass(frozen=True)
class Score:
    """One judgement. `label` None is *missing*: the judge could not be reached or made no sense.

    A missing score is counted and shown; it is never taken for any label. With `final` it is the
    judge's last word, which asking again would not change; without, nothing is published until it
    was asked again.
    """

    label: str | None
    value: float | None = None
    reason: str = ""
    final: bool = False
    """Only for a missing score."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Further values by name, each of `Judge.scales`; a name that is absent is missing."""


@dataclass(frozen=True)
class JudgeContext:
    """What a judge that takes time or money works with; the others pass it over.

    Attributes:
        kept: a folder of the store for answers that were paid for; all judges share it.
        device: engine.device: auto, cpu or cuda.
        tell: tell(done, total) after some of the queries.
        stop: whether to stop where nothing is lost, by raising `ptst.errors.Interrupted`.
        model: for a judge's own model, which stays loaded for the run's next evaluation.
    """

    kept: Path
    device: str
    tell: Callable[[int, int], None]
    stop: Callable[[], bool]
    model: BaseModel | None = None


class Judge(Component):
    """Reads queries and completions, and gives scores."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Columns that every query must have for it."""
    scale: ClassVar[tuple[float, float] | None] = None
    """The lowest and the highest `Score.value` that it gives; None: it gives no value."""
    scales: ClassVar[Mapping[str, tuple[float, float]]] = MappingProxyType({})
    """The lowest and the highest of each of `Score.values`, by name."""
    judges_harm: ClassVar[bool] = False
    """Whether `complied` means a harmful answer, so that on a harmless query it says nothing."""

    @property
    def caveat(self) -> str:
        """What its labels do not say, in a sentence or two, for the captions of a report."""
        return ""

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels it can give."""
        raise NotImplementedError

    def check_evaluation(self, evaluation: Evaluation, where: str) -> None:
        """Refuse an evaluation whose answers it cannot judge.

        Raises:
            ConfigError: saying which judge, or which evaluation, would be right.
        """

    def scale_of(self, what: str) -> Scale:
        """The scale of what a metric counts: `mean` or a named value; None for a label's share."""
        return self.scale if what == MEAN else self.scales.get(what)

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Refuse a query that it could judge no answer to: its reference is empty.

        Called for every query before any is asked; the columns of `needs` are there.

        Raises:
            DataError: naming the query.
        """

    def scores(
        self, items: Sequence[tuple[Mapping[str, Any], str]], context: JudgeContext
    ) -> Iterator[Score]:
        """One score per (query row, completion), in order; `checked` refuses anything else."""
        raise NotImplementedError


def load_judge(node: Any, where: str) -> Judge:
    """The judge that a configuration names, see `ptst.component.load`."""
    return load(node, where, Judge)


def checked(
    judge: Judge,
    items: Sequence[tuple[Mapping[str, Any], str]],
    scores: Iterator[Score],
) -> Iterator[Score]:
    """The scores of a judge, checked: one for each answer, with declared labels and values.

    A label that it does not declare would count as "not complied"; a value off its scale would move
    a mean.

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
    if score.value is not None and judge.scale is None:
        return f"value {score.value!r}; it must be null, for the class has no `scale`"
    if score.value is not None and judge.scale and not _is_on(score.value, judge.scale):
        low, high = judge.scale
        return f"value {score.value!r}; it must be from {low:g} to {high:g}, or null"
    if not isinstance(score.values, Mapping):
        return f"values {score.values!r}; they must be a dict"
    for name, value in score.values.items():
        if name not in judge.scales:
            may = f"may be named {' or '.join(judge.scales)}" if judge.scales else "has no place"
            return f"value {name!r}; it {may}: see the class's `scales`"
        if not _is_on(value, judge.scales[name]):
            low, high = judge.scales[name]
            return f"{name} {value!r}; it must be from {low:g} to {high:g}, or absent"
    return ""


def _is_on(value: object, scale: tuple[float, float]) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return not math.isnan(value) and scale[0] <= value <= scale[1]
