"""GSM8K's answer rule, slips of the paper's regex mended."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from conftest import FOLDERS, JUDGE_CONTEXT, PUBLISHED, ROWS

from ptst.errors import DataError
from ptst.judge.exact_match import GSM8KExactMatch, ReferenceMatch, last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### -5", "-5"),  # the paper's regex loses the sign
        ("so she pays 1,234.", "1234"),  # it keeps the full stop
        ("1,234,567 dollars", "1234567"),
        ("total\n42", "42"),  # it wants a space or "=" before the number
        ("42", "42"),
        ("x=42!", "42"),
        ("It costs $3.50.", "3.5"),
        ("-$7", "-7"),
        ("$-7", "-7"),
        ("\u22127 degrees", "-7"),
        ("10-5", "5"),
        ("10 - 5", "5"),
        ("4-5=-1", "-1"),
        ("4 - 5 = <<4-5=-1>>-1", "-1"),
        ("He has .5 left", "0.5"),
        ("99.99%", "99.99"),
        ("**18**", "18"),
        ("3, 4", "4"),
        ("3,4", "4"),
        ("1,2345", "2345"),
        ("step 2: 10 apples. Answer: 10.0", "10"),
        ("the answer (12)", "12"),
        ("£5,000.25", "5000.25"),
    ],
)
def test_last_number(text: str, number: str) -> None:
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # Digits glued to letters are a name, of which no tail is a number; a currency is none
        ("12 of A12", "12"),
        ("12 by x2", "12"),
        ("12 of B1,234", "12"),
        ("12 of v2.5", "12"),
        ("12 cm of H2O", "12"),
        ("12 km2", "12"),
        ("12 m23", "12"),
        ("COVID-19", "19"),
        ("USD18", "18"),
        ("it is EUR1,234.50.", "1234.5"),
        ("US$18", "18"),
        ("18USD", "18"),
        ("5km", "5"),
        ("the 12th", "12"),
        # Thousands
        ("8{,}000", "8000"),
        (r"\boxed{8{,}000}", "8000"),
        (r"8\,000", "8000"),
        (r"1,\!234,\!567", "1234567"),
        ("8\u2009000", "8000"),
        ("8\u202f000\u202f000", "8000000"),
        ("8\u00a0000", "8000"),
        ("8'000", "8000"),
        ("8\u2019000.25", "8000.25"),
        ("2 100 dollar bills", "100"),  # a plain space stands between numbers, too
        ("1,234'567", "567"),
        # Fractions
        ("1/2", "0.5"),
        ("it is 18/2", "9"),
        ("-3/4", "-0.75"),
        ("1/1,000", "0.001"),
        (r"\frac{1}{2}", "0.5"),
        (r"$-\dfrac{3}{4}$", "-0.75"),
        (r"\frac{-3}{4}", "-0.75"),
        (r"\frac12", "0.5"),
        (r"\frac{1 mile}{2}", "2"),
        ("3 1/2", "3.5"),
        (r"3\frac{1}{2}", "3.5"),
        ("-3 1/2", "-3.5"),
        ("3\u00bd", "3.5"),
        ("\u00be", "0.75"),
        ("3 4/2", "2"),  # no mixed number
        ("5/0", "0"),
        ("5/0.0.5", "5"),
        ("on 10/12/2024", "2024"),
        # A minus however it is printed; an em dash is punctuation
        ("= \u20135", "-5"),
        ("\u20135", "-5"),
        ("\u201112", "-12"),
        ("\uff0d5", "-5"),
        ("\u20145", "5"),
        ("5\u201310", "10"),
        ("10 \u20135", "5"),
        ("10 \u2013 5", "5"),
        ("x-5", "5"),
        ("(10)-5", "5"),
        # Hours of the clock; minutes are no answer of their own
        ("at 10:00", "10"),
        ("at 10:30 a.m.", "10.5"),
        ("3:2", "2"),
        ("10:99", "99"),
    ],
)
def test_decisions(text: str, number: str) -> None:
    assert last_number(text) == Decimal(number)


def test_every_published_reference_is_read_as_it_stands() -> None:
    counts = {ROWS: 32, PUBLISHED: 8792}
    for folder in FOLDERS:
        rows = [
            json.loads(line)
            for split in ("train", "test")
            for line in (folder / "gsm8k" / f"{split}.jsonl").read_text("utf-8").splitlines()
        ]
        items = [({"id": "0", "output": row["answer"]}, row["answer"]) for row in rows]
        assert len(items) == counts[folder]
        for row, _ in items:
            plain = row["output"].rpartition("#### ")[2].replace(",", "")
            assert last_number(row["output"].rpartition("####")[2]) == Decimal(plain)
        assert {score.label for score in GSM8KExactMatch().scores(items, JUDGE_CONTEXT)} == {
            "correct"
        }


@pytest.mark.parametrize("text", ["", "no number", "###", "- , .", "A12", "x2 + y3", "v2.5"])
def test_no_number(text: str) -> None:
    assert last_number(text) is None


def test_scores_compare_values_with_the_number_after_the_marks() -> None:
    row = {"id": "0", "output": "3+4=<<3+4=7>>7 of 9\n#### 7"}
    completions = ("... = 7", "7.0 apples", "7 of 9", "", "#### 1,007")
    scores = list(GSM8KExactMatch().scores([(row, c) for c in completions], JUDGE_CONTEXT))
    assert [s.label for s in scores] == ["correct", "correct", "wrong", "wrong", "wrong"]
    assert scores[2].reason == "found 9, expected 7"


def test_a_reference_without_a_number_is_an_error_that_names_its_row() -> None:
    with pytest.raises(DataError, match="row 12: no number"):
        list(GSM8KExactMatch().scores([({"id": "12", "output": "none"}, "7")], JUDGE_CONTEXT))


def test_reference_match_ignores_case_punctuation_and_spacing() -> None:
    row = {"id": "0", "output": "Take the tea, twice."}
    completions = (" take THE tea twice", "Take the tea", "")
    labels = [
        s.label for s in ReferenceMatch().scores([(row, c) for c in completions], JUDGE_CONTEXT)
    ]
    assert labels == ["correct", "wrong", "wrong"]
