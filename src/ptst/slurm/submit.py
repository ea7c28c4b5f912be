"""From a frozen grid to jobs in SLURM's queue: only what is neither in the store nor queued.

Fine-tunings go first, as job arrays. What tests a fine-tuning waits for that one alone: a task of
an array of tests has the index of its fine-tuning, and `aftercorr` joins the two. What needs
completions that another job is to make (judging in jobs of its own, or a second sweep with another
judge) waits for that job, however it ends, so that one failed cell does not stop the others from
being judged.

Everything can be killed at any moment: see ptst.slurm.ledger.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from ptst.errors import ConfigError
from ptst.progress import say
from ptst.slurm import cluster, ledger
from ptst.slurm.cluster import ClusterFull, SlurmError
from ptst.slurm.ledger import Item, Submission, Task
from ptst.slurm.request import indices_of, job_script, request, stages_of
from ptst.slurm.settings import Resources, SlurmSettings
from ptst.store import Store, write_atomic
from ptst.sweep.grid import Grid, GridCell
from ptst.sweep.run import is_done, reading

Sources = tuple[tuple[str, int], ...]
"""Tasks (job, index) that something waits for."""

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Submitted:
    """What a call of `submit` did: the arrays that it submitted, and what was queued already."""

    new: list[Submission]
    queued_already: int
    """Tasks of earlier submissions that are still to run, or running, and serve this grid."""
    left: SlurmError | None
    """Why not all was submitted: the cluster takes no more for now, or something else went
    wrong."""


def submit(grid: Grid, store: Store, settings: SlurmSettings) -> Submitted:
    """Submit what is missing.

    Raises:
        SlurmError: SLURM does not answer. If that, or a refusal, comes later, see `Submitted.left`.
        ConfigError: a cell needs a fine-tuning that nothing makes.
    """
    with ledger.locked(store) as lock:
        entries = ledger.read_all(store)
        queue = ledger.ask(entries)
        entries = ledger.settle(store, entries, queue)
        unseen = ledger.hidden(entries, queue)
        active = ledger.active(store, queue, unseen)
        plan = _Planner(grid, store, settings, lock, cluster.max_array_size())
        serving = {entry.name: plan.know(entry, active) for entry in entries}
        _tell_hidden([entry for entry in unseen if serving[entry.name]], serving, store)
        plan.check()
        left = None
        try:
            plan.finetune()
            plan.generate()
            if settings.judge_apart:
                plan.judge()
        except SlurmError as error:
            left = error
        return Submitted(plan.new, sum(serving.values()), left)


def _tell_hidden(entries: Sequence[Submission], tasks: Mapping[str, int], store: Store) -> None:
    for user in sorted({entry.user_name for entry in entries}):
        names = [entry.name for entry in entries if entry.user_name == user]
        say(
            f"{sum(tasks[name] for name in names)} tasks that {user} submitted may still be queued, and count as "
            f"queued: this cluster hides other users' jobs (PrivateData). If {user} says that they are over, remove "
            f"what was written down of them, in {ledger.folder(store)}: {' '.join(names)}"
        )


@dataclass
class _Planner:
    """Submits stage by stage, and knows which job makes what."""

    grid: Grid
    store: Store
    settings: SlurmSettings
    lock: int
    max_array_size: int
    made_by: dict[Item, tuple[str, int]] = field(default_factory=dict)
    """The active task (job, index) that an item will come from; of several the first, for which the
    others wait."""
    waits: dict[str, list[list[str]]] = field(default_factory=dict)
    """By stage with a limit (`parallel`): in each of so many lanes the jobs that the next one waits
    for."""
    new: list[Submission] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    """Tasks ("12_3") that will not make their fine-tuning any more: what waits for them will not
    run."""

    def __post_init__(self) -> None:
        self.numbers = {id(cell): number for number, cell in enumerate(self.grid.cells)}
        self.cells = [
            cell
            for cell in self.grid.distinct
            if not cell.problem and not is_done(cell, self.store)
        ]
        self.wanted = {item for cell in self.grid.distinct for item in _items_of(cell)}
        for stage in ("finetune", "generate", "judge"):
            if limit := self._resources(stage).parallel:
                self.waits[stage] = [[] for _ in range(limit)]

    def know(self, entry: Submission, active: set[tuple[str, str]]) -> int:
        """Take an earlier submission into account, of this sweep or another in the same store.

        Returns:
            How many of its tasks are still to run, or running, and serve this grid.
        """
        there = [
            index
            for index in entry.tasks
            if (entry.id(index), entry.name) in active
            and self.lost.isdisjoint(entry.waits_for(index))
        ]
        if "finetune" in entry.stages:
            for index, task in entry.tasks.items():
                made = index in there or self.store.has("finetune", str(task.finetune))
                (self.lost.discard if made else self.lost.add)(entry.id(index))
        for index in there:
            for item in entry.items(index):
                self.made_by.setdefault(item, (str(entry.job), index))
        if there and entry.sweep == self.grid.name and entry.stages[0] in self.waits:
            for lane in self.waits[entry.stages[0]]:
                lane.append(str(entry.job))
        return sum(not self.wanted.isdisjoint(entry.items(index)) for index in there)

    def check(self) -> None:
        """Refuse cells whose model nothing makes.

        Raises:
            ConfigError: naming the first.
        """
        for cell in self.cells:
            key, stages = cell.keys.finetune, cell.config.stages
            if (
                key
                and "finetune" not in stages
                and self._lacks_completions(cell)
                and not self.store.has("finetune", key)
                and ("finetune", key) not in self.made_by
            ):
                raise ConfigError(
                    f"{cell.label}: fine-tuning {key} is neither in {self.store.root} nor queued, and "
                    f"stages={stages} does not make it: add finetune to stages."
                )

    def finetune(self) -> None:
        """An array task for each fine-tuning."""
        models: dict[str, list[GridCell]] = {}
        for cell in self.cells:
            key = cell.keys.finetune
            if key and "finetune" in cell.config.stages and not self.store.has("finetune", key):
                models.setdefault(key, []).append(cell)
        missing = [cells for key, cells in models.items() if ("finetune", key) not in self.made_by]
        missing.sort(key=lambda cells: -reading(cells[0], self.store))
        for chunk in _chunks(missing, self.max_array_size):
            self._array("finetune", dict(enumerate(chunk)), ())

    def generate(self) -> None:
        """Completions, and unless judged apart their scores, with their fine-tuning or at once.

        A cell some of whose completions are queued waits for those, and makes the others then.
        """
        wanted = [cell for cell in self.cells if self._to_generate(cell)]
        at_once: dict[str, list[GridCell]] = {}
        joined: dict[str, dict[int, list[GridCell]]] = {}
        queued: dict[Sources, list[GridCell]] = {}
        for cell in wanted:
            if sources := self._completed_by(cell):
                queued.setdefault(sources, []).append(cell)
            elif self._lacks_completions(cell) and (source := self._finetuned_by(cell)):
                joined.setdefault(source[0], {}).setdefault(source[1], []).append(cell)
            else:
                at_once.setdefault(_sharing(cell, self.settings.cells_per_job), []).append(cell)
        size = self.settings.cells_per_job or len(wanted) or 1
        ready = [chunk for cells in at_once.values() for chunk in _chunks(cells, size)]
        for arrays in _chunks(ready, self.max_array_size):
            self._array("generate", dict(enumerate(arrays)), ())
        for job, by_index in joined.items():
            parts = {index: list(_chunks(cells, size)) for index, cells in by_index.items()}
            for number in range(max(map(len, parts.values()))):
                array = {index: own[number] for index, own in parts.items() if number < len(own)}
                self._array("generate", array, [f"aftercorr:{job}"])
        self._after_completions("generate", queued, size)

    def judge(self) -> None:
        """Scores, in jobs of their own."""
        tasks: dict[Sources, list[GridCell]] = {}
        for cell in self.cells:
            if "judge" in cell.config.stages and ("judge", cell.keys.cell) not in self.made_by:
                tasks.setdefault(self._completed_by(cell), []).append(cell)
        ready = list(_chunks(tasks.pop((), []), self.settings.cells_per_job or 50))
        for chunk in _chunks(ready, self.max_array_size):
            self._array("judge", dict(enumerate(chunk)), ())
        self._after_completions("judge", tasks, len(self.cells))

    def _after_completions(
        self, stage: str, tasks: Mapping[Sources, Sequence[GridCell]], size: int
    ) -> None:
        """Jobs of at most `size` cells that wait for the makers of their completions.

        They start however those end.
        """
        jobs = [
            (sources, part) for sources, cells in tasks.items() for part in _chunks(cells, size)
        ]
        for number, (sources, cells) in enumerate(jobs):
            after = [f"afterany:{job}_{index}" for job, index in sources]
            if tuned := self._finetuned_by(cells[0]):
                after.append(f"afterok:{tuned[0]}_{tuned[1]}")
            self._array(stage, {0: cells}, after, lane=number)

    def _to_generate(self, cell: GridCell) -> bool:
        if "judge" in cell.config.stages and not self.settings.judge_apart:
            return ("judge", cell.keys.cell) not in self.made_by
        return "generate" in cell.config.stages and any(
            ("generate", key) not in self.made_by for key in self._lacking(cell)
        )

    def _lacks_completions(self, cell: GridCell) -> bool:
        """Whether a cell is to make completions that are not there."""
        return "generate" in cell.config.stages and bool(self._lacking(cell))

    def _lacking(self, cell: GridCell) -> list[str]:
        """Keys of the cell's completions and analyses that are not there."""
        made = [own for own in cell.keys.artifacts if own.made_by == "generate"]
        return [own.key for own in made if not self.store.has(own.stage, own.key)]

    def _completed_by(self, cell: GridCell) -> Sources:
        """The tasks that are to make completions that a cell lacks."""
        lacking = [("generate", key) for key in self._lacking(cell)]
        return tuple(sorted({self.made_by[item] for item in lacking if item in self.made_by}))

    def _finetuned_by(self, cell: GridCell) -> tuple[str, int] | None:
        """The task that makes a cell's fine-tuning; None where it is there, or nothing makes it."""
        key = cell.keys.finetune
        if not key or self.store.has("finetune", key):
            return None
        return self.made_by.get(("finetune", key))

    def _array(
        self,
        stage: str,
        cells: Mapping[int, Sequence[GridCell]],
        after: Sequence[str],
        lane: int | None = None,
    ) -> None:
        """Submit one array: written down before, and after with its id."""
        entry = self._entry(stage, cells, after)
        lanes = self.waits.get(stage, [])
        chosen = lanes if lane is None else lanes[lane % len(lanes) :][:1] if lanes else []
        before = sorted({job for waiting in chosen for job in waiting})
        conditions = [*after, *([f"afterany:{':'.join(before)}"] if before else [])]
        script = ledger.folder(self.store) / entry.name / "job.sh"
        command = self._command(entry, stage, conditions, script)
        entry = replace(entry, command=("sbatch", *command))
        submission = script.with_name("submission.json")
        write_atomic(script, job_script(self.settings, stage, submission))
        ledger.write(self.store, entry)
        submitted = self._submit(entry, command)
        if submitted is None:  # a part of it may fit
            indices = sorted(cells)
            for half in (indices[: len(indices) // 2], indices[len(indices) // 2 :]):
                self._array(stage, {index: cells[index] for index in half}, after, lane)
            return
        ledger.write(self.store, submitted)
        for waiting in chosen:
            waiting[:] = [str(submitted.job)]
        for index in submitted.tasks:
            for item in submitted.items(index):
                self.made_by.setdefault(item, (str(submitted.job), index))
        self.new.append(submitted)

    def _entry(
        self, stage: str, cells: Mapping[int, Sequence[GridCell]], after: Sequence[str]
    ) -> Submission:
        """What is written down of an array, but for its command and its id."""
        # ASCII alone, because squeue pads its columns to bytes
        sweep = re.sub(r"[^\w.-]", "-", self.grid.name, flags=re.ASCII)[:80]
        tasks = {
            index: Task(
                tuple(cell.keys.cell for cell in own),
                tuple(self.numbers[id(cell)] for cell in own),
                own[0].keys.finetune,
                _completions(own) if stage == "generate" else (),
            )
            for index, own in cells.items()
        }
        return Submission(
            f"ptst-{sweep}-{stage}-{uuid4().hex[:10]}",
            self.grid.name,
            stages_of(stage, self.settings, self.grid),
            str(self.grid.frozen.resolve()),
            tasks,
            tuple(condition.split(":", 1)[1] for condition in after),
            submitted=time.time(),
        )

    def _command(
        self, entry: Submission, stage: str, conditions: Sequence[str], script: Path
    ) -> list[str]:
        """The arguments of sbatch for an array."""
        indices = indices_of(entry.tasks, self._resources(stage).parallel)
        waiting = [f"--dependency={','.join(conditions)}", "--kill-on-invalid-dep=yes"]
        logs = str(script.parent.resolve()).replace("%", "%%")
        return [
            f"--job-name={entry.name}",
            f"--array={indices}",
            *(waiting if conditions else []),
            f"--output={logs}/%a.log",
            *request(self.grid, self.settings, stage),
            str(script.resolve()),
        ]

    def _submit(self, entry: Submission, command: Sequence[str]) -> Submission | None:
        """The array with its id; None where the queue takes no array of so many tasks.

        Raises:
            SlurmError: the queue does not take a single task, or there is no such job.
        """
        full = None
        try:
            job = cluster.submit(command, hold=self.lock)
        except ClusterFull as error:
            job, full = None, error
        if job is not None:
            return replace(entry, job=job)
        if settled := ledger.settle(self.store, [entry], cluster.queue()):
            return settled[0]  # taken, under an id that sbatch did not say
        if full is None:
            raise SlurmError(f"sbatch says that all is well, but there is no job {entry.name}.")
        if len(entry.tasks) == 1:
            raise full
        return None

    def _resources(self, stage: str) -> Resources:
        resources: Resources = getattr(self.settings, stage)
        return resources


def _items_of(cell: GridCell) -> list[Item]:
    """What a cell is made of, whichever of its stages it is to walk."""
    made = [own.key for own in cell.keys.artifacts if own.made_by == "generate"]
    generations = [("generate", key) for key in made]
    return [("finetune", str(cell.keys.finetune)), *generations, ("judge", cell.keys.cell)]


def _completions(cells: Sequence[GridCell]) -> tuple[str, ...]:
    """Keys of the completions and analyses that a job of these cells makes."""
    generating = [cell for cell in cells if "generate" in cell.config.stages]
    made = (own for cell in generating for own in cell.keys.artifacts if own.made_by == "generate")
    return tuple(dict.fromkeys(own.key for own in made))


def _sharing(cell: GridCell, cells_per_job: int | None) -> str:
    """What cells share that may share a job: their model, or its base and how it is loaded."""
    if cells_per_job is None or cell.config.finetune.method == "full":
        return cell.keys.model
    model = cell.config.model
    return f"{model.path} {model.revision} {model.dtype} {cell.config.finetune.method == 'qlora'}"


def _chunks(items: Sequence[Thing], size: int) -> list[Sequence[Thing]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
