"""Weights that are moved for one more look at the loss, and come back as they were."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ptst.errors import PtstError

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-7
"""Added to a norm that is divided by, as the authors of Panacea do."""


def global_norm(tensors: Sequence[Tensor]) -> float:
    """The norm of all tensors together, summed in float32."""
    import torch

    norms = [tensor.detach().float().norm() for tensor in tensors]
    return float(torch.stack([norm.to(norms[0].device) for norm in norms]).norm())


def scale_to(direction: Sequence[Tensor], size: float) -> float:
    """What `direction` is to be multiplied with so that the norm of all its tensors is `size`.

    Raises:
        PtstError: it has no length, or none that is finite.
    """
    norm = global_norm(direction)
    if not math.isfinite(norm):
        raise PtstError(
            f"the gradient along which weights are to be moved has norm {norm}: training diverged, or "
            "its rows have an infinite loss; lower finetune.learning_rate."
        )
    if norm == 0:
        raise PtstError(
            "the gradient along which weights are to be moved is 0, so that it has no direction: its "
            "rows have no labels, or no trained weight changes their loss."
        )
    return size / (norm + TINY)


@contextmanager
def perturbed(
    params: Sequence[Tensor], direction: Sequence[Tensor], size: float
) -> Iterator[float]:
    """Within it, the parameters are moved by `size` in the direction; then they are as before.

    They are copied and not moved back, which would round.

    Yields:
        What `direction` was multiplied with.

    Raises:
        PtstError: see `scale_to`.
    """
    import torch

    scale = scale_to(direction, size)
    before = [p.detach().clone() for p in params]
    try:
        with torch.no_grad():
            for p, d in zip(params, direction, strict=True):
                p.copy_(p.float() + d.float() * scale)
        yield scale
    finally:
        with torch.no_grad():
            for p, old in zip(params, before, strict=True):
                p.copy_(old)
