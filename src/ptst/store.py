"""Keys, atomic artifacts, leases: what was made once is found again, and never half.

An artifact is a folder `<store>/<stage>/<key>/`. Its key is a hash of everything that decides its
content, as resolved values (see `key_of`), never of a time, a name or a difference from a default.
It appears by one rename, complete. Until then its maker works in `<store>/partial/<stage>/<key>/`,
which is kept when the maker dies, so that the next one can resume there.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from ptst.errors import Busy, Interrupted, PtstError
from ptst.progress import console
from ptst.redact import redacted

T = TypeVar("T")
LOCK_SECONDS = 0.1
"""Between two tries to get a lock."""
FULL = ("no space left", "quota exceeded", "unexpected pos", "file write failed", "iostream error")
"""In the text of errors, in lower case, where a disk is full; the last three are torch's."""
ARTIFACTS = {
    "finetune": "provenance.json",
    "posthoc": "provenance.json",
    "analyse": "values.json",
    "generate": "completions.jsonl",
    "judge": "scores.jsonl",
    "cell": "metrics.json",
}
"""By stage the file without which nothing can be made of an artifact."""
KEY_LENGTH = 16
"""Hexadecimal digits: 64 bits, so that a million artifacts collide with probability 3e-8."""


def key_of(parts: Mapping[str, Any]) -> str:
    """Hash resolved configuration (JSON-like values) into a key."""
    return hashlib.sha256(_canonical(parts)).hexdigest()[:KEY_LENGTH]


