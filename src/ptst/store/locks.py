"""Locks of the operating system, which end with their holder, however that dies."""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ptst.errors import PtstError

LOCK_SECONDS = 0.1
"""Between two tries to get a lock."""


@contextmanager
def locked(path: Path, wait: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Hold a lock of the operating system, which ends with its holder, however that dies.

    Args:
        path: the lock's file, which stays.
        wait: called again and again while another process holds the lock; may raise.

    Yields:
        The file's descriptor. A process that inherits it holds the lock, too, for as long as it
            lives.

    Raises:
        PtstError: the file system cannot lock files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            while not try_lock(file.fileno(), fcntl.LOCK_EX):
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


def try_lock(descriptor: int, how: int) -> bool:
    """Lock an open file, exclusively or shared; False where another process holds it."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):  # the latter from NFS
            return False
        raise
    return True
