"""Analyses: what can be read off the weights of a model, beside what it answers. One file each.

A result has a key of its own (A) and is not part of the cell's: an analysis can be added to a
finished grid, and nothing of it is made again.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, fields
from typing import Any

from ptst.component import Component, Context, Parts
from ptst.schema import Config


@dataclass(frozen=True)
class Pair:
    """Two models to compare. Each is loaded when it is called for, and stays as long as the caller
    holds it.

    Attributes:
        untuned: what `Analysis.of_untuned` found of `base`.
    """

    tuned: Callable[[], Any]
    base: Callable[[], Any]
    untuned: Callable[[], dict[str, float]] = dict


class Analysis(Component):
    """Compares a model with what it was before it was fine-tuned."""

    def parts(self, config: Config) -> Parts:
        """What of the cell decides the values, beside the model and the fields.

        By default nothing: cells that test one model share one result. One that has the test
        template among its parts is made, and reported, for each test template.
        """
        return {}

    def of_untuned(self, base: Any, context: Context) -> dict[str, float]:
        """What the values of all cells have in common: named numbers of the model before it was
        fine-tuned. They are worked out once for each combination of base, fields and `parts`."""
        return {}

    def compare(self, pair: Pair, context: Context) -> dict[str, float]:
        """`run` with both models in memory; overridden by what needs one at a time."""
        return self.run(pair.tuned(), pair.base(), context)

    def run(self, tuned: Any, base: Any, context: Context) -> dict[str, float]:
        """Work out named values. What is more than a few numbers goes to `keep_points`.

        Args:
            tuned: the model that the cell tests, a `transformers.PreTrainedModel` whose adapter is
                merged; a copy of `base` where nothing was changed.
            base: the model before it was fine-tuned.

        Returns:
            Finite numbers by name.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Point:
    """A point of a picture, which a report draws with a panel for each model and test template.

    Attributes:
        picture: its title, with the unit of y: "Distance to the safe cluster (tau)".
        line: which line of the panel.
        x: by what the points of a line are ordered: a layer, an angle's number, an alpha.
    """

    picture: str
    line: str
    x: float
    y: float


POINTS = "points.csv"
"""What `keep_points` leaves, among the files of a result."""


def keep_points(context: Context, points: Iterable[Point]) -> None:
    """Leave points for pictures with the result; once in a `run`."""
    folder = context.scratch / "files"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / POINTS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in fields(Point)])
        writer.writerows(astuple(point) for point in points)
