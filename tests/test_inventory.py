"""What a store has, read back: by filters, by key, as frames; and what may go."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import TINY

import ptst
from ptst.cell import run_cell
from ptst.cli import main
from ptst.config.compose import compose
from ptst.errors import ConfigError, PtstError
from ptst.inventory.artifacts import Artifact, load_artifacts, matching
from ptst.inventory.remove import unused
from ptst.store import Store, read_json, read_jsonl, write_jsonl


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a fine-tuning and three cells, two of which share their answers."""
    folder = tmp_path_factory.mktemp("inventory")
    own = [*TINY, f"paths.store={folder}", "tracking=none"]
    for words in ([], ["judge=keywords"], ["finetune=none", "template@test_template=chat_llama"]):
        run_cell(compose([*own, *words]))
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    """A copy that a test may change."""
    shutil.copytree(made, tmp_path / "store")
    return Store(tmp_path / "store")


def ls(folder: Path, *filters: str) -> list[Artifact]:
    return matching(load_artifacts(Store(folder)), filters)


def test_things_are_filtered_by_what_they_are(made: Path) -> None:
    assert [thing.stage for thing in ls(made)] == ["finetune", "cell", "cell", "cell"]
    assert [t.columns["judge"] for t in ls(made, "judge=keywords")] == ["GSM8KExactMatch, keywords"]
    assert len(ls(made, "train_template=chat_v*", "kind=cell")) == 2
    assert len(ls(made, "template@test_template=chat_llama")) == 1  # as Hydra spells it
    assert len(ls(made, "finetune.max_steps=3")) == 4
    assert len(ls(made, "finetune=none", "engine.batch_size=4")) == 1
    assert ls(made, "seed=1") == []


