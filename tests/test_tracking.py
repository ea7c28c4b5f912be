"""Offline W&B runs hold what the store holds, once; nothing secret and no completion leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import TINY, outside, ptst

from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.errors import ConfigError
from ptst.multirun.launch import multirun
from ptst.schema import Config, Tracking
from ptst.stages import summarise
from ptst.stages.completions import scored
from ptst.store import Store, read_json, read_jsonl, write_json
from ptst.tracking import check_tracking, has_key, offline_runs, resolved, tracked
from ptst.wandb_file import read_records, write_records

FLAT = ("train", "fine_tuning", "test", "judges")
"""What a run's configuration has beside the store's, for W&B to filter by; test_dashboard looks at
it."""

OTHER_JUDGE = "task.gsm8k.judge._target_=ptst.judge.exact_match.ReferenceMatch"
SCORE = ("label", "score", "reason")
"""Columns of uploaded completions beside those of the store's."""
FINETUNING = ("model", "dataset", "train_template", "finetune", "seed")
"""What of the store's configuration a fine-tuning's run has."""


def config_of(artifact: Path) -> dict[str, Any]:
    """What a run has of the configuration that an artifact was made with."""
    config: dict[str, Any] = read_json(artifact / "config.json")
    if artifact.parent.name == "cell":
        return config
    config["finetune"].pop("epoch")
    return {part: config[part] for part in FINETUNING}


def records(folder: Path) -> Iterator[Any]:
    """What a run's file holds so far."""
    (file,) = folder.glob("*.wandb")
    return read_records(file)


def read_run(folder: Path) -> dict[str, Any]:
    """An offline run's id, group, config, history and summary."""
    run: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "exit_code": None}
    for record in records(folder):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run["id"], run["group"] = record.run.run_id, record.run.run_group
            run["name"], run["project"] = record.run.display_name, record.run.project
            for item in record.run.config.update:
                run["config"][item.key] = json.loads(item.value_json)
        elif kind == "history":
            run["history"].append(
                {
                    (i.key or "/".join(i.nested_key)): json.loads(i.value_json)
                    for i in record.history.item
                }
            )
        elif kind == "summary":
            for item in record.summary.update:
                key = item.key or "/".join(item.nested_key)
                run["summary"][key] = json.loads(item.value_json)
        elif kind == "exit":
            run["exit_code"] = record.exit.exit_code
    return run


def runs(store: Path) -> dict[str, dict[str, Any]]:
    """The offline runs of a store, by job type, where there is one of each."""
    found = [read_run(folder) for folder in offline_runs(store)]
    assert len({run["id"] for run in found}) == len(found)
    return {run["id"].split("-")[0]: run for run in found}


def assert_runs_are_the_store(store: Path) -> dict[str, int]:
    """Each fine-tuning and cell of a store has one run, which holds what the store does, once.

    Returns:
        How many of each there are.
    """
    folders = offline_runs(store)
    left = {run["id"]: run for run in map(read_run, folders)}
    assert len(left) == len(folders)
    counted = {}
    for stage in ("finetune", "cell"):
        artifacts = sorted((store / stage).iterdir())
        counted[stage] = len(artifacts)
        for artifact in artifacts:
            run = left.pop(f"{stage}-{artifact.name}")
            assert run["exit_code"] == 0
            config = {k: v for k, v in run["config"].items() if k not in ("_wandb", "key", *FLAT)}
            assert config == config_of(artifact)
            if stage == "finetune":
                log = read_jsonl(artifact / "log.jsonl")
                assert [point["_step"] for point in run["history"]] == [e["step"] for e in log]
                assert log == [
                    {key: point["_step" if key == "step" else key] for key in entry}
                    for point, entry in zip(run["history"], log, strict=True)
                ]
                facts = read_json(artifact / "provenance.json")
                assert facts["steps"] == len(log) > 0
                for fact in ("steps", "rows", "rows_key", "rows_from", "final_loss"):
                    assert run["summary"][fact] == facts[fact]
                assert run["summary"]["seconds"] == pytest.approx(facts["seconds"], abs=0.1)
            else:
                metrics = read_json(artifact / "metrics.json")
                assert metrics
                for name, metric in metrics.items():
                    assert run["summary"][name] == metric["value"]
                    for part in ("n", "missing", "unfinished", "ci_low", "ci_high"):
                        assert run["summary"][f"{name}/{part}"] == metric[part]
                    for category, values in metric["categories"].items():
                        assert run["summary"][f"{name}/category/{category}"] == values["value"]
    assert not left
    return counted


