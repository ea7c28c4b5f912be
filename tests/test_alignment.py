"""What alignment changed: the projections onto it by hand, and a base that cannot be one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ptst.alignment import Unaligned, factor
from ptst.errors import ConfigError

V = torch.tensor([[3.0, 0.0], [0.0, 4.0]])


def c(direction: torch.Tensor, *how: Any) -> torch.Tensor:
    left = factor(direction, *how)
    result: torch.Tensor = left @ left.T
    return result


def test_the_three_projectors_of_a_diagonal_direction() -> None:
    for how, wanted in [(("scaled",), (1.8, 3.2)), (("exact",), (1, 1)), (("top", 1), (0, 1))]:
        torch.testing.assert_close(c(V, *how), torch.diag(torch.tensor(wanted).float()))


def test_a_direction_of_rank_one_and_the_shares_of_energy() -> None:
    torch.manual_seed(0)
    u, v = (torch.nn.functional.normalize(torch.randn(n), dim=0) for n in (5, 7))
    torch.testing.assert_close(c(3 * torch.outer(u, v), "scaled"), 3 * torch.outer(u, u))
    torch.testing.assert_close(c(3 * torch.outer(u, v), "exact"), torch.outer(u, u))
    for sizes, rank in [((3.0, 2.0, 1.0), 3), ((10.0, 1.0, 0.1), 1)]:
        assert factor(torch.diag(torch.tensor(sizes)), "top", None, 0.99).shape[1] == rank


def test_exact_is_the_identity_where_the_direction_has_full_row_rank_and_top_is_idempotent() -> (
    None
):
    torch.manual_seed(0)
    wide = torch.randn(48, 64)
    torch.testing.assert_close(c(wide, "exact"), torch.eye(48), atol=1e-5, rtol=0)
    top = c(wide, "top", 5)
    torch.testing.assert_close(top @ top, top, atol=1e-5, rtol=0)
    inside = top @ torch.randn(48, 64)
    torch.testing.assert_close(top @ inside, inside, atol=1e-5, rtol=0)
    scaled = c(wide, "scaled")
    torch.testing.assert_close(scaled, scaled.T)
    torch.testing.assert_close(c(3 * wide, "scaled"), 3 * scaled)
    assert float(scaled.trace()) == pytest.approx(float(wide.norm()), rel=1e-5)


def test_an_unaligned_model_of_other_shapes_is_refused_before_anything_is_changed(
    tmp_path: Path,
) -> None:
    small, large = (
        GPT2LMHeadModel(GPT2Config(n_embd=n, n_layer=1, n_head=2, vocab_size=11)) for n in (8, 12)
    )
    small.save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=r"transformer\.wte\.weight has the shape \(11, 8\), and in"
    ):
        Unaligned(str(tmp_path)).load_like(large)
