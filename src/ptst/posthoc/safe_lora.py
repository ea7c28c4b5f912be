"""Safe LoRA: what fine-tuning changed is projected onto the direction of the alignment.

Hsu et al. 2024 (arXiv 2405.16833). For a weight [d_out, d_in] let V be what alignment changed
(aligned - unaligned) and D what fine-tuning changed (tuned - aligned). A layer with a small cosine
between C D and D gets C D in the place of D. The paper changes LoRA's B, which is the same, because
D is linear in it; here D is read off the merged weights, so that full fine-tuning has it, too.

The paper's fast C = V V^T / |V| is no projection: its eigenvalues are s^2 / |V| over V's singular
values s, far below 1 unless alignment changed a great deal, so that the layer's change is nearly
deleted. `zeroed` deletes it altogether, and is the control. The paper's exact C is the identity
where V has full row rank. `top` projects onto the largest singular directions alone; it is not in
the paper, and is what "subspace of the alignment" suggests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ptst.component import Context, Parts
from ptst.errors import ConfigError
from ptst.posthoc import PostHoc
from ptst.posthoc.unaligned import Unaligned
from ptst.schema import Config

PROJECTORS = ("scaled", "exact", "top")


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
        if self.projector not in PROJECTORS:
            raise ConfigError(
                f"safe_lora: projector={self.projector} is not one of: {', '.join(PROJECTORS)}."
            )
        given = [value for value in (self.rank, self.energy) if value is not None]
        if len(given) != (self.projector == "top"):
            raise ConfigError(
                f"safe_lora: projector={self.projector}, rank={self.rank}, energy={self.energy}: "
                "projector=top needs one of rank and energy, the others neither."
            )
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"safe_lora: rank={self.rank} must be at least 1.")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ConfigError(f"safe_lora: energy={self.energy} must be more than 0, at most 1.")
        if (self.number is None) == (self.threshold is None):
            raise ConfigError(
                f"safe_lora: number={self.number} and threshold={self.threshold}: layers are chosen by "
                "one of them; set the other to null."
            )
        if self.number is not None and self.number < 1:
            raise ConfigError(
                f"safe_lora: number={self.number} must be at least 1; leave the defence out to project "
                "nothing."
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(
                f"safe_lora: threshold={self.threshold} must be from 0 to 1, as the cosines are."
            )

    def check(self, config: Config) -> None:
        """Refuse a model that is not fine-tuned, and an `unaligned` that is not its base."""
        if config.finetune.method == "none":
            raise ConfigError(
                "safe_lora projects what fine-tuning changed, and finetune=none changes nothing: leave "
                "the defence out."
            )
        self.unaligned.check(config.model)

    def identity(self) -> Parts:
        """The unaligned model, by its content."""
        return {"unaligned": self.unaligned.parts()}

    def origin(self) -> Parts:
        return self.unaligned.origin()

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
                    "safe_lora: alignment and fine-tuning changed no linear layer in common."
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


def factor(
    direction: Any, projector: str, rank: int | None = None, energy: float | None = None
) -> Any:
    """L [d_out, k] of C = L L^T.

    Args:
        direction: V [d_out, d_in], not 0.
        projector: one of PROJECTORS.
    """
    import torch

    if projector == "scaled":
        return direction / direction.norm().sqrt()
    left, sizes, _ = torch.linalg.svd(direction, full_matrices=False)
    smallest = sizes[0] * max(direction.shape) * torch.finfo(sizes.dtype).eps
    k = int((sizes > smallest).sum())
    if rank is not None:
        k = min(k, rank)
    if energy is not None:
        shares = sizes.double().pow(2).cumsum(0)
        k = min(k, int((shares < energy * shares[-1]).sum()) + 1)
    return left[:, :k]


def cosine(a: Any, b: Any) -> float:
    """Between two matrices; 0 where one of them is 0."""
    norms = float(a.norm() * b.norm())
    return min(1.0, float((a * b).sum()) / norms) if norms else 0.0


def linear_weights(model: Any) -> dict[str, Any]:
    """Weights [d_out, d_in] of the linear layers without the head, by the parameter's name."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D  # GPT-2's, which are [d_in, d_out]

    head = model.get_output_embeddings()
    return {
        f"{name}.weight": module.weight.T if isinstance(module, Conv1D) else module.weight
        for name, module in model.named_modules()
        if isinstance(module, Linear | Conv1D) and module is not head
    }
