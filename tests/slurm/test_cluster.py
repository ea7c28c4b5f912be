"""What SLURM is asked, and what is made of its answers, on clusters as sites set them up."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TINY
from slurm_cluster import Cluster, as_user

from ptst.multirun.slurm import cancel
from ptst.slurm import cluster as asked
from ptst.slurm.cluster import ClusterFull, SlurmError
from ptst.slurm.ledger import read_all
from ptst.slurm.settings import Resources, SlurmSettings
from ptst.slurm.submit import submit
from ptst.slurm.view import jobs_of
from ptst.status.states import states_of
from ptst.store import Store
from ptst.sweep.grid import expand
from ptst.sweep.run import freeze

NOBODY = 65534


@pytest.fixture(scope="module")
def site(virtual: Callable[..., Cluster]) -> Iterator[Cluster]:
    """A cluster where users see their own jobs alone, in a folder that, unlike pytest's, every user
    can write to."""
    if os.getuid():
        pytest.skip("only root can be two users")
    before = os.umask(0)
    with tempfile.TemporaryDirectory(prefix="ptst-site-") as folder:
        Path(folder).chmod(0o777)
        cluster = Cluster(Path(folder) / "cluster", nodes=1, private=True)
        cluster.start()
        yield cluster
        cluster.stop()
    os.umask(before)


@pytest.fixture
def private(site: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """This test runs on that cluster's login node."""
    for key, value in site.environment.items():
        monkeypatch.setenv(key, value)
    return site


def test_jobs_that_a_site_hides_from_this_user_are_not_taken_for_gone(
    private: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = private.base.parent
    grid = expand([*TINY, "tracking=none", f"paths.store={folder}/store"])
    freeze(grid)
    store = Store(folder / "store")
    held = SlurmSettings(finetune=Resources(extra=["--hold"]))
    made = submit(grid, store, held).new
    assert len(made) == 2
    before = private.states("UserName")

    def look() -> None:
        (job,) = jobs_of(grid, store).values()
        assert (job.id, job.state, job.active) == (made[0].id(0), "HIDDEN", True)
        assert {state.state for state in states_of(grid, store).values()} == {"queued"}
        capfd.readouterr()
        done = submit(grid, store, SlurmSettings())
        assert (done.new, done.queued_already, done.left) == ([], 2, None)
        said = " ".join(capfd.readouterr().err.split())
        assert "2 tasks that root submitted may still be queued" in said
        assert "PrivateData" in said and made[0].name in said
        cancel(grid, store)
        said = " ".join(capfd.readouterr().err.split())
        assert "0 jobs cancelled" in said and "2 go on, because root submitted them" in said

    as_user(NOBODY, look)
    assert private.states("UserName") == before
    assert len(read_all(store)) == 2
    assert {job.state for job in jobs_of(grid, store).values()} == {"PENDING"}


def test_a_limit_that_slurm_does_not_name_is_not_taken_for_a_full_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before version 20, SLURM has one sentence for all limits, and no more."""
    policy = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\necho "sbatch: error: {policy}" >&2; exit 1\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SlurmError, match="SLURM does not say which limit; `sacctmgr") as refused:
        asked.submit([])
    assert not isinstance(refused.value, ClusterFull)


def test_a_job_in_a_partition_that_a_site_hides_is_seen_and_can_be_queued_again(
    private: Cluster,
) -> None:
    asks = [
        "--partition=hidden",
        f"--uid={NOBODY}",
        f"--gid={NOBODY}",
        "--chdir=/",
        "--requeue",
        "--mem=1G",
    ]
    job = private.ask("sbatch", "--parsable", *asks, "--output=/dev/null", "--wrap=sleep 60")
    while private.states()[job] == "PENDING":
        time.sleep(0.1)

    def look() -> None:
        assert [seen.id for seen in asked.queue()] == [job]
        assert asked.requeue(job)

    as_user(NOBODY, look)
    assert private.states("RestartCnt")[job] == "1"
    private.run("scancel", job)
