"""The store itself: artifacts that appear by one rename, and the leases of those who make them."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptst.errors import Busy, Interrupted, PtstError
from ptst.progress import console
from ptst.redact import redacted
from ptst.store.damage import ARTIFACTS, missing_part
from ptst.store.files import files_below, read_json, sync, sync_one, write_atomic, write_json
from ptst.store.locks import locked, try_lock
from ptst.store.work import Maker, Work, write_maker

FULL = ("no space left", "quota exceeded", "unexpected pos", "file write failed", "iostream error")
"""In the text of errors, in lower case, where a disk is full; the last three are torch's."""


@dataclass(frozen=True)
class Failure:
    """Why the last attempt at a cell failed. `at` is seconds since the epoch."""

    reason: str
    """The last line of the error."""
    log: Path
    """The whole of it."""
    host: str
    at: float


@dataclass(frozen=True)
class Store:
    """A folder of artifacts that any number of processes may share."""

    root: Path
    whole: set[Path] = field(default_factory=set, compare=False, repr=False)
    """Artifacts that were found whole: they are not read again to see it."""

    def path(self, stage: str, key: str) -> Path:
        """Where the artifact is, or will be."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether the artifact is there (then it was complete when it was made)."""
        return self.path(stage, key).is_dir()

    def damage(self, stage: str, key: str) -> str | None:
        """What is wrong with an artifact (after a broken copy, for example) and what to do.

        None if nothing is wrong, or the artifact is not there. Of long files only the end is read,
        of weights only what stands before them.
        """
        folder = self.root / stage / key
        if folder in self.whole or not folder.is_dir():
            return None
        if lacks := missing_part(stage, folder):
            return f"damaged: {folder}: {lacks}. ptst rm damaged removes it; run again to make it anew."
        self.whole.add(folder)
        return None

    def damaged(self) -> list[Path]:
        """The folders of all damaged artifacts. One that is deleted is made anew."""
        return [
            folder
            for stage in ARTIFACTS
            for folder in sorted((self.root / stage).glob("*"))
            if self.damage(stage, folder.name)
        ]

    @contextmanager
    def make(
        self,
        stage: str,
        key: str,
        parts: Mapping[str, Any],
        stop: Callable[[], bool] = lambda: False,
        wait: bool = True,
    ) -> Iterator[Work | None]:
        """Make an artifact, unless it is there: then, or once another process has made it, None.

        One process at a time holds the lease on a key; others wait here. The lease is a lock of the
        operating system, so it ends with its holder, however that dies. An exception in the body
        leaves the work for the next attempt.

        Args:
            parts: what `key` was made of; kept beside the artifact as key.json.
            stop: whether to wait no longer for another process.
            wait: False leaves it to another process that makes it.

        Raises:
            Interrupted: `stop` said so.
            Busy: another process makes it, and `wait` is False.
            PtstError: the artifact is there and damaged; the disk is full, or cannot lock files.
        """
        if damage := self.damage(stage, key):
            raise PtstError(damage)
        folder = self.root / "partial" / stage / key
        if self.has(stage, key) and not folder.exists():
            yield None
            return
        with self._lease(stage, key, stop, wait), _full_disk_in_words(self.root):
            if self.has(stage, key):
                shutil.rmtree(folder, ignore_errors=True)  # its maker died while tidying up
                yield None
                return
            last, now = self.maker(stage, key), time.time()
            # Not less than nothing: the clock of another machine may be behind
            spent = last.spent + max(0.0, last.updated - last.since) if last else 0.0
            maker = Maker(platform.node(), os.getpid(), now, now, spent)
            work = Work(folder / "result", folder / "scratch", maker)
            shutil.rmtree(work.result, ignore_errors=True)
            work.result.mkdir(parents=True)
            work.scratch.mkdir(exist_ok=True)
            write_maker(folder, maker)
            yield work
            write_json(work.result / "key.json", dict(parts))
            readers = work.result.stat().st_mode & 0o666
            for file in files_below(work.result):
                file.chmod(readers)  # safetensors makes files that only their owner may read
            sync(work.result)
            final = self.path(stage, key)
            final.parent.mkdir(parents=True, exist_ok=True)
            work.result.replace(final)
            sync_one(final.parent)
            shutil.rmtree(folder, ignore_errors=True)

    def prepare(self) -> None:
        """To be called before time is spent on what is to be stored.

        Removes what makers left that died between publishing an artifact and tidying up:
        checkpoints, say.

        Raises:
            PtstError: the file system cannot lock files.
        """
        with locked(self.root / "leases" / ".lock"):
            pass
        for folder in (self.root / "partial").glob("*/*"):
            if self.has(folder.parent.name, folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def maker(self, stage: str, key: str) -> Maker | None:
        """Who last began to make an artifact that is not there; None if nobody did."""
        try:
            return Maker(**read_json(self.root / "partial" / stage / key / "maker.json"))
        except (OSError, ValueError, TypeError):
            return None

    def is_being_made(self, stage: str, key: str) -> bool:
        """Whether a living process holds the lease on a key, wherever it runs. Writes nothing."""
        try:
            with self._lock(stage, key).open() as file:
                # Shared, which takes no leave to write, and two who look do not take each other for
                # makers
                return not try_lock(file.fileno(), fcntl.LOCK_SH)
        except OSError:  # nobody ever made it; or there are no locks here, and so no makers
            return False

    def record_failure(self, cell: str, error: BaseException) -> None:
        """Keep why a cell failed, for `ptst status` and for the report."""
        log = self.root / "failed" / f"{cell}.log"
        write_atomic(log, redacted("".join(traceback.format_exception(error))))
        record = {"reason": reason_of(error), "host": platform.node(), "at": time.time()}
        write_json(self.root / "failed" / f"{cell}.json", record)

    def failure(self, cell: str) -> Failure | None:
        """Why the last attempt at a cell failed; None if it did not, or was not made."""
        try:
            record = read_json(self.root / "failed" / f"{cell}.json")
        except (OSError, ValueError):
            return None
        return Failure(log=self.root / "failed" / f"{cell}.log", **record)

    def forget_failure(self, cell: str) -> None:
        """A new attempt begins, or has come to its end."""
        for suffix in ("json", "log"):
            (self.root / "failed" / f"{cell}.{suffix}").unlink(missing_ok=True)

    def _lock(self, stage: str, key: str) -> Path:
        return self.root / "leases" / f"{stage}-{key}.lock"

    @contextmanager
    def _lease(self, stage: str, key: str, stop: Callable[[], bool], wait: bool) -> Iterator[None]:
        told = False

        def again() -> None:
            nonlocal told
            if not wait:
                raise Busy(f"another process is making {stage} {key}")
            if stop():
                raise Interrupted(f"waiting for another process to make {stage} {key}")
            if not told:
                console().print(f"  another process is making {stage} {key}; waiting for it")
            told = True

        with locked(self._lock(stage, key), again):
            yield


@contextmanager
def _full_disk_in_words(root: Path) -> Iterator[None]:
    """torch and safetensors meet a full disk with errors of their own."""
    try:
        yield
    except Exception as error:
        text = str(error).lower()
        if not any(words in text for words in FULL):
            raise
        raise PtstError(
            f"no space left for {root}: free some, or set paths.store elsewhere; run again to resume."
        ) from error


@dataclass(frozen=True)
class Readable(Store):
    """A store for readers: what is damaged is not there."""

    def path(self, stage: str, key: str) -> Path:
        """Where the artifact is; somewhere else, where nothing is, if it is damaged."""
        own = super().path(stage, key)
        return self.root / "damaged" / stage / key if self.damage(stage, key) else own


def reason_of(error: BaseException) -> str:
    """Why something failed, in a line: what we say ourselves in full, of others the last line."""
    said = redacted(str(error)).strip() or type(error).__name__
    if isinstance(error, PtstError):
        return " ".join(said.split())
    return f"{type(error).__name__}: {said.splitlines()[-1]}"


@dataclass(frozen=True)
class Snapshot(Store):
    """A snapshot of a store: each of its folders is listed when first asked for, and not again."""

    listed: dict[str, set[str]] = field(default_factory=dict)

    def has(self, stage: str, key: str) -> bool:
        """Whether the artifact was there."""
        return key in self._names(stage)

    def damage(self, stage: str, key: str) -> str | None:
        """What is wrong with an artifact that was there."""
        return super().damage(stage, key) if self.has(stage, key) else None

    def maker(self, stage: str, key: str) -> Maker | None:
        """Who last began to make an artifact that was not there."""
        begun = key in self._names(f"partial/{stage}")
        return super().maker(stage, key) if begun else None

    def failure(self, cell: str) -> Failure | None:
        """Why the last attempt at a cell failed."""
        return super().failure(cell) if f"{cell}.json" in self._names("failed") else None

    def _names(self, folder: str) -> set[str]:
        if folder not in self.listed:
            try:
                self.listed[folder] = {path.name for path in (self.root / folder).iterdir()}
            except FileNotFoundError:
                self.listed[folder] = set()
        return self.listed[folder]
