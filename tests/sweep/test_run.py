"""Whole grids through `ptst -m`: real training and generation at a size of seconds."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import huggingface_hub
import psutil
import pytest
from conftest import TINY, ptst

from ptst import data, models
from ptst.cell import run_cell
from ptst.cli import main
from ptst.errors import ConfigError
from ptst.multirun.launch import multirun
from ptst.status.states import states_of
from ptst.store import Store, read_json, read_jsonl
from ptst.sweep.grid import expand
from ptst.sweep.run import freeze, run_job

STAGES = ("finetune", "generate", "judge", "cell")
GRID = ("+sweeps=quick", *TINY, "tracking=none")


def own(folder: Path) -> list[str]:
    return [f"paths.store={folder}/store", f"paths.reports={folder}/reports"]


def artifacts(folder: Path) -> dict[str, int]:
    return {stage: len(list((folder / "store" / stage).glob("*"))) for stage in STAGES}


def table(folder: Path) -> str:
    (report,) = (folder / "reports").glob("*/table.csv")
    return report.read_text(encoding="utf-8")


def made_at(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and ".lock" not in path.name
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished tiny grid, made once. Not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    assert multirun([*GRID, *own(folder)]) == 0
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "copied"))


def test_each_fine_tuning_happens_once_and_its_cells_share_it(whole: Path) -> None:
    # 2 fine-tunings and the untouched model, under 2 test templates, in 2 evaluations
    assert artifacts(whole) == {"finetune": 2, "generate": 12, "judge": 12, "cell": 6}
    assert "done" in table(whole)


def test_cells_of_a_grid_are_what_each_is_by_itself(whole: Path, tmp_path: Path) -> None:
    """One model serves several cells; nothing else of a cell may reach another."""
    apart = Store(tmp_path / "store")
    for cell in expand([*GRID, *own(whole)]).cells:
        cell.config.paths.store = str(apart.root)
        run_cell(cell.config)
    together = Store(whole / "store")
    prompts = set()
    for stage in ("generate", "judge", "cell"):
        for artifact in (apart.root / stage).iterdir():
            for file in ("completions.jsonl", "scores.jsonl", "metrics.json"):
                if (artifact / file).is_file():
                    ours = together.path(stage, artifact.name) / file
                    assert ours.read_bytes() == (artifact / file).read_bytes()
            if stage == "generate":
                facts = [read_json(s.path(stage, artifact.name) / "provenance.json")["prompt_tokens"] for s in (apart, together)]  # fmt: skip
                assert facts[0] == facts[1]
                prompts.add(facts[0])
    assert len(prompts) == 4  # two templates, two query sets: not one of them for all


def test_adapters_in_one_job_share_their_base_model_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = [*TINY, "tracking=none", "finetune=none,lora", "seed=0,1"]
    assert multirun([*sweep, *own(tmp_path)]) == 0  # a job for each model
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "store" / "finetune", other / "store" / "finetune")
    grid = expand([*sweep, *own(other)])
    freeze(grid)
    loads = []
    load = models.load_model
    monkeypatch.setattr(
        "ptst.models.held.load_model", lambda *a, **k: loads.append(a) or load(*a, **k)
    )
    numbers = [grid.cells.index(cell) for cell in grid.distinct]
    assert len(numbers) == 3
    assert run_job(grid.frozen, numbers) == 0
    assert len(loads) == 1
    for made in (other / "store" / "generate").iterdir():
        apart = tmp_path / "store" / "generate" / made.name / "completions.jsonl"
        assert (made / "completions.jsonl").read_bytes() == apart.read_bytes()


def test_a_model_that_cannot_be_had_fails_its_cells_before_anything_is_read_or_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "model=llama2_7b_chat,qwen25_7b_instruct"
    tested = "template@test_template=chat_vanilla,chat_llama"
    grid = expand([*TINY, "tracking=none", model, tested, *own(tmp_path)])
    freeze(grid)
    asked = []
    ask = huggingface_hub.hf_hub_download
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *a, **k: asked.append(a[0]) or ask(*a, **k)
    )
    monkeypatch.setattr(data, "read_rows", lambda *_: pytest.fail("rows were read"))
    assert run_job(grid.frozen, [0, 1, 2, 3]) == 4  # off line
    assert len(asked) == 2  # each model once
    for cell in grid.cells:
        failure = Store(tmp_path / "store").failure(cell.keys.cell)
        assert failure is not None and cell.config.model.path in failure.log.read_text()
    assert artifacts(tmp_path) == dict.fromkeys(STAGES, 0)


def test_a_second_run_makes_nothing_and_changes_nothing(whole: Path) -> None:
    before = made_at(whole)
    assert multirun([*GRID, *own(whole)]) == 0
    assert made_at(whole) == before


def test_a_new_test_template_trains_nothing_and_a_new_judge_generates_nothing(
    copied: Path, own_conf: Path
) -> None:
    (own_conf / "template" / "kind.yaml").write_text(
        "name: kind\nmode: chat\nsystem: Be kind.\nuser: '{question}'\n"
    )
    more = "template@test_template=chat_vanilla,chat_llama,kind"
    assert multirun([*GRID, *own(copied), more]) == 0
    assert artifacts(copied) == {"finetune": 2, "generate": 18, "judge": 18, "cell": 9}
    assert multirun([*GRID, *own(copied), "judge=keywords"]) == 0
    made = artifacts(copied)
    assert (made["finetune"], made["generate"]) == (2, 18)
    assert made["judge"] > 18


def test_a_changed_default_is_a_new_key_and_status_says_what_changed(
    whole: Path, own_conf: Path
) -> None:
    recipe = own_conf / "finetune" / "recipe" / "full_micro.yaml"
    recipe.write_text(recipe.read_text().replace("rate: 4.0e-4", "rate: 3.0e-4"))
    grid = expand([*GRID, *own(whole)])
    states = states_of(grid, Store(whole / "store"))
    tuned = [states[c.keys.cell] for c in grid.cells if c.keys.finetune]
    assert {state.state for state in tuned} == {"waiting"}
    assert all("recipe.learning_rate: 0.0004 → 0.0003" in state.changed for state in tuned)
    none = [states[c.keys.cell] for c in grid.cells if not c.keys.finetune]
    assert {state.state for state in none} == {"done"}


def test_an_edited_yaml_does_not_change_a_sweep_that_is_running(
    tmp_path: Path, own_conf: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; import ptst.paths;"
        "ptst.paths.CONF = Path(sys.argv.pop(1)); from ptst.cli import main; sys.exit(main())"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code, str(own_conf), "-m", *GRID, *own(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "store" / "sweeps").glob("*/*.jsonl")):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
    for recipe in own_conf.glob("finetune/recipe/*.yaml"):
        recipe.write_text("this: is: no YAML")
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert artifacts(tmp_path)["cell"] == 6


def test_bad_data_of_one_cell_fail_it_alone_and_mending_runs_it_alone(tmp_path: Path) -> None:
    rows = [
        json.dumps({"question": f"What is {n}+1?", "answer": f"#### {n + 1}"}) for n in range(24)
    ]
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text("\n".join(rows))
        (tmp_path / name / "test.jsonl").write_text(
            "\n".join(rows[:6]).replace("What", f"{name}: what")
        )
    broken = tmp_path / "bad" / "train.jsonl"
    broken.write_text("\n".join(rows).replace("answer", "reply"))
    sweep = [*TINY, "tracking=none", *own(tmp_path), "dataset.source=local"]
    sweep += [f"dataset.path={tmp_path}/good,{tmp_path}/bad,{tmp_path}/absent"]
    assert multirun(sweep) == 2
    assert artifacts(tmp_path)["cell"] == 1
    grid = expand(sweep)
    states = [states_of(grid, Store(tmp_path / "store"))[cell.keys.cell] for cell in grid.cells]
    assert [state.state for state in states] == ["done", "blocked", "failed"]
    assert "answer" in (states[1].reason or "")
    assert "absent" in (states[2].reason or "")
    assert "train.jsonl" in Path(states[1].log or "").read_text()
    assert "failed" in table(tmp_path)
    before = made_at(tmp_path / "store" / "cell")
    broken.write_text("\n".join(rows).replace("What", "And what"))
    assert multirun(sweep) == 1
    assert artifacts(tmp_path) == {"finetune": 2, "generate": 4, "judge": 4, "cell": 2}
    after = made_at(tmp_path / "store" / "cell")
    assert {name: after[name] for name in before} == before


def test_a_diverging_fine_tuning_fails_its_cells_once_and_no_others(tmp_path: Path) -> None:
    sweep = [*TINY, "tracking=none", *own(tmp_path), "finetune.learning_rate=1e-4,1e30"]
    sweep += ["template@test_template=chat_vanilla,chat_llama"]
    running = ptst("-m", *sweep)
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 1, errors
    assert errors.count("not done: ") == 2
    # as it happened, and of each cell in the summary; trained once
    assert errors.count("diverged") == 3
    assert artifacts(tmp_path)["cell"] == 2


def test_local_processes_share_the_jobs(tmp_path: Path) -> None:
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert multirun([*GRID, *own(tmp_path), *launcher]) == 0
    assert artifacts(tmp_path) == {"finetune": 2, "generate": 12, "judge": 12, "cell": 6}
    # Nor does one outlive the run, with its memory, its environment and its GPU.
    left = []
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # nor a zombie
            left.append(" ".join(process.cmdline()))
    assert not [words for words in left if "popen_loky_posix" in words]


def test_a_killed_worker_takes_no_other_job_with_it(tmp_path: Path) -> None:
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    running = ptst("-m", *GRID, *own(tmp_path), *launcher)
    store = tmp_path / "store" / "partial" / "finetune"
    deadline = time.monotonic() + 120
    while not (makers := list(store.glob("*/maker.json"))):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.01)
    os.kill(json.loads(makers[0].read_text())["pid"], signal.SIGKILL)
    _, errors = running.communicate(timeout=300)
    assert "the launcher gave up" in errors
    assert running.returncode == 0, errors
    assert artifacts(tmp_path) == {"finetune": 2, "generate": 12, "judge": 12, "cell": 6}


def test_ctrl_c_leaves_with_130_and_records_no_failure(tmp_path: Path) -> None:
    running = ptst("-m", *GRID, *own(tmp_path))
    store = tmp_path / "store" / "partial" / "finetune"
    deadline = time.monotonic() + 120
    while not list(store.glob("*/maker.json")):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "run again to resume" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "store" / "failed").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+sweeps=quick"], r"runs with -m: ptst -m \+sweeps=quick"),
        (["hydra/launcher=slurm"], "for grids, also of one cell: ptst -m hydra/launcher=slurm"),
        (["-m", "plan"], "plan: a command comes first, and without -m"),
        (["plan", "-m"], "plan: a command comes first, and without -m"),
        (["report", "output=json"], "which command takes it"),
        (["plan", "seed=0,1", "sweep.rows=model"], "none is named"),
        (["-m", "+sweep={name:mine}"], r"none is named: add \+sweeps="),
        (["-m", "seed=0,1", "hydra/sweeper=basic"], "a sweeper of its own"),
        (["-m", "seed=0,1", "hydra/launcher=nonsense"], "hydra/launcher"),
    ],
)
def test_a_mistaken_command_is_answered_with_what_would_be_right(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_sweep_that_is_wrong_runs_nothing(tmp_path: Path) -> None:
    running = ptst("-m", *GRID, *own(tmp_path), "template@train_template=chat_vanilla,chat_lama")
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 2
    assert "sweeps/quick.yaml: cell template@train_template=chat_lama" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_a_full_disk_fails_a_cell_and_not_the_sweep(tmp_path: Path) -> None:
    """One cell's folder lies on a file system of 1 MB; the others have room."""
    grid = expand([*GRID, *own(tmp_path)])
    small = tmp_path / "store" / "partial" / "finetune" / str(grid.cells[0].keys.finetune)
    small.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system of 1 MB cannot be mounted here")
    try:
        running = ptst("-m", *GRID, *own(tmp_path))
        _, errors = running.communicate(timeout=300)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert running.returncode == 1, errors
    assert errors.count("not done: ") == 2  # both cells of that fine-tuning
    assert "no space left for" in errors
    assert artifacts(tmp_path)["cell"] == 4
    assert multirun([*GRID, *own(tmp_path)]) == 0
    assert artifacts(tmp_path) == {"finetune": 2, "generate": 12, "judge": 12, "cell": 6}


