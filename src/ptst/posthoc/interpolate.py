"""Between the model before fine-tuning and behind it, or beyond: a point of the line of weights.

Jain et al. 2024 (arXiv 2407.10264) walk from a model to its safety-tuned self and on, where the
latter became safer still. Here the line is that of a benign fine-tuning: what does safety cost, and
the task, at each point of it?
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ptst.component import Context, Cost
from ptst.errors import ConfigError
from ptst.geometry import on_the_path
from ptst.posthoc import PostHoc
from ptst.schema import Config


@dataclass
class Interpolate(PostHoc):
    """Every weight becomes before + alpha (after - before), embeddings and norms included.

    0 is the model before fine-tuning and 1 the one behind it, both to the bit; more than 1
    extrapolates, less than 0 goes the other way.
    """

    key_name: ClassVar[str] = "interpolate"

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha):
            raise ConfigError(f"alpha={self.alpha} must be a finite number.")

    def check(self, config: Config) -> None:
        """Refuse a model that is not fine-tuned."""
        if config.finetune.method == "none":
            raise ConfigError(
                "it goes along what fine-tuning changed, and finetune=none changes nothing: leave the "
                "defence out."
            )

    def cost(self, config: Config) -> Cost:
        """The model before fine-tuning is in memory, too."""
        return Cost(models=1)

    def apply(self, tuned: Any, base: Any, context: Context) -> dict[str, Any]:
        """Weight by weight, in float32; the provenance has the norm of what was changed."""
        import torch

        before, weights = dict(base.named_parameters()), dict(tuned.named_parameters())
        squares = 0.0
        with torch.no_grad():
            for done, (name, weight) in enumerate(weights.items(), 1):
                moved = on_the_path(before[name], weight, self.alpha)
                squares += float((moved.to(weight.device).double() - weight).pow(2).sum())
                weight.copy_(moved)
                context.tell(done, len(weights))
        return {"weights": len(weights), "changed_norm": squares**0.5}
