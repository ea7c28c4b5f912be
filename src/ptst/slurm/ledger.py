"""What was submitted, and as which jobs: one folder per call of sbatch, in <store>/slurm/<job
name>/.

`submission.json` is written before sbatch is called, without the job's id, and again with it. The
job name is of one submission only, so whoever finds an entry without an id finds its job by name,
or knows that there is none.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ptst.progress import say
from ptst.slurm import cluster
from ptst.slurm.cluster import Job
from ptst.store import Store, read_json, write_json
from ptst.store import locked as store_locked

Item = tuple[str, str]
"""What a job is for: ("finetune" or "generate", the artifact's key) or ("judge", the cell's
key)."""


@dataclass(frozen=True)
class Task:
    """What one task of an array runs: some cells, by their keys and by their lines in the frozen
    grid."""

    cells: tuple[str, ...]
    numbers: tuple[int, ...]
    finetune: str | None
    """Key of the fine-tuning that it makes, or that all its cells test."""
    generate: tuple[str, ...] = ()
    """Keys of the completions that it makes, where they are not there by then."""


@dataclass(frozen=True)
class Submission:
    """A job array: `tasks` by their index. `job` is None while it is not known whether sbatch came
    through."""

    name: str
    sweep: str
    stages: tuple[str, ...]
    frozen: str
    tasks: dict[int, Task]
    after: tuple[str, ...]
    """What it waits for: tasks ("12_3"), or a job each of whose tasks the one of the same index
    waits for."""
    command: tuple[str, ...] = ()
    submitted: float = 0.0
    """Seconds since the epoch."""
    job: str | None = None
    user: int = field(default_factory=os.getuid)
    """Id of the user whose jobs these are."""

    @property
    def foreign(self) -> bool:
        """Whether these are another user's jobs."""
        return self.user != os.getuid()

    @property
    def user_name(self) -> str:
        """What that user is called; the id where nobody is called so any more."""
        try:
            return pwd.getpwuid(self.user).pw_name
        except KeyError:
            return str(self.user)

    def items(self, index: int) -> list[Item]:
        """What a task is for."""
        task = self.tasks[index]
        keys = {"finetune": (str(task.finetune),), "generate": task.generate, "judge": task.cells}
        return [(stage, key) for stage in self.stages for key in keys[stage]]

    def id(self, index: int) -> str:
        """A task's id as SLURM spells it: "12_3"."""
        return f"{self.job}_{index}"

    def waits_for(self, index: int) -> list[str]:
        """The tasks whose end a task waits for: those of a whole array by its own index."""
        return [after if "_" in after else f"{after}_{index}" for after in self.after]

    def log(self, store: Store, index: int) -> Path:
        """Where a task writes what it says."""
        return folder(store) / self.name / f"{index}.log"


def folder(store: Store) -> Path:
    """Where a store keeps its submissions."""
    return store.root / "slurm"


def write(store: Store, submission: Submission) -> None:
    """Write an entry, complete or not at all."""
    write_json(folder(store) / submission.name / "submission.json", asdict(submission))


def read(file: Path) -> Submission:
    """Read an entry."""
    plain = read_json(file)
    plain["tasks"] = {
        int(index): Task(
            tuple(task["cells"]),
            tuple(task["numbers"]),
            task["finetune"],
            tuple(task.get("generate", ())),  # older entries have none
        )
        for index, task in plain["tasks"].items()
    }
    for key in ("stages", "after", "command"):
        plain[key] = tuple(plain[key])
    plain.setdefault("user", file.stat().st_uid)  # older entries do not say
    return Submission(**plain)


def read_all(store: Store) -> list[Submission]:
    """All entries, the oldest first."""
    found = []
    for file in folder(store).glob("*/submission.json"):
        with suppress(FileNotFoundError):  # a process that submits has just tidied it up
            found.append(read(file))
    return sorted(found, key=lambda entry: (entry.submitted, entry.name))


def settle(store: Store, entries: list[Submission], queue: list[Job]) -> list[Submission]:
    """Give entries that lack it their job's id, by its name; drop those whose job was never
    submitted.

    Other users' entries stay as they are: theirs may be jobs that this user does not see.
    """
    ids = {job.name: job.id.split("_")[0] for job in queue}
    settled = []
    for entry in entries:
        if entry.job is None and entry.name in ids:
            entry = replace(entry, job=ids[entry.name])
            if not entry.foreign:
                write(store, entry)
        if entry.job is not None:
            settled.append(entry)
        elif not entry.foreign:
            shutil.rmtree(folder(store) / entry.name)
    return settled


def ask(entries: list[Submission]) -> list[Job]:
    """The jobs of all users who submitted something, as far as this user sees them."""
    return cluster.queue(entry.user for entry in entries)


def hidden(entries: list[Submission], queue: list[Job]) -> list[Submission]:
    """Entries of other users none of whose jobs this user sees, on a cluster that hides them."""
    seen = {job.name for job in queue}
    unseen = [entry for entry in entries if entry.foreign and entry.job and entry.name not in seen]
    return unseen if unseen and cluster.hides_jobs() else []


def active(store: Store, queue: list[Job], unseen: list[Submission]) -> set[tuple[str, str]]:
    """(id, name) of the tasks that are queued or run. Ids alone begin again when a cluster is set
    up anew.

    Args:
        unseen: hidden entries. Their tasks count until what they are for is there: only their user
            can tell that they are over.
    """

    def is_there(stage: str, key: str) -> bool:
        return store.has("cell" if stage == "judge" else stage, key)

    return {(job.id, job.name) for job in queue if job.active} | {
        (entry.id(index), entry.name)
        for entry in unseen
        for index in entry.tasks
        if not all(is_there(stage, key) for stage, key in entry.items(index))
    }


@contextmanager
def locked(store: Store) -> Iterator[int]:
    """One process at a time submits to a store.

    Yields:
        The lock's file descriptor. A process that inherits it holds the lock, too, for as long as
        it lives.
    """
    told: list[str] = []

    def wait() -> None:
        if not told:
            told.append("another process submits to this store; waiting for it")
            say(told[0])

    with store_locked(folder(store) / "lock", wait) as descriptor:
        yield descriptor
