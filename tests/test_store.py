"""Artifacts appear whole or not at all, and are made once."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ptst.errors import Interrupted, PtstError
from ptst.store import (
    ARTIFACTS,
    Readable,
    RowsKey,
    Store,
    artifacts,
    fingerprint,
    hashes,
    key_of,
    read_journal,
    read_json,
    write_atomic,
    write_json,
)

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


def test_an_artifact_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _made(store, "judge")
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
    _made(store, "judge")
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
    store.prepare()
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
    """As `rsync -t` or an unpacked archive leave it; and as two writes within one tick of the clock
    do."""
    monkeypatch.setattr(hashes, "SETTLED", settled)
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
    monkeypatch.setattr(hashes, "SETTLED", 0.05)
    file = tmp_path / "weights"
    file.write_text("one")
    time.sleep(0.1)
    before = fingerprint(file)
    monkeypatch.setattr(hashes.hashlib, "file_digest", lambda *_: pytest.fail("it was read again"))
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
            work.began -= 10
            work.tell(3, 75)
            raise KeyboardInterrupt
    maker = store.maker("finetune", "k")
    assert maker is not None
    assert (maker.done, maker.total, maker.pid) == (3, 75, os.getpid())
    assert not store.is_being_made("finetune", "k")
    with store.make("finetune", "k", PARTS) as work:
        assert store.is_being_made("finetune", "k")
    assert store.maker("finetune", "k") is None


def test_fingerprint_follows_links_to_folders_and_no_circle(tmp_path: Path) -> None:
    """As a configuration linked from elsewhere, which Hydra reads, or a model of several parts."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "kind.yaml").write_text("system: Be kind.")
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "own.yaml").write_text("1")
    (folder / "template").symlink_to(tmp_path / "lab")
    (tmp_path / "lab" / "circle").symlink_to(folder)
    before = fingerprint(folder)
    (tmp_path / "lab" / "kind.yaml").write_text("system: Be blunt.")
    assert fingerprint(folder) != before