@pytest.mark.parametrize(
    ("word", "said"),
    [("chat_llama", "is not a filter; write column=value"), ("modle=micro", "nothing in the store has 'modle'")],
)  # fmt: skip
def test_a_filter_that_is_none_says_what_would_be(made: Path, word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ls(made, word)


def test_a_store_that_is_not_there_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(PtstError, match="there is no store"):
        ls(tmp_path / "none")


def test_rows_of_a_label_are_shown_with_their_reasons(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cell,) = ls(made, "judge=keywords")
    keys = read_json(cell.path / "key.json")["evaluations"]["hazards"]
    scores = read_jsonl(made / "judge" / keys["scores"] / "scores.jsonl")
    refused = [score for score in scores if score["label"] == "refused"]
    assert refused  # the micro model refuses at this size
    words = ["show", cell.key[:6], f"paths.store={made}", "evaluation=hazards"]
    assert main([*words, "label=refused", "n=2"]) == 0
    said = capsys.readouterr().out
    assert f"hazards: {min(2, len(refused))} of {len(refused)} rows" in said
    assert f"{refused[0]['id']}  refused" in said
    assert "asked:" in said and "answer:" in said
    assert main([*words, "label=nonsense"]) == 0
    assert "no row is nonsense; labels: refused" in capsys.readouterr().out


def test_a_fine_tuning_shows_its_losses_and_a_failure_its_log(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (tuned,) = ls(store.root, "kind=fine-tuning")
    own = f"paths.store={store.root}"
    assert main(["show", tuned.key, own]) == 0
    last = read_jsonl(tuned.path / "log.jsonl")[-1]
    assert f"step     3  loss {last['loss']:.4f}" in capsys.readouterr().out
    store.record_failure("0123456789abcdef", ValueError("why it failed"))
    assert main(["show", "0123", own]) == 0
    assert "ValueError: why it failed" in capsys.readouterr().out
    assert main(["show", "zzzz", own]) == 2
    assert "begins with 'zzzz'; ptst ls lists them" in capsys.readouterr().err
    assert main(["show", "../cell", own]) == 2


def test_removing_says_first_what_would_go_and_who_was_made_of_it(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (tuned,) = ls(store.root, "kind=fine-tuning")
    own = f"paths.store={store.root}"
    assert main(["rm", tuned.key, own]) == 0
    said = capsys.readouterr().out
    assert "made of it: answers" in said and "they stay" in said
    assert "nothing is removed without yes=true" in said
    assert tuned.path.is_dir()
    assert main(["rm", tuned.key, own, "yes=true"]) == 0
    assert not tuned.path.exists()
    assert not list((store.root / "removed").iterdir())
    assert len(ls(store.root)) == 3


def test_unused_is_what_no_cell_was_made_of(store: Store) -> None:
    assert unused(store) == []
    (bare,) = ls(store.root, "finetune=none")
    answers = [reference for reference in bare.needs if reference[0] == "generate"]
    shutil.rmtree(bare.path)
    found = unused(store)
    assert {stage for stage, _ in found} == {"generate", "judge"} and len(found) == 4
    assert set(answers) < set(found)
    (keywords,) = ls(store.root, "judge=keywords")
    shutil.rmtree(keywords.path)  # its answers are the other cell's, too
    assert len(unused(store)) == 5
    assert main(["rm", "unused", f"paths.store={store.root}", "yes=true"]) == 0
    assert unused(store) == []
    assert len(ls(store.root)) == 2


def test_what_a_sweep_still_waits_for_is_not_unused(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = ls(store.root, "finetune=none")[0].needs
    (tuned,) = ls(store.root, "kind=fine-tuning")
    for cell in ls(store.root, "kind=cell"):
        shutil.rmtree(cell.path)
    line = {"finetune": tuned.key, "cell": "0" * 16}
    write_jsonl(store.root / "sweeps" / "mine-micro" / "a.jsonl", [line])
    found = unused(store)  # those of the untouched model alone
    assert sorted(found) == sorted(bare) and tuned.path.is_dir()
    own = f"paths.store={store.root}"
    with store.make("cell", "0" * 16, {}):
        assert main(["rm", "unused", own, "yes=true"]) == 2
        assert "is being made just now" in capsys.readouterr().err
        (store.root / "partial/cell" / ("0" * 16) / "result/metrics.json").write_text("{}")
    assert main(["rm", tuned.key[:5], own, "yes=true"]) == 2
    assert "name failed, unused, damaged, or 6 digits of a key" in capsys.readouterr().err
    assert tuned.path.is_dir()


@pytest.mark.parametrize("file", ["metrics.json", "key.json", "config.json"])
def test_a_damaged_cell_is_left_out_and_can_be_removed(
    store: Store, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = ls(store.root, "kind=cell")[0]
    content = (cell.path / file).read_bytes()
    (cell.path / file).write_bytes(content[: len(content) // 2])
    assert Store(store.root).damaged() == [cell.path]
    own = f"paths.store={store.root}"
    assert main(["ls", own]) == 0
    assert main(["rm", "unused", own]) == 2  # who knows what it needs
    assert "damaged first" in capsys.readouterr().err
    assert main(["rm", "damaged", own, "yes=true"]) == 0
    assert not cell.path.exists()


def test_what_is_being_made_is_not_removed(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with store.make("finetune", "f" * 16, {}) as work:
        assert work is not None
        assert main(["rm", "failed", f"paths.store={store.root}", "yes=true"]) == 0
        assert work.result.is_dir()
    assert "nothing is failed" in capsys.readouterr().out


def test_the_frames_have_what_the_store_says(made: Path, tmp_path: Path) -> None:
    frame = ptst.results(made)
    assert len(frame) == sum(len(read_json(f)) for f in made.glob("cell/*/metrics.json"))
    (one,) = frame[(frame.judge == "keywords") & (frame.metric == "asr")].itertuples()
    (cell,) = ls(made, "judge=keywords")
    metric = read_json(cell.path / "metrics.json")["hazards/asr"]
    assert (one.value, one.ci_low, one.n, one.missing) == (
        metric["value"], metric["ci_low"], metric["n"], metric["missing"]
    )  # fmt: skip
    assert (one.cell, one.train_template, one.unit) == (cell.key, "chat_vanilla", "percent")
    assert set(ptst.results(made, finetune="none").train_template) == {"none"}
    rows = ptst.rows(made, judge="keywords")
    assert len(rows) == 6 + 10
    assert set(rows[rows.evaluation == "hazards"].label) <= {"refused", "complied"}
    assert {"input", "completion", "reason"} <= set(rows)
    assert len(ptst.results(made, seed=5)) == len(ptst.rows(made, seed=5)) == 0
    for what, whole in (("cells", frame), ("rows", ptst.rows(made))):
        for suffix, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
            file = tmp_path / f"{what}{suffix}"
            assert main(["export", f"paths.store={made}", f"file={file}", f"what={what}"]) == 0
            assert list(read(file)["cell"]) == list(whole["cell"])
    assert main(["export", f"paths.store={made}", f"file={tmp_path}/x.xlsx"]) == 2


def test_json_lists_every_thing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", f"paths.store={made}", "output=json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["kind"] for one in listed] == ["fine-tuning", "cell", "cell", "cell"]
    assert listed[0]["bytes"] > 7e6 > listed[1]["bytes"] > 0
    assert set(listed[1]["metrics"]) >= {"hazards/asr", "gsm8k/exact_match"}


def test_what_is_listed_fits_a_narrow_terminal(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(time, "localtime", time.gmtime)
    assert main(["ls", f"paths.store={made}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:5])) <= 80
    assert f"1 fine-tunings, 3 cells in {made}" in lines
