"""Weights & Biases: one run per fine-tuning and one per cell, each whole, ids from the keys.

Offline by default: files under <store>/wandb that `wandb sync` can upload later. A run is opened
while its artifact is being made, and closed before the artifact appears, so every artifact has its
run. When work resumes after a death, the run starts again with the history so far (the caller logs it
again) and takes the place of the offline files that the dead one left.
"""

from __future__ import annotations

import netrc
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ptst.config import Tracking
from ptst.errors import ConfigError


class Run(Protocol):
    """What a stage may tell about itself."""

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Add a point to the history."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set values that stand for the whole run."""

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Upload rows as a table."""


class _Silent:
    def log(self, values: Mapping[str, Any], step: int) -> None:
        pass

    def summary(self, values: Mapping[str, Any]) -> None:
        pass

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        pass


class _Wandb:
    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self.run.log(dict(values), step=step)

    def summary(self, values: Mapping[str, Any]) -> None:
        self.run.summary.update(dict(values))

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        import wandb

        columns = list(rows[0]) if rows else []
        data = [[row.get(column) for column in columns] for row in rows]
        self.run.log({name: wandb.Table(columns=columns, data=data)})


@contextmanager
def tracked(
    tracking: Tracking,
    store: Path,
    job_type: str,
    key: str,
    name: str,
    config: Mapping[str, Any],
) -> Iterator[Run]:
    """Open the W&B run of an artifact that is being made.

    Args:
        job_type: "finetune" or "cell"; with `key` it makes the run's id.
        name: what people see.
        config: resolved configuration; holds no secret.
    """
    if tracking.mode == "none":
        yield _Silent()
        return
    import wandb

    run_id = f"{job_type}-{key}"
    folder = store / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    if tracking.mode == "offline":
        for stale in (folder / "wandb").glob(f"offline-run-*-{run_id}"):
            shutil.rmtree(stale)
    settings = wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        x_disable_meta=True,
        x_disable_stats=True,
    )
    try:
        run = _init(wandb, tracking, folder, run_id, name, job_type, config, settings)
    except wandb.Error as error:
        raise ConfigError(f"tracking: W&B refuses the run: {error}") from error
    failed = 1
    try:
        yield _Wandb(run)
        failed = 0
    finally:
        run.finish(exit_code=failed)


def _init(
    wandb: Any,
    tracking: Tracking,
    folder: Path,
    run_id: str,
    name: str,
    job_type: str,
    config: Mapping[str, Any],
    settings: Any,
) -> Any:
    return wandb.init(
        project=tracking.project,
        entity=tracking.entity,
        id=run_id,
        name=name,
        group=tracking.group,
        job_type=job_type,
        config=dict(config),
        mode="online" if tracking.mode == "online" else "offline",
        dir=str(folder),
        resume="allow" if tracking.mode == "online" else None,
        settings=settings,
    )


def check_tracking(tracking: Tracking) -> None:
    """Refuse `online` without a key, so that W&B never stops to ask for one.

    Raises:
        ConfigError: no key in the environment or in the user's netrc file.
    """
    if tracking.mode != "online" or os.environ.get("WANDB_API_KEY"):
        return
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        if netrc.netrc().authenticators(host):
            return
    except (OSError, netrc.NetrcParseError):
        pass
    raise ConfigError(
        "tracking=wandb_online needs a W&B key: set WANDB_API_KEY, run `wandb login` once, "
        "or stay with tracking=wandb_offline."
    )
