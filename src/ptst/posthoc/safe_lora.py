"""Safe LoRA: what fine-tuning changed is projected onto the direction of the alignment.

Hsu et al. 2024 (arXiv 2405.16833). For a weight [d_out, d_in] let V be what alignment changed
(aligned - unaligned) and D what fine-tuning changed (tuned - aligned). A layer with a small cosine
between C D and D gets C D in the place of D. The paper changes LoRA's B, which is the same, because
D is linear in it; here D is read off the merged weights, so that full fine-tuning has it, too.

What the choices of C are is said in `ptst.alignment`. The paper's fast one nearly deletes a layer's
change; `zeroed` deletes it altogether, and is the control.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ptst.alignment import PROJECTORS, Unaligned, check_projector, factor
from ptst.component import Context, Cost, Parts
from ptst.errors import ConfigError
from ptst.models import linear_weights
from ptst.posthoc import PostHoc
from ptst.schema import Config


@dataclass
class SafeLora(PostHoc):
    """Projects the change of those linear layers, without the head, that fine-tuning changed.

    After full fine-tuning embeddings and norms stay as they were trained.
    """

    key_name: ClassVar[str] = "safe_lora"

    unaligned: Unaligned = field(default_factory=Unaligned)
    projector: str = "scaled"
    """scaled: V V^T / |V|; exact: onto the columns of V; top: onto its first singular vectors."""
    rank: int | None = None
    """projector=top: how many of them."""
    energy: float | None = None
    """projector=top: as many as have this share of V's squared norm."""
    number: int | None = 10
    """Project the layers with the smallest cosines, this many; of equal ones the model's first."""
    threshold: float | None = None
    """Or: project the layers whose cosine is not above this."""
    zeroed: bool = False
    """The control: the same layers get the aligned model's weights back."""

    def __post_init__(self) -> None:
        check_projector(PROJECTORS, self.projector, self.rank, self.energy)
        if (self.number is None) == (self.threshold is None):
            raise ConfigError(
                f"number={self.number} and threshold={self.threshold}: layers are chosen by "
                "one of them; set the other to null."
            )
        if self.number is not None and self.number < 1:
            raise ConfigError(
                f"number={self.number} must be at least 1; leave the defence out to project "
                "nothing."
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(
                f"threshold={self.threshold} must be from 0 to 1, as the cosines are."
            )

    def check(self, config: Config) -> None:
        """Refuse a model that is not fine-tuned, and an `unaligned` that is not its base."""
        if config.finetune.method == "none":
            raise ConfigError(
                "it projects what fine-tuning changed, and finetune=none changes nothing: leave "
                "the defence out."
            )
        self.unaligned.check(config.model)

    def identity(self) -> Parts:
        """The unaligned model, by its content."""
        return {"unaligned": self.unaligned.parts()}

    def origin(self) -> Parts:
        return self.unaligned.origin()

    def cost(self, config: Config) -> Cost:
        return Cost(models=2)  # the aligned model and its base

    def apply(self, tuned: Any, base: Any, context: Context) -> dict[str, Any]:
        """Find every changed layer's cosine, choose, and project the chosen layers.

        Raises:
            ConfigError: there is no layer that both alignment and fine-tuning changed.
        """
        import torch

        models = self.unaligned.load_like(base), base, tuned
        unaligned, before, after = (linear_weights(model) for model in models)
        cosines: dict[str, float] = {}
        kept: dict[str, float] = {}

        def changes(name: str) -> tuple[Any, Any]:
            """What alignment changed in a layer, and what fine-tuning did, in float32."""
            aligned = before[name].float()
            start = unaligned[name].to(aligned.device).float()
            return aligned - start, after[name].float() - aligned

        with torch.no_grad():
            for done, name in enumerate(after, 1):
                direction, change = changes(name)
                if direction.any() and change.any():
                    new = self._projected(direction, change)
                    cosines[name] = cosine(new, change)
                    kept[name] = float(new.norm() / change.norm())
                context.tell(done, len(after))
            if not cosines:
                raise ConfigError(
                    f"{self.where}: alignment and fine-tuning changed no linear layer in common."
                )
            chosen = self.chosen(cosines)
            for name in chosen:
                direction, change = changes(name)
                new = change * 0 if self.zeroed else self._projected(direction, change)
                after[name].copy_(before[name].float() + new)
        return {
            "layers": len(cosines),
            "projected": chosen,
            "cosines": {name: round(value, 5) for name, value in cosines.items()},
            "norm_after_projection": {name: round(kept[name], 5) for name in chosen},
        }

    def chosen(self, cosines: Mapping[str, float]) -> list[str]:
        """The layers to project, in the model's order."""
        if self.threshold is not None:
            return [name for name, value in cosines.items() if value <= self.threshold]
        smallest = sorted(cosines, key=lambda name: cosines[name])[: self.number]
        return [name for name in cosines if name in smallest]

    def _projected(self, direction: Any, change: Any) -> Any:
        left = factor(direction, self.projector, self.rank, self.energy)
        return left @ (left.T @ change)


def cosine(a: Any, b: Any) -> float:
    """Between two matrices; 0 where one of them is 0."""
    norms = float(a.norm() * b.norm())
    return min(1.0, float((a * b).sum()) / norms) if norms else 0.0
