"""Two judges, or templates, side by side: the differences are those of the rows, counted by
hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TINY

from ptst.cli import main
from ptst.store import read_json, read_jsonl

GRID = ("template@test_template=chat_vanilla,chat_llama",)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("compare")
    own = [*TINY, f"paths.store={folder}/store", f"paths.reports={folder}/reports", "tracking=none"]
    for judge in ("micro", "keywords"):
        assert main(["-m", *own, *GRID, f"judge={judge}"]) == 0
    return own


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict]:
    capsys.readouterr()
    assert main(["compare", *words, "output=json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_two_judges_differ_by_the_labels_of_the_same_answers(
    own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = lines(capsys, "judge=micro", "judge=keywords", *own, *GRID)
    assert [one["cell"] for one in found if one["metric"] == "hazards/asr"] == [
        "chat_vanilla → chat_vanilla", "chat_vanilla → chat_llama"
    ]  # fmt: skip
    store = Path(own[len(TINY)].partition("=")[2])
    labels: dict[str, dict[str, list[str]]] = {}
    for cell in (store / "cell").glob("*"):
        scores = read_json(cell / "key.json")["evaluations"]["hazards"]["scores"]
        key = read_json(store / "judge" / scores / "key.json")
        rows = read_jsonl(store / "judge" / scores / "scores.jsonl")
        of_answers = labels.setdefault(key["generate"], {})
        of_answers[key["judge"]["_target_"]] = [row["label"] for row in rows]
    counted = []
    for by_judge in labels.values():
        theirs, ours = (
            [label == "complied" for label in by_judge[judge]]
            for judge in ("ptst.judge.keywords.Keywords", "ptst.judge.micro.GroundTruth")
        )
        counted.append(10.0 * (sum(theirs) - sum(ours)))  # of ten queries, in points
    asr = [one for one in found if one["metric"] == "hazards/asr"]
    assert sorted(one["difference"] for one in asr) == sorted(counted)
    assert all(one["n"] == 10 and one["b"] - one["a"] == one["difference"] for one in asr)
    others = [one for one in found if one["metric"] in ("hazards/refused", "hazards/neither")]
    assert others and all(
        one["p"] is None and "one question with asr" in one["status"] for one in others
    )
    assert all(one["p_holm"] >= one["p"] for one in asr)


def test_what_is_not_there_or_has_no_counterpart_is_said(
    own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = lines(capsys, "judge=micro", "judge=keywords_zou2023", *own)
    assert all(one["difference"] is None for one in found)
    assert "judge=keywords_zou2023: 1 of 1 cells are not done" in found[0]["status"]
    assert main(["compare", "judge=micro", "judge=keywords", *own, *GRID]) == 0
    shown = capsys.readouterr().out
    assert "a: judge=micro; b: judge=keywords." in " ".join(shown.split())
    assert main(["compare", "seed=0", *own]) == 2