def test_fingerprint_of_a_hub_snapshot_is_that_of_its_files(tmp_path: Path) -> None:
    """The hub's cache has a link to a blob for each file of a snapshot."""
    (tmp_path / "blobs").mkdir()
    for folder in ("plain", "snapshot"):
        (tmp_path / folder / "onnx").mkdir(parents=True)
    for name in ("config.json", "onnx/weights"):
        (tmp_path / "plain" / name).write_text(name)
        blob = tmp_path / "blobs" / name.replace("/", "-")
        blob.write_text(name)
        (tmp_path / "snapshot" / name).symlink_to(blob)
    assert fingerprint(tmp_path / "snapshot") == fingerprint(tmp_path / "plain")
    assert fingerprint(tmp_path / "plain") == (
        "e2aa8052310cc60966b2571dfb42252637727e494793479ba0887a59f5f40965"
    )


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused_before_anything_is_made(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(PtstError, match=r"cannot lock files .*paths\.store=.*flock"):
        Store(tmp_path).prepare()
    with (
        pytest.raises(PtstError, match="cannot lock files"),
        Store(tmp_path).make("judge", "k", PARTS),
    ):
        pytest.fail("made without a lock")
    assert not Store(tmp_path).is_being_made("judge", "k")  # a reader goes on


def test_who_may_only_read_sees_who_makes_what(
    tmp_path: Path, read_only: Callable[[Path], Path]
) -> None:
    store = Store(tmp_path / "store")
    store.root.mkdir()
    seen = read_only(store.root)
    assert not Store(seen).is_being_made("judge", "k")
    with store.make("judge", "k", PARTS):
        assert Store(seen).is_being_made("judge", "k")
    assert not Store(seen).is_being_made("judge", "k")
    assert "there is no scores.jsonl" in str(Store(seen).damage("judge", "k"))


def test_all_files_of_an_artifact_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    """safetensors writes weights that only their owner may read."""
    before = os.umask(0o027)
    try:
        with Store(tmp_path).make("finetune", "k", PARTS) as work:
            (work.result / "weights").mkdir()
            (work.result / "weights" / "model.safetensors").touch(mode=0o600)
    finally:
        os.umask(before)
    folder = Store(tmp_path).path("finetune", "k")
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    assert modes == {"weights": 0o750, "model.safetensors": 0o640, "key.json": 0o640}


def test_a_clock_that_is_set_back_takes_no_seconds_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.make("finetune", "k", PARTS) as work:
        monkeypatch.setattr(artifacts.time, "time", lambda: work.maker.since - 3600)
        time.sleep(0.05)
        work.tell(1, 75)
        assert 0.05 <= work.maker.updated - work.maker.since < 30
        raise KeyboardInterrupt
    write_json(
        tmp_path / "partial/finetune/k/maker.json",
        asdict(replace(work.maker, updated=work.maker.since - 100)),  # by a host of another clock
    )
    with store.make("finetune", "k", PARTS) as work:
        assert work.maker.spent == 0


@pytest.mark.parametrize("library", ["torch", "safetensors", "python"])
def test_a_full_disk_is_said_in_a_line_whichever_library_meets_it(
    library: str, tmp_path: Path
) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system of 300 kB cannot be mounted here")
    import safetensors.torch
    import torch

    weights = {"weights": torch.zeros(100_000)}
    try:
        with (
            pytest.raises(PtstError, match=r"^no space left .*run again to resume\.$"),
            Store(tmp_path / "store").make("finetune", "k", PARTS) as work,
        ):
            if library == "torch":
                torch.save(weights, work.scratch / "optimizer.pt")
            elif library == "safetensors":
                safetensors.torch.save_file(weights, work.scratch / "model.safetensors")
            else:
                (work.scratch / "journal").write_bytes(bytes(400_000))
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_journal_loses_the_lines_that_a_loss_of_power_left_unreadable(tmp_path: Path) -> None:
    journal = tmp_path / "batches.jsonl"
    lines = [json.dumps({"batch": n, "answers": {str(n): {"text": "é"}}}) + "\n" for n in range(3)]
    journal.write_text(lines[0] + "\0" * 20 + "\n" + lines[1] + lines[2][:-9])
    assert read_journal(journal) == {n: {str(n): {"text": "é"}} for n in (0, 1)}
    assert journal.read_text() == lines[0] + lines[1]
    assert read_journal(tmp_path / "none") == {}


WHOLE = {
    "finetune": {"log.jsonl": "{}\n", "weights/model.safetensors": None},
    "generate": {"completions.jsonl": '{"id": 0}\n'},
    "judge": {"scores.jsonl": '{"id": 0}\n'},
    "cell": {"metrics.json": "{}"},
}


def _made(store: Store, stage: str) -> Path:
    import safetensors.torch
    import torch

    with store.make(stage, "k", PARTS) as work:
        assert work is not None
        for name, content in WHOLE[stage].items():
            file = work.result / name
            file.parent.mkdir(exist_ok=True)
            if content is None:
                safetensors.torch.save_file({"w": torch.zeros(10)}, file)
            else:
                file.write_text(content)
        for name in ("config.json", "provenance.json"):
            write_json(work.result / name, {})
    return store.path(stage, "k")


@pytest.mark.parametrize("stage", WHOLE)
def test_what_a_broken_copy_leaves_is_damaged(stage: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    whole = _made(store, stage)
    assert store.damage(stage, "k") is None and store.damaged() == []
    assert store.damage(stage, "absent") is None
    kept = tmp_path / "kept"
    for file in [path for path in whole.rglob("*") if path.is_file() and path.suffix != ".lock"]:
        name = file.relative_to(whole).as_posix()
        for size in (None, 0, file.stat().st_size - 2):
            if size is None and name != ARTIFACTS[stage]:
                continue
            shutil.copytree(whole, kept)
            file.unlink()
            if size is not None:
                file.write_bytes((kept / name).read_bytes()[:size])
            lacks = f"there is no {name}" if size is None else f"{name} is cut off"
            said = Store(tmp_path).damage(stage, "k") or ""
            assert said.startswith(f"damaged: {whole}: {lacks}. ptst rm damaged"), (name, size)
            assert Store(tmp_path).damaged() == [whole]
            shutil.rmtree(whole)
            kept.rename(whole)
    shutil.rmtree(whole)
    whole.mkdir()  # as a copy that was cut off early
    with pytest.raises(PtstError, match="damaged"), Store(tmp_path).make(stage, "k", PARTS):
        pytest.fail("made beside what is damaged")
    assert Store(tmp_path).has(stage, "k") and not Readable(tmp_path).has(stage, "k")
    assert not Readable(tmp_path).path(stage, "k").exists()
    shutil.rmtree(whole)
    assert not store.has(stage, "k")
    assert _made(store, stage) == whole and Store(tmp_path).damaged() == []
