"""Noise after training: as large as it says, the same every time, and refused at strength 0."""

from __future__ import annotations

import pytest
import torch

from ptst.config.compose import compose
from ptst.errors import ConfigError
from ptst.posthoc.add_noise import AddNoise


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.LayerNorm(200))


def noise(**fields: float) -> torch.Tensor:
    tuned, base = model(), model()
    facts = AddNoise(**fields).apply(tuned, base, None)  # type: ignore[arg-type]
    assert facts == {"matrices": 1}  # biases and norms are left alone
    assert torch.equal(tuned[0].bias, base[0].bias) and torch.equal(tuned[1].weight, base[1].weight)
    return (tuned[0].weight - base[0].weight).detach()


def test_the_noise_has_the_norm_that_it_says_and_is_drawn_by_its_seed() -> None:
    size = model()[0].weight.pow(2).mean().sqrt()
    drawn = noise(scale=0.1)
    assert float(drawn.pow(2).mean().sqrt() / size) == pytest.approx(0.1, rel=0.02)
    assert abs(float(drawn.mean() / size)) < 0.002
    assert torch.equal(drawn, noise(scale=0.1))
    assert not torch.equal(drawn, noise(scale=0.1, seed=1))


def test_no_noise_is_refused_when_it_is_composed() -> None:
    with pytest.raises(ConfigError, match=r"scale=0\.0 must be more than 0"):
        compose(["defence=[add_noise]", "defence.add_noise.posthoc.scale=0"])
