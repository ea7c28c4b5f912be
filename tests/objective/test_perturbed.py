"""Moving weights and taking them back: by hand, and bit for bit."""

from __future__ import annotations

import pytest
import torch

from ptst.errors import PtstError
from ptst.objective.perturbed import global_norm, perturbed


def tensors(*values: list[float], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=dtype) for value in values]


def test_all_tensors_are_moved_by_one_norm() -> None:
    params = tensors([0.0, 1.0], [2.0])
    with perturbed(params, tensors([3.0, 0.0], [4.0]), 2.0) as scale:
        moved = [p.clone() for p in params]
    assert scale == pytest.approx(0.4)
    assert global_norm([m - p for m, p in zip(moved, params, strict=True)]) == pytest.approx(2.0)
    torch.testing.assert_close(moved, tensors([1.2, 1.0], [3.6]))
    with perturbed(params, tensors([3.0, 0.0], [4.0]), -2.0):
        torch.testing.assert_close(params, tensors([-1.2, 1.0], [0.4]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_come_back_bit_for_bit_whatever_happens_within(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    params = [torch.randn(50, generator=draw).to(dtype).requires_grad_() for _ in range(3)]
    before = [p.detach().clone() for p in params]
    direction = [torch.randn(50, generator=draw).to(dtype) for _ in range(3)]
    with pytest.raises(KeyboardInterrupt), perturbed(params, direction, 0.3):
        assert not any(torch.equal(p, b) for p, b in zip(params, before, strict=True))
        raise KeyboardInterrupt
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    assert all(p.is_leaf and p.requires_grad for p in params)


def test_the_norm_is_summed_in_float32() -> None:
    ones = [torch.ones(2**10, dtype=torch.bfloat16) for _ in range(4)]
    assert global_norm(ones) == pytest.approx(64.0)
    large = [torch.full((4,), 1e4, dtype=torch.float16)]  # its square is beyond float16
    assert global_norm(large) == pytest.approx(2e4)


@pytest.mark.parametrize(
    "value, message",
    [(0.0, "is 0, so that it has no direction"), (float("nan"), "norm nan"), (1e39, "norm inf")],
)
def test_a_direction_of_no_length_is_refused(value: float, message: str) -> None:
    params = tensors([1.0])
    with pytest.raises(PtstError, match=message), perturbed(params, tensors([value]), 1.0):
        pass
    assert params[0] == 1.0
