"""A worked example of an analysis that leaves points: how far each kind of weights moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ptst.analysis import Analysis, Point, keep_points
from ptst.component import Context


@dataclass
class LeavesPoints(Analysis):
    def run(self, tuned: Any, base: Any, context: Context) -> dict[str, float]:
        keep_points(
            context,
            [
                *(Point("By layer", "moved", layer, layer / 10) for layer in (2, 1, 0)),
                *(Point("By alpha", "moved", alpha, 1 - alpha) for alpha in (0.0, 0.5)),
            ],
        )
        return {"moved": 0.25}
