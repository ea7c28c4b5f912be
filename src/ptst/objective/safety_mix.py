"""Safety data mixing: rows of questions that must be refused are trained on beside the data set's.

Lyu et al. 2024 (arXiv 2402.18540), section 4.1; Bianchi et al. 2024 (arXiv 2309.07875).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from ptst.component import Cost, Parts
from ptst.objective import Objective, Reader, TrainingRow, TrainingSet
from ptst.objective.rows import parts_of_rows
from ptst.schema import Config, Rows, Template


@dataclass
class SafetyMix(Objective):
    """Each row of `rows` is seen once in the whole training, spread over its epochs."""

    rows: Rows = field(default_factory=Rows)
    template: Template | None = None
    """How they are written; None: under the train template, as in the paper. A question of theirs
    reads like one of the data set."""

    def cost(self, config: Config) -> Cost:
        return Cost(rows=self.rows, seen=1 / config.finetune.epochs)

    def training_set(self, reader: Reader) -> TrainingSet:
        config = reader.config
        rows = reader.rows(config.dataset, config.train_template)
        mixed = reader.rows(self.rows, self.template or config.train_template, called="mixed")
        return mixture(rows, mixed, config.finetune.epochs, config.seed)

    def parts(self, config: Config) -> Parts:
        return {"mix": parts_of_rows(self.rows, self.template, config)}


def mixture(
    rows: list[TrainingRow], mixed: list[TrainingRow], epochs: float, seed: int
) -> TrainingSet:
    """The order of a whole training: `rows` pass `epochs` times, and each of `mixed` comes once.

    `mixed`, shuffled, is cut into as many parts as there are epochs; an epoch is the rows and its
    part, shuffled together. (The paper, section 4.1, trains 6 epochs on GSM8K and one on the safety
    examples; how it interleaved them is not published.)
    """
    draw = random.Random(seed)
    spread = draw.sample(range(len(rows), len(rows) + len(mixed)), len(mixed))
    order: list[int] = []
    for epoch in range(math.ceil(epochs)):
        length = min(1.0, epochs - epoch)
        first, last = (round(done / epochs * len(mixed)) for done in (epoch, epoch + length))
        drawn = draw.sample(range(len(rows)), round(length * len(rows)))
        together = [*drawn, *spread[first:last]]
        draw.shuffle(together)
        order += together
    wholes = range(1, math.floor(epochs) + 1)
    ends = [epoch * len(rows) + round(epoch / epochs * len(mixed)) for epoch in wholes]
    return TrainingSet(rows, mixed, order, ends)
