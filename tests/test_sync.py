"""A store's W&B runs reach a stand-in for W&B's server, live or by `ptst sync`, whole and once."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from conftest import TINY, outside
from test_tracking import FLAT, SCORE, config_of
from wandb_server import Run, WandbServer

from ptst.cell import run_cell
from ptst.cli import main
from ptst.judge import Judge, JudgeContext, Score
from ptst.multirun.launch import multirun
from ptst.schema import Config, Tracking
from ptst.store import Maker, locked, read_json, read_jsonl
from ptst.sweep.grid import expand
from ptst.tracking import offline_runs, tracked, watched

KEY = "a1b2c3d4" * 5
GRID = (*TINY, "template@test_template=chat_vanilla,chat_llama", "tracking.upload_completions=true")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a fine-tuning and its two cells, with completions in their runs. Read only."""
    folder = tmp_path_factory.mktemp("made")
    assert multirun([*GRID, f"paths.store={folder}/store", f"paths.reports={folder}/reports"]) == 0
    return folder / "store"


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "store", symlinks=True))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("ptst.tracking._away", -1e9)
    for what in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER"):
        monkeypatch.setenv(f"WANDB__{what}_RETRY_MAX", "1")
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


@dataclass(frozen=True)
class Ended:
    """What a command came to.

    `counts` are those of its last line: uploaded, there, not finished, failed.
    """

    code: int
    out: str
    err: str

    @property
    def counts(self) -> list[int]:
        last = self.out.splitlines()[-1].split(": ", 1)[1].split(", ")
        return [int(part.split()[0]) for part in last]


