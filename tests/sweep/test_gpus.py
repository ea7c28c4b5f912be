"""Processes of one sweep do not meet on a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ptst.sweep.gpus import take_gpus, visible_gpus

HOLD = """
import os, sys
from pathlib import Path
from ptst.sweep.gpus import take_gpus
taken = take_gpus(sys.argv[3].split(","), int(sys.argv[2]), Path(sys.argv[1]))
print("+".join(taken), os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


def holder(locks: Path, count: int = 1, gpus: str = "0,1") -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(locks), str(count), gpus],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_each_process_takes_a_gpu_of_its_own_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second, third = (holder(tmp_path) for _ in range(3))
    assert {first[1], second[1]} == {"0 0", "1 1"}
    assert third[1] == "None"  # all taken: it shares
    first[0].kill()
    first[0].wait()
    fourth = holder(tmp_path)
    assert fourth[1] == first[1]
    for process, _ in (second, third, fourth):
        process.communicate()


def test_a_fine_tuning_on_several_devices_takes_as_many_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second = (holder(tmp_path, 2, "0,1,2") for _ in range(2))
    assert [first[1], second[1]] == [
        "0+1 0,1",
        "None",
    ]  # one is free, and not held by who wants two
    third = holder(tmp_path, 1, "0,1,2")
    assert third[1] == "2 2"
    for process, _ in (first, second, third):
        process.communicate()


def test_with_one_gpu_there_is_nothing_to_choose(tmp_path: Path) -> None:
    assert take_gpus(["0"], 1, tmp_path) == []
    assert take_gpus([], 1, tmp_path) == []
    assert take_gpus(["0", "1"], 2, tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_the_gpus_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, 3")
    assert visible_gpus() == ["GPU-a", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "")
    assert visible_gpus() == []
