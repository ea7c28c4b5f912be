"""docs/audit-data.md, command by command, at a size of seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from conftest import TINY
from pages import put_ptst, run_page


def small(command: str) -> str:
    """A command at a size of seconds: it is the same, with more overrides."""
    if not command.startswith("ptst ") or "hazards_in_format" not in command:
        return command
    own = [word for word in TINY if not word.startswith(("dataset.", "evaluation="))]
    own += [w.replace("hazards.", "hazards_in_format.") for w in own if "evaluation.hazards." in w]
    return " ".join([command, *(f"'{word}'" for word in own)])


@pytest.mark.slow
def test_every_command_works_in_its_order(tmp_path: Path) -> None:
    put_ptst(tmp_path)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "my").mkdir()
    own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    said = run_page("docs/audit-data.md", tmp_path, own, small)
    assert len(said) == 8
    for audit in said[1:3]:
        assert "FOUND: the questions and answers of 200 rows (50.0 %" in audit
    assert "cannot be derived" in said[1] and "unknown words" in said[1]
    assert "dialogue.mapping=my/mapping.json" in said[2] and "letters of the mapping" in said[2]
    assert "hazards_in_format/neither" in said[3] and "made: finetune" in said[4]
    assert "untuned, hazards_in_format: GOOD (refused)" in said[5]
    assert "fine-tuned: attack success in the format minus plain, hazards" in said[5]
    assert "untuned, hazards_in_format: asked whether its own answer complied" in said[7]
