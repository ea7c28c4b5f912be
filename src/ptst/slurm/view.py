"""SLURM's view of a grid's cells: which job is to make what comes next, and how that job is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ptst.cell import is_done
from ptst.progress import say
from ptst.slurm import cluster, ledger
from ptst.slurm.cluster import Job, SlurmError
from ptst.slurm.ledger import Submission
from ptst.store import Store
from ptst.sweep.grid import Grid, GridCell

FORGOTTEN = "FORGOTTEN"
"""In a state's place: the job is over, and nobody remembers how it ended."""

HIDDEN = "HIDDEN"
"""In a state's place: another user's job, which the cluster does not show to this one."""


@dataclass(frozen=True)
class CellJob:
    """The job, or array task, that was last submitted for what a cell needs next.

    Attributes:
        id: as SLURM spells it, "12_3".
        stage: what it is to make: finetune, generate or judge.
        state: SLURM's word (PENDING, RUNNING, FAILED, ...), FORGOTTEN, or HIDDEN.
        reason: why it waits, SLURM's word (Priority, Resources, Dependency, ...); may be empty.
        node: where it runs, or ran; may be empty.
        restarts: how often it was queued again.
        submitted: seconds since the epoch.
        user: who submitted it; empty where that is the one who asks.
    """

    id: str
    stage: str
    state: str
    reason: str
    node: str
    restarts: int
    log: str
    submitted: float
    user: str = ""

    @property
    def active(self) -> bool:
        """Whether it is queued or runs, or may again."""
        return self.state not in {*cluster.ENDED, FORGOTTEN}

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        if self.state == FORGOTTEN:
            return f"its job {self.id} is over and left no result"
        return f"its job {self.id} ended {self.state}" + (f" on {self.node}" if self.node else "")


def jobs_of(grid: Grid, store: Store) -> dict[str, CellJob]:
    """By cell key, for those cells that are not finished and for which something was submitted."""
    entries = ledger.read_all(store)
    if not entries:
        return {}
    try:
        queue = ledger.ask(entries)
        hidden = {entry.name for entry in ledger.hidden(entries, queue)}
    except SlurmError as error:
        say(f"SLURM cannot be asked, what follows is from the store alone: {error}")
        return {}
    names = {job.name: job.id.split("_")[0] for job in queue}
    latest: dict[tuple[str, str], tuple[Submission, int]] = {}
    for entry in entries:
        if entry.job is None and entry.name not in names:
            continue  # sbatch did not come through; the next submission tidies up
        for index, task in entry.tasks.items():
            for stage in entry.stages:
                keys = (*task.cells, *task.generate)  # completions may be queued for another cell
                for key in [str(task.finetune)] if stage == "finetune" else keys:
                    latest[stage, key] = (entry, index)
    wanted: dict[str, tuple[str, Submission, int]] = {}
    for cell in grid.distinct:
        item = next((item for item in _next_items(cell, store) if item in latest), None)
        if item is not None:
            wanted[cell.keys.cell] = (item[0], *latest[item])

    def id_of(entry: Submission, index: int) -> str:
        return f"{entry.job or names[entry.name]}_{index}"

    known = {(job.id, job.name): job for job in queue}
    asked = {(id_of(entry, index), entry.name) for _, entry, index in wanted.values()}
    forgotten = cluster.accounting(id_ for id_, _ in asked - known.keys())
    known |= {(job.id, job.name): job for job in forgotten}
    found: dict[str, CellJob] = {}
    for cell_key, (stage, entry, index) in wanted.items():
        id_ = id_of(entry, index)
        unknown = HIDDEN if entry.name in hidden else FORGOTTEN
        job = known.get((id_, entry.name), Job(id_, entry.name, unknown, "", "", 0))
        if job.state == FORGOTTEN and not entry.log(store, index).exists():
            job = replace(job, state="CANCELLED")  # it never ran; SLURM forgets such tasks at once
        reason = "" if job.reason == "None" else job.reason
        log = str(entry.log(store, index))
        user = entry.user_name if entry.foreign else ""
        found[cell_key] = CellJob(
            id_, stage, job.state, reason, job.node, job.restarts, log, entry.submitted, user
        )
    return found


def _next_items(cell: GridCell, store: Store) -> list[tuple[str, str]]:
    """What of a cell's stages comes next, as its own job or, after that, another cell's has it."""
    keys = cell.keys
    if is_done(keys, cell.config.stages, store):
        return []
    if keys.finetune and not store.has("finetune", keys.finetune):
        return [("finetune", keys.finetune)]
    made = [own for own in keys.artifacts if own.made_by == "generate"]
    if lacking := [own.key for own in made if not store.has(own.stage, own.key)]:
        return [("generate", key) for key in (keys.cell, *lacking)]
    return [("judge", keys.cell)]
