"""Jobs on a real cluster of four virtual nodes: that they do the work once, in order, and survive
what clusters do."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from conftest import TINY
from slurm_cluster import Cluster, need_accounting
from warm import put_python

from ptst.cli import main
from ptst.slurm.cluster import is_overdue
from ptst.slurm.ledger import Submission, read_all
from ptst.status.states import CellState, states_of
from ptst.store import ARTIFACTS, Store, read_json, read_jsonl, write_json
from ptst.sweep.grid import expand

pytestmark = pytest.mark.slow

Login = Callable[..., Cluster]
SLURM = [
    "hydra/launcher=slurm",
    *(f"hydra.launcher.{stage}.cpus=1" for stage in ("finetune", "generate", "judge")),
    *(f"hydra.launcher.{stage}.memory=2G" for stage in ("finetune", "generate", "judge")),
]
LONG = ("finetune.max_steps=40", "dataset.n=400", "finetune.batch_size=16", "finetune.save_steps=5")
"""Over TINY: a fine-tuning that takes some seconds."""


@pytest.fixture
def warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that are submitted run in warm processes, which get the signals of their job."""
    monkeypatch.setattr(sys, "executable", str(put_python(tmp_path)))


def own(folder: Path) -> list[str]:
    return [
        *TINY,
        "tracking=none",
        f"paths.store={folder}/store",
        f"paths.reports={folder}/reports",
    ]


def merged(*words: str) -> list[str]:
    """Overrides, of which the last of a key counts."""
    return list({word.split("=", 1)[0]: word for word in words}.values())


def entries(folder: Path) -> list[Submission]:
    return read_all(Store(folder / "store"))


def states(sweep: list[str], folder: Path) -> list[CellState]:
    grid = expand(sweep)
    found = states_of(grid, Store(folder / "store"))
    return [found[cell.keys.cell] for cell in grid.distinct]


