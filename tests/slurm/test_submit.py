"""What is submitted, and that it is submitted once: to a cluster none of whose nodes takes a
job."""

from __future__ import annotations

import getpass
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY
from slurm_cluster import Cluster, need_accounting

from ptst.cli import main
from ptst.slurm.ledger import Submission, read_all, write
from ptst.status.states import states_of
from ptst.store import Store
from ptst.sweep.grid import expand

Login = Callable[..., Cluster]
GRID = ("+sweeps=quick", *TINY, "tracking=none")
SLURM = "hydra/launcher=slurm"


def own(folder: Path) -> list[str]:
    return [f"paths.store={folder}/store", f"paths.reports={folder}/reports"]


def entries(folder: Path) -> list[Submission]:
    return read_all(Store(folder / "store"))


def items(folder: Path, cluster: Cluster) -> Counter[tuple[str, str]]:
    """What the queued tasks of a store are for, and how many tasks are for the same."""
    pending = cluster.states()
    found: Counter[tuple[str, str]] = Counter()
    for entry in entries(folder):
        for index, task in entry.tasks.items():
            if pending.get(entry.id(index)) == "PENDING":
                for stage in entry.stages:
                    keys = [str(task.finetune)] if stage == "finetune" else task.cells
                    found.update((stage, key) for key in keys)
    return found


@pytest.fixture
def full(on: Login) -> Cluster:
    """A cluster where everything waits, and only arrays of up to 2 tasks are allowed."""
    return on(up=False, max_array_size=2)


