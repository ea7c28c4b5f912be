"""Files that are there complete or not at all: text, JSON, JSON Lines, CSV, journals."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4


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


def is_json(file: Path) -> bool:
    """Whether a file can be read as JSON."""
    try:
        read_json(file)
    except (OSError, ValueError):
        return False
    return True


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, complete or not there; NaN and infinity are refused."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    write_atomic(path, "".join(f"{line}\n" for line in lines))


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A CSV with these columns; a row that has no such value is empty there."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a complete JSON Lines file (only newline ends a row)."""
    return list(each_row(path))


def each_row(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a complete JSON Lines file, one at a time."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield json.loads(line)


def read_journal(path: Path) -> dict[int, dict[str, Any]]:
    """Finished batches by their first prompt.

    Lines that cannot be read are left out, and their batches run again. A line is {"batch": index
    of the first prompt, "answers": {index: answer}}, and may say more.
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


def files_below(folder: Path) -> list[Path]:
    """All files of a folder, sorted; also those in linked folders, which `rglob` leaves out."""
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


def sync(folder: Path) -> None:
    """Have everything in a folder on the disk, so that it outlives a loss of power."""
    for path in [*folder.rglob("*"), folder]:
        sync_one(path)


def sync_one(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
