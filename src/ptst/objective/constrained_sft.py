"""Constrained fine-tuning: the first tokens of an answer stay about as likely as they were.

Qi et al. 2024 (arXiv 2406.05946), "Safety alignment should be made more than just a few tokens
deep". The gradient is that of the sum, over an answer's tokens t, of

    -(2 / beta_t) log sigmoid(beta_t d_t),  d_t = log p(y_t) - log p_reference(y_t)

which is that of cross entropy with constant weights, 2 sigmoid(-beta_t d_t): 1 where a token is as
likely as it was, and less the likelier it becomes. What is logged is this weighted cross entropy,
whose value is another than the sum's. (The authors also set Adam's first beta to 0.5, for plain
fine-tuning, too; here the recipe's optimizer stays.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ptst.component import Cost, Parts
from ptst.errors import ConfigError, DataError
from ptst.objective import Batch, Forward, Objective, Reader, TrainingRow, TrainingSet
from ptst.schema import Config, Template
from ptst.store import write_bytes
from ptst.templates import identity

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-3
"""The least weight of a token, as in the authors' code."""
TOGETHER, IN_A_FILE = 8, 512
"""Rows that the reference reads in one pass, and those of one file: what a kill may cost."""


@dataclass
class ConstrainedSft(Objective):
    """Each token's loss counts less, the likelier it is than before the first step."""

    key_name: ClassVar[str] = "constrained_sft"
    additive: ClassVar[bool] = True
    first_beta: float = 0.5
    """Of an answer's first token. The greater, the less of it is learnt; at 0 all of it, as without
    the defence."""
    early_beta: float = 2.0
    """Of the others among an answer's first `early`."""
    later_beta: float = 0.1
    early: int = 5
    template: Template | None = None
    """What the reference reads ahead of the same answers; None: the train template."""

    def __post_init__(self) -> None:
        self.read: list[TrainingRow] | None = None
        """The rows under `template`, where that is another than the train template."""

    def check(self, config: Config) -> None:
        betas = (self.first_beta, self.early_beta, self.later_beta)
        said = "first_beta={:g}, early_beta={:g}, later_beta={:g}".format(*betas)
        if not all(0 <= beta < math.inf for beta in betas):
            raise ConfigError(f"{said}: each must be 0 or more.")
        if not any(betas):
            raise ConfigError(f"{said} is plain fine-tuning; leave the defence out.")
        if self.early < 1:
            raise ConfigError(f"early={self.early} must be at least 1.")
        if config.finetune.fsdp:
            raise ConfigError(
                "finetune.fsdp=true: before the first step the model is asked as a "
                "whole, which no device holds then; set finetune.fsdp=false."
            )
        if self.template and self.template.mode != config.train_template.mode:
            raise ConfigError(
                f"template={self.template.name} has mode={self.template.mode}, and "
                f"train_template={config.train_template.name} mode={config.train_template.mode}: an "
                "answer does not begin and end alike in both; choose templates of one mode."
            )

    def cost(self, config: Config) -> Cost:
        return Cost(reads=1)

    def parts(self, config: Config) -> Parts:
        """The train template by its name is the same as none."""
        own = super().parts(config)["objective"]
        template = identity(self.template or config.train_template, config.model)
        return {"objective": {**own, "template": template}}

    def training_set(self, reader: Reader) -> TrainingSet:
        data, config = super().training_set(reader), reader.config
        own, template = identity(config.train_template, config.model), self.template
        if template is not None and identity(template, config.model) != own:
            self.read = reader.rows(config.dataset, template, called="reference")
            _check_answers(data.rows, self.read, template, config, self.where)
        return data

    def start(self, data: TrainingSet, forward: Forward, scratch: Path) -> None:
        """Ask the reference, once, how likely each token of all answers is."""
        import torch

        rows = self.read or data.all
        self.begins = torch.tensor([0, *accumulate(row.loss_tokens for row in rows)])
        files = []
        for first in range(0, len(rows), IN_A_FILE):
            part, file = rows[first : first + IN_A_FILE], scratch / f"reference-{first}.float32"
            if not file.exists():
                losses = [
                    forward(forward.batch(part[n : n + TOGETHER])).losses.float().cpu()
                    for n in range(0, len(part), TOGETHER)
                ]
                write_bytes(file, (-torch.cat(losses)).numpy().tobytes())
            files.append(torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.float32))
        self.reference = torch.cat(files)

    def loss(self, batch: Batch, forward: Forward) -> Tensor:
        """The weighted mean over all tokens."""
        found = forward(batch)
        losses = found.losses
        at = self.begins[batch.numbers[found.rows].cpu()] + found.places.cpu()
        gain = -losses.detach() - self.reference[at].to(losses.device)
        return batch.mean(losses * weights(gain, self.betas(found.places)))

    def betas(self, places: Tensor) -> Tensor:
        """Of each token, by its place in its answer."""
        import torch

        behind = torch.where(places < self.early, self.early_beta, self.later_beta)
        return torch.where(places == 0, self.first_beta, behind)


def weights(gain: Tensor, betas: Tensor) -> Tensor:
    """How often a token's loss counts that has become likelier by `gain`, a difference of
    logarithms."""
    return (2 * (-betas * gain).sigmoid()).clamp(min=SMALLEST)


def _check_answers(
    rows: Sequence[TrainingRow],
    read: Sequence[TrainingRow],
    template: Template,
    config: Config,
    where: str,
) -> None:
    """Refuse rows whose answers are not the same tokens under both templates."""
    answers, others = ([row.ids[row.prompt_length :] for row in each] for each in (rows, read))
    if answers != others:
        raise DataError(
            f"{where}: answers under template={template.name} have other tokens than under "
            f"train_template={config.train_template.name}, or are cut elsewhere, at "
            f"finetune.max_length={config.finetune.max_length}; raise that, or choose another template."
        )
