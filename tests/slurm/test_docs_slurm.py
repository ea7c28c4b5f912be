"""docs/slurm.md, from a login to a finished table, command by command."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY
from pages import clone, run_page
from slurm_cluster import Cluster
from warm import PYTHON

pytestmark = pytest.mark.slow

ONE = " ".join(f"hydra.launcher.{s}.cpus=1 hydra.launcher.{s}.memory=2G" for s in ("finetune", "generate", "judge"))  # fmt: skip


def small(command: str) -> str:
    """A command at a size of seconds: it is the same, with more overrides."""
    given = {word.split("=")[0] for word in command.split()}
    more = [word for word in TINY if word.split("=")[0] not in given]
    if "scale=paper" in command:
        more = []
    if "+sweeps=" in command:
        command += " " + " ".join(f"'{word}'" for word in more)
    if "scale=paper" in command and "launcher=slurm" in command:  # there is no 7B model to load
        command += " " + " ".join(f"hydra.launcher.{s}.extra=[--hold]" for s in ("finetune", "generate"))  # fmt: skip
    return f"{command} {ONE}" if "launcher=slurm" in command else command


def test_every_command_of_the_page_works_in_its_order(
    virtual: Callable[..., Cluster], tmp_path: Path
) -> None:
    checkout = clone(tmp_path / "ptst")
    python = str(checkout / ".venv" / "bin" / "python")
    own = {"PYTHONPATH": f"{checkout}/src", "HF_HUB_OFFLINE": "1", PYTHON: python}
    said = run_page("docs/slurm.md", checkout, virtual().environment | own, small)
    assert len(said) > 15
    everything = "\n".join(said)
    assert "quick-micro: 6 cells: 6 done" in everything
    assert "quick-micro: 9 cells: 9 done" in everything
    assert re.search(r"table1-paper: [1-9]\d* jobs cancelled", everything)
    assert "on n" in everything  # a log, shown by tail
    assert list((checkout / "reports").glob("quick-micro*/index.html"))
    assert "submission.json" in " ".join(str(p) for p in (checkout / "store" / "slurm").glob("*/*"))
