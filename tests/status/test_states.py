"""Status is read from the store alone, whoever runs the cells."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import TINY, ptst
from rich.console import Console
from warm import Command

from ptst.cli import main
from ptst.errors import PtstError
from ptst.status.states import as_json, shown, states_of
from ptst.store import Store
from ptst.sweep.grid import Grid, expand

GRID = ("+sweeps=quick", *TINY, "tracking=none")


def wait_for(grid: Grid, store: Store, process: Command, stage: str) -> None:
    """Wait until a cell is seen running in a stage that tells how far it is."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the sweep ended before it was seen running"
        states = states_of(grid, store).values()
        if any(s.state == "running" and s.stage == stage and s.done for s in states):
            return
        time.sleep(0.02)
    raise AssertionError(f"nobody was seen in {stage}")


def test_a_running_fine_tuning_is_seen_and_a_killed_one_is_waiting(tmp_path: Path) -> None:
    overrides = [*GRID, f"paths.store={tmp_path}/store", f"paths.reports={tmp_path}/reports"]
    overrides = [o.replace("max_steps=3", "max_steps=300") for o in overrides]
    grid, store = expand(overrides), Store(tmp_path / "store")
    longest = [
        c for c in grid.cells if c.coordinates["train_template"] == "chat_llama"
    ]  # run first
    assert {state.state for state in states_of(grid, store).values()} == {"waiting"}
    process = ptst("-m", *overrides)
    try:
        wait_for(grid, store, process, "finetune")
        states = states_of(grid, store)
        first = [states[cell.keys.cell] for cell in longest]
        assert [state.state for state in first] == ["running", "running"]
        assert first[0].host == os.uname().nodename
        assert (first[0].since or "").endswith("+00:00")
        assert first[0].total == 300
        assert states[grid.cells[0].keys.cell].state == "waiting"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    state = states_of(grid, store)[longest[0].keys.cell]
    assert (state.state, state.stage, state.reason) == ("waiting", "finetune", "interrupted")
    assert state.total == 300


def test_a_failure_is_kept_with_its_whole_error_until_the_next_attempt(tmp_path: Path) -> None:
    grid = expand([*GRID, f"paths.store={tmp_path}/store"])
    store, key = Store(tmp_path / "store"), grid.cells[0].keys.cell
    try:
        raise ValueError("first line\nthe last line")
    except ValueError as error:
        store.record_failure(key, error)
    state = states_of(grid, store)[key]
    assert (state.state, state.reason) == ("failed", "ValueError: the last line")
    assert "Traceback" in Path(state.log or "").read_text()
    store.record_failure(key, PtstError("said plainly.\nAnd what to do."))
    assert states_of(grid, store)[key].reason == "said plainly. And what to do."
    store.forget_failure(key)
    assert states_of(grid, store)[key].state == "waiting"


def test_json_counts_every_state_and_lists_every_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*GRID, f"paths.store={tmp_path}/store"]
    grid, store = expand(overrides), Store(tmp_path / "store")
    store.record_failure(grid.cells[0].keys.cell, PtstError("no luck"))
    assert main(["status", *overrides, "output=json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(as_json(grid, states_of(grid, store))))
    assert [told[state] for state in ("cells", "done", "running", "failed", "waiting")] == [6, 0, 0, 1, 5]  # fmt: skip
    assert told["each"][0]["reason"] == "no luck"
    assert told["each"][0]["coordinates"]["test_template"] == "chat_vanilla"
    assert not (tmp_path / "store" / "sweeps").exists()  # looking changes nothing


def test_people_see_counts_and_reasons(tmp_path: Path) -> None:
    grid = expand([*GRID, f"paths.store={tmp_path}/store"])
    store = Store(tmp_path / "store")
    store.record_failure(grid.cells[0].keys.cell, PtstError("no [luck]"))
    out = Console(width=120, record=True, file=io.StringIO())
    out.print(shown(grid, states_of(grid, store)))
    text = out.export_text()
    assert "quick-micro: 6 cells: 1 failed, 5 waiting" in text
    assert "no [luck]" in text


@pytest.mark.parametrize("words", [["output=xml"], ["watch=maybe"], ["watch=true", "output=json"]])
def test_a_wrong_option_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "+sweeps=quick", *words]) == 2
    assert "ptst: " in capsys.readouterr().err
