"""What SLURM is asked, and what is made of its answers, on clusters as sites set them up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ptst.slurm import cluster as asked
from ptst.slurm.cluster import ClusterFull, SlurmError


def test_a_limit_that_slurm_does_not_name_is_not_taken_for_a_full_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before version 20, SLURM has one sentence for all limits, and no more."""
    policy = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\necho "sbatch: error: {policy}" >&2; exit 1\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SlurmError, match="SLURM does not say which limit; `sacctmgr") as refused:
        asked.submit([])
    assert not isinstance(refused.value, ClusterFull)
