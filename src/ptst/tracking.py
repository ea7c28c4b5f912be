"""Weights & Biases: one run per fine-tuning and one per cell, each whole, ids from the keys.

Offline by default: files under <store>/wandb that `ptst sync` can upload later. A run is opened
while its artifact is being made, and closed before the artifact appears, so every artifact has its
run, whole. When work resumes after a death, the run starts again with the history so far (the caller
logs it again) and takes the place of the offline files that the dead one left.
"""

from __future__ import annotations

import os
import shutil
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ptst.config import Tracking
from ptst.errors import ConfigError, PtstError

WAIT = 60.0
"""Seconds within which W&B's service must have written a finished run."""


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

        columns = list(dict.fromkeys(column for row in rows for column in row))
        data = [[row.get(column) for column in columns] for row in rows]
        # The copy that W&B uploads as an artifact would go to the home folder and stay there.
        with _environment("WANDB_DATA_DIR", str(_folder_of(self.run))):
            table = wandb.Table(columns=columns, data=data, allow_mixed_types=True)
            self.run.log({name: table})


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
    for stale in offline_runs(store, run_id):
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
        if tracking.mode == "offline":
            _wait_for(_folder_of(run))


def offline_runs(store: Path, run_id: str = "*") -> list[Path]:
    """The folders of the offline runs of a store, in the order in which they were begun."""
    return sorted((store / "wandb" / "wandb").glob(f"offline-run-*-{run_id}"))


def records(folder: Path) -> Iterator[Any]:
    """What an offline run's file holds so far, as W&B's own `Record`s: run, history, summary, exit.

    A .wandb file is a 7-byte header and then LevelDB's log format: blocks of 32 KiB, a record in one part
    or several, each behind a checksum, its length and its kind. The package has no reader for Python.
    """
    from wandb.proto import wandb_internal_pb2

    for path in folder.glob("*.wandb"):
        content, position, parts = path.read_bytes(), 7, []
        while position + 7 <= len(content):
            left = 32768 - position % 32768
            if left < 7:
                position += left
                continue
            _, length, kind = struct.unpack_from("<IHB", content, position)
            position += 7 + length
            if position > len(content):  # being written
                break
            parts.append(content[position - length : position])
            if kind in (1, 4):  # a whole record, or the last part of one
                yield wandb_internal_pb2.Record.FromString(b"".join(parts))
                parts = []


def _wait_for(folder: Path) -> None:
    """finish() does not wait for the service to write the end of a run, and it dies with this process.

    Raises:
        PtstError: it has not in `WAIT` seconds.
    """
    deadline = time.monotonic() + WAIT
    while not any(record.HasField("exit") for record in records(folder)):
        if time.monotonic() > deadline:
            raise PtstError(
                f"tracking: W&B's service has not written the end of {folder} in {WAIT:.0f} s "
                "(is the disk full?); run again, or with tracking=none."
            )
        time.sleep(0.01)


def _folder_of(run: Any) -> Path:
    return Path(run.dir).parent


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


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
        ConfigError: no key where W&B looks for one.
    """
    if tracking.mode == "online":
        check_key("tracking=wandb_online", "stay with tracking=wandb_offline")


def check_key(what: str, otherwise: str) -> None:
    """Refuse what needs a key for W&B's server where there is none.

    Raises:
        ConfigError: no key where W&B looks for one, or what is no key.
    """
    if not has_key():
        raise ConfigError(
            f"{what} needs a W&B key: set WANDB_API_KEY, run `wandb login` once, or {otherwise}."
        )


def has_key() -> bool:
    """Whether W&B finds a key (environment, netrc file, its settings); asks nobody, and no server.

    Raises:
        ConfigError: it finds what is no key.
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb
    from wandb import env
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth  # what wandb.Api looks with: it knows which hosts are the same

    host = env.get_base_url(wandb_setup.singleton().settings.base_url)
    try:
        found = wbauth.authenticate_session(
            host=host, source="ptst", prompt=False, update_session=False
        )
    except wandb.Error as error:
        raise ConfigError(f"tracking: the W&B key cannot be used: {error}") from error
    return found is not None


def server() -> str:
    """The address of W&B's server."""
    return (os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").rstrip("/")
