"""What a user says of a cluster: conf/hydra/launcher/slurm.yaml, and conf/local/slurm.yaml over
it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ptst.engine.chosen import engine_of
from ptst.errors import ConfigError
from ptst.judge import load_judge
from ptst.schema import Config

WHERE = "hydra.launcher"


@dataclass
class Resources:
    """What the jobs of one stage ask for, in sbatch's terms; None leaves a choice to the
    cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gpus: int | None = None
    """Per job; None: what the cells need, see `gpus_of`."""
    cpus: int = 8
    """Per job; also the number of its threads."""
    memory: str | None = "64G"
    time: str = "08:00:00"
    """Time limit, quoted. A job that reaches it keeps its work and is queued again."""
    constraint: str | None = None
    parallel: int | None = None
    """How many jobs of this stage run at the same time, at most."""
    extra: list[str] = field(default_factory=list)
    """More arguments of sbatch: ["--exclude=n7", "--mail-type=FAIL"]."""
    setup: list[str] = field(default_factory=list)
    """Shell commands that a job begins with: ["module load cuda"]."""


@dataclass
class SlurmSettings:
    """The launcher's configuration."""

    _target_: str = "hydra_plugins.ptst.slurm.SlurmLauncher"
    finetune: Resources = field(default_factory=Resources)
    generate: Resources = field(default_factory=Resources)
    judge: Resources = field(default_factory=Resources)
    judge_apart: bool = False
    """Judge in jobs of its own (for example on nodes with a network), not where the completions are
    made."""
    cells_per_job: int | None = None
    """How many cells a job tests at most; None: all cells of a model. Fine-tuned already, adapters
    of one base model share a job, which loads it once."""
    signal_seconds: int = 120
    """How long before its end a job is told, to keep its work and be queued again."""


def check_settings(settings: SlurmSettings) -> None:
    """Refuse what sbatch would take another way than it was meant, or what cannot work.

    Raises:
        ConfigError: with the key.
    """
    for stage in ("finetune", "generate", "judge"):
        resources: Resources = getattr(settings, stage)
        for name, low in (("gpus", 0), ("cpus", 1), ("parallel", 1)):
            value = getattr(resources, name)
            if value is not None and value < low:
                raise ConfigError(f"{WHERE}.{stage}.{name}={value} must be at least {low}.")
        seconds = seconds_of(resources.time, f"{WHERE}.{stage}.time")
        if seconds <= settings.signal_seconds:
            raise ConfigError(
                f"{WHERE}.{stage}.time={resources.time} is not more than the "
                f"{WHERE}.signal_seconds={settings.signal_seconds} before its end at which a job "
                "stops: it would do nothing."
            )
        for f in fields(resources):
            value = getattr(resources, f.name)
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and ("\n" in text or not text.strip()):
                    raise ConfigError(
                        f"{WHERE}.{stage}.{f.name}: {text!r} is not one line of text."
                    )
    if settings.signal_seconds < 1 or settings.signal_seconds > 65535:  # sbatch's own limit
        raise ConfigError(f"{WHERE}.signal_seconds={settings.signal_seconds} must be 1 to 65535.")
    if settings.cells_per_job is not None and settings.cells_per_job < 1:
        raise ConfigError(f"{WHERE}.cells_per_job={settings.cells_per_job} must be at least 1.")


def seconds_of(time: str, where: str) -> int:
    """A time limit in seconds. sbatch takes minutes, m:s, h:m:s, d-h, d-h:m and d-h:m:s; here it
    needs a colon or days, since YAML reads an unquoted 08:00:00 as a number, and sbatch a number as
    minutes.

    Raises:
        ConfigError: it is written in no such way.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if not found or not (found[1] or found[3]):
        raise ConfigError(
            f'{where}={time} is not a time limit: write "hours:minutes:seconds" in quotes, or '
            '"days-hours:minutes:seconds".'
        )
    numbers = [int(part) for part in found.groups()[1:] if part is not None]
    if found[1] is None and len(numbers) == 2:
        numbers = [0, *numbers]  # minutes and seconds
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return ((int(found[1] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def gpus_of(resources: Resources, stages: Sequence[str], cells: Sequence[Config]) -> int:
    """GPUs that a job asks for, of those cells that need any at their scale: for each model that
    runs in it.

    Args:
        stages: what the job does, where the cells' own stages have it.

    Raises:
        ConfigError: fewer than its fine-tunings use.
    """
    wanted = 0
    judges: dict[str, Mapping[str, Any]] = {}  # one of each class
    for config in cells:
        if not config.scale.gpu or engine_of(config).device == "cpu":
            continue
        own = set(stages) & set(config.stages)
        if config.model.api is None and "finetune" in own:
            wanted = max(wanted, config.finetune.devices)
        if engine_of(config).has_weights and "generate" in own:
            wanted = max(wanted, 1)
        if "judge" in own:
            judges |= {e.judge["_target_"]: e.judge for e in config.evaluations.values()}
    if any(load_judge(node, "judge").needs_gpu for node in judges.values()):
        wanted = max(wanted, 1)
    if resources.gpus is None:
        return wanted
    if "finetune" in stages and resources.gpus < wanted and wanted > 1:
        raise ConfigError(
            f"{WHERE}.finetune.gpus={resources.gpus}, but finetune.devices={wanted}: leave gpus at null."
        )
    return resources.gpus