@pytest.fixture
def sync(store: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """sync(*overrides) -> Ended; the key never shows."""

    def run(*overrides: str) -> Ended:
        capfd.readouterr()
        code = main(["sync", f"paths.store={store}", *overrides])
        ended = Ended(code, *capfd.readouterr())
        assert KEY not in ended.out + ended.err
        return ended

    return run


def ids(store: Path, stage: str) -> list[str]:
    return sorted(f"{stage}-{artifact.name}" for artifact in (store / stage).iterdir())


def steps(run: Run) -> dict[int, dict[str, Any]]:
    """The history by its steps, which is how W&B tells lines that are sent again."""
    return {line["_step"]: line for line in run.history}


def filled(config: Any) -> Any:
    """A configuration without its empty mappings, which W&B leaves out."""
    if not isinstance(config, dict):
        return config
    return {key: filled(value) for key, value in config.items() if value != {}}


def assert_arrived(store: Path, server: WandbServer, id: str) -> None:
    stage, key = id.split("-")
    artifact, run = store / stage / key, server.runs[id]
    config = {k: v for k, v in run.config.items() if k not in ("_wandb", "key", *FLAT)}
    assert config == filled(config_of(artifact))
    assert run.job_type == stage
    assert run.group == read_json(artifact / "config.json")["tracking"]["group"]
    assert run.exit_codes[-1] == 0
    if stage == "finetune":
        log = read_jsonl(artifact / "log.jsonl")
        history = steps(run)
        assert list(history) == [entry["step"] for entry in log]
        for entry in log:
            point = history[entry.pop("step")]
            assert {name: point[name] for name in entry} == entry
        assert run.summary["rows_key"] == read_json(artifact / "provenance.json")["rows_key"]
    else:
        for name, metric in read_json(artifact / "metrics.json").items():
            assert run.summary[name] == metric["value"]
            assert run.summary[f"{name}/n"] == metric["n"]


def test_every_run_arrives_whole_and_once(
    store: Path, server: WandbServer, sync: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = sync()
    assert (ended.code, ended.counts) == (0, [3, 0, 0, 0])
    (finetune,) = ids(store, "finetune")
    name = f"finetune micro gsm8k full chat_vanilla seed 0 [{finetune.split('-')[1][:8]}]"
    assert f"uploaded: {finetune} ({name}): {server.url}/me/ptst/runs/{finetune}" in ended.out
    assert set(server.runs) == {finetune, *ids(store, "cell")}
    for id, run in server.runs.items():
        assert_arrived(store, server, id)
        assert len(run.history) == len(steps(run)) == (3 if id == finetune else 2)  # two tables
        assert run.exit_codes == [0]
    assert server.keys == {KEY}
    for cell in ids(store, "cell"):
        for name in ("gsm8k", "hazards"):
            place = server.runs[cell].summary[f"completions/{name}"]["path"]
            table = json.loads(server.runs[cell].files[place])
            rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
            assert [{k: v for k, v in row.items() if k not in SCORE} for row in rows] in [
                read_jsonl(p) for p in store.glob("generate/*/completions.jsonl")
            ]
            assert all(set(SCORE) <= row.keys() for row in rows)
    tables = [artifact for artifact in server.artifacts if artifact.committed]
    assert sorted(artifact.run for artifact in tables) == sorted(2 * ids(store, "cell"))
    assert all(any(name.endswith(".table.json") for name in t.files) for t in tables)
    kept = b"".join(p.read_bytes() for p in store.parent.rglob("*") if p.is_file())
    assert KEY.encode() not in kept

    server.requests.clear()
    again = sync()
    assert (again.code, again.counts) == (0, [0, 3, 0, 0])
    assert server.requests == []

    with WandbServer() as other:  # has nothing yet
        monkeypatch.setenv("WANDB_BASE_URL", other.url)
        assert sync().counts == [3, 0, 0, 0]
        assert other.runs.keys() == server.runs.keys()


@pytest.mark.parametrize(
    ("what", "status"),
    [("UpsertBucket", 401), ("file_stream", 500), ("upload", 403)],
)
def test_a_run_that_did_not_arrive_is_named_and_uploaded_next_time(
    store: Path, server: WandbServer, sync: Any, what: str, status: int
) -> None:
    broken, other = ids(store, "cell")
    server.fail = lambda asked, run: status if (asked, run) == (what, broken) else 0
    ended = sync()
    assert (ended.code, ended.counts) == (1, [2, 0, 0, 1])
    (line,) = [line for line in ended.err.splitlines() if line.startswith("not uploaded: ")]
    assert broken in line
    assert str(status) in line
    assert other in ended.out
    assert broken not in ended.out
    server.fail = lambda asked, run: 0
    server.requests.clear()
    mended = sync()
    assert (mended.code, mended.counts) == (0, [1, 2, 0, 0])
    assert f"file_stream {broken}" in server.requests
    assert not [request for request in server.requests if other in request]
    for id in server.runs:
        assert_arrived(store, server, id)
    assert sync().counts == [0, 3, 0, 0]


def test_a_server_that_is_not_there_fails_every_run(
    store: Path, server: WandbServer, sync: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("ptst.sync.FIRST", 2)
    ended = sync()
    assert (ended.code, ended.counts) == (1, [0, 0, 0, 3])
    assert "uploading 3 runs to http://127.0.0.1:9\n" in ended.err  # it takes a while
    lines = [line for line in ended.err.splitlines() if line.startswith("not uploaded: ")]
    assert ["connection refused" in line for line in lines] == [True, True, False]
    assert "not tried" in lines[2]
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    assert sync().counts == [3, 0, 0, 0]
    for id in (*ids(store, "finetune"), *ids(store, "cell")):
        assert_arrived(store, server, id)


def test_nothing_is_uploaded_half(store: Path, server: WandbServer, sync: Any) -> None:
    sync()
    (finetune,) = ids(store, "finetune")
    shutil.rmtree(store / "finetune")  # to be made again
    server.requests.clear()
    offline = Tracking(mode="offline")
    with tracked(offline, store, "finetune", finetune.split("-")[1], "n", {}) as run:
        run.log({"loss": 1.0}, 1)
        assert sync().counts == [0, 2, 1, 0]  # being written
    assert sync().counts == [0, 2, 1, 0]  # died before its artifact appeared
    assert server.requests == []
    cell = ids(store, "cell")[0]
    (folder,) = offline_runs(store, cell)
    (folder / "uploaded.json").unlink()
    file = folder / f"run-{cell}.wandb"
    file.write_bytes(file.read_bytes()[:-20])  # the machine went down
    ended = sync()
    assert (ended.code, ended.counts) == (1, [0, 1, 1, 1])
    assert f"{cell}: {file} is cut off" in ended.err
    assert server.requests == []


def test_a_run_that_ended_badly_is_not_its_artifacts(
    store: Path, server: WandbServer, sync: Any
) -> None:
    sync()
    (finetune,) = ids(store, "finetune")
    key = finetune.split("-")[1]
    server.requests.clear()
    with pytest.raises(KeyboardInterrupt), tracked(Tracking(mode="offline"), store, "finetune", key, "n", {}) as run:  # fmt: skip
        run.log({"loss": 1.0}, 1)
        raise KeyboardInterrupt
    # The attempt that made the artifact was not tracked
    ended = sync()
    assert (ended.code, ended.counts) == (1, [0, 2, 0, 1])
    assert f"{finetune}: " in ended.err and "is cut off" in ended.err
    assert server.requests == []


def test_a_run_made_again_is_uploaded_again(store: Path, server: WandbServer, sync: Any) -> None:
    sync()
    cell = ids(store, "cell")[0]
    shutil.rmtree(store / "cell" / cell.split("-")[1])
    grid = expand([*GRID, f"paths.store={store}"])
    (again,) = [c for c in grid.cells if f"cell-{c.keys.cell}" == cell]
    run_cell(again.config)
    server.requests.clear()
    assert sync().counts == [1, 2, 0, 0]
    assert {request.split()[1] for request in server.requests if " cell-" in request} == {cell}
    assert len(server.runs) == 3
    assert server.runs[cell].exit_codes == [0, 0]
    assert_arrived(store, server, cell)


def places(server: WandbServer) -> set[str]:
    return {run.place for run in server.runs.values()}


def test_overrides_of_tracking_say_where_the_runs_of_the_whole_store_go(
    store: Path, server: WandbServer, sync: Any
) -> None:
    there = ("tracking.entity=team", "tracking.project=paper")
    ended = sync(*there)
    assert (ended.code, ended.counts) == (0, [3, 0, 0, 0])
    assert set(server.runs) == {*ids(store, "finetune"), *ids(store, "cell")}
    assert places(server) == {"team/paper"}
    assert {artifact.place for artifact in server.artifacts} == {"team/paper"}
    for id in server.runs:
        assert f"): {server.url}/team/paper/runs/{id}" in ended.out
    assert f" 3 uploaded to {server.url}/team/paper, " in ended.out
    server.requests.clear()
    again = sync(*there)
    assert again.counts == [0, 3, 0, 0]
    assert f"0 uploaded to {server.url}/team/paper, " in again.out
    assert server.requests == []
    server.runs.clear()
    assert sync().counts == [3, 0, 0, 0]  # where they were logged to, which is another place
    assert places(server) == {"me/ptst"}
    assert [sync(*there).counts, sync().counts] == [[0, 3, 0, 0]] * 2


def test_the_environment_says_where_runs_go_unless_an_override_does(
    store: Path, server: WandbServer, sync: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_ENTITY", "team")
    monkeypatch.setenv("WANDB_PROJECT", "paper")
    ended = sync()
    assert places(server) == {"team/paper"}
    assert "W&B: entity team (WANDB_ENTITY), project paper (WANDB_PROJECT)" in ended.err
    ended = sync("tracking.entity=me")
    assert ended.counts == [3, 0, 0, 0]
    assert places(server) == {"me/paper"}
    said = "W&B: entity me (tracking.entity, not WANDB_ENTITY=team), project paper (WANDB_PROJECT)"
    assert said in ended.err


def test_overrides_choose_the_runs_of_a_grid(store: Path, server: WandbServer, sync: Any) -> None:
    overrides = [*TINY, "template@test_template=chat_llama"]
    (cell,) = expand([*overrides, f"paths.store={store}"]).cells
    assert sync(*overrides).counts == [2, 0, 0, 0]
    assert set(server.runs) == {*ids(store, "finetune"), f"cell-{cell.keys.cell}"}
    assert sync(*overrides, "tracking.entity=team").counts == [2, 0, 0, 0]
    assert places(server) == {"team/ptst"}


@dataclass
class Telling(Judge):
    """A judge that tells how far it is, as those do that ask a model."""

    labels: ClassVar[tuple[str, ...]] = ("complied", "refused", "neither")
    needs: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    def scores(
        self, items: Sequence[tuple[Mapping[str, Any], str]], context: JudgeContext
    ) -> Iterator[Score]:
        for number, _ in enumerate(items):
            yield Score("refused")
            context.tell(number + 1, len(items))


@pytest.mark.slow
def test_an_online_run_arrives_while_it_is_made_and_is_not_uploaded_again(
    composed: Callable[..., Config],
    tmp_path: Path,
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ptst.tracking.WAIT", 120.0)
    monkeypatch.setattr("ptst.tracking.SHORT", 0.0)
    words = ["tracking=wandb_online", "tracking.entity=team", "tracking.group=g"]
    config = composed(*TINY, *words, "judge._target_=test_sync.Telling")
    done = run_cell(config)
    out = capfd.readouterr()
    assert KEY not in out.out + out.err
    assert "has not taken" not in out.err
    assert {id.split("-")[0] for id in server.runs} == {"finetune", "generate", "judge", "cell"}
    assert places(server) == {"team/ptst"}
    for id in (f"finetune-{done.keys.finetune}", f"cell-{done.keys.cell}"):
        assert_arrived(tmp_path / "store", server, id)
    for id, run in server.runs.items():
        if id.startswith(("generate-", "judge-")):
            evaluation = run.config["evaluation"]
            assert run.name.startswith(f"{id.split('-')[0]} {evaluation}: micro gsm8k full ")
            queries = {"gsm8k": 6, "hazards": 10}[evaluation]
            assert run.history[-1]["queries"] == queries
            assert run.group == config.tracking.group
    server.requests.clear()
    assert main(["sync", f"paths.store={tmp_path}/store"]) == 0
    assert f" {len(server.runs)} there already, 0 not finished, 0 failed" in capfd.readouterr().out
    assert server.requests == []


def test_an_online_run_is_seen_while_it_is_made(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "1")
    monkeypatch.setattr("ptst.tracking.WAIT", 120.0)
    maker = Maker("here", 1, 0.0, 1.0, done=4, total=16, rate=2.0)
    online = Tracking(mode="online")
    with watched(online, tmp_path, "generate", "k", "n", {}) as watch:
        watch(maker)
        assert not (tmp_path / "wandb").exists()  # it may be over in a moment
        monkeypatch.setattr("ptst.tracking.SHORT", 0.0)
        watch(maker)  # which says nothing new
        watch(replace(maker, updated=2.0))
        watch(replace(maker, updated=3.0, done=8))
        deadline = time.monotonic() + 60
        while len(history := steps(server.runs.get("generate-k", Run()))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert server.runs["generate-k"].exit_codes == []
    assert {step: point["queries"] for step, point in history.items()} == {4: 4, 8: 8}
    assert history[8]["queries_per_second"] == 2.0
    assert server.runs["generate-k"].exit_codes == [0]


def test_what_is_only_for_watching_is_not_logged_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptst.tracking.SHORT", 0.0)
    offline = Tracking(mode="offline")
    with watched(offline, tmp_path, "generate", "k", "n", {}) as watch:
        watch(Maker("here", 1, 0.0, 1.0, done=4, total=16))
    assert not (tmp_path / "wandb").exists()


def test_an_upload_ends_with_the_process_that_writes_the_run(
    tmp_path: Path, server: WandbServer
) -> None:
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from ptst.schema import Tracking\n"
        "from ptst.tracking import tracked\n"
        "with tracked(Tracking(mode='online'), Path(sys.argv[1]), 'cell', 'k', 'n', {}):\n"
        "    print('open', flush=True)\n"
        "    time.sleep(600)\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.Popen(words, env=outside(), stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "open\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("cli()" in " ".join(child.cmdline()) for child in children)
    process.kill()
    process.communicate()
    _, left = psutil.wait_procs(children, timeout=30)
    assert left == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "silent"])
def test_a_cell_is_kept_whether_wandb_answers_or_not(
    composed: Callable[..., Config],
    tmp_path: Path,
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    address: str,
) -> None:
    for what in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER"):
        monkeypatch.delenv(f"WANDB__{what}_RETRY_MAX")
    monkeypatch.setattr("ptst.tracking.WAIT", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        silent_address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", silent_address if address == "silent" else address)
        config = composed(*TINY, "finetune=none", "tracking=wandb_online")
        began = time.monotonic()
        done = run_cell(config)
        assert time.monotonic() - began < 30
    cell = f"cell-{done.keys.cell}"
    assert (tmp_path / "store/cell" / done.keys.cell).is_dir()
    said = capfd.readouterr()
    assert KEY not in said.out + said.err
    (line,) = [line for line in said.err.splitlines() if "`ptst sync` uploads" in line]
    assert line.startswith("W&B: http://127.0.0.1:")
    assert "W&B: waiting 4 s at most for http://127.0.0.1:" in said.err
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    assert main(["sync", f"paths.store={tmp_path}/store"]) == 0
    assert_arrived(tmp_path / "store", server, cell)


@pytest.mark.usefixtures("forgotten")
def test_without_a_key_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["sync", "no_such_key=1", f"paths.store={tmp_path}/none"]) == 2
    assert "ptst sync needs a W&B key: set WANDB_API_KEY" in capsys.readouterr().err
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine api.wandb.ai login user password " + "0" * 40 + "\n")
    netrc.chmod(0o600)
    assert main(["sync", "no_such_key=1", f"paths.store={tmp_path}/none"]) == 2
    assert "no_such_key" in capsys.readouterr().err
    assert main(["sync", f"paths.store={tmp_path}/none"]) == 0
    assert not (tmp_path / "none").exists()


def test_two_syncs_do_not_upload_the_same(store: Path, server: WandbServer, sync: Any) -> None:
    with locked(store / "wandb" / "sync.lock"):
        ended = sync()
    assert ended.code == 2
    assert "another ptst sync" in ended.err
    assert server.requests == []
