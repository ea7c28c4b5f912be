"""What an artifact must have, and whether it has it: what a broken copy or a full disk left."""

from __future__ import annotations

import os
from pathlib import Path

from ptst.store.files import files_below, is_json

ARTIFACTS = {
    "finetune": "provenance.json",
    "posthoc": "provenance.json",
    "analyse": "values.json",
    "generate": "completions.jsonl",
    "judge": "scores.jsonl",
    "cell": "metrics.json",
}
"""By stage the file without which nothing can be made of an artifact."""


def missing_part(stage: str, folder: Path) -> str | None:
    """What an artifact lacks, in words; None where it is whole."""
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


def is_whole_weights(file: Path) -> bool:
    """Whether a file of safetensors is as long as its head says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np"):
            return True
    except (SafetensorError, OSError):
        return False
