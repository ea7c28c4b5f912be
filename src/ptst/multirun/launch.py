"""`ptst -m`: expand, freeze, launch, and say at the end what came of it."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ptst.cell import check_cell, damage_of
from ptst.config.compose import check_hydra, register
from ptst.config.explain import explained
from ptst.errors import Busy
from ptst.paths import CONF
from ptst.progress import say
from ptst.status.live import live
from ptst.status.states import states_of
from ptst.store import Readable, Store
from ptst.sweep.axes import is_aimed, spelled
from ptst.sweep.gpus import take_gpus, visible_gpus
from ptst.sweep.grid import Grid, expand
from ptst.sweep.run import devices_of, failures, freeze, is_done, jobs_left, numbers_of, run_job

Job = list[int]
"""Line numbers, in the frozen grid, of the cells of one model."""
Launch = Callable[[Path, Sequence[Job], bool], list[Job]]
"""launch(file of the frozen grid, jobs, whether a job waits for another process that fine-tunes its
model) -> the jobs that did not wait."""


def multirun(overrides: Sequence[str]) -> int:
    """Hydra's multirun with this project's sweeper and any launcher.

    Returns:
        How many cells are not done at the end.

    Raises:
        PtstError: something is wrong with the sweep; nothing has run.
    """
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    register()
    check_hydra(overrides)
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("ptst", create_config_search_path(str(CONF)))
    try:
        with explained():
            undone: int = hydra.multirun("config", task, _for_hydra(overrides))
    finally:
        GlobalHydra.instance().clear()
    return undone


def _for_hydra(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra composes them with: what is of one defence of an axis goes to the sweeper
    as it is, because the configuration that Hydra composes need not have that defence."""
    aimed = [word for word in overrides if is_aimed(word)]
    others = [word for word in overrides if not is_aimed(word)]
    return [*others, f"hydra.sweeper.aimed={spelled(aimed, 'aimed')}"] if aimed else others


def task(job: Any) -> bool:
    """What a launcher runs, perhaps in a process of its own: a job of the sweeper (`file`, `cells`,
    `wait`).

    Returns:
        Whether it was run, and not left to another process.
    """
    file, numbers = Path(job.file), numbers_of(job.cells)
    take_gpus(visible_gpus(), devices_of(file, numbers))
    try:
        run_job(file, numbers, wait=job.wait == "True")
    except Busy:
        return False
    return True


class FrozenLoader:
    """Stands where launchers compose a job's configuration: what was frozen is not composed
    again."""

    def load_sweep_config(self, master: Any, overrides: list[str]) -> Any:
        """The launcher's configuration, with the job's file and cells and nothing else."""
        from omegaconf import open_dict

        config = copy.deepcopy(master)
        with open_dict(config):
            for key in [key for key in config if key != "hydra"]:
                del config[key]
            for key, value in (override.split("=", 1) for override in overrides):
                config[key] = value
            config.hydra.overrides.task = list(overrides)
        return config


def sweep(arguments: Sequence[str], launch: Launch) -> int:
    """Expand and freeze a grid, launch what is left of it, and sum up.

    Returns:
        How many cells are not done at the end.
    """
    started = time.monotonic()
    grid, store = frozen_grid(arguments)
    jobs = jobs_left(grid, store)
    cells = len(grid.distinct)
    left = sum(map(len, jobs))
    damaged = sum(damage_of(cell.keys, store) is not None for cell in grid.distinct)
    tuned = {c.keys.finetune for c in grid.distinct if c.keys.finetune}
    say(
        f"{grid.name}: {cells} cells of {len(tuned)} fine-tunings, {cells - left - damaged} done, "
        f"{left} to run in {len(jobs)} jobs" + (f", {damaged} damaged" if damaged else ""),
    )
    if jobs:
        with live(grid, store):
            _launch_all(grid, store, jobs, launch)
    undone = list(failures(grid, store))
    for cell, reason, log in undone:
        where = f"\n    the whole error: {log}" if log else ""
        sys.stderr.write(f"not done: {cell.label}: {reason}{where}\n")
    if all("judge" in cell.config.stages for cell in grid.cells):
        report(grid, store)
    say(
        f"{grid.name}: {cells - len(undone)} of {cells} cells done, {len(undone)} not; "
        f"{time.monotonic() - started:.0f} s; store: {grid.store}",
    )
    return len(undone)


def frozen_grid(arguments: Sequence[str]) -> tuple[Grid, Store]:
    """Expand and check a grid, and freeze it in its store.

    Raises:
        PtstError: something is wrong with it; nothing was written.
    """
    grid = expand(arguments)
    for cell in grid.distinct:
        if not cell.problem:
            check_cell(cell.config)
    store = Store(Path(grid.store).expanduser())
    store.prepare()
    freeze(grid)
    return grid, store


def _launch_all(grid: Grid, store: Store, jobs: list[list[int]], launch: Launch) -> None:
    """Launch the jobs, and again those that a launcher took down with it, while that leads
    anywhere.

    A job whose model another process fine-tunes just now comes last: a sweep that is started three
    times fine-tunes three models at a time.

    One worker of joblib that is killed (for example out of memory) ends all of them. What was not
    begun then comes first, so that one deadly job does not keep the others from their turn.
    """

    def unmade() -> int:
        tuned = {c.keys.finetune for c in grid.distinct if c.keys.finetune}
        return sum(not is_done(cell, store) for cell in grid.distinct) + sum(
            not store.has("finetune", key) for key in tuned
        )

    def begun(job: list[int]) -> bool:
        made = grid.cells[job[0]].keys.artifacts
        return any(store.maker(a.stage, a.key) for a in made if a.made_by != "judge")

    stalls = 0
    while jobs and stalls < 2:
        before = unmade()
        try:
            busy = launch(grid.frozen, jobs, False)
            while busy:  # nothing else is left: wait for one, and look at the others again
                launch(grid.frozen, busy[:1], True)
                busy = launch(grid.frozen, busy[1:], False)
            return
        except Exception as error:
            sys.stderr.write(f"ptst: the launcher gave up: {type(error).__name__}: {error}\n")
        jobs = [
            [n for n in job if store.failure(grid.cells[n].keys.cell) is None]
            for job in jobs_left(grid, store)
        ]
        jobs = sorted([job for job in jobs if job], key=begun)
        stalls += unmade() == before
        if jobs and stalls < 2:
            say(f"{grid.name}: launching the {len(jobs)} jobs that are left")


def report(grid: Grid, store: Store) -> None:
    """Print the tables of a grid and write its report, whatever of it is done."""
    from rich.console import Console

    from ptst.report.results import cut_off_warnings, load_results
    from ptst.report.tables import show
    from ptst.report.write import write_report

    store = Readable(store.root, store.whole)
    results = load_results(grid, store, states_of(grid, store))
    page = (
        write_report(results, store) / "index.html"
    )  # before it is shown: `ptst report | head` ends there
    out = Console(highlight=False)
    show(results, out)
    for line in cut_off_warnings(results):
        out.print(line, markup=False, style="yellow", soft_wrap=True)
    out.print(f"report: {page}", markup=False, soft_wrap=True)
