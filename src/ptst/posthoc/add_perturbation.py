"""Panacea's last step: what was learnt along the way is added to the weights, once.

See `ptst.objective.panacea`, which keeps it with the training: with it, without it (that objective
alone), and with noise in its place are three tests of one training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ptst.component import Context, Cost, load
from ptst.errors import ConfigError, PtstError
from ptst.objective import Objective
from ptst.objective.panacea import Panacea, learnt
from ptst.objective.perturbed import global_norm
from ptst.posthoc import PostHoc
from ptst.schema import Config
from ptst.train.checkpoints import STATE, load_state


@dataclass
class AddPerturbation(PostHoc):
    """Adds e to what was trained: of an adapter to its factors, so that their product changes as
    it did in training."""

    key_name: ClassVar[str] = "panacea"
    merged: ClassVar[bool] = False

    noise: int | None = None
    """The control: in the place of e, Gaussian noise of its norm, drawn with this seed."""

    def cost(self, config: Config) -> Cost:
        return Cost(models=1)  # the aligned model

    def check(self, config: Config) -> None:
        """Refuse a training that keeps no e, and weights of another step than e's."""
        nodes = (d.objective for d in config.defence.values() if d.objective is not None)
        node = next(nodes, None)
        objective = None if node is None else load(node, "defence: objective", Objective)
        if not isinstance(objective, Panacea):
            raise ConfigError(
                "it adds what panacea's objective keeps in training, and no defence has "
                "that objective: choose defence=[panacea], whose file has both."
            )
        recipe = config.finetune
        if recipe.method == "none":
            raise ConfigError(
                "it adds what was learnt in training, and finetune=none trains nothing: leave the "
                "defence out."
            )
        if recipe.epoch is not None and recipe.epoch != recipe.epochs:
            raise ConfigError(
                f"it adds what the last step learnt, and finetune.epoch={recipe.epoch} tests "
                "earlier weights; set finetune.epoch=null."
            )

    def apply(self, tuned: Any, base: Any, context: Context) -> dict[str, Any]:
        """Add in float32; the provenance has the norm of what was added.

        Raises:
            PtstError: the training has no e, or one of other weights.
        """
        import torch

        assert context.training is not None  # see `check`
        found = learnt(load_state(context.training / STATE))
        weights = dict(tuned.named_parameters())
        if not found or found.keys() - weights.keys():
            raise PtstError(
                f"{context.training} has no perturbation of this model's weights: delete it to make it "
                "again."
            )
        if self.noise is not None:
            found = noise_like(found, self.noise)
        with torch.no_grad():
            for done, (name, e) in enumerate(found.items(), 1):
                weight = weights[name]
                weight.copy_(weight.float() + e.to(weight.device).float())
                context.tell(done, len(found))
        return {"weights": len(found), "added_norm": global_norm(list(found.values()))}


def noise_like(e: dict[str, Any], seed: int) -> dict[str, Any]:
    """Gaussian noise of the same shapes and norm over all tensors together, drawn on the CPU in the
    order of the names: the same on every device."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(e[name].shape, generator=draw) for name in sorted(e)}
    scale = global_norm(list(e.values())) / global_norm(list(drawn.values()))
    return {name: noise.mul_(scale) for name, noise in drawn.items()}
