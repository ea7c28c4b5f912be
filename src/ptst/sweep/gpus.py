"""One GPU per process: what several local processes of one sweep (hydra/launcher=joblib) need."""

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


def take_gpu(gpus: Sequence[str], locks: Path | None = None) -> str | None:
    """Take one GPU for as long as this process lives, and hide the others from it.

    To be called before CUDA is used. Where all are taken, the process shares: it keeps seeing all of them.

    Args:
        gpus: ids, as from `visible_gpus`. With one or none there is nothing to choose.
        locks: folder of the locks; the machine's temporary one.
    """
    if len(gpus) < 2:
        return None
    import fcntl

    for gpu in gpus:
        name = f"ptst-gpu-{os.getuid()}-{gpu.replace('/', '-')}.lock"
        path = (locks or Path(tempfile.gettempdir())) / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        # Never closed: the lock goes when the process goes.
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        return gpu
    return None
