"""How alignment makes a batch's gradient: plainly, or hardened against a later fine-tuning.

Booster (Huang et al. 2025, arXiv 2409.01586), with f the loss of alignment and h that of harmful
answers: df(w) + penalty (dh(w) - dh(w - size dh(w) / |dh(w)|)), so that a step towards harmful
answers lowers their loss less. Vaccine (Huang et al. 2024, arXiv 2402.01109): the gradient of f
where the outputs of the attention layers are moved along its own gradient with respect to them, so
that the model bears such a drift. The defaults are those of Booster's script, and of Panacea's
comparison for Vaccine's rho, which its authors' script leaves open; none was chosen for this model.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ptst.objective.perturbed import perturbed, scale_to

Loss = Callable[..., Tensor]
"""loss(ids, positions, targets, added=None); see `tools.micro.train.answer_loss`."""


def gradient_of(
    align: str, loss_of: Loss, model: Any, harmful: Iterator[Any]
) -> Callable[..., Tensor]:
    """gradient(ids, positions, targets): adds a batch's gradient to the parameters', and gives the
    loss that is reported.

    Args:
        harmful: batches of harmful answers, for Booster.
    """
    if align == "booster":
        parameters = list(model.parameters())
        return lambda *batch: booster(loss_of, parameters, batch, next(harmful))
    if align == "vaccine":
        layers, width = model.config.num_hidden_layers, model.config.hidden_size
        return lambda *batch: vaccine(loss_of, batch, layers, width)
    return lambda *batch: plain(loss_of, batch)


def plain(loss_of: Loss, batch: Sequence[Any]) -> Tensor:
    loss = loss_of(*batch)
    loss.backward()
    return loss.detach()


def booster(
    loss_of: Loss,
    parameters: Sequence[Tensor],
    batch: Sequence[Any],
    harmful: Sequence[Any],
    penalty: float = 5.0,
    size: float = 0.1,
) -> Tensor:
    loss = plain(loss_of, batch)
    here = torch.autograd.grad(loss_of(*harmful), parameters)
    with perturbed(parameters, here, -size):
        there = torch.autograd.grad(loss_of(*harmful), parameters)
    with torch.no_grad():
        for p, one, other in zip(parameters, here, there, strict=True):
            assert p.grad is not None
            p.grad.add_(penalty * (one - other))
    return loss


def vaccine(
    loss_of: Loss, batch: Sequence[Any], layers: int, width: int, rho: float = 20.0
) -> Tensor:
    still = [torch.zeros(*batch[0].shape, width, requires_grad=True) for _ in range(layers)]
    drift = torch.autograd.grad(loss_of(*batch, still), still)
    scale = scale_to(drift, rho)
    loss = loss_of(*batch, [g * scale for g in drift])
    loss.backward()
    return loss.detach()