def wait(cluster: Cluster, what: Callable[[], object], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, cluster.ask("squeue", "-r", "-t", "all")
        time.sleep(0.2)


def over(cluster: Cluster, folder: Path, seconds: float = 900) -> None:
    """Wait until no job of a store is queued or running."""
    jobs = {entry.job for entry in entries(folder)}

    def ended() -> bool:
        found = {k: v for k, v in cluster.states().items() if k.split("_")[0] in jobs}
        return not {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"} & set(found.values())

    wait(cluster, ended, seconds)


def training(folder: Path, steps: int = 5) -> Callable[[], object]:
    """Whether a fine-tuning has kept a checkpoint, and made some steps more."""

    def made() -> bool:
        makers = [
            json.loads(p.read_text()) for p in folder.glob("store/partial/finetune/*/maker.json")
        ]
        kept = list(folder.glob("store/partial/finetune/*/scratch/checkpoint-*/complete"))
        return bool(kept) and any((maker["done"] or 0) > steps for maker in makers)

    return made


@contextmanager
def held(cluster: Cluster, folder: Path) -> Iterator[None]:
    """In the middle of a fine-tuning, whose processes stand still until SLURM has a signal for
    them.

    So it is not over before, however fast the machine, and has all of the time it is then given,
    however slow.
    """
    wait(cluster, training(folder))
    (maker,) = folder.glob("store/partial/finetune/*/maker.json")
    process = psutil.Process(json.loads(maker.read_text())["pid"])
    both = [process, *process.children(recursive=True)]
    for one in both:
        one.suspend()
    yield
    wait(cluster, lambda: has_signal(process.pid))
    for one in both:
        one.resume()


def has_signal(pid: int) -> bool:
    """Whether a signal waits for a process that stands still, or has made it go on already."""
    status = Path(f"/proc/{pid}/status").read_text()
    waiting = re.search(r"ShdPnd:\s*(\w+)", status)
    assert waiting
    mine = 1 << signal.SIGUSR1 - 1 | 1 << signal.SIGTERM - 1
    return bool(int(waiting[1], 16) & mine) or "State:\tT" not in status


def log(folder: Path, stage: str) -> str:
    return "".join(
        entry.log(Store(folder / "store"), index).read_text()
        for entry in entries(folder)
        for index in entry.tasks
        if entry.stages[0] == stage and entry.log(Store(folder / "store"), index).exists()
    )


def assert_whole(sweep: list[str], folder: Path) -> None:
    """All cells are done, and the fine-tuning's history has every step once."""
    assert {state.state for state in states(sweep, folder)} == {"done"}
    for tuned in (folder / "store" / "finetune").iterdir():
        steps = [entry["step"] for entry in read_jsonl(tuned / "log.jsonl")]
        assert steps == list(range(1, len(steps) + 1))
    assert not list((folder / "store" / "partial").glob("*/*"))


@pytest.mark.usefixtures("warm")
def test_a_sweep_runs_in_order_and_submitting_it_again_reports(
    on: Login, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = on()
    sweep = ["+sweeps=quick", *own(tmp_path)]
    assert main(["-m", *sweep, *SLURM, "hydra.launcher.judge_apart=true"]) == 0
    assert not (tmp_path / "store" / "cell").exists()  # it did not wait
    over(cluster, tmp_path)
    assert {state.state for state in states(sweep, tmp_path)} == {"done"}
    ends = {k: v.split() for k, v in cluster.states("StartTime", "EndTime").items()}
    for entry in entries(tmp_path):
        for index in entry.tasks:
            for before in entry.waits_for(index):
                assert ends[before][1] <= ends[entry.id(index)][0]
    jobs = len(entries(tmp_path))
    capsys.readouterr()
    assert main(["-m", *sweep, *SLURM]) == 0
    assert len(entries(tmp_path)) == jobs
    assert "nothing is left to submit" in capsys.readouterr().err
    assert list((tmp_path / "reports").glob("quick-micro*/index.html"))


@pytest.mark.usefixtures("warm")
def test_a_failed_fine_tuning_blocks_its_cells_and_no_others(on: Login, tmp_path: Path) -> None:
    cluster = on()
    sweep = [*own(tmp_path), "finetune.learning_rate=1e-4,1e30"]
    assert main(["-m", *sweep, *SLURM]) == 0
    over(cluster, tmp_path)
    good, bad = states(sweep, tmp_path)
    assert (good.state, bad.state) == ("done", "blocked")
    assert re.match(r"blocked by fine-tuning \w+: training diverged at step", bad.reason or "")
    assert "Traceback" in Path(bad.log or "").read_text()
    (tuned, tests) = entries(tmp_path)
    assert sorted(cluster.states()[tuned.id(i)] for i in tuned.tasks) == ["COMPLETED", "FAILED"]
    assert sorted(cluster.states()[tests.id(i)] for i in tests.tasks) == ["CANCELLED", "COMPLETED"]
    assert main(["-m", *sweep, *SLURM]) == 0  # again: the failed fine-tuning and its cell alone
    assert [len(entry.tasks) for entry in entries(tmp_path)[2:]] == [1, 1]
    assert states(sweep, tmp_path)[1].state in ("queued", "running")
    over(cluster, tmp_path)


@pytest.mark.usefixtures("warm")
def test_a_failed_cell_fails_its_job_and_keeps_no_other_from_its_score(
    on: Login, tmp_path: Path
) -> None:
    cluster = on()
    sweep = merged(*own(tmp_path), "finetune=none", "task.gsm8k.decoding.max_new_tokens=8,4000")
    assert main(["-m", *sweep, *SLURM, "hydra.launcher.judge_apart=true"]) == 0
    over(cluster, tmp_path)
    good, bad = states(sweep, tmp_path)
    assert (good.state, bad.state) == ("done", "failed")
    assert "is more than the context of 2048" in (bad.reason or "")
    assert [cluster.states()[entry.id(0)] for entry in entries(tmp_path)] == ["FAILED", "FAILED"]


@pytest.mark.usefixtures("warm")
def test_a_store_and_a_working_directory_may_have_any_name(
    on: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the name of a log, SLURM replaces %j, say, by the job's id."""
    cluster = on()
    folder = tmp_path / "a b's 100%j %%a ${HOME}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    sweep = [*TINY, "tracking=none", "finetune=none", "paths.store=store", "paths.reports=reports"]
    assert main(["-m", *sweep, *SLURM, "hydra.launcher.generate.setup=[pwd]"]) == 0
    over(cluster, folder)
    assert {state.state for state in states(sweep, folder)} == {"done"}
    (entry,) = entries(folder)
    assert entry.log(Store(folder / "store"), 0).read_text().startswith(f"{folder}\n")


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("apart", [False, True])
def test_another_judge_reads_the_completions_that_were_queued_before(
    on: Login, tmp_path: Path, apart: bool
) -> None:
    cluster = on()
    sweeps = [own(tmp_path), [*own(tmp_path), "judge=keywords"]]
    for sweep in sweeps:
        assert main(["-m", *sweep, *SLURM, f"hydra.launcher.judge_apart={apart}"]) == 0
    over(cluster, tmp_path)
    for sweep in sweeps:
        assert_whole(sweep, tmp_path)
    made = [entry.stages[0] for entry in entries(tmp_path)]
    assert made == ["finetune", "generate", *(["judge", "judge"] if apart else ["generate"])]
    assert {cluster.states()[entry.id(0)] for entry in entries(tmp_path)} == {"COMPLETED"}
    said = log(tmp_path, "generate") + log(tmp_path, "judge")
    # None waited with its resources idle; both judge the same answers to gsm8k, in a moment
    assert not re.search("another process is making (finetune|generate)", said)


@pytest.mark.usefixtures("warm")
def test_a_time_limit_is_a_pause(on: Login, tmp_path: Path) -> None:
    cluster = on()
    sweep = merged(*own(tmp_path), *LONG)
    assert main(["-m", *sweep, *SLURM, "hydra.launcher.signal_seconds=125"]) == 0
    (tuned, tests) = entries(tmp_path)
    with held(cluster, tmp_path):
        # One to two minutes are left now; every 30 s SLURM looks for whom it is less than
        # signal_seconds
        limit = int(cluster.states("TimeUsed")[tuned.id(0)].split(":")[-2]) + 2
        cluster.run("scontrol", "update", f"jobid={tuned.id(0)}", f"timelimit={limit}")
    wait(cluster, lambda: cluster.states("RestartCnt")[tuned.id(0)] != "0")
    state = states(sweep, tmp_path)[0]
    assert state.state in ("queued", "running") and state.job and state.job.restarts >= 1
    assert cluster.states()[tests.id(0)] == "PENDING"  # and what waits for it goes on waiting
    cluster.run("scontrol", "update", f"jobid={tuned.id(0)}", "timelimit=20")  # enough for the rest
    over(cluster, tmp_path)
    assert_whole(sweep, tmp_path)
    assert re.search(r"stopped: step \d+ of 40 is kept; asking SLURM", log(tmp_path, "finetune"))


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("announce", [True, False])  # by SIGUSR1, as asked for; by SIGTERM
def test_preempted_it_goes_on_where_it_was(on: Login, tmp_path: Path, announce: bool) -> None:
    cluster = on(announce=announce, grace=120 if announce else 10)
    devices = ["finetune.devices=2", "finetune.device_batch_size=8"] if announce else []
    sweep = merged(*own(tmp_path), *LONG, *devices)
    assert main(["-m", *sweep, *SLURM]) == 0
    with held(cluster, tmp_path):
        job = states(sweep, tmp_path)[0].job
        assert job and job.state == "RUNNING"
        # Something of a higher priority wants to be alone on that node, for a moment
        high = cluster.ask("sbatch", "--parsable", "-p", "high", "-w", job.node, "-c", "32", "-o", "/dev/null", "--wrap", "sleep 1")  # fmt: skip
    wait(cluster, lambda: cluster.states()[high] == "COMPLETED")
    over(cluster, tmp_path)
    assert_whole(sweep, tmp_path)
    assert re.search(r"stopped: step \d+ of 40 is kept; asking SLURM", log(tmp_path, "finetune"))
    assert "restart 1" in log(tmp_path, "finetune")


@pytest.mark.usefixtures("warm")
def test_a_job_that_ends_well_after_its_time_is_no_failure(on: Login, tmp_path: Path) -> None:
    cluster = on(nodes=1)
    wait_for_it = (
        f"hydra.launcher.finetune.setup=['until [ -e {tmp_path}/go ]; do sleep 0.1; done']"
    )
    assert main(["-m", *own(tmp_path), *SLURM, wait_for_it]) == 0
    (tuned, tests) = entries(tmp_path)
    wait(cluster, lambda: cluster.states()[tuned.id(0)] == "RUNNING")
    # For the job there is little left
    assert main(["-m", *own(tmp_path), "stages=[finetune]"]) == 0
    # Every 30 s SLURM looks whose time is over, 10 s of grace after it preempted: this one's
    # shortly after
    time.sleep((22 - (time.time() - (cluster.base / "slurmctld.pid").stat().st_mtime)) % 30)
    cluster.ask("sbatch", "-o", "/dev/null", "-p", "high", "-w", "n1", "-c", "32", "--wrap", "sleep 1")  # fmt: skip
    wait(cluster, lambda: is_overdue(tuned.id(0)))
    time.sleep(2)
    (tmp_path / "go").touch()
    over(cluster, tmp_path)
    assert "done, but after its time" in log(tmp_path, "finetune")
    assert cluster.states()[tests.id(0)] == "COMPLETED"
    assert_whole(own(tmp_path), tmp_path)


@pytest.mark.usefixtures("warm")
def test_a_killed_worker_is_told_and_submitted_again_it_resumes(on: Login, tmp_path: Path) -> None:
    cluster = on()
    sweep = merged(*own(tmp_path), *LONG)
    assert main(["-m", *sweep, *SLURM]) == 0
    wait(cluster, training(tmp_path))
    (maker,) = (tmp_path / "store" / "partial" / "finetune").glob("*/maker.json")
    os.kill(json.loads(maker.read_text())["pid"], signal.SIGKILL)
    over(cluster, tmp_path)
    (state,) = states(sweep, tmp_path)
    (tuned, _) = entries(tmp_path)
    assert state.state == "blocked"
    assert f"its job {tuned.id(0)} ended FAILED on n" in (state.reason or "")
    assert main(["-m", *sweep, *SLURM]) == 0
    over(cluster, tmp_path)
    assert_whole(sweep, tmp_path)
    (made,) = (tmp_path / "store" / "finetune").glob("*/provenance.json")
    assert read_json(made)["seconds"] > 5  # both attempts together


@pytest.mark.usefixtures("warm")
def test_a_cancelled_job_keeps_its_work_and_is_not_queued_again(on: Login, tmp_path: Path) -> None:
    cluster = on()
    sweep = merged(*own(tmp_path), *LONG)
    assert main(["-m", *sweep, *SLURM]) == 0
    wait(cluster, training(tmp_path))
    assert main(["cancel", *sweep]) == 0
    over(cluster, tmp_path)
    (state,) = states(sweep, tmp_path)
    assert state.state == "waiting" and state.job and state.job.state == "CANCELLED"
    assert state.done and state.done > 5
    time.sleep(3)
    assert set(cluster.states()[entry.id(0)] for entry in entries(tmp_path)) == {"CANCELLED"}


def test_a_job_that_is_completing_counts_only_if_it_is_queued_again(
    on: Login, tmp_path: Path
) -> None:
    """Nodes clean up after a job for minutes: meanwhile it is COMPLETING, however it ended and
    whatever comes next."""
    cluster = on()
    sweep = [*own(tmp_path), "seed=0,1,2,3"]
    # By its index a job is cancelled, queued again, fails, or ends well
    setup = "case $SLURM_ARRAY_TASK_ID in 2) exit 3;; 3) exit 0;; *) sleep 100;; esac"
    assert main(["-m", *sweep, *SLURM, f"hydra.launcher.finetune.setup=['{setup}']"]) == 0
    tuned, _ = entries(tmp_path)
    keys = [str(tuned.tasks[index].finetune) for index in range(4)]
    made = Store(tmp_path / "store").path("finetune", keys[3])
    write_json(made / ARTIFACTS["finetune"], {})

    def all_are(*wanted: str) -> bool:
        found = cluster.states()
        return [found[tuned.id(index)] for index in range(4)] == list(wanted)

    with cluster.lingering():
        wait(cluster, lambda: all_are("RUNNING", "RUNNING", "COMPLETING", "COMPLETING"))
        cluster.run("scontrol", "requeue", tuned.id(1))
        cluster.run("scancel", tuned.id(0))
        wait(cluster, lambda: all_are(*["COMPLETING"] * 4))
        seen = {cell.keys.finetune: cell for cell in expand(sweep).distinct}
        found = states_of(expand(sweep), Store(tmp_path / "store"))
        cells = [found[seen[key].keys.cell] for key in keys]
        assert [cell.state for cell in cells] == ["waiting", "queued", "blocked", "queued"]
        assert cells[0].reason == f"its job {tuned.id(0)} was cancelled"
        assert f"its job {tuned.id(2)} ended FAILED" in (cells[2].reason or "")
        assert main(["-m", *sweep, *SLURM, "hydra.launcher.finetune.extra=[--hold]"]) == 0
        new = entries(tmp_path)[2:]
        assert [entry.stages for entry in new] == [("finetune",), ("generate", "judge")]
        for entry in new:  # what waits for a job that will not do its work will not run, either
            assert {task.finetune for task in entry.tasks.values()} == {keys[0], keys[2]}
        assert main(["-m", *sweep, *SLURM]) == 0
        assert len(entries(tmp_path)) == 4
        assert main(["cancel", *sweep]) == 0


def test_a_node_that_dies_is_survived(on: Login, tmp_path: Path) -> None:
    cluster = on(nodes=2, node_timeout=6)
    sweep = merged(*own(tmp_path), *LONG)
    assert main(["-m", *sweep, *SLURM]) == 0
    wait(cluster, training(tmp_path))
    job = states(sweep, tmp_path)[0].job
    assert job
    (maker,) = (tmp_path / "store" / "partial" / "finetune").glob("*/maker.json")
    worker = psutil.Process(json.loads(maker.read_text())["pid"])
    step_daemon = worker.parent()
    cluster.kill(job.node)  # the machine is gone: its daemon, the job's, and the job
    for process in (step_daemon, worker):
        assert process
        process.kill()
    over(cluster, tmp_path)
    cluster.start_node(int(job.node.removeprefix("n")))
    assert_whole(sweep, tmp_path)
    assert "restart 1" in log(tmp_path, "finetune")


@pytest.mark.usefixtures("warm")
def test_a_controller_that_starts_again_changes_nothing(
    on: Login, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = on(nodes=2)
    sweep = merged(*own(tmp_path), *LONG, "finetune.max_steps=60")
    assert main(["-m", *sweep, *SLURM]) == 0
    wait(cluster, training(tmp_path, steps=1))
    cluster.save()
    cluster.kill("slurmctld")
    try:
        other = merged(*sweep, "seed=1")
        assert main(["-m", *other, *SLURM]) == 2
        assert "Unable to contact slurm controller" in capsys.readouterr().err
        assert len(entries(tmp_path)) == 2
        assert main(["status", *sweep]) == 0  # from the store, and says so
        assert "SLURM cannot be asked" in capsys.readouterr().err
        wait(cluster, lambda: list(tmp_path.glob("store/finetune/*")))
    finally:
        cluster.start_controller()
    over(cluster, tmp_path)
    assert_whole(sweep, tmp_path)


@pytest.mark.parametrize("accounting", [False, True])
def test_status_tells_how_a_job_ended_that_slurm_has_forgotten(
    on: Login, tmp_path: Path, accounting: bool
) -> None:
    if accounting:
        need_accounting()
    cluster = on(nodes=1, accounting=accounting, forget_after=2)
    sweep = [*own(tmp_path), "finetune.max_steps=50"]
    sweep.remove("finetune.max_steps=3")
    # killed before it trains, as by a node without memory: the store never hears of it
    setup = "hydra.launcher.finetune.setup=['kill -9 $$']"
    assert main(["-m", *sweep, *SLURM, setup]) == 0
    (tuned, _) = entries(tmp_path)
    wait(cluster, lambda: tuned.id(0) not in cluster.states())
    (state,) = states(sweep, tmp_path)
    assert state.state == "blocked"
    ended = (
        f"its job {tuned.id(0)} ended FAILED on n1" if accounting else "is over and left no result"
    )
    assert ended in (state.reason or "")


@pytest.mark.usefixtures("warm")
def test_table_1_is_the_same_as_without_slurm(on: Login, tmp_path: Path) -> None:
    cluster = on()
    size = ["dataset.n=64", "finetune.epochs=1", "task.gsm8k.queries.n=12", "tracking=none"]
    size += ["evaluation.hazards.queries.n=12", "scale.max_new_tokens=16"]
    words = ["+sweeps=table1", *size]
    here, there = tmp_path / "here", tmp_path / "there"
    stores = {f: [f"paths.store={f}/store", f"paths.reports={f}/reports"] for f in (here, there)}
    assert main(["-m", *words, *stores[there], *SLURM]) == 0
    over(cluster, there, seconds=900)
    assert main(["report", *words, *stores[there]]) == 0
    assert main(["-m", *words, *stores[here]]) == 0
    tables = [next((f / "reports").glob("table1-micro*/table.csv")).read_text() for f in (here, there)]  # fmt: skip
    assert tables[0] == tables[1]
    assert tables[0].count("done") >= 60
    for folder in (here, there):
        assert len(list((folder / "store" / "finetune").iterdir())) == 5
        assert len(list((folder / "store" / "generate").iterdir())) == 60
