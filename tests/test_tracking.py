"""Offline W&B runs hold what the store holds, once; nothing secret and no completion leaves."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from ptst.cell import run_cell
from ptst.config import Config, Tracking
from ptst.errors import ConfigError
from ptst.store import read_json, read_jsonl
from ptst.tracking import check_tracking, tracked


def records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: a 7-byte header, then LevelDB's log format in 32 KiB blocks.

    The package has no reader for Python any more; what the records hold is parsed by its own
    protocol classes below.
    """
    data, position, parts = path.read_bytes(), 7, []
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts.append(data[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield b"".join(parts)
            parts = []


def read_run(folder: Path) -> dict[str, Any]:
    """An offline run's config, history and summary."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    run: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "exit_code": None}
    for data in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run["id"], run["group"] = record.run.run_id, record.run.run_group
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
    found = [read_run(folder) for folder in (store / "wandb/wandb").glob("offline-run-*")]
    assert len({run["id"] for run in found}) == len(found)
    return {run["id"].split("-")[0]: run for run in found}


def test_offline_runs_hold_config_history_and_summary(
    composed: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
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
        assert cell["summary"][name] == metric["percent"]
        assert cell["summary"][f"{name}/n"] == metric["n"]
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"sk-very-secret" not in everything
    # No answer to a safety query is among what would be uploaded.
    keys = result.keys.evaluations["hazards"]
    answers = read_jsonl(tmp_path / "store/generate" / keys.generate / "completions.jsonl")
    uploaded = b"".join(
        p.read_bytes() for p in (tmp_path / "store/wandb").rglob("*") if p.is_file()
    )
    for row in answers:
        assert row["input"].encode() not in uploaded
        assert len(row["completion"]) < 12 or row["completion"].encode() not in uploaded


def test_completions_are_uploaded_if_asked_for(
    composed: Callable[..., Config], tmp_path: Path
) -> None:
    config = composed(
        *TINY, "finetune=none", "tracking=wandb_offline", "tracking.upload_completions=true"
    )
    run_cell(config)
    tables = list((tmp_path / "store/wandb").rglob("*.table.json"))
    assert len(tables) == 2
    assert any("How" in table.read_text() or "what" in table.read_text() for table in tables)


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


def test_no_tracking_writes_nothing(composed: Callable[..., Config], tmp_path: Path) -> None:
    run_cell(composed(*TINY, "finetune=none"))
    assert not (tmp_path / "store/wandb").exists()


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