class RowsKey:
    """`key_of({"rows": [...]})` of rows that go by one at a time and are not kept."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256(b'{"rows": [')

    def of(self, rows: Iterable[T]) -> Iterator[T]:
        """Hand the rows on; to be used up before `key` is read."""
        between = b""
        for row in rows:
            self._digest.update(between + _canonical(row))
            between = b", "
            yield row

    @property
    def key(self) -> str:
        """The key of the rows so far."""
        whole = self._digest.copy()
        whole.update(b"]}")
        return whole.hexdigest()[:KEY_LENGTH]


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()


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
    return list(each_row(path))


def each_row(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a complete JSON Lines file, one at a time."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield json.loads(line)


def read_journal(path: Path) -> dict[int, dict[str, Any]]:
    """Finished batches by their first prompt; lines that cannot be read are left out, their batches run again.

    A line is {"batch": index of the first prompt, "answers": {index: answer}}, and may say more.
    """
    if not path.exists():
        return {}
    entries, content = [], path.read_bytes()
    for line in content.splitlines(keepends=True):
        with suppress(ValueError):
            entries += [json.loads(line)] if line.endswith(b"\n") else []
    whole = "".join(f"{json.dumps(entry)}\n" for entry in entries).encode()
    if whole != content:
        write_bytes(path, whole)
    return {entry["batch"]: entry["answers"] for entry in entries}


@dataclass(frozen=True)
class Maker:
    """Who makes, or last tried to make, an artifact, and how far it came.

    `since` and `updated` are seconds since the epoch, `spent` the seconds of earlier attempts; `done`
    of `total` are optimizer steps or queries. `loss` is the last step's. `rate` counts tokens of training or
    queries, per second since this attempt's first word; `left` are the seconds of the rest at that pace.
    """

    host: str
    pid: int
    since: float
    updated: float
    spent: float = 0.0
    done: int | None = None
    total: int | None = None
    loss: float | None = None
    rate: float | None = None
    left: float | None = None


@dataclass
class Work:
    """Where an artifact is being made.

    `result` becomes the artifact and starts empty. `scratch` (checkpoints, a journal) may hold what an
    earlier, interrupted maker left, and is thrown away when the artifact is there.
    """

    result: Path
    scratch: Path
    maker: Maker
    began: float = field(default_factory=time.monotonic)
    told: float = 0.0
    first: tuple[float, int, int] | None = None
    """When this attempt first told something, and what: it has been at full speed since."""

    def tell(
        self, done: int, total: int, loss: float | None = None, tokens: int | None = None
    ) -> None:
        """Let others see how far the work is; written at most once a second.

        Args:
            tokens: what a rate is to count, where that is not `done`.
        """
        now, counted = time.monotonic(), done if tokens is None else tokens
        self.first = self.first or (now, done, counted)
        if now - self.told < 1 and done != total:
            return
        self.told = now
        seconds, steps = now - self.first[0], done - self.first[1]
        self.maker = replace(
            self.maker,
            done=done,
            total=total,
            updated=self.maker.since + now - self.began,  # a clock may be set back
            loss=loss,
            rate=(counted - self.first[2]) / seconds if steps > 0 else None,
            left=(total - done) * seconds / steps if steps > 0 else None,
        )
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
    whole: set[Path] = field(default_factory=set, compare=False, repr=False)
    """Artifacts that were found whole: they are not read again to see it."""

    def path(self, stage: str, key: str) -> Path:
        """Where the artifact is, or will be."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether the artifact is there (then it was complete when it was made)."""
        return self.path(stage, key).is_dir()

    def damage(self, stage: str, key: str) -> str | None:
        """What is wrong with an artifact after a broken copy, say, and what to do; None if nothing, or it is not there.

        Of long files only the end is read, of weights only what stands before them.
        """
        folder = self.root / stage / key
        if folder in self.whole or not folder.is_dir():
            return None
        if lacks := _lacks(stage, folder):
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
            _write_maker(folder, maker)
            yield work
            write_json(work.result / "key.json", dict(parts))
            readers = work.result.stat().st_mode & 0o666
            for file in files_below(work.result):
                file.chmod(readers)  # safetensors makes files that only their owner may read
            sync(work.result)
            final = self.path(stage, key)
            final.parent.mkdir(parents=True, exist_ok=True)
            work.result.replace(final)
            _sync(final.parent)
            shutil.rmtree(folder, ignore_errors=True)

    def prepare(self) -> None:
        """To be called before time is spent on what is to be stored.

        Removes what makers left that died between publishing an artifact and tidying up: checkpoints, say.

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
                # Shared, which takes no leave to write, and two who look do not take each other for makers
                return not _try_lock(file.fileno(), fcntl.LOCK_SH)
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
def locked(path: Path, wait: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Hold a lock of the operating system, which ends with its holder, however that dies.

    Args:
        path: the lock's file, which stays.
        wait: called again and again while another process holds the lock; may raise.

    Yields:
        The file's descriptor. A process that inherits it holds the lock, too, for as long as it lives.

    Raises:
        PtstError: the file system cannot lock files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            while not _try_lock(file.fileno(), fcntl.LOCK_EX):
                wait()
                time.sleep(LOCK_SECONDS)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            raise PtstError(
                f"the file system of {path.parent} cannot lock files ({error.strerror}), and without locks two "
                "processes would make the same thing at once. Put the store elsewhere (paths.store=...), or have "
                "the file system mounted with locks: Lustre with the option flock (localflock where one machine "
                "alone uses it), NFS with its lock service."
            ) from error
        yield file.fileno()


def _try_lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):  # the latter from NFS
            return False
        raise
    return True


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
class Glance(Store):
    """A store for who asks after everything in it: each of its folders is listed when first asked, and not again."""

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


def fingerprint(path: Path) -> str:
    """A hash of a file's content, or of the files of a folder with their names.

    Hidden files and Markdown (a download's bookkeeping, a model card) do not count, links do. A user's 13 GB model folder
    takes some ten seconds, so a file's hash is remembered for as long as the file is what it was.

    Raises:
        FileNotFoundError: there is nothing at `path`.
    """
    files = [path] if path.is_file() else [p for p in files_below(path) if _counts(p, path)]
    if not files:
        raise FileNotFoundError(path)
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        name = file.relative_to(path).as_posix() if file != path else ""
        digest.update(f"{name}\0{_content(file, stat)}\0".encode())
    return digest.hexdigest()


def _counts(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.suffix != ".md"


def files_below(folder: Path) -> list[Path]:
    """All files of a folder, sorted, also of folders that are linked into it: `Path.rglob` leaves them out."""
    found: list[Path] = []

    def walk(here: Path, above: frozenset[Path]) -> None:
        if (real := here.resolve()) in above:  # a link to where it lies itself
            return
        for path in here.iterdir():
            if path.is_dir():
                walk(path, above | {real})
            elif path.is_file():
                found.append(path)

    if folder.is_dir():
        walk(folder, frozenset())
    return sorted(found)


SETTLED = 2.0
"""Seconds that a file must have been left alone before its hash is remembered: longer than a tick of any file
system's clock, so that the next change shows."""

_seen: dict[tuple[Path, int, int, int, int], str] = {}
"""By what a change of the content cannot leave as it is: the system itself sets ctime, unlike a modification time,
which copies and archives take with them."""


def _content(file: Path, stat: os.stat_result) -> str:
    as_it_is = (file, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    known = _seen.get(as_it_is)
    if known is None:
        with file.open("rb") as stream:
            known = hashlib.file_digest(stream, "sha256").hexdigest()
        if time.time() - stat.st_ctime > SETTLED:
            _seen[as_it_is] = known
    return known


def _write_maker(folder: Path, maker: Maker) -> None:
    # Not synced to disk, unlike all else: it only serves while its writer lives.
    temporary = folder / f".maker.{maker.pid}"
    temporary.write_text(json.dumps(asdict(maker)), encoding="utf-8")
    temporary.replace(folder / "maker.json")


def _lacks(stage: str, folder: Path) -> str | None:
    if not (folder / ARTIFACTS[stage]).is_file():
        return f"there is no {ARTIFACTS[stage]}"
    for file in files_below(folder):
        if not _is_whole(file, folder):
            return f"{file.relative_to(folder)} is cut off"
    return None


def _is_whole(file: Path, artifact: Path) -> bool:
    """Whether a file of an artifact ends where it was meant to."""
    if file.suffix == ".safetensors":
        return is_whole_weights(file)
    with file.open("rb") as stream:
        if stream.seek(0, os.SEEK_END) == 0:
            return False
        if file.suffix == ".jsonl":
            stream.seek(-1, os.SEEK_END)
            return stream.read() == b"\n"
    return file.suffix != ".json" or file.parent != artifact or is_json(file)


def is_json(file: Path) -> bool:
    """Whether a file can be read as JSON."""
    try:
        read_json(file)
    except (OSError, ValueError):
        return False
    return True


def is_whole_weights(file: Path) -> bool:
    """Whether a file of safetensors is as long as its head says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np"):
            return True
    except (SafetensorError, OSError):
        return False


def sync(folder: Path) -> None:
    """Have everything in a folder on the disk, so that a machine that loses its power does not lose it."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
