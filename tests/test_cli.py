"""What people type: every command's help, its options, completion, and errors of one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY

from ptst.cell import run_cell
from ptst.cli import app, main
from ptst.config.compose import compose

PTST = Path(sys.executable).with_name("ptst")


@pytest.mark.parametrize("name", [name for name in app.commands if name != "run"])
def test_every_command_has_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Usage: ptst {name}")
    assert all(
        f"--{p.opts[0].lstrip('-')}" in said
        for p in app.commands[name].params
        if p.opts[0][0] == "-"
    )


def test_help_lists_commands_sweeps_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["-h"], ["help"]):
        assert main(words) == 0
        said = capsys.readouterr().out
        assert all(f"  {name} " in said for name in app.commands if name != "run")
        assert "table1" in said and "chat_llama" in said
        assert (
            "..." not in said.split("Commands:")[1].split("Overrides are")[0]
        )  # no sentence cut off
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ptst ")
    assert main(["seed=1", "--help"]) == 0
    assert "--multirun" in capsys.readouterr().out


def test_options_are_spelled_as_overrides_or_as_options(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["output=json"], ["--output=json"], ["--output", "json"]):
        assert main(["prompt", "question=Why?", *words]) == 0
        assert capsys.readouterr().out.startswith('{"text": ')


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["nonsense"],
            "'nonsense' is neither a command nor an override; commands are: plan, status",
        ),
        (["status", "-x"], "unknown option -x; see ptst status --help."),
        (["status", "output=xml"], "'xml' is not one of 'text', 'json'"),
        (["status", "-m"], "status: a command comes first, and without -m."),
        (["seed=1", "status"], "status: a command comes first, and without -m."),
        (
            ["seed=1", "output=json"],
            "output=json is not an override; ptst --help says which command takes it.",
        ),
        (["report", "question=Why?"], "question=Why? is not an override"),
        (["audit", "import", "sheet.csv"], "whose labels are they? annotator=NAME says it."),
        (["audit", "export", "n=many"], "'many' is not a valid integer"),
        (["--cfg", "hydra"], "'hydra' is neither a command nor an override"),
        (["export"], "Missing option file="),
        (["push"], "Missing option repo="),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.startswith("ptst: ") and err.count("\n") == 1


def test_cfg_is_the_composed_configuration_wherever_it_stands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = []
    for words in (["--cfg", "seed=3"], ["seed=3", "--cfg"], ["--cfg", "job", "seed=3"]):
        assert main(words) == 0
        shown.append(capsys.readouterr().out)
    assert "\nseed: 3\n" in shown[0]
    assert len(set(shown)) == 1


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ptst datas", ["dataset="]),
        ("ptst dataset=gs", ["gsm8k"]),
        ("ptst -m +sweeps=ta", [f"table{n}" for n in range(1, 8)]),
        ("ptst report template@test_template=chat_ll", ["chat_llama", "chat_llama_short"]),
        ("ptst check", ["check-model"]),
        ("ptst plan --out", ["--output"]),
    ],
)
def test_bash_completes_commands_groups_and_choices(line: str, offered: list[str]) -> None:
    script = f"""
        eval "$(_PTST_COMPLETE=bash_source {PTST})"
        line={line!r}
        # as readline breaks a line into words
        read -ra COMP_WORDS <<< "${{line//=/ = }}"
        [[ $line == *= ]] && COMP_WORDS+=("")
        COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
        _ptst_completion ptst
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = os.environ | {"PATH": f"{PTST.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    assert done.stdout.split() == offered


def test_a_pipe_that_closes_early_still_leaves_the_report(tmp_path: Path) -> None:
    own = [
        *TINY,
        f"paths.store={tmp_path}/store",
        f"paths.reports={tmp_path}/reports",
        "tracking=none",
    ]
    run_cell(compose(own))
    command = " ".join(f"'{word}'" for word in [str(PTST), "report", *own])
    done = subprocess.run(["bash", "-c", f"{command} | head -1"], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "reports").glob("*/index.html"))


def test_status_names_its_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", f"paths.store={tmp_path}/store"]) == 0
    assert f"store: {tmp_path}/store" in capsys.readouterr().out
