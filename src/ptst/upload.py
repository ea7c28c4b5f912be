"""Runs on disk are uploaded to W&B's server, also while they are written.

`wandb sync` does it, in a process of its own. If a part of a run does not arrive, that process does
not fail and does not say so, and it marks the run as synced. But its log tells: a run arrived if
its last request was accepted and nothing went wrong before. Only then do we mark the run, by a
file of ours beside it that says where the run is.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptst.store import read_json, write_json
from ptst.wandb_file import read_records, write_records

MARK = "uploaded.json"
"""In a run's folder: the places that have the run, each with its address there."""

RETRIES = {
    "WANDB_HTTP_TIMEOUT": "10",
    "WANDB__GRAPHQL_RETRY_MAX": "5",
    "WANDB__FILE_STREAM_RETRY_MAX": "5",
    "WANDB__FILE_TRANSFER_RETRY_MAX": "5",
}
"""These take a minute or two. By default W&B tries for a quarter of an hour."""

COMMAND = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
from wandb.cli.cli import cli
cli()
"""
"""W&B's command line, made to end with its parent.

It would wait for ever for a run whose writer was killed.
"""


@dataclass(frozen=True)
class Place:
    """Where a run is in W&B. `entity` is None for the user or team that the key belongs to."""

    server: str
    entity: str | None
    project: str


def address_at(place: Place, folder: Path) -> str | None:
    """The address of an uploaded run; None if that place does not have all of it."""
    return next((url for known, url in _marks(folder) if known == place), None)


def mark(place: Place, folder: Path, address: str) -> None:
    """Remember that a place has all of a run."""
    known = [*_marks(folder), (place, address)]
    write_json(folder / MARK, [asdict(where) | {"url": url} for where, url in known])


def _marks(folder: Path) -> list[tuple[Place, str]]:
    try:
        return [
            (Place(m["server"], m["entity"], m["project"]), m["url"])
            for m in read_json(folder / MARK)
        ]
    except (OSError, ValueError, TypeError, KeyError):  # none, or an older version's
        return []


class Upload:
    """The upload of some runs under way.

    Args:
        files: the runs' .wandb files.
        entity, project: where to, instead of where each run says.
        live: go on until the runs have ended.
    """

    def __init__(
        self, files: Sequence[Path], entity: str | None, project: str | None, live: bool = False
    ) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="ptst-sync-", ignore_cleanup_errors=True)
        copies = Path(self.folder.name)
        self.files = {str(_moved(file, copies, entity, project)): file for file in files}
        environment = ({} if live else RETRIES) | os.environ | {"WANDB_DIR": self.folder.name}
        # So that it starts a service and a log of its own, keeps the steps, and goes where we say
        for other in ("SERVICE", "RESUME", "MODE", "ENTITY", "PROJECT"):
            environment.pop(f"WANDB_{other}", None)
        words = ["beta", "sync", "--no-skip-synced", *(["--live"] if live else [])]
        words += ["--entity", entity] if entity else []
        words += ["--project", project] if project else []
        with (Path(self.folder.name) / "said").open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, *words, *self.files],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it ends within some seconds."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> dict[Path, tuple[str, str | None]]:
        """End it, if it has not ended.

        Returns:
            For each file the run's address, and why it did not arrive whole: None if it did.
        """
        waiting = self.process.poll() is None
        self.process.kill()
        self.process.communicate()
        said = (Path(self.folder.name) / "said").read_text(encoding="utf-8", errors="replace")
        lines = said.strip().splitlines() or [f"wandb sync ended with {self.process.returncode}"]
        last = "no answer" if waiting else lines[-1]
        entries = list(_log(Path(self.folder.name)))
        ended = {}
        for name, file in self.files.items():
            reason = _reason([entry for entry in entries if entry.get("sync_path") == name])
            if reason is not None:
                reason = reason or last
                # Or `wandb clean` would take the run
                Path(f"{file}.synced").unlink(missing_ok=True)
            run = re.escape(file.stem.removeprefix("run-"))
            found = re.search(rf"View run .*(http\S+/runs/{run})$", said, re.MULTILINE)
            ended[file] = (found[1] if found else "", reason)
        self.folder.cleanup()
        return ended


def _moved(file: Path, folder: Path, entity: str | None, project: str | None) -> Path:
    """The file to upload.

    It is a copy if the run has tables and goes elsewhere: W&B's command line moves the run, but
    not its tables.
    """
    records = list(read_records(file)) if entity or project else []
    tables = [record.artifact for record in records if record.HasField("artifact")]
    if not tables:
        return file.absolute()
    for table in tables:
        table.entity = entity or table.entity
        table.project = project or table.project
    copy = folder / file.parent.name / file.name
    copy.parent.mkdir()
    (copy.parent / "files").symlink_to(file.parent.absolute() / "files")
    write_records(copy, records)
    return copy


def _log(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.rglob("debug-sync.*.log"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _reason(entries: Sequence[dict[str, Any]]) -> str | None:
    """What went wrong with a run, from W&B's log of it.

    None if it arrived whole, and "" if the log does not say.
    """
    wrong = [entry for entry in entries if entry["level"].startswith("ERROR")]
    stream = [entry for entry in entries if entry["msg"].startswith("filestream: ")][-2:]
    if not wrong and len(stream) == 2:
        asked, answered = stream
        if asked.get("complete") and str(answered.get("status")).startswith("200"):
            return None
    # The first error; where there is none yet, what was last tried again
    for entry in [*wrong, *(e for e in reversed(entries) if "error" in e)]:
        parts = [str(entry[key]) for key in ("msg", "status", "url", "error") if key in entry]
        line = " ".join(" ".join(parts).split())
        return re.sub(r"\?\S*", "", line)  # an address may be signed
    return ""
