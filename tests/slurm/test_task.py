"""A job's task by itself, without a cluster: what its exit status says to what waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from conftest import TINY

from ptst.slurm.ledger import Submission, Task, folder, write
from ptst.store import Store
from ptst.sweep.grid import Grid, expand
from ptst.sweep.run import freeze


def task(grid: Grid, stages: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the task that SLURM would, of all cells of a grid."""
    freeze(grid)
    store = Store(Path(grid.store))
    cells = tuple(cell.keys.cell for cell in grid.cells)
    tasks = {0: Task(cells, tuple(range(len(cells))), grid.cells[0].keys.finetune)}
    write(store, Submission("job", grid.name, tuple(stages), str(grid.frozen), tasks, ()))
    return subprocess.run(
        [sys.executable, "-m", "ptst.slurm.task", str(folder(store) / "job/submission.json"), "0"],
        env=os.environ | {"SLURM_ARRAY_JOB_ID": "1", "PTST_SIGNAL_SECONDS": "60"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_job_that_fine_tunes_fails_with_its_fine_tuning_and_not_with_a_cell(
    tmp_path: Path,
) -> None:
    """What waits for it tests the other cells, too."""
    sweep = [*TINY, "tracking=none", f"paths.store={tmp_path}/store"]
    sweep += ["evaluation.hazards.unit=null,nowhere"]
    grid = expand(sweep)
    good, bad = grid.cells
    store = Store(tmp_path / "store")
    done = task(grid, ["finetune"])
    assert done.returncode == 0, done.stderr
    assert "1 of 2 cells without failure" in done.stderr
    assert store.has("finetune", str(good.keys.finetune))
    assert store.failure(good.keys.cell) is None
    failure = store.failure(bad.keys.cell)
    assert failure is not None and "no column 'nowhere'" in failure.reason
    assert task(grid, ["generate", "judge"]).returncode == 1
    assert store.has("cell", good.keys.cell)
    diverging = expand([*sweep, "finetune.learning_rate=1e30"])
    done = task(diverging, ["finetune"])
    assert (done.returncode, "diverged" in done.stderr) == (1, True)
