"""Keys and fingerprints: a hash of resolved values, of rows, of a file or a folder."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ptst.store.files import files_below

T = TypeVar("T")

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


SETTLED = 2.0
"""Seconds that a file must have been left alone before its hash is remembered: longer than a tick
of any file system's clock, so that the next change shows."""

_seen: dict[tuple[Path, int, int, int, int], str] = {}
"""By what a change of the content cannot leave as it is: the system itself sets ctime, unlike a
modification time, which copies and archives take with them."""


def fingerprint(path: Path) -> str:
    """A hash of a file's content, or of the files of a folder with their names.

    Hidden files and Markdown (a download's bookkeeping, a model card) do not count, links do. A
    user's 13 GB model folder takes some ten seconds, so a file's hash is remembered for as long as
    the file is what it was.

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


def _content(file: Path, stat: os.stat_result) -> str:
    as_it_is = (file, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    known = _seen.get(as_it_is)
    if known is None:
        with file.open("rb") as stream:
            known = hashlib.file_digest(stream, "sha256").hexdigest()
        if time.time() - stat.st_ctime > SETTLED:
            _seen[as_it_is] = known
    return known
