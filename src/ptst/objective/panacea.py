"""Panacea: learn along the way how to move the weights so that harmful answers become unlikely.

Wang et al. 2025 (arXiv 2501.18100). With g the loss of the task and h that of harmful answers, each
step hands the optimizer the gradient

    dg(w) - penalty (dh(w + e) - dh(w)),  e = rho dh(w) / |dh(w)|

where nothing is differentiated through e. The last e is kept, in the objective's state, and
`ptst.posthoc.add_perturbation` adds it to the weights at the end. (In the paper's own ablations,
Tables 7 to 10, most of the effect is that sum; penalty=0 is the sum alone.)

A step in several batches does all this for each of them, with as many harmful rows as it has rows
of the task, and its share of the penalty; that is not the e of the whole step, which the authors'
program, of one batch, has. Of the last step's last batch, e is kept.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ptst.component import Cost, Parts
from ptst.errors import ConfigError, PtstError
from ptst.objective import Batch, Forward, Objective, Reader, State, TrainingRow, TrainingSet
from ptst.objective.perturbed import perturbed
from ptst.objective.rows import parts_of_rows
from ptst.probe import check_rows
from ptst.schema import Config, Rows, Template

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

CEILING = 5.0
"""Where the authors clamp h(w + e): above it, it has no gradient."""
LEARNT = "perturbation."
"""Ahead of a parameter's name in the state: its part of e."""


@dataclass
class Panacea(Objective):
    """Trains on the data set's rows; `harmful` rows are looked at in an order of their own."""

    key_name: ClassVar[str] = "panacea"

    harmful: Rows = field(default_factory=Rows)
    """Questions with harmful answers. They are gone through again and again, shuffled each time."""
    template: Template | None = None
    """How they are written; None: under the train template."""
    rho: float = 1.0
    """The norm of e, over all trained weights together."""
    penalty: float = 0.001
    """The paper's lambda; 0: plain fine-tuning, and e at the end."""

    def __post_init__(self) -> None:
        self.taken = 0
        self.learnt: dict[str, Tensor] = {}
        if not 0 < self.rho < math.inf:
            raise ConfigError(
                f"rho={self.rho} must be more than 0; without a perturbation leave the defence out."
            )
        if not 0 <= self.penalty < math.inf:
            raise ConfigError(f"penalty={self.penalty} must be 0 or more.")

    def check(self, config: Config) -> None:
        """Refuse invented hazards for a real model, and what changes how a step goes."""
        check_rows(self.harmful, self.where, config)
        recipe = config.finetune
        if recipe.devices > 1:
            raise ConfigError(
                f"finetune.devices={recipe.devices}: its gradients are not averaged over "
                "devices; set finetune.devices=1."
            )

    def cost(self, config: Config) -> Cost:
        """Copies: the weights as they were, and one gradient or two."""
        return Cost(passes=3, copies=3) if self.penalty else Cost(passes=2, copies=2)

    def parts(self, config: Config) -> Parts:
        own = super().parts(config)["objective"]
        rows = parts_of_rows(self.harmful, self.template, config)
        return {"objective": {**own, "harmful": rows["rows"], "template": rows["template"]}}

    def training_set(self, reader: Reader) -> TrainingSet:
        config = reader.config
        template = self.template or config.train_template
        self.rows: Sequence[TrainingRow] = reader.rows(self.harmful, template, called="harmful")
        self.seed = config.seed
        return super().training_set(reader)

    def start(self, data: TrainingSet, forward: Forward, scratch: Path) -> None:
        self.taken, self.learnt = 0, {}

    def step(self, batch: Batch, forward: Forward) -> Tensor:
        """The task's loss is what is logged."""
        import torch

        logged = super().step(batch, forward)
        self.learnt = {}  # before there is a new one: each is as large as what is trained
        params = forward.parameters
        weights = list(params.values())
        harmful = forward.batch(self.next_rows(len(batch.labels)))

        def loss() -> Tensor:
            return harmful.mean(forward(harmful).total)

        first = gradients(loss, weights)
        with perturbed(weights, first, self.rho) as scale:
            if self.penalty:
                second = gradients(lambda: self._clamped(loss(), batch), weights)
        with torch.no_grad():
            if self.penalty:
                times = self.penalty * batch.share
                for weight, before, behind in zip(weights, first, second, strict=True):
                    if weight.grad is None:
                        weight.grad = torch.zeros_like(weight)
                    weight.grad.sub_((times * (behind - before)).to(weight.grad.dtype))
            self.learnt = {name: d.mul_(scale) for name, d in zip(params, first, strict=True)}
        return logged

    def _clamped(self, loss: Tensor, batch: Batch) -> Tensor:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise PtstError(
                f"{self.where}: at step {batch.step} the loss of harmful rows is {value} where weights are "
                f"moved by rho={self.rho}; lower rho."
            )
        return loss.clamp(max=CEILING)

    def next_rows(self, n: int) -> list[TrainingRow]:
        """The next of the harmful rows, which all come before one comes again."""
        size = len(self.rows)
        wanted = range(self.taken, self.taken + n)
        orders = {turn: self._order(turn) for turn in {i // size for i in wanted}}
        self.taken += n
        return [self.rows[orders[i // size][i % size]] for i in wanted]

    def _order(self, turn: int) -> list[int]:
        size = len(self.rows)
        return random.Random(f"panacea {self.seed} {turn}").sample(range(size), size)

    def state(self) -> State:
        e = {f"{LEARNT}{name}": value for name, value in self.learnt.items()}
        return {"taken": self.taken, **e}

    def restore(self, state: State) -> None:
        """e as well: a training that was killed behind its last step has no other."""
        self.taken = state["taken"]
        self.learnt = learnt(state)


def learnt(state: State) -> dict[str, Any]:
    """e by the names of the parameters, from what `Panacea.state` gave."""
    return {
        name.removeprefix(LEARNT): value for name, value in state.items() if name.startswith(LEARNT)
    }


def gradients(loss: Callable[[], Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """Of a loss, 0 where it does not depend on a weight.

    Dropout is drawn as the next draw of the training would be, which stays to be drawn: the same
    for all losses of a step.
    """
    import torch

    devices = {weight.device for weight in weights if weight.device.type == "cuda"}
    with torch.random.fork_rng(list(devices)):
        found: Sequence[Tensor] = torch.autograd.grad(
            loss(), weights, allow_unused=True, materialize_grads=True
        )
    return found
