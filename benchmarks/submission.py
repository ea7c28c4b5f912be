"""Submitting a sweep of 1,005 cells to SLURM: seconds, also over those of expanding it, and calls
of sbatch.

    python benchmarks/submission.py

Starts a cluster of its own, none of whose nodes takes a job (tests/slurm_cluster.py; needs Debian's
slurm-wlm and munge). Prints JSON; nothing here is a test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SWEEP = ["+sweeps=table1", "seed=range(0,40)"]


def main() -> None:
    """Measure and print."""
    sys.path.insert(0, str(ROOT / "tests"))
    from slurm_cluster import Cluster, installed

    if not installed():
        sys.exit("benchmarks/submission.py: SLURM is not installed (Debian: slurm-wlm, munge)")
    from ptst.provenance import provenance

    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder) / "cluster", up=False)
        try:
            cluster.start()
            environment = os.environ | cluster.environment

            def seconds(*words: str, store: str = "store") -> float:
                command = [sys.executable, "-m", "ptst.cli", *words, *SWEEP, f"paths.store={store}"]
                started = time.monotonic()
                subprocess.run(
                    command, cwd=folder, env=environment, check=True, capture_output=True
                )
                return round(time.monotonic() - started, 2)

            expanding = seconds("status", "output=json", store="other")
            first = seconds("-m", "hydra/launcher=slurm")
            results = {
                "cells": 1005,
                "tasks": len(cluster.states()),
                "sbatch_calls": len(list(Path(folder).glob("store/slurm/*/submission.json"))),
                "expanding_seconds": expanding,
                "submitting_seconds": first,
                "submitting_over_expanding": round(first / expanding, 2),
                "again_seconds": seconds("-m", "hydra/launcher=slurm"),
                "status_seconds": seconds("status", "output=json"),
                "cancel_seconds": seconds("cancel"),
            }
        finally:
            cluster.stop()
    print(json.dumps({**results, "provenance": provenance(0.0)}, indent=2))


if __name__ == "__main__":
    main()
