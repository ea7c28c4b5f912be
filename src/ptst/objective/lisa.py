"""Lisa: states of steps on safety rows and of steps on the task take turns, each held back.

Huang et al. 2024 (arXiv 2405.18641). A state of safety rows minimises f(w) + rho/2 |w - w_task|^2,
where w_task are the weights that the last task state ended with; a task state minimises
h(w) + rho/2 |w - w_safety|^2. The weights that the other state ended with are those with which this
one begins, so that there is one anchor at a time: the weights at the begin of the state.

Three decisions differ from the authors' code, in which a safety step uses up a batch of the task
and a step of the budget: epochs count over the task's rows, all of which are seen; the training
ends in a task state, whose last may be shorter; states are counted in optimizer steps.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

from ptst.component import Cost, Parts
from ptst.errors import ConfigError
from ptst.objective import Batch, Forward, Objective, Reader, State, TrainingSet
from ptst.objective.rows import parts_of_rows
from ptst.schema import Config, Rows, Template
from ptst.templates import TrainingRow

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Lisa(Objective):
    """Begins with a safety state. `finetune.max_steps` may end it in one."""

    key_name: ClassVar[str] = "lisa"

    rows: Rows = field(default_factory=Rows)
    """Of safety, shuffled anew each time that all have been seen."""
    template: Template | None = None
    """How they are written; None: under the train template."""
    safety_steps: int = 2
    """Optimizer steps of a safety state, the paper's K1. The pull is 0 in the first of them."""
    task_steps: int = 18
    """Of a task state, K2."""
    rho: float = 1.0
    """How hard a state is pulled back to the weights with which it began; 0: states take turns and
    nothing else, which is the control."""
    pull_after: int = 10
    """Per cent of all steps before the first that is pulled, as in the authors' code."""

    def __post_init__(self) -> None:
        self.steps = 0
        """Of the whole training; `training_set` says."""
        self.began = -1
        """The first step of the state that `anchor` is of."""
        self.anchor: dict[str, Tensor] = {}
        self.over = False
        """Whether the last step has been taken."""

    def check(self, config: Config) -> None:
        """Refuse numbers without a meaning, and several devices."""
        for name in ("safety_steps", "task_steps"):
            if (steps := getattr(self, name)) < 1:
                raise ConfigError(
                    f"{name}={steps} must be at least 1; to train on the task alone leave the defence "
                    "out."
                )
        if not 0 <= self.rho < math.inf:
            raise ConfigError(f"rho={self.rho:g} must be 0 or more.")
        if not 0 <= self.pull_after < 100:
            raise ConfigError(f"pull_after={self.pull_after} must be from 0 to 99 per cent.")
        if config.finetune.devices > 1:
            raise ConfigError(
                f"finetune.devices={config.finetune.devices}: its anchors are not tested on several "
                "devices; set finetune.devices=1."
            )

    def parts(self, config: Config) -> Parts:
        own = super().parts(config)["objective"]
        return {"objective": {**own, **parts_of_rows(self.rows, self.template, config)}}

    def cost(self, config: Config) -> Cost:
        """The copy is the anchor."""
        task, own = (rows.known_count() or 0 for rows in (config.dataset, self.rows))
        seen = self.safety_steps / self.task_steps * task / own if own else 0.0
        return Cost(rows=self.rows, seen=seen, copies=1)

    def training_set(self, reader: Reader) -> TrainingSet:
        config = reader.config
        task = reader.rows(config.dataset, config.train_template)
        safety = reader.rows(self.rows, self.template or config.train_template, called="safety")
        recipe = config.finetune
        made = self.alternated(task, safety, recipe.epochs, recipe.batch_size, config.seed)
        self.steps = math.ceil(len(made.order or ()) / recipe.batch_size)
        return made

    def alternated(
        self,
        task: list[TrainingRow],
        safety: list[TrainingRow],
        epochs: float,
        batch_size: int,
        seed: int,
    ) -> TrainingSet:
        """The order of a whole training: every optimizer step has rows of one kind."""
        draw = random.Random(f"lisa {seed}")
        own = [n for part in _epochs(len(task), epochs, draw) for n in part]
        others = _endless(range(len(task), len(task) + len(safety)), draw)
        of_task, of_safety = self.task_steps * batch_size, self.safety_steps * batch_size
        order: list[int] = []
        for first in range(0, len(own), of_task):
            order += [*islice(others, of_safety), *own[first : first + of_task]]
        ends = []
        for epoch in range(1, math.floor(epochs) + 1):
            seen = epoch * len(task)
            ends.append(seen + math.ceil(seen / of_task) * of_safety)
        return TrainingSet(task, safety, order, ends)

    def step(self, batch: Batch, forward: Forward) -> Tensor:
        """Where a state begins, keep the weights first."""
        began = self.beginning(batch.step)
        if began != self.began:
            self.began = began
            self.anchor = {n: p.detach().clone() for n, p in forward.parameters.items()}
        self.over = batch.step + 1 == self.steps
        return super().step(batch, forward)

    def beginning(self, step: int) -> int:
        """The first step of the state that a step is in."""
        cycle = self.safety_steps + self.task_steps
        start, within = step - step % cycle, step % cycle
        return start if within < self.safety_steps else start + self.safety_steps

    def loss(self, batch: Batch, forward: Forward) -> Tensor:
        """The mean over all tokens, and the batch's share of the pull: however many batches a step
        has, the pull counts once."""
        plain = super().loss(batch, forward)
        if not self.rho or 100 * batch.step < self.pull_after * self.steps:
            return plain
        return plain + batch.share * self.pull(forward.parameters)

    def pull(self, parameters: dict[str, Tensor]) -> Tensor:
        """rho/2 |w - anchor|^2 over all weights that are trained, shape ()."""
        import torch

        squares = []
        for name, weight in parameters.items():
            self.anchor[name] = self.anchor[name].to(weight.device)  # a checkpoint's are on the CPU
            squares.append((weight - self.anchor[name]).float().pow(2).sum())
        return self.rho / 2 * torch.stack(squares).sum()

    def state(self) -> State:
        """The anchor, and the step where its state began: a kill may come in the middle of it.
        Behind the last step no anchor is needed, and it is as large as what is trained."""
        return {"began": self.began} if self.over else {"began": self.began, **self.anchor}

    def restore(self, state: State) -> None:
        self.began, self.anchor = state["began"], {n: t for n, t in state.items() if n != "began"}


def _epochs(n: int, epochs: float, draw: random.Random) -> Iterator[list[int]]:
    """Numbers of rows in every epoch, shuffled; the last may be a part of one."""
    for epoch in range(math.ceil(epochs)):
        yield draw.sample(range(n), round(min(1.0, epochs - epoch) * n))


def _endless(numbers: range, draw: random.Random) -> Iterator[int]:
    while True:
        yield from draw.sample(numbers, len(numbers))
