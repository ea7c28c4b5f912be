"""Artifacts appear whole or not at all, and are made once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

import ptst.store
from ptst.errors import Interrupted
from ptst.store import RowsKey, Store, fingerprint, key_of, read_json, write_atomic

PARTS = {"format": 1, "x": 2}


def test_key_depends_on_values_and_not_on_order() -> None:
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    assert key_of({"a": 1}) != key_of({"a": 1.5})
    assert len(key_of({})) == 16


def test_key_refuses_what_has_no_stable_text() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        key_of({"a": float("nan")})
    with pytest.raises(TypeError):
        key_of({"a": Path("x")})


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_key_of_rows_that_go_by_is_that_of_all_of_them(count: int) -> None:
    rows = [{"id": str(i), "input": "é \u2028", "tags": ["a", None]} for i in range(count)]
    going_by = RowsKey()
    assert list(going_by.of(rows)) == rows
    assert going_by.key == key_of({"rows": rows})


def test_artifact_appears_when_its_maker_is_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.make("judge", "k", PARTS) as work:
        assert work is not None
        (work.result / "scores").write_text("1")
        (work.scratch / "rubbish").write_text("2")
        assert not store.has("judge", "k")
    assert store.has("judge", "k")
    assert sorted(p.name for p in store.path("judge", "k").iterdir()) == ["key.json", "scores"]
    assert read_json(store.path("judge", "k") / "key.json") == PARTS
    assert not list((tmp_path / "partial").rglob("*.*"))
    with store.make("judge", "k", PARTS) as again:
        assert again is None


def test_a_failed_maker_leaves_its_scratch_and_no_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(OSError, match="disk"), store.make("judge", "k", PARTS) as work:
        (work.result / ".half.123").write_text("1")
        (work.scratch / "checkpoint").write_text("1")
        raise OSError("disk full")
    assert not store.has("judge", "k")
    with store.make("judge", "k", PARTS) as work:
        assert (work.scratch / "checkpoint").read_text() == "1"
    # What the failed one had half-written is not published with the rest.
    assert [p.name for p in store.path("judge", "k").iterdir()] == ["key.json"]


def test_what_a_maker_left_that_died_while_tidying_up_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.make("judge", "k", PARTS):
        pass
    left = tmp_path / "partial/judge/k/scratch/checkpoint-1"
    left.mkdir(parents=True)
    with store.make("judge", "k", PARTS) as work:
        assert work is None
    assert not left.exists()


def test_so_it_is_where_nobody_asks_for_the_artifact_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.make("finetune", "k", PARTS):
        pass
    left = tmp_path / "partial/finetune/k/scratch/checkpoint-1"
    begun = tmp_path / "partial/finetune/other/scratch/checkpoint-1"
    for folder in (left, begun):
        folder.mkdir(parents=True)
    store.tidy()
    assert not (tmp_path / "partial/finetune/k").exists() and begun.exists()


def test_waiting_for_another_maker_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = tmp_path / "ready"
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_hang, args=(tmp_path / "s", ready, 5.0))
    process.start()
    while not ready.exists():
        time.sleep(0.01)
    with Store(tmp_path / "s").make("finetune", "k", PARTS) as work:
        assert work is None
    process.join(20)
    assert "another process is making finetune k" in capsys.readouterr().err


def test_waiting_for_another_maker_ends_where_work_is_to_stop(tmp_path: Path) -> None:
    store = Store(tmp_path)
    answers = iter([False, True])
    with store.make("finetune", "k", PARTS):
        with (
            pytest.raises(Interrupted, match="waiting for another process to make finetune k"),
            store.make("finetune", "k", PARTS, stop=lambda: next(answers)),
        ):
            pytest.fail("two make it")
        assert store.is_being_made("finetune", "k")  # by the other, whose lease is untouched
    assert store.has("finetune", "k")


def _make_slowly(root: Path, counter: Path) -> None:
    with Store(root).make("finetune", "k", PARTS) as work:
        if work is not None:
            with counter.open("a") as file:
                file.write("made\n")
            time.sleep(0.5)


def test_two_processes_make_an_artifact_once(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_make_slowly, args=(tmp_path / "s", counter)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
        assert process.exitcode == 0
    assert counter.read_text() == "made\n"


def _hang(root: Path, ready: Path, seconds: float = 60.0) -> None:
    with Store(root).make("finetune", "k", PARTS):
        ready.touch()
        time.sleep(seconds)


def test_the_lease_of_a_killed_process_is_free(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = multiprocessing.get_context("fork").Process(
        target=_hang, args=(tmp_path / "s", ready)
    )
    process.start()
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(20)
    with Store(tmp_path / "s").make("finetune", "k", PARTS) as work:
        assert work is not None
    assert Store(tmp_path / "s").has("finetune", "k")


def test_fingerprint_follows_content_and_file_names_not_the_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "weights").write_text("w")
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    (tmp_path / "two" / "weights").rename(tmp_path / "two" / "other")
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")
    before = fingerprint(tmp_path / "one" / "weights")
    (tmp_path / "one" / "weights").write_text("x2")
    assert fingerprint(tmp_path / "one" / "weights") != before
    before = fingerprint(tmp_path / "one")
    (tmp_path / "one" / "README.md").write_text("a model card")
    (tmp_path / "one" / ".cache").mkdir()
    (tmp_path / "one" / ".cache" / "time").write_text("now")
    assert fingerprint(tmp_path / "one") == before
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "none")


@pytest.mark.parametrize("settled", [0.05, 60.0])
def test_fingerprint_of_a_file_that_changed_and_kept_its_size_and_time(
    settled: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `rsync -t` or an unpacked archive leave it; and as two writes within one tick of the clock do."""
    monkeypatch.setattr(ptst.store, "SETTLED", settled)
    file, seen = tmp_path / "weights", set()
    for content in ("one", "two"):
        file.write_text(content)
        os.utime(file, ns=(10**18, 10**18))
        time.sleep(0.1)
        seen.add(fingerprint(file))
    assert len(seen) == 2


def test_a_file_is_not_read_twice_for_its_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ptst.store, "SETTLED", 0.05)
    file = tmp_path / "weights"
    file.write_text("one")
    time.sleep(0.1)
    before = fingerprint(file)
    monkeypatch.setattr(
        ptst.store.hashlib, "file_digest", lambda *_: pytest.fail("it was read again")
    )
    assert fingerprint(file) == before


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "file"
    write_atomic(target, "one")
    write_atomic(target, "two")
    assert target.read_text() == "two"
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_seconds_of_interrupted_attempts_are_counted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for total in (0.0, 10.0, 20.0):
        with pytest.raises(KeyboardInterrupt), store.make("finetune", "k", PARTS) as work:
            assert work is not None
            assert work.maker.spent == pytest.approx(total, abs=1)
            work.maker = replace(work.maker, since=work.maker.since - 10)
            work.tell(3, 75)
            raise KeyboardInterrupt
    maker = store.maker("finetune", "k")
    assert maker is not None
    assert (maker.done, maker.total, maker.pid) == (3, 75, os.getpid())
    assert not store.is_being_made("finetune", "k")
    with store.make("finetune", "k", PARTS) as work:
        assert store.is_being_made("finetune", "k")
    assert store.maker("finetune", "k") is None
