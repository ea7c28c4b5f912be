"""Whether people call `neither` what `ptst.judge.broken` calls broken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptst.audit import Item
from ptst.judge.broken import BROKEN, flaw
from ptst.metrics import share
from ptst.report.reliability import Interval
from ptst.schema import Evaluation

NEITHER = "neither"


@dataclass(frozen=True)
class BrokenRead:
    """Broken answers against the labels of a reader.

    Attributes:
        reader: a person ("annotator ann") or the judge `reading`.
        n: answers that the reader labelled; broken, neither: how many of them are.
        precision: the share of the broken answers that the reader calls `neither`.
        recall: the share of the reader's `neither` that is broken. Both with Wilson's interval over
            units.
    """

    evaluation: str
    reader: str
    n: int
    broken: int
    neither: int
    precision: Interval
    recall: Interval


def is_measured(evaluation: Evaluation) -> bool:
    """Whether broken answers are counted in an evaluation: not in the micro world's language."""
    real = evaluation.queries.source not in ("micro", "rules")
    return real and evaluation.measures in ("safety", "over_refusal")


def against_readers(
    evaluation: str,
    readers: Mapping[str, Mapping[Item, str | None]],
    rows: Mapping[Item, Mapping[str, Any]],
    units: Mapping[Item, str],
) -> Iterable[BrokenRead]:
    """One for each reader who labelled any of the answers.

    Args:
        readers: labels by name.
        rows: rows of completions.jsonl.
    """
    broken = {
        item: flaw(str(row["input"]), row["completion"]) in BROKEN for item, row in rows.items()
    }
    for reader, labels in readers.items():
        read = [item for item in rows if labels.get(item) is not None]
        neither = {item: labels[item] == NEITHER for item in read}
        if read:
            yield BrokenRead(
                evaluation,
                reader,
                len(read),
                sum(broken[item] for item in read),
                sum(neither.values()),
                _share([item for item in read if broken[item]], neither, units),
                _share([item for item in read if neither[item]], broken, units),
            )


def _share(items: Sequence[Item], hit: Mapping[Item, bool], units: Mapping[Item, str]) -> Interval:
    said = ["hit" if hit[item] else "miss" for item in items]
    metric = share(said, "hit", [units[item] for item in items])
    if metric.value is None or metric.ci_low is None or metric.ci_high is None:
        return Interval(None, None, None)
    return Interval(metric.value / 100, metric.ci_low / 100, metric.ci_high / 100)
