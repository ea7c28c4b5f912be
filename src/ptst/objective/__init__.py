"""Objectives: what is trained on, the loss, and the step. One small file per method.

An objective is a component (see `ptst.component`): a dataclass derived from `Objective`, which by
itself is plain supervised fine-tuning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptst.component import Component, Parts, component_parts
from ptst.objective.batch import Batch, Forward, Positions
from ptst.objective.rows import Reader, TrainingSet
from ptst.templates import TrainingRow

if TYPE_CHECKING:
    from torch import Tensor

    from ptst.schema import Config

__all__ = [
    "Batch",
    "Forward",
    "Objective",
    "Positions",
    "Reader",
    "State",
    "TrainingRow",
    "TrainingSet",
]

State = dict[str, Any]
"""Tensors, and values that JSON gives back as they were (a tuple comes back as a list)."""


@dataclass
class Objective(Component):
    """Plain supervised fine-tuning; a method overrides what it does in another way.

    The methods are called in the order in which they stand here. What a method keeps for itself
    between two calls is an attribute and not a field.
    """

    def training_set(self, reader: Reader) -> TrainingSet:
        """The rows to train on: more, others, in an order or with labels and weights of their own.

        Called once, in the process that holds the lease. With several devices the objective is
        then pickled for each of them.

        Raises:
            DataError: naming file, row and column.
        """
        config = reader.config
        return TrainingSet(reader.rows(config.dataset, config.train_template))

    def start(self, data: TrainingSet, forward: Forward, scratch: Path) -> None:
        """What is computed once, from the model as it is before the first step.

        Called before `restore`, also where a training goes on after a kill; then, too, the model is
        the one before the first step. It is in evaluation mode and gives no gradients. Draws of
        random numbers here do not change those of the training.

        Args:
            scratch: a folder, kept until the training is whole, for what takes long; each device
                has its own. A kill may leave a half-written file in it.
        """

    def restore(self, state: State) -> None:
        """Go on from what `state` gave. Its tensors are on the CPU."""

    @property
    def additive(self) -> bool:
        """Whether the loss of a batch is the sum of the losses of its parts, as that of plain
        fine-tuning is.

        A large model's batch is then handed to `step` part by part, rows of about one length
        together, which saves time and memory. A method that overrides `loss` or `step` gets whole
        batches unless it says `additive = True`.
        """
        kind = type(self)
        return kind.loss is Objective.loss and kind.step is Objective.step

    def loss(self, batch: Batch, forward: Forward) -> Tensor:
        """The loss of a batch, shape (): by default the mean over the tokens that have a label."""
        return batch.mean(forward(batch).total)

    def step(self, batch: Batch, forward: Forward) -> Tensor:
        """Add a batch's gradient to that of the parameters, and give the loss that is logged.

        By default one backward pass. The optimizer takes its step when all batches of the step
        have added theirs. The parameters must be as before, bit for bit, when this returns. With
        several devices, only a gradient of `forward.backward` is averaged over them: a method that
        adds another refuses them in `check`.
        """
        loss = self.loss(batch, forward)
        forward.backward(loss)
        return loss.detach()

    def state(self) -> State:
        """What the next step depends on beside weights and optimizer: in every checkpoint.

        The first device's is kept, and restored on all. Numbers and words of the last stand in the
        provenance, too, as `objective`.
        """
        return {}

    def parts(self, config: Config) -> Parts:
        """Its part of the recipe in the fine-tuning's key: what of it decides the weights."""
        kind = type(self)
        if kind is Objective:
            return {}
        own = component_parts(self, f"{kind.__module__}.{kind.__qualname__}")
        return {"objective": {**own, "version": self.version}}
