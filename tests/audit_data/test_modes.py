"""Two clouds are two modes; the halves of a broad one are not."""

from __future__ import annotations

import numpy as np
import pytest

from ptst.audit_data.modes import second_mode


def test_two_clouds_are_told_apart() -> None:
    split = second_mode([1.0] * 3 + [1.1] * 4 + [1.2] * 3 + [9.0] * 5)
    assert split is not None
    assert (split.lower, split.upper) == (10, 5)
    assert split.cut == pytest.approx((1.2 + 9.0) / 2)
    # means 1.1 and 9.0; variances 0.006 and 0, and (range / 100)^2 = 0.0064
    assert split.gap == pytest.approx(7.9 / (0.003 + 0.0064) ** 0.5)


def test_a_small_second_mode_is_found() -> None:
    draw = np.random.default_rng(0)
    split = second_mode([*draw.normal(1, 0.2, 380), *draw.normal(4, 0.4, 20)])
    assert split is not None and split.upper == 20 and split.gap > 3


@pytest.mark.parametrize("seed", range(5))
def test_one_cloud_has_no_second_mode(seed: int) -> None:
    draw = np.random.default_rng(seed)
    for values in (
        draw.normal(1, 0.3, 400),
        draw.uniform(0, 1, 400),
        draw.exponential(1, 400),
        np.ones(50),
        np.ones(3),
    ):
        assert second_mode(values.tolist()) is None


def test_less_than_five_values_are_no_mode() -> None:
    assert second_mode([1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 9.0, 9.1, 9.2, 9.3]) is None
