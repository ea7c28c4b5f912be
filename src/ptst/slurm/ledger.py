"""What was submitted, and as which jobs: one folder per call of sbatch, in <store>/slurm/<job name>/.

`submission.json` is written before sbatch is called, without the job's id, and again with it. The job
name is of one submission only, so whoever finds an entry without an id finds its job by name, or knows that
there is none.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ptst.progress import say
from ptst.slurm.cluster import Job
from ptst.store import Store, read_json, write_json


@dataclass(frozen=True)
class Task:
    """What one task of an array runs: some cells, by their keys and by their lines in the frozen grid."""

    cells: tuple[str, ...]
    numbers: tuple[int, ...]
    finetune: str | None
    """Key of the fine-tuning that it makes, or that all its cells test."""
    generate: tuple[str, ...] = ()
    """Keys of the completions that it makes, where they are not there by then."""


@dataclass(frozen=True)
class Submission:
    """A job array: `tasks` by their index. `job` is None while it is not known whether sbatch came through."""

    name: str
    sweep: str
    stages: tuple[str, ...]
    frozen: str
    tasks: dict[int, Task]
    after: tuple[str, ...]
    """What it waits for: tasks ("12_3"), or a job each of whose tasks the one of the same index waits for."""
    command: tuple[str, ...] = ()
    submitted: float = 0.0
    """Seconds since the epoch."""
    job: str | None = None

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
    return Submission(**plain)


def read_all(store: Store) -> list[Submission]:
    """All entries, the oldest first."""
    found = []
    for file in folder(store).glob("*/submission.json"):
        with suppress(FileNotFoundError):  # a process that submits has just tidied it up
            found.append(read(file))
    return sorted(found, key=lambda entry: (entry.submitted, entry.name))


def settle(store: Store, entries: list[Submission], queue: list[Job]) -> list[Submission]:
    """Give entries that lack it their job's id, by its name; drop those whose job was never submitted."""
    ids = {job.name: job.id.split("_")[0] for job in queue}
    settled = []
    for entry in entries:
        if entry.job is None and entry.name in ids:
            entry = replace(entry, job=ids[entry.name])
            write(store, entry)
        if entry.job is None:
            shutil.rmtree(folder(store) / entry.name)
        else:
            settled.append(entry)
    return settled


@contextmanager
def locked(store: Store) -> Iterator[int]:
    """One process at a time submits to a store.

    Yields:
        The lock's file descriptor. A process that inherits it holds the lock, too, for as long as it lives.
    """
    import fcntl

    path = folder(store) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process submits to this store; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