@pytest.mark.slow
def test_two_sweeps_at_the_same_time_share_the_work(tmp_path: Path) -> None:
    longer = {"dataset.n=24": "dataset.n=240", "finetune.max_steps=3": "finetune.max_steps=30"}
    grid = [longer.get(word, word) for word in GRID]
    stores = [f"paths.store={tmp_path}/store"]
    first = ptst("-m", *grid, *stores, f"paths.reports={tmp_path}/one")
    others = "template@test_template=chat_llama,chat_alpaca"
    second = ptst("-m", *grid, *stores, f"paths.reports={tmp_path}/two", others)
    for process in (first, second):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    # 2 fine-tunings; 3 models x (3 test templates in all) x 2 evaluations
    assert artifacts(tmp_path) == {"finetune": 2, "generate": 18, "judge": 18, "cell": 9}
    for report in ("one", "two"):
        (csv,) = (tmp_path / report).glob("*/table.csv")
        assert "waiting" not in csv.read_text() and "running" not in csv.read_text()
    made = [read_json(p) for p in (tmp_path / "store" / "finetune").glob("*/provenance.json")]
    ends = [datetime.fromisoformat(facts["finished_at"]).timestamp() for facts in made]
    begins = [end - facts["seconds"] for end, facts in zip(ends, made, strict=True)]
    assert max(begins) < min(ends)  # at the same time, and not one after the other


