"""A worked example of an objective: the loss of each answer's first token counts several times."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ptst.objective import Batch, Forward, Objective


@dataclass
class FirstTokenTwice(Objective):
    factor: float = 2.0

    def loss(self, batch: Batch, forward: Forward) -> torch.Tensor:
        found = forward(batch)
        return batch.mean(found.losses * torch.where(found.places == 0, self.factor, 1.0))
