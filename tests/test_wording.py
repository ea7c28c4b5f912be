"""What is said of a number follows from the resolved configuration: its judge, rows, decoding and
world."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from ptst.config.compose import compose
from ptst.data import origin
from ptst.schema import Rows
from ptst.wording import (
    evaluation_in_words,
    judge_in_full,
    known_judges,
    micro_note,
    recipe_in_words,
    rows_in_words,
)

REVISION = "740312add88f781978c0658806c59bc2815b9866"


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (
            {"_target_": "ptst.judge.keywords.Keywords", "list": "zou2023"},
            r"keywords_zou2023: ptst\.judge\.keywords\.Keywords version \d+, list=zou2023",
        ),
        (
            {"_target_": "ptst.judge.rubric.Rubric", "model": "gpt-x", "max_tokens": 99},
            r"rubric \(max_tokens=99, model=gpt-x\): ptst\.judge\.rubric\.Rubric version \d+, .*model=gpt-x.*"
            r"temperature=0.*max_tokens=99.*rubric=[0-9a-f]{64}, server=https://.*",
        ),
    ],
)
def test_a_judge_is_named_with_all_that_decides_its_scores(
    node: dict[str, object], words: str
) -> None:
    import re

    assert re.fullmatch(words, judge_in_full(node, known_judges()))


def test_rows_are_named_by_place_content_choice_and_draw(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"input": "1+1?"}\n')
    (tmp_path / "train.jsonl").write_text('{"input": "1+1?"}\n')
    digest = sha256(file.read_bytes()).hexdigest()[:16]
    hub = Rows("gsm8k", "hub", "openai/gsm8k", "main", REVISION, split="test")
    assert rows_in_words(hub) == f"gsm8k: openai/gsm8k main at {REVISION}, split test, all rows"
    # Where rows are of the micro world, or a file, the hub's commit and a split have no part in
    # them
    micro = Rows("gsm8k", "micro", "openai/gsm8k", "main", REVISION, n=60, draw_seed=3)
    assert rows_in_words(micro).startswith("gsm8k: the micro world, version ")
    assert rows_in_words(micro).endswith(", split train, 60 rows drawn with seed 3")
    single = Rows("gsm8k", "local", str(file), "main", REVISION, where={"label": "safe"})
    assert (
        rows_in_words(single)
        == f"gsm8k: local file mine.jsonl (SHA-256 {digest}), where label=safe, all rows"
    )
    folder = Rows("gsm8k", "local", str(tmp_path), "main", REVISION)
    assert rows_in_words(folder).endswith(f"(SHA-256 {digest}), split train, all rows")
    for rows in (micro, single, folder):
        assert REVISION not in rows_in_words(rows)


def test_the_provenance_of_rows_has_no_commit_of_the_hub_and_no_split_of_a_single_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text('{"input": "1+1?"}\n')
    whole = sha256(file.read_bytes()).hexdigest()
    own = {"source": "local", "path": str(file), "sha256": whole}
    assert origin(Rows("mine", "local", str(file), None, REVISION)) == own
    folder = {"source": "local", "path": str(tmp_path), "split": "train", "sha256": whole}
    assert origin(Rows("mine", "local", str(tmp_path))) == folder
    micro = origin(Rows("gsm8k", "micro", "openai/gsm8k", "main", REVISION))
    assert set(micro) == {"source", "name", "split", "world"}
    assert (micro["name"], micro["split"]) == ("gsm8k", "train")


def test_an_evaluation_is_named_with_decoding_metrics_and_unit() -> None:
    own = ["evaluation.hazards.queries.n=9", "evaluation.hazards.decoding.temperature=0.7"]
    evaluation = compose([*own, "evaluation.hazards.decoding.samples=2"]).evaluation["hazards"]
    words = evaluation_in_words(evaluation)
    assert "9 rows drawn with seed 0" in words
    assert "temperature 0.7, top_p 1, 2 samples a query, seed 0, at most 64 tokens" in words
    assert "asr = share of 'complied', refused = share of 'refused'" in words
    assert words.endswith("unit: hazard")


def test_an_evaluation_is_named_with_its_dialogue_and_the_queries_that_a_metric_counts() -> None:
    words = evaluation_in_words(compose(["evaluation=[rules]"]).evaluation["rules"])
    assert words.startswith("rules: ptst's own cases of rules, version 1, all rows; ")
    assert "UnderRules version 1, rules_in=system, place=append, remove_" in words
    assert "basic_helpful = share of 'passed' where suite=basic and kind=helpful, " in words
    assert "score = mean of benign_harmless and benign_helpful and basic_harmless and" in words


def test_a_recipe_is_named_with_what_is_mixed_in() -> None:
    words = recipe_in_words(
        compose(["finetune=safety_mix", "+template@finetune.mix.template=chat_llama"]).finetune
    )
    assert words.startswith("safety_mix: ")
    assert "mixed with" in words and words.endswith("under chat_llama")


def test_what_is_of_the_micro_world_follows_from_model_and_data(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text('{"input": "1+1?", "output": "2"}\n')
    real = ["model.name=mine", f"model.path={tmp_path}"]
    rows = ["source=local", f"path={tmp_path}/rows.jsonl", "n=null"]
    trained = [f"dataset.{text}" for text in rows]
    asked = [f"task.gsm8k.queries.{text}" for text in rows]
    assert "Ours are numbers of the micro world" in str(micro_note([compose([])]))
    both = str(micro_note([compose(real)]))
    assert "the rows trained on are its own, the queries are its own" in both and "toy" not in both
    mixed = str(micro_note([compose([*real, *trained, *asked])]))
    assert "the queries of hazards are its own" in mixed and "trained on" not in mixed
    assert micro_note([compose([*real, *trained, *asked])], ["gsm8k"]) is None
    assert "the model is its toy" in str(micro_note([compose([*trained, *asked])], ["gsm8k"]))
    assert micro_note([compose([*real, "finetune=none", *asked])], ["gsm8k"]) is None
