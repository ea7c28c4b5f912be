"""The scores behind a metric, read from the store, and what each counts."""

from __future__ import annotations

from collections.abc import Callable

from ptst.metrics import Answer, Scale
from ptst.schema import Evaluation
from ptst.stages.completions import answer_of
from ptst.stages.summarise import scale_of_metric
from ptst.store import Store, read_jsonl
from ptst.sweep.grid import GridCell

Scored = dict[tuple[str, int], Answer]
"""The scores of one query set under one model: (query id, sample) -> what the judge said."""

ReadScores = Callable[[GridCell, str], Scored | None]
"""read(cell, evaluation); None where the store no longer has the scores."""

KEPT = 500
"""Files of scores in memory at a time (0.1 MB each): those of a table, not of a whole store."""


def reader(store: Store) -> ReadScores:
    """A function that reads a cell's scores; the last `KEPT` files are not read again."""
    known: dict[tuple[str | None, ...], Scored | None] = {}

    def read(cell: GridCell, evaluation: str) -> Scored | None:
        keys, setting = cell.keys.evaluations[evaluation], cell.config.evaluations[evaluation]
        place = keys.judge, setting.unit, setting.category, repr(setting.only)
        if place not in known:
            if len(known) == KEPT:
                del known[next(iter(known))]
            known[place] = _scored(store, keys.generate, keys.judge, setting)
        return known[place]

    return read


def _scored(store: Store, generate: str, judge: str, setting: Evaluation) -> Scored | None:
    several = setting.decoding.samples > 1
    alone = not (setting.unit or setting.category or setting.only or several)
    if not store.has("judge", judge) or not (alone or store.has("generate", generate)):
        return None
    scores = read_jsonl(store.path("judge", judge) / "scores.jsonl")
    rows = scores if alone else read_jsonl(store.path("generate", generate) / "completions.jsonl")
    answers = [answer_of(row, score, setting) for row, score in zip(rows, scores, strict=True)]
    return {(s["id"], a.sample): a for s, a in zip(scores, answers, strict=True)}


def counted(read: ReadScores, cell: GridCell, metric: str) -> Scored | None:
    """The scores of the queries that a metric counts; None where the store has none."""
    name, _, own = metric.partition("/")
    scored = read(cell, name)
    return scored and {query: a for query, a in scored.items() if own not in a.outside}


def parts_of_mean(cell: GridCell, metric: str) -> list[str]:
    """The metrics whose mean a metric is; none where it is no mean."""
    name, _, own = metric.partition("/")
    return [f"{name}/{part}" for part in evaluation_of(cell, metric).mean_of.get(own, [])]


def evaluation_of(cell: GridCell, metric: str) -> Evaluation:
    return cell.config.evaluations[metric.partition("/")[0]]


def label_of(cell: GridCell, metric: str) -> str:
    return evaluation_of(cell, metric).metrics[metric.partition("/")[2]]


def scale_of(cell: GridCell, metric: str) -> Scale:
    name, _, own = metric.partition("/")
    return scale_of_metric(cell.config.evaluations[name], own)
