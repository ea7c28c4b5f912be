"""Weights that are not trained, kept in the precision in which they are multiplied."""

from __future__ import annotations

from typing import Any


def keep_in_bfloat16(model: Any) -> None:
    """Round the float32 weights of linear layers that are not trained to bfloat16, once.

    Under autocast a linear layer multiplies in bfloat16, and its weight is rounded whenever it is
    used, unless it is trained; with LoRA that was all of the base, in every pass. The products are
    the same, to the bit. Of a weight that an embedding shares the embedding's stays as it is.
    """
    import torch
    from torch.nn import Linear, Parameter

    for module in model.modules():
        weight = module.weight if type(module) is Linear else None
        if weight is None or weight.requires_grad or weight.dtype != torch.float32:
            continue
        module.weight = Parameter(weight.data.to(torch.bfloat16), requires_grad=False)
