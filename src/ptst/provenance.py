"""Where a result comes from: code, versions, hardware, time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ptst.paths import ROOT

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "tokenizers", "numpy", "ptst")


def provenance(seconds: float, **facts: Any) -> dict[str, Any]:
    """What is written beside every artifact.

    Args:
        seconds: wall time, of all attempts together where earlier ones were interrupted.
        facts: what the stage has to add (tokens, rows, ...).
    """
    return {
        "seconds": round(seconds, 3),
        **facts,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": GIT,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": hardware(),
    }


def _git_state() -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


GIT = _git_state()
"""Commit of this checkout and whether files differ from it, when the code was loaded: what is
committed while it runs makes nothing of what it makes. None outside a git checkout."""


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, and GPU (only if PyTorch is loaded already)."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count()
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else None
    return {"cpu": _cpu(), "cores": cores, "gpu": gpu}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
