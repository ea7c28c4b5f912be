"""What the tests share: composed configurations, shrunk to seconds, in folders of their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ptst.config import ROOT, Config, compose

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that asks a hub should fail, not wait

REAL_DATA = ROOT.parent / "shared" / "data"
"""Public data sets as their authors publish them, where a developer keeps them beside the checkout."""


@pytest.fixture
def real_data() -> Path:
    """The folder of real data; the test is skipped where there is none."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data sets in {REAL_DATA}")
    return REAL_DATA


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., Config]:
    """compose(*overrides) with store and reports in the test's own folder, and no W&B."""

    def make(*overrides: str) -> Config:
        own = [f"paths.store={tmp_path}/store", f"paths.reports={tmp_path}/reports"]
        return compose([*own, "tracking=none", *overrides])

    return make


@pytest.fixture
def own_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ that a test may change, in place of the real one."""
    import ptst.cli
    import ptst.config
    import ptst.sweep.command
    import ptst.sweep.grid

    copy = tmp_path / "conf"
    shutil.copytree(ptst.config.CONF, copy)
    for module in (ptst.config, ptst.cli, ptst.sweep.command, ptst.sweep.grid):
        monkeypatch.setattr(module, "CONF", copy)
    return copy


TINY = (
    "dataset.n=24",
    "finetune.epochs=1",
    "finetune.max_steps=3",
    "finetune.batch_size=8",
    "finetune.save_steps=1",
    "evaluation=[hazards]",
    "task.gsm8k.queries.n=6",
    "evaluation.hazards.queries.n=10",
    "task.gsm8k.decoding.max_new_tokens=8",
    "evaluation.hazards.decoding.max_new_tokens=8",
    "engine.batch_size=4",
)
"""Overrides that make a whole cell run in a few seconds."""
