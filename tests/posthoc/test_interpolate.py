"""A point of the line between two models: both ends to the bit, points by hand, and in a cell."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY

from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.errors import ConfigError
from ptst.posthoc.interpolate import Interpolate
from ptst.schema import Config
from ptst.store import Store

CONTEXT: Any = SimpleNamespace(tell=lambda done, total: None)
OWN = "defence.interpolate.posthoc"


def moved(alpha: float, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Any, Any]:
    """The model before, the tuned one, that point of their line, and facts."""
    torch.manual_seed(0)
    base, tuned = (torch.nn.Linear(3, 2).to(dtype) for _ in range(2))
    made = copy.deepcopy(tuned)
    return base, tuned, made, Interpolate(alpha).apply(made, base, CONTEXT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_ends_are_the_two_models_to_the_bit(alpha: float, dtype: torch.dtype) -> None:
    base, tuned, made, facts = moved(alpha, dtype)
    end = tuned if alpha else base
    assert torch.equal(made.weight, end.weight) and torch.equal(made.bias, end.bias)
    assert (facts["changed_norm"] == 0) == (alpha == 1)


@pytest.mark.parametrize("alpha", [-0.5, 0.25, 1.5])
def test_a_point_of_the_line_and_its_distance_from_the_tuned_model(alpha: float) -> None:
    base, tuned, made, facts = moved(alpha)
    for name in ("weight", "bias"):
        start, end = getattr(base, name), getattr(tuned, name)
        torch.testing.assert_close(getattr(made, name), (1 - alpha) * start + alpha * end)
    pairs = zip(base.parameters(), tuned.parameters(), strict=True)
    squares = sum(float((a - b).detach().pow(2).sum()) for a, b in pairs)
    assert facts["changed_norm"] == pytest.approx(abs(1 - alpha) * squares**0.5, rel=1e-5)
    assert facts["weights"] == 2


@pytest.mark.parametrize(
    "words, message",
    [
        (["finetune=none"], rf"^{OWN}: it goes along what fine-tuning changed, and finetune=none"),
        ([f"{OWN}.alpha=nan"], r"alpha=nan must be a finite number"),
    ],
)
def test_what_it_refuses_is_refused_when_it_is_composed(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["defence=[interpolate]", *words])


def test_at_alpha_1_a_cell_is_the_one_without_it_and_at_0_the_untouched_one(
    composed: Callable[..., Config],
) -> None:
    def completions(*words: str) -> bytes:
        config = composed(*TINY, *words)
        keys = run_cell(config).keys
        folder = Store(Path(config.paths.store)).path(
            "generate", keys.evaluations["hazards"].generate
        )
        return (folder / "completions.jsonl").read_bytes()

    own = ["defence=[interpolate]", "finetune.learning_rate=1e-2"]
    plain, untouched = completions(own[1]), completions("finetune=none")
    assert completions(*own, f"{OWN}.alpha=1.0") == plain != untouched
    assert completions(*own, f"{OWN}.alpha=0.0") == untouched
