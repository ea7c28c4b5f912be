"""How far fine-tuning moved the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ptst.analysis import Analysis
from ptst.component import Context


@dataclass
class NormOfChange(Analysis):
    """`l2`: the norm of the change of all weights; `relative`: divided by the norm before.

    A tied embedding counts once.
    """

    key_name: ClassVar[str] = "norm_of_change"

    def run(self, tuned: Any, base: Any, context: Context) -> dict[str, float]:
        """Both norms, summed in double precision."""
        before = dict(base.named_parameters())
        change = sum(
            (weight.double() - before[name].double()).pow(2).sum().item()
            for name, weight in tuned.named_parameters()
        )
        norm = sum(weight.double().pow(2).sum().item() for weight in before.values())
        return {"l2": change**0.5, "relative": (change / norm) ** 0.5}
