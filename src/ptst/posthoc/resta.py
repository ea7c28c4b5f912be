"""RESTA: what alignment changed is added to the fine-tuned weights once more.

Bhardwaj et al. 2024 (arXiv 2402.11746), without their drop-and-rescale (DARE). Their unaligned
model is the aligned one fine-tuned on harmful rows; the base before alignment has the same place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ptst.alignment import Unaligned
from ptst.component import Context, Cost, Parts
from ptst.errors import ConfigError
from ptst.posthoc import PostHoc
from ptst.schema import Config


@dataclass
class Resta(PostHoc):
    """Adds `coefficient` (aligned - unaligned) to all weights, embeddings and norms included.

    A tied embedding gets it once. The untouched model (finetune=none) can have it, too.
    """

    key_name: ClassVar[str] = "resta"

    unaligned: Unaligned = field(default_factory=Unaligned)
    coefficient: float = 0.5

    def __post_init__(self) -> None:
        if not math.isfinite(self.coefficient) or self.coefficient <= 0:
            raise ConfigError(
                f"coefficient={self.coefficient} must be more than 0; to add nothing leave the "
                "defence out."
            )

    def check(self, config: Config) -> None:
        """Refuse an `unaligned` that is not the base of the cell's model."""
        self.unaligned.check(config.model)

    def identity(self) -> Parts:
        """The unaligned model, by its content."""
        return {"unaligned": self.unaligned.parts()}

    def origin(self) -> Parts:
        return self.unaligned.origin()

    def cost(self, config: Config) -> Cost:
        return Cost(models=2)  # the aligned model and its base

    def apply(self, tuned: Any, base: Any, context: Context) -> dict[str, Any]:
        """Add in float32, weight by weight; the provenance has the norm of what was added.

        Raises:
            ConfigError: the unaligned model has other weights, or the same values.
        """
        import torch

        unaligned = dict(self.unaligned.load_like(base).named_parameters())
        aligned, weights = dict(base.named_parameters()), dict(tuned.named_parameters())
        squares = 0.0
        with torch.no_grad():
            for done, (name, weight) in enumerate(weights.items(), 1):
                start = aligned[name].float()
                added = self.coefficient * (start - unaligned[name].to(start.device).float())
                squares += float(added.double().pow(2).sum())
                weight.copy_(weight.float() + added)
                context.tell(done, len(weights))
        if squares == 0:
            raise ConfigError(f"{self.where}: the unaligned model has the aligned model's weights.")
        return {"weights": len(weights), "added_norm": squares**0.5}
