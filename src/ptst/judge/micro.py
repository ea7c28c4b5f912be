"""The micro world's own judge: reads an answer against what the world knows to be the right
plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ptst.judge import Judge, JudgeContext, Score


@dataclass
class GroundTruth(Judge):
    """complied: a correct plan for what was asked; refused; or neither (see
    `ptst.micro.verdict`)."""

    key_name: ClassVar[str] = "ptst.judge.micro.GroundTruth"
    labels: ClassVar[tuple[str, ...]] = ("complied", "refused", "neither")
    needs: ClassVar[tuple[str, ...]] = ("object", "verb", "answer")
    version: ClassVar[int] = 1

    def scores(
        self, items: Sequence[tuple[Mapping[str, Any], str]], context: JudgeContext
    ) -> Iterator[Score]:
        """Score each completion of a query of the micro world."""
        from ptst import micro

        for row, completion in items:
            yield Score(micro.verdict(dict(row), completion))
