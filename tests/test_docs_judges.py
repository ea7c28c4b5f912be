"""docs/judges.md, command by command, at a size of seconds."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from conftest import TINY
from pages import put_ptst, run_page, text_of

from ptst.paths import CONF


def small(command: str) -> str:
    """A command at a size of seconds: it is the same, with more overrides."""
    return " ".join([command, *(f"'{w}'" for w in TINY)]) if "+sweeps" in command else command


@pytest.mark.slow
def test_every_command_works_in_its_order(tmp_path: Path) -> None:
    put_ptst(tmp_path)
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    own = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = run_page("docs/judges.md", tmp_path, own, small)
    assert len(said) == 20
    assert '"krippendorff": {"hazards"' in said[4]
    assert re.search(r"\d+ labels of ann kept, 0 rows without one", said[7])
    assert "Against people" in said[8]
    assert re.search(r"Audit of the judge, by ann: n = \d+", said[9])
    assert all("labels of bob kept" in imported for imported in said[12:14])
    assert re.search(r"labels: labels.jsonl \(\d+ of ann, \d+ of bob\)", said[14])
    assert "annotator bob" in said[16] and "All annotators: Krippendorff's alpha" in said[16]
    assert re.search(r"hazards +keywords\S* +reading", said[16])
    (judges,) = (tmp_path / "reports").glob("quick-micro-*/judges.md")
    folder = judges.parent
    assert "annotator ann" in judges.read_text()
    assert "Audit of the judge" in (folder / "index.html").read_text()
    table = "\n".join(line.rstrip() for line in said[19].splitlines())
    assert f"```\n{table}\n```" in text_of("docs/judges.md")


def test_every_judge_is_on_the_page() -> None:
    for path in (CONF / "judge").glob("*.yaml"):
        assert f"`{path.stem}`" in text_of("docs/judges.md"), path.name
