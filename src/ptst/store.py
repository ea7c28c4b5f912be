"""Keys, atomic artifacts, leases: what was made once is found again, and never half.

An artifact is a folder `<store>/<stage>/<key>/`. Its key is a hash of everything that decides its
content, as resolved values (see `key_of`), never of a time, a name or a difference from a default.
It appears by one rename, complete. Until then its maker works in `<store>/partial/<stage>/<key>/`,
which is kept when the maker dies, so that the next one can resume there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from ptst.errors import PtstError
from ptst.progress import console

KEY_LENGTH = 16
"""Hexadecimal digits: 64 bits, so that a million artifacts collide with probability 3e-8."""


def key_of(parts: Mapping[str, Any]) -> str:
    """Hash resolved configuration (JSON-like values) into a key."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that it is there complete or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is there complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: two machines on one file system may have the same.
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of indented JSON; NaN and infinity are refused."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, complete or not there; NaN and infinity are refused."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    write_atomic(path, "".join(f"{line}\n" for line in lines))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a complete JSON Lines file (only newline ends a row)."""
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


@dataclass(frozen=True)
class Maker:
    """Who makes, or last tried to make, an artifact, and how far it came.

    `since` and `updated` are seconds since the epoch, `spent` the seconds of earlier attempts; `done`
    of `total` are optimizer steps or queries.
    """

    host: str
    pid: int
    since: float
    updated: float
    spent: float = 0.0
    done: int | None = None
    total: int | None = None


@dataclass
class Work:
    """Where an artifact is being made.

    `result` becomes the artifact and starts empty. `scratch` (checkpoints, a journal) may hold what an
    earlier, interrupted maker left, and is thrown away when the artifact is there.
    """

    result: Path
    scratch: Path
    maker: Maker
    told: float = 0.0

    def tell(self, done: int, total: int) -> None:
        """Let others see how far the work is; written at most once a second."""
        if time.monotonic() - self.told >= 1 or done == total:
            self.told = time.monotonic()
            self.maker = replace(self.maker, done=done, total=total, updated=time.time())
            _write_maker(self.result.parent, self.maker)


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

    def path(self, stage: str, key: str) -> Path:
        """Where the artifact is, or will be."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether the artifact is there (then it is complete)."""
        return self.path(stage, key).is_dir()

    @contextmanager
    def make(self, stage: str, key: str, parts: Mapping[str, Any]) -> Iterator[Work | None]:
        """Make an artifact, unless it is there: then, or once another process has made it, None.

        One process at a time holds the lease on a key; others wait here. The lease is a lock of the
        operating system, so it ends with its holder, however that dies. An exception in the body
        leaves the work for the next attempt.

        Args:
            parts: what `key` was made of; kept beside the artifact as key.json.
        """
        folder = self.root / "partial" / stage / key
        if self.has(stage, key) and not folder.exists():
            yield None
            return
        with self._lease(stage, key):
            if self.has(stage, key):
                shutil.rmtree(folder, ignore_errors=True)  # its maker died while tidying up
                yield None
                return
            last, now = self.maker(stage, key), time.time()
            spent = last.spent + last.updated - last.since if last else 0.0
            maker = Maker(platform.node(), os.getpid(), now, now, spent)
            work = Work(folder / "result", folder / "scratch", maker)
            shutil.rmtree(work.result, ignore_errors=True)
            work.result.mkdir(parents=True)
            work.scratch.mkdir(exist_ok=True)
            _write_maker(folder, maker)
            yield work
            write_json(work.result / "key.json", dict(parts))
            for path in [*work.result.rglob("*"), work.result]:
                _sync(path)
            final = self.path(stage, key)
            final.parent.mkdir(parents=True, exist_ok=True)
            work.result.replace(final)
            _sync(final.parent)
            shutil.rmtree(folder, ignore_errors=True)

    def maker(self, stage: str, key: str) -> Maker | None:
        """Who last began to make an artifact that is not there; None if nobody did."""
        try:
            return Maker(**read_json(self.root / "partial" / stage / key / "maker.json"))
        except (OSError, ValueError, TypeError):
            return None

    def is_being_made(self, stage: str, key: str) -> bool:
        """Whether a living process holds the lease on a key, wherever it runs."""
        from filelock import FileLock, Timeout

        path = self._lock(stage, key)
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except Timeout:
            return True

    def record_failure(self, cell: str, error: BaseException) -> None:
        """Keep why a cell failed, for `ptst status` and for the report."""
        log = self.root / "failed" / f"{cell}.log"
        write_atomic(log, "".join(traceback.format_exception(error)))
        said = str(error).strip() or type(error).__name__
        reason = (
            said.splitlines()[-1]
            if isinstance(error, PtstError)
            else f"{type(error).__name__}: {said.splitlines()[-1]}"
        )
        record = {"reason": reason, "host": platform.node(), "at": time.time()}
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
    def _lease(self, stage: str, key: str) -> Iterator[None]:
        from filelock import FileLock, Timeout

        path = self._lock(stage, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=3)
        except Timeout:
            console().print(f"  another process is making {stage} {key}; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def fingerprint(path: Path) -> str:
    """A hash of a file's content, or of the files of a folder with their names.

    Hidden files and Markdown (a download's bookkeeping, a model card) do not count. A user's 13 GB model folder takes some ten seconds, so the hash is remembered by (path, size,
    modification time) for as long as the process lives.

    Raises:
        FileNotFoundError: there is nothing at `path`.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if _counts(p, path))
    if not files:
        raise FileNotFoundError(path)
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        name = file.relative_to(path).as_posix() if file != path else ""
        digest.update(f"{name}\0{_content(file, stat.st_size, stat.st_mtime_ns)}\0".encode())
    return digest.hexdigest()


def _counts(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.is_file() and not hidden and file.suffix != ".md"


_seen: dict[tuple[Path, int, int], str] = {}


def _content(file: Path, size: int, modified: int) -> str:
    known = _seen.get((file, size, modified))
    if known is None:
        with file.open("rb") as stream:
            known = hashlib.file_digest(stream, "sha256").hexdigest()
        _seen[(file, size, modified)] = known
    return known


def _write_maker(folder: Path, maker: Maker) -> None:
    # Not synced to disk, unlike all else: it only serves while its writer lives.
    temporary = folder / f".maker.{maker.pid}"
    temporary.write_text(json.dumps(asdict(maker)), encoding="utf-8")
    temporary.replace(folder / "maker.json")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
