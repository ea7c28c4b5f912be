"""The trainings of a study and their settings: what a size is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tools.pcfg.world import Length

Method = Literal["pretraining", "unlearning", "dpo", "supervised", "ordinary"]
SAFETY: tuple[Method, ...] = ("unlearning", "dpo", "supervised")
"""Safety fine-tunings, in the order of the paper's Table A.1. `ordinary` is fine-tuning on safe
prompts alone, the baseline for changes of weights."""
RATES = ("medium", "small")
GAMMAS = (0.1, 0.01), (0.01, 0.002)
"""By rate: of unlearning, of DPO; with its beta of 0.1 and the shares of safe prompts, the
authors' (arXiv 2407.10264 and the README of their code)."""


@dataclass(frozen=True)
class Stage:
    """One training. `beta` and `gamma` are those of its loss, `safe` the share of safe prompts."""

    name: str
    method: Method
    steps: int
    rate: float
    rows: int
    safe: float = 0.0
    beta: float = 0.0
    gamma: float = 0.0


@dataclass(frozen=True)
class Size:
    """How large a study is.

    `rows` and `tuning_rows` are batches; `prompts` of each kind are measured.
    """

    width: int
    layers: int
    length: Length
    pretraining: int
    pretraining_rate: float
    tuning: int
    rates: tuple[float, float]
    rows: int
    tuning_rows: int
    prompts: int

    def stages(self) -> list[Stage]:
        """Pretraining, then what is made from it: methods by rate, with the paper's strengths."""
        pretraining = self.pretraining, self.pretraining_rate, self.rows
        made = [Stage("pretraining", "pretraining", *pretraining)]
        for name, speed, unlearning, dpo in zip(RATES, self.rates, *GAMMAS, strict=True):
            of = self.tuning, speed, self.tuning_rows
            made += [
                Stage(f"unlearning {name}", "unlearning", *of, safe=0.5, gamma=unlearning),
                Stage(f"dpo {name}", "dpo", *of, safe=0.5, beta=0.1, gamma=dpo),
                Stage(f"supervised {name}", "supervised", *of, safe=0.8),
                Stage(f"ordinary {name}", "ordinary", *of, safe=1.0),
            ]
        return made


FULL = Size(96, 3, Length(8, 14), 600, 2e-3, 100, (5e-4, 1e-4), 96, 32, 200)
QUICK = Size(16, 2, Length(8, 14), 4, 2e-3, 2, (5e-4, 1e-4), 8, 8, 12)
"""Seconds: for tests. Its model has learnt nothing."""
