"""What conf/estimates.yaml may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptst import estimates
from ptst.errors import ConfigError
from ptst.estimates import ESTIMATES, read_estimates


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "assumed_gpu: A100-80GB",
            "assumed_gpu: Z1",
            "assumed_gpu=Z1 is not among gpus: A100-80GB, ",
        ),
        ("tflops: 165", "tflop: 165", r"estimates\.yaml: Key 'tflop' not in 'Gpu'"),
        ("tflops: 165", "tflops: much", r"estimates\.yaml: Value 'much'"),
    ],
)
def test_a_mistake_in_the_estimates_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    text = ESTIMATES.read_text(encoding="utf-8")
    assert text.count(old) == 1
    own = tmp_path / "estimates.yaml"
    own.write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(estimates, "ESTIMATES", own)
    with pytest.raises(ConfigError, match=message):
        read_estimates()
