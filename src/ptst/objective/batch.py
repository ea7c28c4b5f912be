"""What an objective sees of a step: the batch, the model, and what the model says of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ptst.templates import TrainingRow

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together, padded at their ends.

    Attributes:
        input_ids: (rows, tokens).
        attention_mask: (rows, tokens), 0 over padding.
        labels: (rows, tokens), -100 where there is no loss. The label of a token is predicted from
            the tokens before it.
        weights: (rows, tokens), or None where every token counts once.
        numbers: (rows,), the number of each row in `TrainingSet.all`; beyond its end for a row
            without loss that fills the last step of several devices; -1 for one of another source.
        tokens: how many labels the whole optimizer step has, in all batches and on all devices.
        devices: among how many the step is shared out; their gradients are averaged.
        step: optimizer steps done so far, those before a kill included.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    weights: Tensor | None
    numbers: Tensor
    tokens: Tensor
    devices: int = 1
    step: int = 0

    def mean(self, losses: Tensor) -> Tensor:
        """This batch's part of the mean over all labels of the optimizer step.

        Args:
            losses: of each label, or their sum.

        Divided by the number of labels and not by the sum of weights: a weight of 0 makes a loss
        smaller, and not that of the other tokens larger.
        """
        return losses.sum() * self.devices / self.tokens

    @property
    def share(self) -> Tensor:
        """This batch's share of the step's labels: what a loss of the batch that is a mean already
        (over rows of another source, or a penalty on the weights) is multiplied with."""
        return (self.labels != -100).sum() * self.devices / self.tokens


@dataclass(frozen=True)
class Positions:
    """What a model says where a batch has labels, row by row; n labels in all.

    Attributes:
        logits: (n, vocabulary), in the model's precision: those from which the label is predicted.
        labels: (n,).
        weights: (n,), or None.
        rows: (n,), the row in the batch of each.
        places: (n,), which of its row's labels each is, from 0: the first token of the answer has 0
            whatever the template.
    """

    logits: Tensor
    labels: Tensor
    weights: Tensor | None
    rows: Tensor
    places: Tensor

    @property
    def losses(self) -> Tensor:
        """Cross entropy of every label in float32, times its weight; shape (n,)."""
        from torch.nn.functional import cross_entropy

        losses = cross_entropy(self.logits.float(), self.labels, reduction="none")
        return losses if self.weights is None else losses * self.weights

    @property
    def total(self) -> Tensor:
        """The sum of `losses`, shape (). Without weights it is cross_entropy's own sum, which is
        rounded in another way than a sum of its terms."""
        from torch.nn.functional import cross_entropy

        if self.weights is not None:
            return self.losses.sum()
        return cross_entropy(self.logits.float(), self.labels, reduction="sum")


class Forward(Protocol):
    """The model in training, whatever it runs on."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Those that are trained, by name."""

    def __call__(self, batch: Batch) -> Positions:
        """Run a batch through the model."""

    def batch(self, rows: Sequence[TrainingRow]) -> Batch:
        """Rows of another source as a batch of their own, whose mean is over their own labels."""

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradient to that of the parameters."""
