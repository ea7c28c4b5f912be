"""Files that their publisher keeps at a URL: downloaded once, whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from uuid import uuid4

from ptst.errors import DataError

LIMIT = 2**30
"""Bytes: the largest file that is downloaded."""


def downloaded(url: str, sha256: str | None, name: str) -> Path:
    """The file at `url`, from this machine where it was downloaded before.

    Args:
        url: https; its end says of what kind the file is.
        sha256: what the file's hash must be; None takes any file.
        name: the data set's, for messages.

    Raises:
        DataError: it cannot be had, is too large, or is another file.
    """
    file = cached(url)
    if not file.is_file():
        _download(url, file, name)
    found = content_hash(file)
    if sha256 is not None and found != sha256:
        file.unlink()
        raise DataError(
            f"{name}: {url} is not the file that was meant: its sha256 is {found}, not {sha256}. "
            "Was it changed by its publisher? Set sha256 to its hash, or null, to take it."
        )
    return file


def cached(url: str) -> Path:
    """Where the file of a URL is kept: `$XDG_CACHE_HOME/ptst`, or `~/.cache/ptst`."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ptst"
    return folder / hashlib.sha256(url.encode()).hexdigest()[:16] / url.rsplit("/", 1)[-1]


def content_hash(file: Path) -> str:
    """sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(url: str, file: Path, name: str) -> None:
    import httpx2
    from huggingface_hub.constants import is_offline_mode

    def refused(reason: object) -> DataError:
        return DataError(
            f"{name}: {url} cannot be downloaded: {reason}.\n"
            "A copy on this machine is read with source=local path=FILE."
        )

    if is_offline_mode():
        raise refused("HF_HUB_OFFLINE forbids it")
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{uuid4().hex[:12]}")
    try:
        with (
            part.open("wb") as written,
            httpx2.stream("GET", url, follow_redirects=True, timeout=60) as answer,
        ):
            answer.raise_for_status()
            size = 0
            for chunk in answer.iter_bytes():
                size += len(chunk)
                if size > LIMIT:
                    raise refused(f"it has more than {LIMIT / 2**20:.0f} MB")
                written.write(chunk)
            written.flush()
            os.fsync(written.fileno())
        part.replace(file)
    except httpx2.HTTPError as error:
        raise refused((str(error) or type(error).__name__).splitlines()[0]) from error
    finally:
        part.unlink(missing_ok=True)
