"""`ptst sync`: the offline W&B runs of a store that W&B's server has not yet, uploaded.

`wandb sync` uploads, but it neither fails nor says so where a part of a run did not arrive, and marks
that run as synced, too. Its log tells: a run counts as uploaded if its last request was accepted and
nothing went wrong before. Only then is it marked, by a file of ours beside it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptst.errors import PtstError
from ptst.progress import progress
from ptst.store import Store, read_json, write_json
from ptst.tracking import offline_runs, records, server

MARK = "uploaded.json"
"""In a run's folder: {"server": address of the server that has the run}."""

FIRST, AT_ONCE = 5, 50
"""Runs that are handed to W&B together; few at first, in case nothing gets through."""

RETRIES = {
    "WANDB__GRAPHQL_RETRY_MAX": "5",
    "WANDB__FILE_STREAM_RETRY_MAX": "5",
    "WANDB__FILE_TRANSFER_RETRY_MAX": "5",
}
"""About a minute. By default W&B goes on for a quarter of an hour; here one runs the command again."""


@dataclass(frozen=True)
class OfflineRun:
    """A run on disk. `id` is finetune-<key> or cell-<key>, `name` what people see."""

    folder: Path
    id: str
    name: str
    ended: bool
    """Whether the file was written to its end."""

    @property
    def file(self) -> Path:
        """The run's .wandb file."""
        return self.folder / f"run-{self.id}.wandb"


@dataclass(frozen=True)
class Synced:
    """What came of a sync; `failed` has a reason for each run."""

    uploaded: list[OfflineRun]
    there: int
    unfinished: int
    failed: dict[str, str]


def sync(store: Store, wanted: set[str] | None = None) -> Synced:
    """Upload what the server has not yet.

    Args:
        wanted: ids of runs; None for all of the store.

    Raises:
        PtstError: another sync of this store is under way.
    """
    from filelock import FileLock, Timeout

    if not (store.root / "wandb").is_dir():
        return Synced([], 0, 0, {})
    try:
        with FileLock(store.root / "wandb" / "sync.lock", timeout=0):
            return _sync(store, wanted)
    except Timeout as error:
        raise PtstError(f"another ptst sync of {store.root} is under way.") from error


def _sync(store: Store, wanted: set[str] | None) -> Synced:
    todo: list[OfflineRun] = []
    failed: dict[str, str] = {}
    there = unfinished = 0
    for folder in offline_runs(store.root):
        id = folder.name.split("-", 3)[3]  # offline-run-<time>-<id>
        if wanted is not None and id not in wanted:
            continue
        # A run is closed before its artifact appears, so what is being written is never taken.
        stage, _, key = id.partition("-")
        if not store.has(stage, key):
            unfinished += 1
        elif _is_there(folder):
            there += 1
        else:
            run = _read(folder, id)
            if run.ended:
                todo.append(run)
            else:
                failed[id] = f"{run.file} is cut off; `wandb sync {folder}` uploads what there is"
    uploaded: list[OfflineRun] = []
    total, size = len(todo), FIRST
    with progress("sync") as advance:
        while todo:
            now, todo, size = todo[:size], todo[size:], AT_ONCE
            wrong = _upload(now)
            for run in now:
                if run.id not in wrong:
                    write_json(run.folder / MARK, {"server": server()})
                    uploaded.append(run)
            failed |= wrong
            advance(total - len(todo), total, "")
            if todo and len(wrong) == len(now):
                failed |= {run.id: "not tried: none before it got through" for run in todo}
                break
    return Synced(uploaded, there, unfinished, failed)


def _is_there(folder: Path) -> bool:
    try:
        return bool(read_json(folder / MARK)["server"] == server())
    except (OSError, ValueError):
        return False


def _read(folder: Path, id: str) -> OfflineRun:
    from google.protobuf.message import DecodeError

    name, ended = "", False
    try:
        for record in records(folder):
            if record.HasField("run"):
                name = record.run.display_name
            ended = record.HasField("exit") and record.exit.exit_code == 0
    except DecodeError:
        ended = False
    return OfflineRun(folder, id, name, ended)


def _upload(runs: Sequence[OfflineRun]) -> dict[str, str]:
    """Have W&B upload runs.

    Returns:
        Why not, by the id of each that did not arrive whole.
    """
    with tempfile.TemporaryDirectory(prefix="ptst-sync-") as logs:
        environment = {**RETRIES, **os.environ, "WANDB_DIR": logs}
        # A service of its own, which writes a log of its own; and steps as they were logged
        for other in ("WANDB_SERVICE", "WANDB_RESUME"):
            environment.pop(other, None)
        files = [str(run.file.absolute()) for run in runs]
        command = [sys.executable, "-m", "wandb", "sync", "--include-synced", *files]
        ended = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        entries = list(_log(Path(logs)))
    wrong = {}
    said = ended.stderr.strip().splitlines() or [f"wandb sync ended with {ended.returncode}"]
    for run, file in zip(runs, files, strict=True):
        reason = _reason([entry for entry in entries if entry.get("sync_path") == file])
        if reason is not None:
            wrong[run.id] = reason or said[-1]
            Path(f"{file}.synced").unlink(missing_ok=True)  # or `wandb clean` would take the run
    return wrong


def _log(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.rglob("debug-sync.*.log"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _reason(entries: Sequence[dict[str, Any]]) -> str | None:
    """What went wrong with a run, from W&B's log of it; None if it arrived whole, "" if nothing is said."""
    for entry in entries:
        if entry["level"].startswith("ERROR"):
            parts = [str(entry[key]) for key in ("msg", "status", "url", "error") if key in entry]
            line = " ".join(" ".join(parts).split())
            return re.sub(r"\?\S*", "", line)  # an address may be signed
    stream = [e for e in entries if e["msg"].startswith("filestream: ")]
    if len(stream) < 2:
        return ""
    asked, answered = stream[-2:]
    arrived = asked.get("complete") and str(answered.get("status")).startswith("200")
    return None if arrived else ""
