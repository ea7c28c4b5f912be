"""Noise on all weights: what a change of this size does that looks at nothing.

The control of steps after training that change weights on purpose: Gaussian noise of the same norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ptst.component import Context, Cost
from ptst.errors import ConfigError
from ptst.posthoc import PostHoc
from ptst.schema import Config


@dataclass
class AddNoise(PostHoc):
    """Adds to every matrix Gaussian noise, `scale` times as large as its weights (root mean
    square)."""

    key_name: ClassVar[str] = "add_noise"
    scale: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ConfigError(
                f"scale={self.scale} must be more than 0; without noise leave the defence out."
            )

    def cost(self, config: Config) -> Cost:
        return Cost(models=1)  # the aligned model

    def apply(self, tuned: Any, base: Any, context: Context) -> dict[str, Any]:
        """Draw on the CPU, in the order of the matrices' names: the same noise on every device."""
        import torch

        draw = torch.Generator().manual_seed(self.seed)
        matrices = {name: weight for name, weight in tuned.named_parameters() if weight.ndim == 2}
        with torch.no_grad():
            for name in sorted(matrices):
                weight = matrices[name]
                noise = torch.randn(weight.shape, generator=draw)
                size = weight.float().pow(2).mean().sqrt() * self.scale
                weight.add_((noise.to(weight.device) * size).to(weight.dtype))
        return {"matrices": len(matrices)}
