"""`ptst -m ... hydra/launcher=slurm` and `ptst cancel`: what people type, and what they are
told."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence

from ptst.multirun.launch import frozen_grid, report
from ptst.progress import say
from ptst.slurm import cluster, ledger
from ptst.slurm.cluster import ClusterFull, SlurmError
from ptst.slurm.request import check_requests
from ptst.slurm.settings import SlurmSettings
from ptst.slurm.submit import submit
from ptst.store import Store
from ptst.sweep.grid import Grid
from ptst.sweep.run import is_done


def submit_sweep(arguments: Sequence[str], settings: SlurmSettings) -> int:
    """Expand and freeze a grid, submit what is missing of it, and return.

    Returns:
        How many cells will not be made by what is queued now: they cannot be run, or the cluster is
        full.

    Raises:
        PtstError: something is wrong with the sweep or with what is asked of the cluster; or SLURM
            does not answer, and says what was submitted until then.
    """
    started = time.monotonic()
    grid, store = frozen_grid(arguments)
    left = [cell for cell in grid.distinct if not is_done(cell, store)]
    impossible = [cell for cell in left if cell.problem]
    for cell in impossible:
        sys.stderr.write(f"not submitted: {cell.label}: {cell.problem}\n")
    if len(left) == len(impossible):
        if all("judge" in cell.config.stages for cell in grid.cells):
            report(grid, store)
        say(f"{grid.name}: nothing is left to submit; store: {grid.store}")
        return len(impossible)
    check_requests(grid, settings)
    say(f"{grid.name}: {len(grid.distinct)} cells, {len(left)} to be made")
    done = submit(grid, store, settings)
    for entry in done.new:
        stages = " and ".join(entry.stages)
        say(f"  job {entry.job}: {stages}, {len(entry.tasks)} task{'s' * (len(entry.tasks) != 1)}")
    if done.queued_already:
        say(f"  {done.queued_already} tasks of earlier submissions are still in the queue")
    if done.left is not None and not isinstance(done.left, ClusterFull):
        if not done.new:
            raise done.left
        raise SlurmError(
            f"not all was submitted: {done.left}\n"
            "The jobs above are queued. When what went wrong is mended, the same command submits the rest."
        )
    words = shlex.join(
        a for a in arguments if not a.startswith(("hydra/launcher=", "hydra.launcher."))
    )
    say(
        f"submitted in {time.monotonic() - started:.0f} s; report and cancel take the same words as"
    )
    say(f"  ptst status {words}")
    if done.left is None:
        return len(impossible)
    sys.stderr.write(
        f"ptst: not all was submitted, the cluster takes no more for now: {done.left}\n"
        "Run the same command again later: it submits the rest.\n"
    )
    return len(left)


def cancel(grid: Grid, store: Store) -> None:
    """Cancel the jobs that this user submitted for a grid's cells, and no others, and say which.

    A job of this sweep stays if it also serves cells that are not in `grid`, or if a job that does
    waits for it.
    """
    with ledger.locked(store):
        entries = ledger.read_all(store)
        queue = ledger.ask(entries)
        entries = ledger.settle(store, entries, queue)
        active = ledger.active(store, queue, ledger.hidden(entries, queue))
        cells = {cell.keys.cell for cell in grid.distinct}
        ours: set[str] = set()
        needed: set[str] = set()
        shared = 0
        foreign: Counter[str] = Counter()
        for entry in entries:
            for index, task in entry.tasks.items():
                id_ = entry.id(index)
                if (id_, entry.name) not in active:
                    continue
                if entry.sweep == grid.name and cells.issuperset(task.cells):
                    if not entry.foreign:
                        ours.add(id_)
                        continue
                    foreign[entry.user_name] += 1
                else:
                    shared += entry.sweep == grid.name and not cells.isdisjoint(task.cells)
                needed |= set(entry.waits_for(index))
        kept = ours & needed
        cluster.cancel(sorted(ours - needed))
    say(f"{grid.name}: {len(ours - needed)} jobs cancelled")
    if kept:
        say(f"  {len(kept)} go on, because jobs of other sweeps or cells wait for them")
    for user, count in foreign.items():
        say(f"  {count} go on, because {user} submitted them, who alone can cancel them")
    if shared:
        say(f"  {shared} go on, because cells share them that these overrides leave out")
