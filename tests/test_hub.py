"""Provenance names the commit that was had, also where a branch was asked for."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from ptst.hub import commit_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_the_commit_is_the_one_asked_for_or_the_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert commit_of("owner/name", "dataset", COMMIT) == COMMIT
    assert commit_of("owner/name", "dataset", None) is None
    refs = tmp_path / "datasets--owner--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    assert (
        commit_of("owner/name", "dataset", None)
        == commit_of("owner/name", "dataset", "main")
        == COMMIT
    )
    assert commit_of("owner/name", "model", None) is None
