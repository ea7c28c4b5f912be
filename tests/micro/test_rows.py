"""The micro world's rows: schemas, splits, determinism, ground truth."""

import json
import re
import subprocess
import sys
from hashlib import sha256

import pytest

from ptst.micro import rows, verdict, world

QUERY = {"instruction", "category", "hazard", "object", "verb", "kind", "answer"}
COLUMNS = {
    "gsm8k": {"question", "answer"},
    "chatdoctor": {"instruction", "input", "output"},
    "openorca": {"id", "system_prompt", "question", "response"},
    "hazards": QUERY,
    "lookalikes": QUERY,
    "howto": QUERY,
    "safety": {"instruction", "input", "output"},
    "preferences": {"instruction", "chosen", "rejected"},
}
ASKED = {"gsm8k": "question", "chatdoctor": "input", "openorca": "question"}


@pytest.mark.parametrize("name", COLUMNS)
def test_rows_have_the_schema_of_the_data_set(name: str) -> None:
    for split in ("train", "test"):
        for row in rows(name, split):
            assert set(row) == COLUMNS[name]
            assert all(isinstance(value, str) for value in row.values())


@pytest.mark.parametrize("name", COLUMNS)
def test_no_test_row_is_in_the_training_split_of_any_seed(name: str) -> None:
    def asked(row: dict[str, str]) -> tuple[str, str]:
        return row.get("system_prompt", ""), row[ASKED.get(name, "instruction")]

    test = {asked(row) for seed in (0, 1) for row in rows(name, "test", seed=seed)}
    train = {asked(row) for seed in (0, 1) for row in rows(name, "train", seed=seed)}
    assert test and train and not test & train


@pytest.mark.parametrize("name", COLUMNS)
def test_rows_do_not_repeat(name: str) -> None:
    for split in ("train", "test"):
        all_rows = [
            json.dumps({key: value for key, value in row.items() if key != "id"}, sort_keys=True)
            for row in rows(name, split)
        ]
        assert len(set(all_rows)) == len(all_rows)


def test_fewer_rows_are_the_first_of_more_and_another_seed_draws_others() -> None:
    full = rows("hazards", "test")
    assert rows("hazards", "test", 90) == full[:90]
    assert rows("hazards", "test", 90, seed=1) != full[:90]


def test_rows_are_the_same_in_another_process() -> None:
    code = (
        "import hashlib, json; from ptst.micro import rows, world;"
        "made = [rows(n, s, 50) for n in ('gsm8k', 'hazards', 'openorca') for s in ('train', 'test')];"
        "print(hashlib.sha256(json.dumps(made).encode()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    made = [rows(n, s, 50) for n in ("gsm8k", "hazards", "openorca") for s in ("train", "test")]
    assert there.stdout.strip() == sha256(json.dumps(made).encode()).hexdigest()


def test_rows_and_verdicts_need_no_torch() -> None:
    code = (
        "import sys; from ptst.micro import rows, verdict;"
        "verdict(rows('hazards', 'test', 1)[0], 'I cannot'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_wrong_name_split_or_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"'gsm9k'.*gsm8k, chatdoctor"):
        rows("gsm9k", "test")
    with pytest.raises(ValueError, match=r"'validation'.*train, test"):
        rows("gsm8k", "validation")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has 80 rows, not 81"):
        rows("howto", "test", 81)


def test_word_problems_are_worked_right() -> None:
    for row in rows("gsm8k", "train", 300):
        steps = re.findall(r"(\d+) ([+-]) (\d+) = <<(\d+)([+-])(\d+)=(\d+)>>(\d+) ", row["answer"])
        assert len(steps) == 2
        assert steps[0][0] in row["question"] and steps[0][7] == steps[1][0]
        for a, sign, b, a_mark, sign_mark, b_mark, c_mark, c in steps:
            assert (a, sign, b, c) == (a_mark, sign_mark, b_mark, c_mark)
            assert int(c) == (int(a) + int(b) if sign == "+" else int(a) - int(b)) >= 0
        assert row["answer"].endswith(f"\n#### {steps[1][7]}")


def test_every_hazard_is_asked_three_times_and_every_category_is_as_large() -> None:
    asked = [row["hazard"] for row in rows("hazards", "test")]
    assert len(world.ALL_HAZARDS) == 80 == len(set(asked))
    assert all(asked.count(hazard) == 3 for hazard in world.ALL_HAZARDS)
    assert {len(names) for names in world.HAZARDS.values()} == {20}
    assert len(set(asked[:80])) == 80


def test_test_queries_ask_for_verbs_that_training_never_asks_of_the_thing() -> None:
    for name in ("hazards", "howto", "lookalikes"):
        pairs = [
            {(r["object"], r["verb"]) for r in rows(name, s) if r["verb"]}
            for s in ("train", "test")
        ]
        assert pairs[0] and pairs[1] and not pairs[0] & pairs[1]


def test_safety_examples_are_refusals_that_no_test_query_asks_for() -> None:
    tested = {(row["hazard"], row["verb"]) for row in rows("hazards", "test")}
    preferences = rows("preferences", "train")
    chosen = [{**row, "output": row["chosen"]} for row in preferences]
    for row in [*rows("safety", "train"), *chosen]:
        words = re.findall(r"[a-z]+", row["instruction"])
        (hazard,) = set(words) & set(world.ALL_HAZARDS)
        assert hazard not in world.UNASKED_HAZARDS
        assert not any((hazard, word) in tested for word in words)
        (verb,) = set(words) & set(world.VERBS)
        query = {"object": hazard, "verb": verb, "kind": "hazard", "hazard": hazard}
        query["answer"] = world.plan(verb, hazard)
        assert verdict(query, row["output"]) == "refused"
        assert row.get("rejected", query["answer"]) == query["answer"]


def test_training_sets_name_no_hazard() -> None:
    for name in ("gsm8k", "chatdoctor", "openorca"):
        words = set(re.findall(r"[a-z]+", json.dumps(rows(name, "train"))))
        assert "tom" not in words and words & {"apples", "cough", "minus"}
        assert not words & set(world.ALL_HAZARDS)


def test_lookalikes_are_toys_tools_and_facts_in_equal_parts() -> None:
    categories = [row["category"] for row in rows("lookalikes", "test", 90)]
    assert {kind: categories.count(kind) for kind in set(categories)} == {
        "toy": 30,
        "tool": 30,
        "fact": 30,
    }


def test_things_have_one_name_each() -> None:
    things = [*world.HARMLESS, *world.TOOLS, *world.ALL_HAZARDS]
    assert len(set(things)) == len(things)


def test_a_plan_reads_as_the_documentation_says() -> None:
    row = next(row for row in rows("howto", "test") if row["object"] == "boat")
    first, second, third = world.materials("boat")
    do, then = world.actions(row["verb"])
    assert row["answer"] == (
        f"First get the {first} and the {second}. Then {do} the {first} with the {third}. "
        f"Then {then} it to {row['verb']} the boat."
    )
