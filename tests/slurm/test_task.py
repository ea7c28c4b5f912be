"""A job's task by itself, without a cluster: what its exit status says to what waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conftest import TINY, outside
from warm import Command

from ptst.slurm.ledger import Submission, Task, folder, write
from ptst.store import Store
from ptst.sweep.grid import Grid, expand
from ptst.sweep.run import freeze


def task(grid: Grid, stages: Sequence[str]) -> tuple[int, str]:
    """Run the task that SLURM would, of all cells of a grid.

    Returns:
        How it ended, and what it said.
    """
    freeze(grid)
    store = Store(Path(grid.store))
    cells = tuple(cell.keys.cell for cell in grid.cells)
    tasks = {0: Task(cells, tuple(range(len(cells))), grid.cells[0].keys.finetune)}
    write(store, Submission("job", grid.name, tuple(stages), str(grid.frozen), tasks, ()))
    job = {"SLURM_ARRAY_JOB_ID": "1", "PTST_SIGNAL_SECONDS": "60", "COLUMNS": "200"}
    words = (str(folder(store) / "job/submission.json"), "0")
    running = Command(*words, environment=outside() | job, module="ptst.slurm.task")
    _, said = running.communicate(timeout=300)
    return running.wait(), said


def test_a_job_that_fine_tunes_fails_with_its_fine_tuning_and_not_with_a_cell(
    tmp_path: Path,
) -> None:
    """What waits for it tests the other cells, too."""
    sweep = [*TINY, "tracking=none", f"paths.store={tmp_path}/store"]
    sweep += ["evaluation.hazards.unit=null,nowhere"]
    grid = expand(sweep)
    good, bad = grid.cells
    store = Store(tmp_path / "store")
    code, said = task(grid, ["finetune"])
    assert code == 0, said
    assert "1 of 2 cells without failure" in said
    assert store.has("finetune", str(good.keys.finetune))
    assert store.failure(good.keys.cell) is None
    failure = store.failure(bad.keys.cell)
    assert failure is not None and "no column 'nowhere'" in failure.reason
    assert task(grid, ["generate", "judge"])[0] == 1
    assert store.has("cell", good.keys.cell)
    diverging = expand([*sweep, "finetune.learning_rate=1e30"])
    code, said = task(diverging, ["finetune"])
    assert (code, "diverged" in said) == (1, True)
