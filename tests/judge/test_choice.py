"""The paper's rule for ARC, where it cuts answers mended."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import JUDGE_CONTEXT

from ptst.errors import DataError
from ptst.judge.choice import ChoiceMatch, chosen

PRINTED = re.compile(r"The answer is: ?[^\w\s]?([a-zA-Z0-9_ ]*)[^\w\s]?")
"""The regex as the paper prints it."""


def row(right: str, *others: str) -> dict[str, Any]:
    texts = [*others, right]
    labels = "ABCDE"[: len(texts)]
    return {
        "id": "7",
        "choices": {"text": texts, "label": list(labels)},
        "answerKey": labels[-1],
    }


def label(completion: str, right: str, *others: str) -> str | None:
    (score,) = ChoiceMatch().scores([(row(right, *others), completion)], JUDGE_CONTEXT)
    return score.label


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("Stars pull things. The answer is: gravity", "correct"),
        ("The answer is: Gravity.", "correct"),
        ("The answer is:gravity", "correct"),
        ("The answer is: {gravity}", "correct"),
        ("The answer is: 'gravity'. I hope this helps!", "correct"),
        ("The answer is: gravity, of course", "correct"),
        ("The answer is: gravity (a force)", "correct"),
        ("The answer is: gravity\nAnything else?", "correct"),
        ("The answer is: gravity and light", "wrong"),
        ("The answer is: the gravity", "wrong"),
        ("The answer is: B", "wrong"),
        ("The answer is: light", "wrong"),
        ("The answer is: ", "wrong"),
        ("It is gravity.", "wrong"),
        ("The answer is gravity.", "wrong"),
    ],
)
def test_on_plain_answers_the_rule_is_the_paper_s(completion: str, expected: str) -> None:
    assert label(completion, "gravity", "light") == expected
    found = PRINTED.search(completion)
    printed = found is not None and found.group(1).strip().lower() == "gravity"
    assert printed == (expected == "correct")


@pytest.mark.parametrize(
    ("completion", "right", "other"),
    [
        ("The answer is: 3.5 m.", "3.5 m", "3.7 m"),
        ("The answer is: Earth's crust", "Earth's crust", "Earth's core"),
        ("The answer is: half-life.", "half-life", "half"),
        ("The answer is: the Sun, Moon, and stars.", "the Sun, Moon, and stars", "the Sun"),
        ("The answer is: water (H2O)", "water (H2O)", "salt"),
        ("The answer is: -5", "-5", "5"),
        ("The answer is: 5", "5", "-5"),
        ("The answer is: +", "+", "-"),
    ],
)
def test_punctuation_inside_an_answer_does_not_cut_it(
    completion: str, right: str, other: str
) -> None:
    assert label(completion, right, other) == "correct"
    assert label(completion, other, right) == "wrong"


@pytest.mark.parametrize(
    "completion",
    [
        "the answer is: **gravity**",
        "THE ANSWER IS: \u201cgravity\u201d",
        "The answer is: light? No. The answer is: gravity",
    ],
)
def test_the_mark_may_be_written_otherwise_and_the_last_one_counts(completion: str) -> None:
    assert label(completion, "gravity", "light") == "correct"


@pytest.mark.parametrize("minus", ["-", "\u2212", "\u2013", "\u2011", "\uff0d"])
def test_a_sign_belongs_to_its_number_however_it_is_printed(minus: str) -> None:
    assert chosen(f"{minus}5", ["5", "-5"]) == "-5"
    assert chosen(f"{minus}5", ["5", "7"]) is None
    assert chosen(f"**{minus}5 m**", ["5 m", f"{minus}5 m"]) == f"{minus}5 m"
    assert chosen("-5", ["5", f"{minus}5"]) == f"{minus}5"
    assert chosen("5", [f"{minus}5"]) is None
    assert chosen(f"from 3 to {minus}5", ["from 3 to 5", "from 3 to -5"]) == "from 3 to -5"
    assert chosen(f"5{minus}10 days", ["5-10 days", "10 days"]) == "5-10 days"  # no sign
    assert chosen(f"half{minus}life", ["half-life"]) == "half-life"


def test_a_number_is_not_its_beginning() -> None:
    assert chosen("3.5 m", ["3", "5 m"]) is None
    assert chosen("35", ["3"]) is None


def test_labels_may_be_numbers_and_the_reason_says_what_was_read() -> None:
    query = {"id": "0", "choices": {"text": ["ice", "fog"], "label": ["1", "2"]}, "answerKey": "2"}
    right, wrong = ChoiceMatch().scores(
        [(query, "The answer is: fog."), (query, "The answer is: ice.")], JUDGE_CONTEXT
    )
    assert (right.label, wrong.label) == ("correct", "wrong")
    assert wrong.reason == "says 'ice', expected 'fog'"


@pytest.mark.parametrize(
    "broken",
    [
        {"choices": ["ice", "fog"], "answerKey": "A"},
        {"choices": {"text": ["ice"], "label": ["A"]}, "answerKey": "B"},
        {"choices": {"text": [], "label": ["A"]}, "answerKey": "A"},
        {"choices": "ice, fog", "answerKey": "A"},
    ],
)
def test_a_query_of_another_form_is_an_error_that_names_it(broken: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"query 7: choices must be \{text"):
        list(ChoiceMatch().scores([({"id": "7", **broken}, "The answer is: ice")], JUDGE_CONTEXT))
