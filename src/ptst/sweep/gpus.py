"""GPUs of a process's own: what several local processes of one sweep (hydra/launcher=joblib)
need."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def visible_gpus() -> list[str]:
    """Ids of the GPUs that this process may use, without loading PyTorch."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu.strip() for gpu in given.split(",") if gpu.strip() not in ("", "-1")]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


def take_gpus(gpus: Sequence[str], count: int = 1, locks: Path | None = None) -> list[str]:
    """Take GPUs for as long as this process lives, and hide the others from it.

    To be called before CUDA is used. Where too few are free, the process shares: it keeps seeing
    all of them.

    Args:
        gpus: ids, as from `visible_gpus`. With no more than `count` there is nothing to choose.
        locks: folder of the locks; the machine's temporary one.
    """
    if len(gpus) <= count:
        return []
    import fcntl

    taken: dict[str, int] = {}
    for gpu in gpus:
        name = f"ptst-gpu-{os.getuid()}-{gpu.replace('/', '-')}.lock"
        path = (locks or Path(tempfile.gettempdir())) / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        taken[gpu] = descriptor  # not closed if it is kept: the lock goes when the process goes
        if len(taken) == count:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
            return list(taken)
    for descriptor in taken.values():
        os.close(descriptor)
    return []
