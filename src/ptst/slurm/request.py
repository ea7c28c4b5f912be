"""What a stage's jobs ask of SLURM, spelled as sbatch takes it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from ptst.errors import ConfigError
from ptst.progress import say
from ptst.slurm import cluster
from ptst.slurm.cluster import ClusterFull, SlurmError
from ptst.slurm.settings import WHERE, Resources, SlurmSettings, check_settings, gpus_of, seconds_of
from ptst.sweep.grid import Grid


def check_requests(grid: Grid, settings: SlurmSettings) -> None:
    """Have SLURM look at what each stage asks for, before anything is submitted.

    Raises:
        ConfigError: a request that makes no sense, or that no node of the cluster can ever fulfil;
            a store where SLURM cannot write logs.
        SlurmError: there is no SLURM here, or it does not answer.
    """
    check_settings(settings)
    cluster.check_there()
    if "\\" in str(Path(grid.store).resolve()):  # in it, SLURM would not put a log's index for %a
        raise ConfigError(
            f"paths.store={grid.store}: SLURM cannot write logs to a path with a backslash."
        )
    for stage in ["finetune", "generate", *(["judge"] if settings.judge_apart else [])]:
        resources: Resources = getattr(settings, stage)
        limit = cluster.time_limit(resources.partition)
        where = f"{WHERE}.{stage}.time"
        if limit and seconds_of(resources.time, where) > seconds_of(limit, where):
            raise ConfigError(
                f"{where}={resources.time} is more than partition {resources.partition or '(default)'} "
                f"allows: {limit}."
            )
        arguments = request(grid, settings, stage)
        try:
            cluster.submit(["--test-only", *arguments, "--wrap=true"])
        except ClusterFull:
            continue  # the request is not what is wrong
        except SlurmError as error:
            if "not available" in str(error) and not cluster.all_nodes_up(resources.partition):
                say(f"stage {stage} cannot start now, or never (some nodes are down): {error}")
                continue
            words = shlex.join(arguments)
            raise SlurmError(
                f"SLURM refuses what stage {stage} asks for: {error}\n  {words}"
            ) from error


def request(grid: Grid, settings: SlurmSettings, stage: str) -> list[str]:
    """The arguments of sbatch that say what a stage's jobs need, and how they may end."""
    resources: Resources = getattr(settings, stage)
    gpus = gpus_of(
        resources, stages_of(stage, settings, grid), [cell.config for cell in grid.distinct]
    )
    asked = {
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "mem": resources.memory,
        "gres": f"gpu:{gpus}" if gpus else None,
    }
    return [
        f"--chdir={Path.cwd()}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={resources.cpus}",
        f"--time={resources.time}",
        *(f"--{name}={value}" for name, value in asked.items() if value is not None),
        "--requeue",
        "--open-mode=append",
        f"--signal=B:USR1@{settings.signal_seconds}",
        *resources.extra,
    ]


def stages_of(stage: str, settings: SlurmSettings, grid: Grid) -> tuple[str, ...]:
    """What jobs with a stage's resources do; all cells of a grid have the same stages."""
    judges = not settings.judge_apart and "judge" in grid.cells[0].config.stages
    return (stage, "judge") if stage == "generate" and judges else (stage,)


def indices_of(tasks: Mapping[int, object], limit: int | None) -> str:
    """Indices of an array as sbatch spells them: "0-3,7%2"."""
    spans: list[list[int]] = []
    for index in sorted(tasks):
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    spelled = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"{spelled}%{limit}" if limit else spelled


def job_script(settings: SlurmSettings, stage: str, submission: Path) -> str:
    """The script of a stage's jobs, which do what `submission` says of their index."""
    resources: Resources = getattr(settings, stage)
    run = shlex.join([sys.executable, "-m", "ptst.slurm.task", str(submission.resolve())])
    lines = [
        "#!/bin/bash",
        "set -e",
        "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} PYTHONUNBUFFERED=1",
        f"export PTST_SIGNAL_SECONDS={settings.signal_seconds}",
        *resources.setup,
        # In the shell's place, because SLURM sends its signals to the shell.
        f'exec {run} "$SLURM_ARRAY_TASK_ID"',
    ]
    return "\n".join(lines) + "\n"
