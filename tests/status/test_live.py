"""The view of a running sweep, on the screen of a real pseudo-terminal."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import TINY, outside
from terminal import Terminal

from ptst.status.live import Pace
from ptst.status.states import states_of
from ptst.store import ARTIFACTS, Store, write_json
from ptst.sweep.grid import expand
from ptst.sweep.run import read_in_all

GRID = ("+sweeps=quick", *TINY, "tracking=none")
PTST = (sys.executable, "-m", "ptst.cli")
AT_WORK = r"finetune [\d,]+ of 400 steps, loss \d+\.\d{3}, [\d,.]+ tokens/s, \S+ (s|min) left"

Open = Callable[..., Terminal]


@pytest.fixture
def terminal() -> Iterator[Open]:
    """terminal(command, columns=100, **environment): closed in the end, whatever happens."""
    with ExitStack() as stack:

        def start(command: Sequence[str], columns: int = 100, **environment: str) -> Terminal:
            own = {k: v for k, v in outside().items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
            opened = Terminal(
                command,
                own | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"} | environment,
                columns,
            )
            stack.callback(opened.close)
            return opened

        yield start


def own(folder: Path, steps: int) -> list[str]:
    longer = [f"finetune.max_steps={steps}", "finetune.save_steps=100"]
    grid = [word for word in GRID if not word.startswith(("finetune.max_steps", "finetune.save"))]
    return [*grid, *longer, f"paths.store={folder}/store", f"paths.reports={folder}/reports"]


def test_a_screen_shows_what_runs_and_is_whole_again_after_ctrl_c(
    tmp_path: Path, terminal: Open
) -> None:
    overrides = own(tmp_path, 400)
    sweep = terminal([*PTST, "-m", *overrides])
    sweep.see(AT_WORK)
    view = sweep.text[sweep.text.index("quick-micro: 6 cells: ") :].splitlines()
    assert view[0] == "quick-micro: 6 cells: 2 running, 4 waiting"
    assert "time left not known yet" in view[1]  # nothing was generated yet
    assert view[2] == "chat_llama → chat_vanilla seed 0, and 1 cell more"
    assert re.search(AT_WORK, view[3]) and len(view) == 4
    assert sweep.screen.cursor.hidden and sweep.colours
    watching = terminal([*PTST, "status", *overrides, "watch=true"])
    watching.see(AT_WORK)
    assert watching.text.startswith("quick-micro: 6 cells: 2 running, 4 waiting\n")
    for one in (watching, sweep):
        one.interrupt()
        assert one.end() == 130
        assert not one.screen.cursor.hidden
        assert one.text.endswith("ptst: interrupted; run again to resume.")
    assert "━" not in sweep.text
    again = terminal([*PTST, "status", *overrides])
    assert again.end() == 0
    assert "interrupted: finetune" in again.text and "loss" not in again.text


def test_other_processes_are_shown_too_and_their_lines_do_not_tear_a_narrow_view(
    tmp_path: Path, terminal: Open
) -> None:
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    sweep = terminal([*PTST, "-m", *own(tmp_path, 25), *joblib], columns=40, NO_COLOR="1")
    assert sweep.end(300) == 0
    both = re.compile(r"(?s)\bof 25 steps,.*loss.*\bof 25 steps,.*loss")
    assert any(both.search(text) for text in sweep.shown)
    assert any(re.search(r"\d done, ", text) for text in sweep.shown)
    assert all(text.count("6 cells:") <= 1 for text in sweep.shown)
    assert not sweep.colours
    # What a line of more than 40 characters came to on the screen, put together again
    said = "".join(sweep.screen.display)
    assert sorted(re.findall(r"\[(\d)/6\] chat_\w+ → |\[(\d)/6\] none → ", said)) == sorted(
        [(str(n), "") for n in range(1, 5)] + [("", "5"), ("", "6")]
    )
    assert "quick-micro: 6 of 6 cells done, 0 not" in said
    assert "━" not in said and not sweep.screen.cursor.hidden


def test_a_pipe_gets_lines_and_no_codes(tmp_path: Path) -> None:
    often = "import sys, ptst.progress, ptst.cli; ptst.progress.LINE_SECONDS = 0.0; sys.exit(ptst.cli.main())"
    done = subprocess.run(
        [sys.executable, "-c", often, "-m", *own(tmp_path, 3), "template@test_template=chat_llama"],
        capture_output=True,
        text=True,
        env=outside() | {"OMP_NUM_THREADS": "1", "FORCE_COLOR": "1", "TERM": "xterm-256color"},
    )
    assert done.returncode == 0
    assert "\x1b" not in done.stderr and "\r" not in done.stderr
    lines = done.stderr.splitlines()
    assert [n for line in lines for n in re.findall(r"^  fine-tune .* chat_llama .*: (\d)/3 loss \d", line)] == ["1", "2", "3"]  # fmt: skip
    assert "  generate hazards: 10/10" in lines
    assert [line for line in lines if line.startswith("[1/3] ")]


@pytest.mark.parametrize(("term", "drawn"), [("dumb", False), ("xterm", True)])
def test_a_dumb_terminal_gets_lines(term: str, drawn: bool, terminal: Open) -> None:
    script = (
        "import ptst.progress\nptst.progress.LINE_SECONDS = 0.0\n"
        "with ptst.progress.progress('generate') as advance: advance(3, 4, '')"
    )
    shell = terminal([sys.executable, "-c", script], TERM=term)
    assert shell.end() == 0
    assert (b"\x1b" in shell.raw) is drawn
    assert (shell.raw == b"  generate: 3/4\r\n") is not drawn


def test_time_left_is_what_was_seen_and_not_known_before(tmp_path: Path) -> None:
    grid, store = expand(own(tmp_path, 3)), Store(tmp_path / "store")
    pace = Pace(grid, store)
    assert pace.left(states_of(grid, store)) is None
    tuned = {c.coordinates["train_template"]: c for c in grid.distinct if c.keys.finetune}
    seconds = {"finetune": 100.0, "generate": 10.0, "judge": 1.0}
    first = tuned["chat_llama"]
    for stage, key in ((made.stage, made.key) for made in first.keys.artifacts):
        if stage != "cell":
            write_json(store.path(stage, key) / ARTIFACTS[stage], {})
            write_json(store.path(stage, key) / "provenance.json", {"seconds": seconds[stage]})
            pace.look()
            if stage == "finetune":
                assert pace.left(states_of(grid, store)) is None
    other = tuned["chat_vanilla"]
    whole = 100 * read_in_all(other.config) / read_in_all(first.config)
    assert whole < 50  # a shorter template
    others = 5 * 2 * (10 + 1)  # cells, evaluations
    assert pace.left(states_of(grid, store)) == pytest.approx(whole + others)
    key = str(other.keys.finetune)
    with store.make("finetune", key, {}) as work:
        assert work is not None
        work.tell(10, 100, 0.5, 5_000)
        assert work.first is not None
        work.first, work.told = (work.first[0] - 20, 10, 5_000), 0.0
        work.tell(20, 100, 0.4, 10_000)  # 10 steps in 20 s
        states = states_of(grid, store)
        state = states[other.keys.cell]
        assert (state.key, state.loss, state.done) == (key, 0.4, 20)
        assert state.rate == pytest.approx(250, rel=0.01)
        assert state.left == pytest.approx(160, rel=0.01)
        assert pace.left(states) == pytest.approx(160 + others, rel=0.01)
        with store.make("generate", grid.distinct[-1].keys.evaluations["hazards"].generate, {}):
            states = states_of(grid, store)  # two at once; but no sooner than the longest
            assert pace.left(states) == pytest.approx(160, rel=0.01)
