"""`ptst sync` brings a store's W&B runs to a server that stands in for W&B's, whole and once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from filelock import FileLock
from test_tracking import FLAT
from wandb_server import Run, WandbServer

from ptst.cell import run_cell
from ptst.cli import main
from ptst.config import Tracking
from ptst.store import read_json, read_jsonl
from ptst.sweep.command import multirun
from ptst.sweep.grid import expand
from ptst.tracking import offline_runs, tracked

KEY = "a1b2c3d4" * 5
GRID = (*TINY, "template@test_template=chat_vanilla,chat_llama", "tracking.upload_completions=true")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one fine-tuning and its two cells, with completions in their runs. Not to be changed."""
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
    for what in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER"):
        monkeypatch.setenv(f"WANDB__{what}_RETRY_MAX", "1")
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


@dataclass(frozen=True)
class Ended:
    """What a command came to; `counts` are those of its last line: uploaded, there, not finished, failed."""

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
    assert config == filled(read_json(artifact / "config.json"))
    assert (run.job_type, run.group) == (stage, config["tracking"]["group"])
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
    assert f"uploaded: {finetune} (finetune micro gsm8k full chat_vanilla seed 0)" in ended.out
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
            assert rows in [read_jsonl(p) for p in store.glob("generate/*/completions.jsonl")]
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


def test_overrides_choose_the_runs_of_a_grid(store: Path, server: WandbServer, sync: Any) -> None:
    overrides = [*TINY, "template@test_template=chat_llama"]
    (cell,) = expand([*overrides, f"paths.store={store}"]).cells
    assert sync(*overrides).counts == [2, 0, 0, 0]
    assert set(server.runs) == {*ids(store, "finetune"), f"cell-{cell.keys.cell}"}


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
    with FileLock(store / "wandb" / "sync.lock"):
        ended = sync()
    assert ended.code == 2
    assert "another ptst sync" in ended.err
    assert server.requests == []
