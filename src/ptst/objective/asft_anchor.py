"""AsFT: what fine-tuning changes outside the direction of the alignment is penalised in every step.

Yang et al. 2025 (arXiv 2506.08473). To the loss is added, over the linear layers that are trained,

    strength sum_l |(I - C_l) D_l|^2        (squared Frobenius norm)

with C_l of what alignment changed in the layer (see `ptst.alignment`), fixed, and the layer's
update D_l: B_l A_l of its adapter, without LoRA's factor alpha / r, as in the paper. What full
fine-tuning changed, W_l - W_l before it, has the same place here; that is not in the paper.

Under the paper's fast C, whose eigenvalues are far below 1, the term is nearly the plain decay of
the update, which projector=none is exactly: the control. Under exact C it is 0 where alignment
changed a layer in all directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ptst.alignment import PROJECTORS, Unaligned, check_projector, factor
from ptst.component import Cost, Parts
from ptst.errors import ConfigError
from ptst.models import linear_weights, load_model
from ptst.objective import Batch, Forward, Objective, Reader, TrainingSet
from ptst.schema import Config, Model

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class AsftAnchor(Objective):
    """Penalises the update of linear layers, without the head, outside the alignment's direction.

    A layer that alignment left alone has C = 0. Embeddings and norms are trained as ever. The loss
    that is logged has the penalty in it.
    """

    key_name: ClassVar[str] = "asft_anchor"

    unaligned: Unaligned = field(default_factory=Unaligned)
    projector: str = "scaled"
    """scaled, exact or top, see `ptst.alignment`; none: C = 0, and `unaligned` is not read."""
    rank: int | None = None
    """projector=top: how many singular vectors."""
    energy: float | None = None
    """projector=top: as many as have this share of the squared norm."""
    strength: float = 1.0
    """The paper's lambda."""

    def __post_init__(self) -> None:
        kinds = (*PROJECTORS, "none")
        check_projector(kinds, self.projector, self.rank, self.energy)
        if not 0 < self.strength < math.inf:
            raise ConfigError(
                f"strength={self.strength:g} must be more than 0; to penalise nothing leave "
                "the defence out."
            )
        self.model = Model()
        """The aligned model; `training_set` says which."""

    def check(self, config: Config) -> None:
        """Refuse a model without a base, 4-bit weights, and weights that no device holds whole."""
        if config.finetune.method == "qlora":
            raise ConfigError(
                "it compares whole weights, which finetune.method=qlora keeps in 4 bits; use "
                "lora or full."
            )
        if config.finetune.fsdp:
            raise ConfigError(
                "finetune.fsdp=true: the penalty is on whole weights, which no device holds "
                "then; set finetune.fsdp=false."
            )
        if self.projector != "none":
            self.unaligned.check(config.model)

    def identity(self) -> Parts:
        """The unaligned model, by its content, where it is read."""
        return {"unaligned": None if self.projector == "none" else self.unaligned.parts()}

    def cost(self, config: Config) -> Cost:
        """A copy of the weights before full fine-tuning; every layer's C has a weight's size."""
        full = config.finetune.method == "full"
        return Cost(copies=float(full), models=float(self.projector != "none"))

    def training_set(self, reader: Reader) -> TrainingSet:
        self.model = reader.config.model
        return super().training_set(reader)

    def start(self, data: TrainingSet, forward: Forward, scratch: Path) -> None:
        """Work out every layer's C, and keep the weights before full fine-tuning.

        Raises:
            ConfigError: alignment changed no layer that is trained.
        """
        parameters = forward.parameters
        loaded = load_model(self.model, "cpu")
        aligned, stored = linear_weights(loaded), dict(loaded.named_parameters())
        self.adapters = adapters(parameters)
        names = list(self.adapters) or [name for name in aligned if name in parameters]
        self.left: dict[str, Tensor] = {}
        """L of C = L L^T, by the weight's name; none where C is 0."""
        if self.projector != "none":
            self.left = self._factors(names, aligned, loaded)
            if not self.left:
                raise ConfigError(
                    f"alignment changed none of the layers that are trained; the base of model "
                    f"{self.model.name} has the same weights there."
                )
        self.before = {} if self.adapters else {n: parameters[n].detach().clone() for n in names}
        # GPT-2's weights are stored as [d_in, d_out].
        self.turned = {n for n in names if aligned[n].stride() != stored[n].stride()}
        for name in self.left:
            trained = self.adapters[name][1] if self.adapters else name
            self.left[name] = self.left[name].to(parameters[trained].device)

    def _factors(
        self, names: list[str], aligned: Mapping[str, Tensor], loaded: Any
    ) -> dict[str, Tensor]:
        unaligned = linear_weights(self.unaligned.load_like(loaded))
        found = {}
        for name in names:
            direction = aligned[name].detach().float() - unaligned[name].detach().float()
            if direction.any():
                found[name] = factor(direction, self.projector, self.rank, self.energy)
        return found

    def loss(self, batch: Batch, forward: Forward) -> Tensor:
        """The mean over all tokens, and the batch's share of the penalty: however many batches a
        step has, the penalty counts once."""
        penalty = self.strength * self.penalty(forward.parameters)
        return super().loss(batch, forward) + batch.share * penalty

    def penalty(self, parameters: Mapping[str, Any]) -> Tensor:
        """The sum over layers, without `strength`; shape ()."""
        import torch

        terms = []
        for name, (a, b) in self.adapters.items():
            terms.append(of_adapter(parameters[a], parameters[b], self.left.get(name)))
        for name, before in self.before.items():
            update = parameters[name] - before
            update = update.T if name in self.turned else update
            terms.append(outside(update, self.left.get(name)).pow(2).sum())
        return torch.stack(terms).sum()


def adapters(parameters: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The names of every adapter's A and B, by the name that its weight has in the model itself."""
    found = {}
    for name in parameters:
        layer, mark, rest = name.partition(".lora_A.")
        if mark:
            weight = f"{layer.removeprefix('base_model.model.')}.weight"
            found[weight] = (name, f"{layer}.lora_B.{rest}")
    return found


def outside(update: Tensor, left: Tensor | None) -> Tensor:
    """(I - C) times an update [d_out, n], or its left part.

    Args:
        left: L [d_out, k] of C = L L^T; None: C is 0.
    """
    return update if left is None else update - left @ (left.T @ update)


def of_adapter(a: Tensor, b: Tensor, left: Tensor | None) -> Tensor:
    """|(I - C) B A|^2, of A [r, d_in] and B [d_out, r], by two matrices [r, r]: |M A|^2 is the sum
    of (M^T M) * (A A^T). No matrix of the weight's size is made."""
    rest, a = outside(b.float(), left), a.float()
    return ((rest.T @ rest) * (a @ a.T)).sum()