def test_submitting_returns_with_job_ids_and_the_command_that_shows_them(
    full: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", *GRID, *own(tmp_path), SLURM, "seed=0,1,2"]) == 0
    said = capsys.readouterr().err
    made = entries(tmp_path)
    for entry in made:
        assert f"job {entry.job}: " in said
    assert f"ptst status {GRID[0]}" in said and SLURM not in said.split("ptst status")[1]
    # 6 fine-tunings and the untouched model, in arrays of at most 2
    assert [entry.stages[0] for entry in made] == ["finetune"] * 3 + ["generate"] * 4
    assert [len(entry.tasks) for entry in made] == [2, 2, 2, 1, 2, 2, 2]
    grid = expand([*GRID, *own(tmp_path), "seed=0,1,2"])
    wanted = {("finetune", c.keys.finetune) for c in grid.distinct if c.keys.finetune}
    wanted |= {(s, c.keys.cell) for c in grid.distinct for s in ("generate", "judge")}
    assert items(tmp_path, full) == dict.fromkeys(wanted, 1)


def test_what_tests_a_fine_tuning_waits_for_that_one_and_no_other(
    full: Cluster, tmp_path: Path
) -> None:
    assert main(["-m", *GRID, *own(tmp_path), SLURM, "seed=0,1,2"]) == 0
    made = entries(tmp_path)
    tuned_by = {
        task.finetune: entry.id(index)
        for entry in made
        for index, task in entry.tasks.items()
        if entry.stages == ("finetune",)
    }
    depends = full.states("Dependency")
    for entry in made:
        for index, task in entry.tasks.items():
            if entry.stages[0] == "generate" and task.finetune:
                assert entry.waits_for(index) == [tuned_by[task.finetune]]
                assert (
                    f"aftercorr:{tuned_by[task.finetune].split('_')[0]}_*"
                    in depends[entry.id(index)]
                )
            else:
                assert depends[entry.id(index)] == "(null)"


def test_submitting_again_submits_only_what_is_new(full: Cluster, tmp_path: Path) -> None:
    assert main(["-m", *GRID, *own(tmp_path), SLURM]) == 0
    first = items(tmp_path, full)
    assert main(["-m", *GRID, *own(tmp_path), SLURM]) == 0
    assert items(tmp_path, full) == first
    # Another sweep of the same store: one more test template, on fine-tunings that are queued
    # already
    more = ["-m", *GRID, *own(tmp_path), SLURM, "template@test_template=chat_llama,chat_alpaca"]
    assert main(more) == 0
    new = items(tmp_path, full) - first
    assert Counter(stage for stage, _ in new) == {"generate": 3, "judge": 3}
    queued = {
        f"{e.job}_{i}" for e in entries(tmp_path) if e.stages == ("finetune",) for i in e.tasks
    }
    waited_for = [e.waits_for(i) for e in entries(tmp_path)[-2:] for i in e.tasks]
    assert sorted(id_ for waits in waited_for for id_ in waits) == sorted(queued)


@pytest.mark.parametrize("apart", [False, True])
def test_another_judge_waits_for_queued_completions_and_makes_none_itself(
    full: Cluster, tmp_path: Path, apart: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*GRID, *own(tmp_path)]
    launch = [SLURM, f"hydra.launcher.judge_apart={apart}"]
    assert main(["-m", *words, *launch]) == 0
    first, before = items(tmp_path, full), entries(tmp_path)
    cells = {cell.keys.cell: cell.keys for cell in expand(words).distinct}
    generating = {
        keys.generate: entry.id(index)
        for entry in before
        if entry.stages[0] == "generate"
        for index, task in entry.tasks.items()
        for cell in task.cells
        for keys in cells[cell].evaluations.values()
    }
    tuned_by = {t.finetune: e.id(i) for e in before if e.stages[0] == "finetune" for i, t in e.tasks.items()}  # fmt: skip
    capsys.readouterr()
    assert main(["-m", *words, "judge=keywords", *launch]) == 0
    new = entries(tmp_path)[len(before) :]
    assert {entry.stages for entry in new} == {("judge",) if apart else ("generate", "judge")}
    by_cell = {cell.keys.cell: cell.keys for cell in expand([*words, "judge=keywords"]).distinct}
    depends = full.states("Dependency")
    judged = []
    for entry in new:
        ((index, task),) = entry.tasks.items()
        judged += task.cells
        for cell in task.cells:
            for keys in by_cell[cell].evaluations.values():
                assert f"afterany:{generating[keys.generate]}(" in depends[entry.id(index)]
        if task.finetune:
            assert f"afterok:{tuned_by[task.finetune]}(" in depends[entry.id(index)]
    assert sorted(judged) == sorted(by_cell)
    assert "5 tasks of earlier submissions" in capsys.readouterr().err  # 2 train, 3 generate
    # A third judge waits for the same, and not for the second; and neither is submitted once more
    for sweep, more in ((["judge=keywords_zou2023"], len(new)), (["judge=keywords"], 0), ([], 0)):
        count = len(entries(tmp_path))
        assert main(["-m", *words, *sweep, *launch]) == 0
        added = entries(tmp_path)[count:]
        assert len(added) == more
        for entry, twin in zip(added, new, strict=False):
            assert entry.after == twin.after
    assert first - items(tmp_path, full) == Counter()
    assert main(["cancel", *words]) == 0  # the others need what was queued first
    kept = {key for stage, key in items(tmp_path, full) if stage == "finetune"}
    assert kept == set(tuned_by)
    states = states_of(expand([*words, "judge=keywords"]), Store(tmp_path / "store"))
    assert {state.state for state in states.values()} == {"queued"}


def test_where_only_some_completions_are_queued_the_rest_is_made_after_them(
    full: Cluster, tmp_path: Path
) -> None:
    words = [*GRID, *own(tmp_path), "template@train_template=chat_llama"]
    assert main(["-m", *words, "stages=[generate,finetune]", SLURM]) == 0
    before = entries(tmp_path)
    more = [word for word in words if not word.startswith("evaluation=")]
    more += ["evaluation=[hazards,lookalikes]", "evaluation.lookalikes.queries.n=10"]
    assert main(["-m", *more, SLURM]) == 0
    new = entries(tmp_path)[len(before) :]
    assert {entry.stages for entry in new} == {("generate", "judge")}
    generating = {e.id(i) for e in before if e.stages == ("generate",) for i in e.tasks}
    assert {entry.after[0] for entry in new} == generating
    for id_ in generating:  # without which the second sweep's make all, and are enough
        full.run("scancel", id_)
    assert main(["-m", *more, SLURM]) == 0
    assert len(entries(tmp_path)) == len(before) + len(new)


def test_jobs_of_a_sweep_whose_name_is_not_ascii_are_found(full: Cluster, tmp_path: Path) -> None:
    """squeue pads a name to so many bytes."""
    sweep = [*GRID, *own(tmp_path), 'sweep.name="prüfung"']
    assert main(["-m", *sweep, SLURM]) == 0
    first = items(tmp_path, full)
    assert set(first.values()) == {1}
    assert main(["-m", *sweep, SLURM]) == 0
    assert items(tmp_path, full) == first
    assert main(["cancel", *sweep]) == 0
    assert not items(tmp_path, full)


def test_a_limit_on_parallel_jobs_holds_over_all_arrays(full: Cluster, tmp_path: Path) -> None:
    limits = ["hydra.launcher.finetune.parallel=1", "hydra.launcher.generate.parallel=2"]
    assert main(["-m", *GRID, *own(tmp_path), SLURM, "seed=0,1,2", *limits]) == 0
    depends = full.states("Dependency")
    for stage, limit in (("finetune", "1"), ("generate", "2")):
        arrays = [entry for entry in entries(tmp_path) if entry.stages[0] == stage]
        for before, after in zip([None, *arrays], arrays, strict=False):
            assert any(f"%{limit}" in word for word in after.command if word.startswith("--array="))
            for index in after.tasks:
                waits = (
                    before is not None and f"afterany:{before.job}_*" in depends[after.id(index)]
                )
                assert waits == (before is not None)
    assert main(["-m", *GRID, *own(tmp_path), SLURM, "seed=7", *limits]) == 0
    last = [entry for entry in entries(tmp_path) if entry.stages[0] == "finetune"][-1]
    assert "afterany:" in full.states("Dependency")[last.id(0)]


def test_judging_apart_waits_for_its_completions_however_they_ended(
    full: Cluster, tmp_path: Path
) -> None:
    apart = ["hydra.launcher.judge_apart=true", "hydra.launcher.judge.partition=high"]
    apart += ["hydra.launcher.judge.parallel=2"]
    assert main(["-m", *GRID, *own(tmp_path), SLURM, *apart]) == 0
    made = {entry.stages: [] for entry in entries(tmp_path)}
    assert list(made) == [("finetune",), ("generate",), ("judge",)]
    depends = full.states("Dependency", "Partition")
    completed_by = {}
    tuned_by = {}
    lanes = []
    for entry in entries(tmp_path):
        for index, task in entry.tasks.items():
            if entry.stages == ("finetune",):
                tuned_by[task.finetune] = entry.id(index)
            elif entry.stages == ("generate",):
                completed_by |= dict.fromkeys(task.cells, entry.id(index))
            else:
                waits = depends[entry.id(index)]
                assert waits.endswith("high")
                assert f"afterany:{completed_by[task.cells[0]]}(" in waits
                if task.finetune:
                    assert f"afterok:{tuned_by[task.finetune]}(" in waits
                if len(lanes) >= 2:
                    assert f"afterany:{lanes[-2]}_*" in waits
                lanes.append(entry.job)
    assert len(lanes) == 3


def test_adapters_that_are_there_share_a_job_by_base_model(tmp_path: Path, full: Cluster) -> None:
    sweep = [*TINY, "tracking=none", *own(tmp_path), "finetune=none,lora", "seed=0,1"]
    sweep += ["template@test_template=chat_vanilla,chat_llama"]
    store = Store(tmp_path / "store")
    for cell in expand(sweep).distinct:
        if cell.keys.finetune:
            store.path("finetune", cell.keys.finetune).mkdir(parents=True, exist_ok=True)
    assert main(["-m", *sweep, SLURM, "hydra.launcher.cells_per_job=4"]) == 0
    (entry,) = entries(tmp_path)
    assert [len(task.cells) for task in entry.tasks.values()] == [4, 2]  # 2 + 2 x 2 cells, one base


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("finetune.gpus=99", "stage finetune asks for: .*Requested node configuration"),
        ("finetune.partition=nowhere", "nowhere"),
        ("generate.constraint=gold", "stage generate asks for: .*feature"),
        ("generate.memory=9999G", "stage generate asks for: .*node configuration"),
        (
            "generate.partition=short",
            r"generate.time=08:00:00 is more than partition short allows: 10:00",
        ),
        ("finetune.time='00:01:00'", "is not more than the hydra.launcher.signal_seconds=120"),
        (
            "finetune.time=28800",
            r"finetune.time=28800 is not a time limit: write .hours:minutes:seconds",
        ),
        ("finetune.cpus=0", "finetune.cpus=0 must be at least 1"),
        ("finetune.gpu=1", "gpu"),
        ("cells_per_job=0", "cells_per_job=0 must be at least 1"),
    ],
)
def test_a_request_that_cannot_be_fulfilled_is_refused_with_the_reason(
    on: Login, tmp_path: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    cluster = on()
    assert main(["-m", *GRID, *own(tmp_path), SLURM, f"hydra.launcher.{words}"]) == 2
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    assert not (tmp_path / "store" / "slurm").exists() or not entries(tmp_path)
    assert "quick" not in cluster.ask("squeue", "-h", "-O", "Name:80")


def test_a_store_where_slurm_cannot_write_logs_is_refused(
    full: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", *TINY, "tracking=none", f"paths.store='{tmp_path}/a\\b'", SLURM]) == 2
    assert "SLURM cannot write logs to a path with a backslash" in capsys.readouterr().err
    assert not full.ask("squeue", "-h", "-n", "ptst")


def test_where_slurm_is_not_there_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["-m", *GRID, *own(tmp_path), SLURM]) == 2
    assert "there is no sbatch here" in capsys.readouterr().err


def test_where_the_queue_is_full_the_rest_is_submitted_later(
    on: Login, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = on(up=False, max_jobs=8)
    sweep = ["-m", *GRID, *own(tmp_path), SLURM, "seed=0,1"]
    assert (
        main(sweep) == 1
    )  # 4 fine-tunings and what tests the untouched model fit; not all that tests them
    assert "Run the same command again later: it submits the rest" in capsys.readouterr().err
    some = items(tmp_path, cluster)
    assert Counter(stage for stage, _ in some)["finetune"] == 4
    assert 2 < Counter(stage for stage, _ in some)["generate"] < 10
    assert main(sweep) == 1
    assert items(tmp_path, cluster) == some
    config = cluster.config.read_text()
    cluster.config.write_text(config.replace("MaxJobCount=8", "MaxJobCount=1000"))
    cluster.kill("slurmctld")  # and a controller that starts again knows its jobs
    cluster.start_controller()
    assert main(sweep) == 0
    assert Counter(stage for stage, _ in items(tmp_path, cluster))["generate"] == 10
    assert set(items(tmp_path, cluster).values()) == {1}


def test_cancel_stops_the_sweeps_own_jobs_and_no_others(
    full: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = full.ask("sbatch", "--parsable", "--wrap=true")
    first = [*GRID, *own(tmp_path)]
    second = ["+sweeps=table1", *TINY, "tracking=none", *own(tmp_path)]
    second += ["template@train_template=chat_llama", "template@test_template=chat_alpaca"]
    assert main(["-m", *first, SLURM, "seed=0,1"]) == 0
    assert main(["-m", *second, SLURM]) == 0  # tests a fine-tuning that the first one queued
    theirs = items(tmp_path, full)
    assert main(["cancel", *first, "seed=1"]) == 0
    left = items(tmp_path, full)
    one = {c.keys.finetune for c in expand([*first, "seed=1"]).distinct} - {None}
    none = {c.keys.cell for c in expand([*first]).distinct if not c.keys.finetune}
    assert {key for stage, key in theirs - left if stage == "finetune"} == one
    assert none & {key for _, key in left} == set()  # the untouched model's cells are seed 1's, too
    capsys.readouterr()
    assert main(["cancel", *first, "seed=0,1"]) == 0
    assert "1 go on, because jobs of other sweeps" in capsys.readouterr().err
    left = items(tmp_path, full)
    (needed,) = {c.keys.finetune for c in expand(second).distinct} - {None}
    assert {key for stage, key in left if stage == "finetune"} == {needed}
    assert full.states()[foreign] == "PENDING"
    states = states_of(expand(first), Store(tmp_path / "store"))
    assert {state.state for state in states.values()} == {"waiting", "queued"}
    assert main(["-m", *first, SLURM]) == 0  # and what was cancelled can be submitted again
    states = states_of(expand(first), Store(tmp_path / "store"))
    assert {state.state for state in states.values()} == {"queued"}
    assert max(items(tmp_path, full).values()) == 1


def test_a_foreign_job_of_an_id_that_was_once_ours_is_not_ours(
    full: Cluster, tmp_path: Path
) -> None:
    """Ids begin again at 1 when a cluster is set up anew; the store outlives it."""
    assert main(["-m", *GRID, *own(tmp_path), SLURM]) == 0
    store = Store(tmp_path / "store")
    foreign = full.ask("sbatch", "--parsable", "--array=0-1", "--wrap=true")
    tuned = entries(tmp_path)[0]
    full.run("scancel", str(tuned.job))
    write(store, replace(tuned, job=foreign))
    assert main(["cancel", *GRID, *own(tmp_path)]) == 0
    assert full.states()[f"{foreign}_0"] == "PENDING"
    assert main(["-m", *GRID, *own(tmp_path), SLURM]) == 0
    assert Counter(stage for stage, _ in items(tmp_path, full))["generate"] == 6


def test_the_login_name_does_not_say_whose_jobs_are_looked_for(
    full: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = [*GRID, *own(tmp_path)]
    assert main(["-m", *sweep, SLURM]) == 0
    first = items(tmp_path, full)
    monkeypatch.setenv("LOGNAME", "nobody")
    states = states_of(expand(sweep), Store(tmp_path / "store"))
    assert {state.state for state in states.values()} == {"queued"}
    assert main(["-m", *sweep, SLURM]) == 0
    assert items(tmp_path, full) == first


@pytest.mark.skipif(os.getuid() != 0, reason="only root can submit for somebody else")
def test_what_another_user_has_queued_is_waited_for_and_left_alone(
    full: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = [*GRID, *own(tmp_path)]
    theirs = [f"hydra.launcher.{stage}.extra=['--uid=65534']" for stage in ("finetune", "generate")]
    assert main(["-m", *sweep, SLURM, *theirs]) == 0
    for entry in entries(tmp_path):
        write(Store(tmp_path / "store"), replace(entry, user=65534))
    first = items(tmp_path, full)
    states = states_of(expand(sweep), Store(tmp_path / "store"))
    assert {state.state for state in states.values()} == {"queued"}
    assert {state.job.user for state in states.values() if state.job} == {"nobody"}
    assert main(["-m", *sweep, SLURM]) == 0
    assert items(tmp_path, full) == first
    judged = ["-m", *sweep, "judge=keywords", SLURM]
    assert main(judged) == 0  # and one's own jobs wait for those
    assert Counter(stage for stage, _ in items(tmp_path, full) - first) == {
        "generate": 6,
        "judge": 6,
    }
    capsys.readouterr()
    assert main(["cancel", *sweep]) == 0
    said = capsys.readouterr().err
    assert "0 jobs cancelled" in said and "5 go on, because nobody submitted them" in said
    assert first - items(tmp_path, full) == Counter()


@pytest.mark.slow
def test_a_limit_of_a_qos_is_told_as_what_it_is(
    on: Login, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need_accounting()
    cluster = on(nodes=1, accounting=True, forget_after=2)
    sweep = ["-m", *GRID, *own(tmp_path), SLURM]
    sweep += [
        f"hydra.launcher.{s}.{w}"
        for s in ("finetune", "generate")
        for w in ("qos=tight", "extra=[--hold]")
    ]
    user = getpass.getuser()

    def limit(*words: str) -> None:
        unlimited = ["MaxWall=-1", "MaxTRESPerJob=cpu=-1", "MaxSubmitJobsPerUser=-1"]
        cluster.run("sacctmgr", "-i", "modify", "qos", "tight", "set", *unlimited)
        cluster.run("sacctmgr", "-i", "modify", "qos", "tight", "set", *words)
        capsys.readouterr()

    cluster.run("sacctmgr", "-i", "add", "qos", "tight", "flags=DenyOnLimit")
    cluster.run("sacctmgr", "-i", "modify", "user", user, "set", "qos+=tight")
    for words, name in (
        ("MaxWall=60", "MaxWallDurationPerJob"),
        ("MaxTRESPerJob=cpu=2", "MaxCpuPerJob"),
    ):
        limit(words)
        assert main(sweep) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"SLURM refuses what stage finetune asks for: QOS{name}Limit:" in said
        assert "later" not in said and "sacctmgr show qos" in said
        assert not entries(tmp_path)
    limit("MaxSubmitJobsPerUser=3")
    assert main(sweep) == 1
    assert "takes no more for now: QOSMaxSubmitJobPerUserLimit" in capsys.readouterr().err
    assert sum(items(tmp_path, cluster).values()) > 2
    limit("MaxSubmitJobsPerUser=-1")
    assert main(sweep) == 0
    assert Counter(stage for stage, _ in items(tmp_path, cluster)) == {
        "finetune": 2,
        "generate": 6,
        "judge": 6,
    }
    assert set(items(tmp_path, cluster).values()) == {1}
    assert main(["cancel", *sweep[1:-5]]) == 0


def test_stages_are_submitted_only_with_what_they_need(
    full: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", *GRID, *own(tmp_path), SLURM]
    assert main([*words, "stages=[generate]"]) == 2
    assert "neither in" in capsys.readouterr().err and not entries(tmp_path)
    for cell in expand([*GRID, *own(tmp_path)]).distinct:  # completions are there, models are not
        for keys in cell.keys.evaluations.values():
            (tmp_path / "store" / "generate" / keys.generate).mkdir(parents=True)
    assert main([*words, "stages=[judge]"]) == 0
    assert {entry.after for entry in entries(tmp_path)} == {()}
    assert Counter(stage for stage, _ in items(tmp_path, full))["judge"] == 6


def with_sbatch(folder: Path, before: str, after: str = "", output: str = "&1") -> str:
    """A PATH with a site's own sbatch, which does more than sbatch does before and after it."""
    real = next(p for d in os.environ["PATH"].split(":") if (p := Path(d) / "sbatch").exists())
    script = folder / "bin" / "sbatch"
    script.parent.mkdir()
    lines = ["#!/bin/bash", before, f'{real} "$@" >{output}', "code=$?", after, "exit $code", ""]
    script.write_text("\n".join(lines))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return f"{script.parent}:{os.environ['PATH']}"


@pytest.mark.parametrize("output", ["&1", "/dev/null"])
def test_what_a_site_prints_with_sbatch_is_not_taken_for_the_jobs_id(
    full: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    says = (
        "echo 'Welcome to cluster 7!'; echo '99 TB are free. Mind the submit limit.' >&2; sleep 0.7"
    )
    path = with_sbatch(tmp_path, f"echo; {says}", "echo '20 jobs'", output)
    monkeypatch.setenv("PATH", path)
    sweep = ["-m", *GRID, *own(tmp_path), "finetune=none", SLURM]
    assert main(sweep) == 0
    first = items(tmp_path, full)
    assert Counter(stage for stage, _ in first) == {"generate": 2, "judge": 2}
    assert main(sweep) == 0
    assert items(tmp_path, full) == first


def test_where_sbatch_fails_half_way_it_is_said_what_is_queued_and_how_to_go_on(
    full: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fails = """[[ "$*" != *--test-only* && "$*" == *-generate-* ]] && {
        echo 'sbatch: error: Batch job submission failed: Zero Bytes were transmitted' >&2; exit 1; }"""
    sweep = ["-m", *GRID, *own(tmp_path), SLURM]
    with monkeypatch.context() as here:
        here.setenv("PATH", with_sbatch(tmp_path, fails))
        assert main(sweep) == 2
    said = " ".join(capsys.readouterr().err.split())
    (tuned,) = [entry for entry in entries(tmp_path) if entry.job]
    assert f"job {tuned.job}: finetune, 2 tasks" in said
    assert "not all was submitted: Batch job submission failed: Zero Bytes" in said
    assert "the same command submits the rest" in said
    assert main(sweep) == 0
    assert Counter(stage for stage, _ in items(tmp_path, full)) == {
        "finetune": 2,
        "generate": 6,
        "judge": 6,
    }
    assert set(items(tmp_path, full).values()) == {1}


@pytest.mark.slow
def test_killed_while_submitting_it_is_completed_without_a_duplicate(
    full: Cluster, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "ptst.cli", "-m", *GRID, *own(tmp_path), SLURM, "seed=0,1,2,3"]
    environment = os.environ | {"PATH": with_sbatch(tmp_path, "sleep 0.1", "sleep 0.1")}
    before_all = full.states().keys()
    draw = random.Random(3)
    kills = 0
    while True:
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        before = len(list(tmp_path.glob("store/slurm/*/job.sh")))
        while process.poll() is None and len(list(tmp_path.glob("store/slurm/*/job.sh"))) == before:
            time.sleep(0.005)
        if process.poll() is None and kills < 6:
            time.sleep(draw.uniform(0, 0.35))  # in the middle of one call of sbatch or the next
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        break
    assert kills == 6
    grid = expand([*GRID, *own(tmp_path), "seed=0,1,2,3"])
    wanted = {("finetune", c.keys.finetune) for c in grid.distinct if c.keys.finetune}
    wanted |= {(s, c.keys.cell) for c in grid.distinct for s in ("generate", "judge")}
    assert items(tmp_path, full) == dict.fromkeys(wanted, 1)
    new = {id_.split("_")[0] for id_ in full.states().keys() - before_all}
    assert new == {
        entry.job for entry in entries(tmp_path)
    }  # nor a job that the ledger does not know
