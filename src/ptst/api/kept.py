"""Answers that were paid for, kept on disk at once: nobody pays for the same one again.

A folder of JSON Lines files, one for each machine, so that a shared file system needs no lock to
append. A line is written by one call and stands between two newlines: one torn by a full disk or a
dead machine spoils no other. A killed process loses nothing that `add` was given; a machine that
loses power, what is younger than a second.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ptst.api.answers import Answer
from ptst.api.budget import cost_by_tokens, most_tokens
from ptst.api.endpoint import Messages
from ptst.estimates import BATCH_SHARE, Price

SYNC_SECONDS = 1.0


class Kept:
    """The answers to each question, by its key, in the order in which they came.

    A question may be claimed by one process at a time. A claim is a lock of the operating system on
    one byte of a file, at a place that the key says, and ends with its process, however that dies.
    It holds between processes only: one process must not have two `Kept` of one folder.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.answers: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._read: dict[Path, int] = {}
        self._own: set[bytes] = set()
        """Lines of `add` that `refresh` has not come across yet."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.open(folder / f"{platform.node()}.jsonl", flags, 0o644)
        self._claims = os.open(folder / "claims.lock", os.O_RDWR | os.O_CREAT, 0o644)
        self._synced = time.monotonic()
        self.refresh()

    def __enter__(self) -> Kept:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        os.fsync(self._file)
        os.close(self._file)
        os.close(self._claims)

    def refresh(self) -> list[dict[str, Any]]:
        """Read what was added since, by whomever; what of it was not added here.

        A line that is no JSON was torn: it is passed over.
        """
        others = []
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                whole, newline, _ = file.read().rpartition(b"\n")
            self._read[path] = self._read.get(path, 0) + len(whole) + len(newline)
            for line in whole.split(b"\n"):
                try:
                    answer = json.loads(line) if line else None
                except ValueError:
                    continue
                if isinstance(answer, dict) and isinstance(key := answer.pop("key", None), str):
                    self.answers[key].append(answer)
                    if line in self._own:
                        self._own.discard(line)
                    else:
                        others.append(answer)
        return others

    def add(self, key: str, answer: dict[str, Any]) -> None:
        """Keep one more answer; it is in `answers` after the next `refresh`.

        Raises:
            OSError: the disk is full.
        """
        line = json.dumps({"key": key, **answer}, ensure_ascii=False, allow_nan=False)
        content = line.encode(errors="backslashreplace")
        if os.write(self._file, b"\n" + content + b"\n") != len(content) + 2:
            raise OSError(f"{self.folder}: an answer could not be written whole; is the disk full?")
        self._own.add(content)
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def claim(self, key: str) -> bool:
        """Whether this process, and no other, may now ask the question."""
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(key))
        except (BlockingIOError, PermissionError):  # what systems say for "another has it"
            return False
        return True

    def release(self, key: str) -> None:
        """Let others ask it."""
        fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, _place(key))


def _place(key: str) -> int:
    return int(key[:15], 16)


def record_of(answer: Answer, prompt: Messages, batch: bool) -> dict[str, Any]:
    """What is kept of an answer: the answer, when it came, and what else decides its price.

    Args:
        batch: whether it came in a batch, at the price of one.
    """
    record = {**dataclasses.asdict(answer), "at": round(time.time(), 3), "batch": batch}
    if None in (answer.input_tokens, answer.output_tokens):
        record["most_tokens"] = most_tokens(prompt)
    return record


def cost_of(record: Mapping[str, Any], price: Price, max_tokens: int) -> float:
    """What a kept answer cost, in USD; at worst, where the server did not say its tokens."""
    tokens = record["input_tokens"], record["output_tokens"]
    if record["refused"] and tokens[1] is None:  # not even begun
        return 0.0
    worst = price.of(record.get("most_tokens", 0), max_tokens)
    return cost_by_tokens(price, *tokens, worst) * (BATCH_SHARE if record.get("batch") else 1)
