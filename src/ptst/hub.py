"""Which commit of a hub repository this machine has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal


def commit_of(path: str, kind: Literal["model", "dataset"], revision: str | None) -> str | None:
    """The commit that `revision` (None: main) stood for when its files were last asked for.

    Read from the hub's cache, so nothing is asked of the network; None where the cache does not
    say.
    """
    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=path, repo_type=kind)
    said = folder / "refs" / (revision or "main")
    return said.read_text(encoding="utf-8").strip() if said.is_file() else None