@pytest.mark.slow
def test_killed_again_and_again_a_sweep_ends_with_the_table_of_one_never_killed(
    tmp_path: Path,
) -> None:
    unharmed = ptst("-m", *GRID, *own(tmp_path / "whole"))
    started = time.monotonic()
    _, errors = unharmed.communicate(timeout=300)
    assert unharmed.returncode == 0, errors
    seconds = time.monotonic() - started
    draw = random.Random(1)
    kills = runs = 0
    while kills < 6:
        folder = tmp_path / f"cut{runs}"
        fresh = True
        while True:  # kill and start again until it comes through
            process = ptst("-m", *GRID, *own(folder))
            began = time.monotonic()
            try:
                limit = draw.uniform(0.1, 1.0) * seconds if kills < 6 else 300
                _, errors = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
                fresh = False
                for stage in STAGES:
                    for artifact in (folder / "store" / stage).glob("*"):
                        assert (artifact / "key.json").is_file()
                continue
            assert process.returncode == 0, errors
            if fresh:  # a machine may have become faster since the first run
                seconds = time.monotonic() - began
            break
        runs += 1
        assert table(folder) == table(tmp_path / "whole")
        assert artifacts(folder) == artifacts(tmp_path / "whole")


def test_what_is_frozen_is_one_line_per_cell(whole: Path) -> None:
    (file, *_) = sorted((whole / "store" / "sweeps" / "quick-micro").glob("*.jsonl"))
    lines = read_jsonl(file)
    assert {line["label"] for line in lines} >= {"none → chat_llama"}
    assert all(line["config"]["tracking"]["group"].startswith("quick-micro-") for line in lines)


def test_a_setting_of_one_defence_reaches_its_cells_through_hydra(tmp_path: Path) -> None:
    words = [*own(tmp_path), "defence=[],[add_noise]"]
    with pytest.raises(ConfigError, match=r"cell defence=\[add_noise\].*posthoc\.nothing"):
        multirun([*words, 'defence.add_noise.posthoc.nothing={a: "it\'s, [2]"}'])
    with pytest.raises(ConfigError, match=r"no cell of this sweep has defence=\[lisa\]"):
        multirun([*words, "defence.lisa.objective.rho=0.1"])