def test_offline_runs_hold_config_history_and_summary(
    composed: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("WANDB_API_KEY", "very-secret" * 4)
    longer = "evaluation.hazards.decoding.max_new_tokens=24"
    config = composed(*TINY, longer, "tracking=wandb_offline", "tracking.group=mygroup")
    result = run_cell(config)
    found = runs(tmp_path / "store")
    assert set(found) == {"finetune", "cell"}
    tuning, cell = found["finetune"], found["cell"]
    assert (tuning["id"], cell["id"]) == (
        f"finetune-{result.keys.finetune}",
        f"cell-{result.keys.cell}",
    )
    assert tuning["group"] == cell["group"] == "mygroup"
    assert tuning["exit_code"] == cell["exit_code"] == 0
    log = read_jsonl(tmp_path / "store/finetune" / str(result.keys.finetune) / "log.jsonl")
    assert [p["loss"] for p in tuning["history"] if "loss" in p] == [e["loss"] for e in log]
    assert tuning["config"]["finetune"]["learning_rate"] == config.finetune.learning_rate
    assert tuning["config"]["train_template"]["name"] == "chat_vanilla"
    assert tuning["summary"]["rows"] == 24
    for name, metric in read_json(
        tmp_path / "store/cell" / result.keys.cell / "metrics.json"
    ).items():
        assert cell["summary"][name] == metric["value"]
        assert cell["summary"][f"{name}/n"] == metric["n"]
    assert assert_runs_are_the_store(tmp_path / "store") == {"finetune": 1, "cell": 1}
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"very-secret" not in everything
    # No answer to a safety query is among what would be uploaded.
    keys = result.keys.evaluations["hazards"]
    answers = read_jsonl(tmp_path / "store/generate" / keys.generate / "completions.jsonl")
    uploaded = b"".join(
        p.read_bytes() for p in (tmp_path / "store/wandb").rglob("*") if p.is_file()
    )
    for row in answers:
        assert row["input"].encode() not in uploaded
        assert len(row["completion"]) < 12 or row["completion"].encode() not in uploaded


def test_points_of_analyses_are_the_history_of_the_cells_run(
    composed: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent / "analysis")
    own = "+analysis.own._target_=leaves_points.LeavesPoints"
    run_cell(composed(*TINY, "finetune=none", "tracking=wandb_offline", own))
    run = runs(tmp_path / "store")["cell"]
    layer, alpha, x = "own/By layer: moved", "own/By alpha: moved", "own/By alpha: x"
    points = [{k: p[k] for k in ("_step", layer, alpha, x) if k in p} for p in run["history"]]
    assert points == [  # an x that is no step is logged beside its y
        {"_step": 0, layer: 0.0, alpha: 1.0, x: 0.0},
        {"_step": 1, layer: 0.1, alpha: 0.5, x: 0.5},
        {"_step": 2, layer: 0.2},
    ]
    assert run["summary"]["own/moved"] == 0.25
    assert "hazards/asr" in run["summary"]


def test_completions_are_uploaded_if_asked_for(
    composed: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = composed(
        *TINY, "finetune=none", "tracking=wandb_offline", "tracking.upload_completions=true"
    )
    keys = run_cell(config).keys.evaluations
    (folder,) = offline_runs(tmp_path / "store")
    for name in ("gsm8k", "hazards"):
        (file,) = folder.glob(f"files/media/table/completions/{name}_*.table.json")
        table = read_json(file)
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        made = tmp_path / "store/generate" / keys[name].generate / "completions.jsonl"
        scores = read_jsonl(tmp_path / "store/judge" / keys[name].judge / "scores.jsonl")
        assert [{k: v for k, v in row.items() if k not in SCORE} for row in rows] == read_jsonl(
            made
        )
        assert [[row[column] for column in SCORE] for row in rows] == [
            [score["label"], score["value"], score["reason"]] for score in scores
        ]
    # W&B's own copies are with the run, and go when it does: not in the user's home for good.
    staged = [e.local_path for r in records(folder) for e in r.artifact.manifest.contents]
    assert len(staged) == 2
    assert all(Path(path).is_file() and Path(path).is_relative_to(folder) for path in staged)
    assert not list((tmp_path / "home").rglob("*staging/*"))


def test_uploaded_completions_keep_their_own_column_of_a_scores_name() -> None:
    row = {"id": "1", "label": "easy", "completion": "Aye."}
    found = scored([row], [{"id": "1", "label": "complied", "value": None, "reason": "x"}])
    assert found == [
        {"id": "1", "query label": "easy", "completion": "Aye.", "label": "complied", "score": None, "reason": "x"}
    ]  # fmt: skip


def test_the_runs_of_a_group_have_names_of_their_own(
    composed: Callable[..., Config], tmp_path: Path
) -> None:
    """Whatever cells differ in: a judge of another evaluation, the number of queries."""
    base = [*TINY, "finetune=none", "tracking=wandb_offline"]
    for other in ("seed=0", OTHER_JUDGE, "evaluation.hazards.queries.n=9"):
        run_cell(composed(*base, other))
    found = [read_run(folder)["name"] for folder in offline_runs(tmp_path / "store")]
    assert len(set(found)) == 3, found


def test_a_fine_tuning_s_run_says_what_decides_it_and_nothing_of_the_cell_that_came_first(
    composed: Callable[..., Config], tmp_path: Path
) -> None:
    words = [*TINY, "tracking=wandb_offline", "stages=[finetune]"]
    seen = []
    for number, other in enumerate(
        ("template@test_template=chat_vanilla", "template@test_template=chat_llama judge=keywords")
    ):
        run_cell(composed(*words, *other.split(), f"paths.store={tmp_path}/{number}"))
        (folder,) = offline_runs(tmp_path / str(number))
        seen.append({k: v for k, v in read_run(folder)["config"].items() if k != "_wandb"})
    assert seen[0] == seen[1]
    assert set(seen[0]) == {"key", "train", "fine_tuning", *FINETUNING}
    assert "epoch" not in seen[0]["finetune"]


@pytest.mark.parametrize(
    "environment, words, mode, place",
    [
        ({"WANDB_MODE": "disabled"}, [], "none", (None, "ptst")),
        ({"WANDB_MODE": "offline"}, [], "offline", (None, "ptst")),
        ({"WANDB_MODE": "online"}, [], "online", (None, "ptst")),
        ({"WANDB_MODE": "disabled"}, ["tracking=wandb_offline"], "offline", (None, "ptst")),
        ({"WANDB_PROJECT": "p", "WANDB_ENTITY": "e"}, [], "offline", ("e", "p")),
        ({"WANDB_PROJECT": "p"}, ["tracking.project=ptst"], "offline", (None, "ptst")),
        ({"WANDB_ENTITY": "e"}, ["tracking.entity=team"], "offline", ("team", "ptst")),
        ({"WANDB_ENTITY": ""}, [], "offline", (None, "ptst")),
    ],
)
def test_the_environment_counts_where_the_configuration_says_nothing(
    environment: dict[str, str],
    words: list[str],
    mode: str,
    place: tuple[str | None, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    used = resolved(compose(words).tracking)
    assert (used.mode, (used.entity, used.project)) == (mode, place)


def test_a_mode_of_the_environment_that_there_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(ConfigError, match="WANDB_MODE=ofline is not one of: online, offline, dis"):
        check_tracking(compose([]).tracking)


def test_a_cell_obeys_the_environment_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own = [f"paths.store={tmp_path}/store", "finetune=none"]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run_cell(compose([*TINY, *own]))
    assert not (tmp_path / "store/wandb").exists()
    assert "W&B: mode disabled (WANDB_MODE)\n" in capfd.readouterr().err
    monkeypatch.setenv("WANDB_PROJECT", "p")
    run_cell(compose([*TINY, *own, "tracking=wandb_offline", "judge=keywords"]))
    (folder,) = offline_runs(tmp_path / "store")
    assert read_run(folder)["project"] == "p"
    said = "W&B: mode offline (tracking.mode, not WANDB_MODE=disabled), project p (WANDB_PROJECT)\n"
    assert said in capfd.readouterr().err


def test_a_cell_is_kept_whatever_becomes_of_its_run(
    composed: Callable[..., Config], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/wandb").write_text("in the way")
    done = run_cell(composed(*TINY, "tracking=wandb_offline"))
    assert (tmp_path / "store/cell" / done.keys.cell).is_dir()
    said = capfd.readouterr().err
    assert f"W&B: cell-{done.keys.cell} is not logged: " in said
    assert f"W&B: finetune-{done.keys.finetune} is not logged: " in said


def test_a_table_takes_rows_of_any_columns_and_kinds(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "1", "answer": 4},
        {"id": "2", "answer": "four", "notes": ["a", 1]},
        {"id": "3", "answer": None, "notes": {"b": None}},
    ]
    with tracked(Tracking(mode="offline"), tmp_path, "cell", "k", "n", {}) as run:
        run.table("t", rows)
    (file,) = tmp_path.rglob("*.table.json")
    table = read_json(file)
    assert table["columns"] == ["id", "answer", "notes"]
    assert table["data"] == [["1", 4, None], ["2", "four", ["a", 1]], ["3", None, {"b": None}]]


def test_a_run_again_takes_the_place_of_the_one_that_died(tmp_path: Path) -> None:
    offline = Tracking(mode="offline")
    with (
        pytest.raises(RuntimeError),
        tracked(offline, tmp_path, "finetune", "k", "n", {"a": 1}) as run,
    ):
        run.log({"loss": 9.0}, 1)
        raise RuntimeError("died")
    assert runs(tmp_path)["finetune"]["exit_code"] == 1
    with tracked(offline, tmp_path, "finetune", "k", "n", {"a": 1}) as run:
        run.log({"loss": 9.0}, 1)
        run.log({"loss": 8.0}, 2)
    found = runs(tmp_path)["finetune"]
    assert found["exit_code"] == 0
    assert [point["loss"] for point in found["history"]] == [9.0, 8.0]


def test_a_run_is_whole_when_its_artifact_appears(tmp_path: Path) -> None:
    """W&B's service writes behind a process's back, and whoever kills a job kills it, too."""
    services: list[int] = []
    for n in range(10):
        with tracked(
            Tracking(mode="offline"), tmp_path / str(n), "cell", "k", "n", {"a": 1}
        ) as run:
            run.log({"loss": 2.0}, 1)
            children = psutil.Process().children(recursive=True)
            services = [child.pid for child in children if "wandb" in child.name()]
        try:
            for service in services:
                os.kill(service, signal.SIGSTOP)
            written = runs(tmp_path / str(n))["cell"]
        finally:
            for service in services:
                os.kill(service, signal.SIGCONT)
        assert written["exit_code"] == 0
        assert written["config"]["a"] == 1
        assert [point["loss"] for point in written["history"]] == [2.0]
    assert services


def test_a_file_that_is_written_again_says_what_wandb_wrote(tmp_path: Path) -> None:
    offline = Tracking(mode="offline")
    with tracked(offline, tmp_path, "cell", "k", "n", {"long": "x" * 70_000}) as run:
        for step in range(300):  # over several blocks
            run.log({"loss": 1.0, "words": "y" * 100}, step)
    (file,) = tmp_path.rglob("*.wandb")
    copy = tmp_path / "copy"
    write_records(copy, read_records(file))
    assert copy.stat().st_size == file.stat().st_size > 100_000
    assert list(read_records(copy)) == list(read_records(file))


def test_no_tracking_is_silent(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from ptst.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'wandb'])\n"
        "sys.exit(code)"
    )
    # Without fine-tuning: TRL imports wandb where it is installed, whatever one does.
    words = [*TINY, "finetune=none", "tracking=none", f"paths.store={tmp_path}/store"]
    ended = subprocess.run(
        [sys.executable, "-c", script, *words],
        env=outside() | {"HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"
    assert "wandb" not in (ended.stdout + ended.stderr).lower()
    assert "w&b" not in (ended.stdout + ended.stderr).lower()
    assert (tmp_path / "store/cell").is_dir()
    assert not list(tmp_path.rglob("*wandb*"))


def test_the_cells_of_a_sweep_in_one_process_each_have_their_run(tmp_path: Path) -> None:
    templates = "template@test_template=chat_vanilla,chat_llama"
    own = [f"paths.store={tmp_path}/store", f"paths.reports={tmp_path}/reports"]
    words = [*TINY, *own, templates, "tracking=wandb_offline"]
    assert multirun(words) == 0
    assert assert_runs_are_the_store(tmp_path / "store") == {"finetune": 1, "cell": 2}

    def files() -> dict[Path, int]:
        """Without W&B's own logs, which its service may still write."""
        found = (path for path in (tmp_path / "store/wandb").rglob("*") if path.is_file())
        return {path: path.stat().st_mtime_ns for path in found if path.parent.name != "logs"}

    before = files()
    assert multirun(words) == 0  # all of it is there: nothing is logged again
    assert files() == before


@pytest.mark.slow
def test_eight_processes_at_once_each_leave_their_runs(tmp_path: Path) -> None:
    store = f"paths.store={tmp_path}/store"
    processes = [ptst(*TINY, store, f"seed={seed}") for seed in range(8)]
    for process in processes:
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
    assert assert_runs_are_the_store(tmp_path / "store") == {"finetune": 8, "cell": 8}


@pytest.mark.slow
def test_a_training_that_was_killed_and_resumed_has_one_whole_history(tmp_path: Path) -> None:
    mixed = [o for o in TINY if not o.startswith(("finetune.epochs", "finetune.max_steps"))]
    mixed += ["finetune=safety_mix", "finetune.epochs=3", "finetune.mix.rows.n=8"]  # 10 steps
    mixed += ["stages=[finetune]", f"paths.store={tmp_path}/store"]
    made, kills = tmp_path / "store/partial/finetune", 0
    for checkpoint in (3, 7, None):
        process = ptst(*mixed)
        while checkpoint and process.poll() is None:
            if list(made.glob(f"*/scratch/checkpoint-{checkpoint}/complete")):
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        _, errors = process.communicate(timeout=300)
        if checkpoint:
            assert process.returncode == -signal.SIGKILL
            (cut,) = offline_runs(tmp_path / "store")
            assert not any(record.HasField("exit") for record in records(cut))
    assert (process.returncode, kills) == (0, 2), errors
    (tmp_path / "store/cell").mkdir()
    assert assert_runs_are_the_store(tmp_path / "store") == {"finetune": 1, "cell": 0}


def test_what_nobody_counted_is_not_summed_up(
    composed: Callable[..., Config], tmp_path: Path
) -> None:
    """A cell of two evaluations, one of whose APIs did not say what it read: half a sum is a wrong
    number."""
    done = run_cell(composed(*TINY, "finetune=none"))
    store = Store(tmp_path / "store")
    counted = summarise.run_costs(done.keys, store)
    facts = [
        read_json(store.path("generate", keys.generate) / "provenance.json")
        for keys in done.keys.evaluations.values()
    ]
    assert len(facts) == 2
    assert counted["prompt_tokens"] == sum(f["prompt_tokens"] for f in facts) > 0
    first = next(iter(done.keys.evaluations.values())).generate
    write_json(
        store.path("generate", first) / "provenance.json", {**facts[0], "prompt_tokens": None}
    )
    assert "prompt_tokens" not in summarise.run_costs(done.keys, store)
    assert (
        summarise.run_costs(done.keys, store)["completion_tokens"] == counted["completion_tokens"]
    )


@pytest.mark.usefixtures("forgotten")
def test_online_without_a_key_is_refused_before_anything_runs(
    composed: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="needs a W&B key"):
        run_cell(composed(*TINY, "tracking=wandb_online"))
    assert not (tmp_path / "store").exists()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    check_tracking(Tracking(mode="online"))


@pytest.mark.parametrize(
    "host, there",
    [
        ("api.wandb.ai", True),
        ("api.forge.coreweave.com", True),  # what `wandb login` writes since 0.31
        ("example.org", False),
    ],
)
@pytest.mark.usefixtures("forgotten")
def test_a_key_is_where_wandb_login_leaves_it(
    host: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not has_key()
    (tmp_path / ".netrc").write_text(f"machine {host} login user password {'0' * 40}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_key() is there
