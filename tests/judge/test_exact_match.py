"""GSM8K's answer rule, slips of the paper's regex mended."""

from __future__ import annotations

from decimal import Decimal

import pytest
from conftest import BENCH

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


@pytest.mark.parametrize("text", ["", "no number", "###", "- , ."])
def test_no_number(text: str) -> None:
    assert last_number(text) is None


def test_scores_compare_values_with_the_number_after_the_marks() -> None:
    row = {"id": "0", "output": "3+4=<<3+4=7>>7 of 9\n#### 7"}
    completions = ("... = 7", "7.0 apples", "7 of 9", "", "#### 1,007")
    scores = list(GSM8KExactMatch().scores([(row, c) for c in completions], BENCH))
    assert [s.label for s in scores] == ["correct", "correct", "wrong", "wrong", "wrong"]
    assert scores[2].reason == "found 9, expected 7"


def test_a_reference_without_a_number_is_an_error_that_names_its_row() -> None:
    with pytest.raises(DataError, match="row 12: no number"):
        list(GSM8KExactMatch().scores([({"id": "12", "output": "none"}, "7")], BENCH))


def test_reference_match_ignores_case_punctuation_and_spacing() -> None:
    row = {"id": "0", "output": "Take the tea, twice."}
    completions = (" take THE tea twice", "Take the tea", "")
    labels = [s.label for s in ReferenceMatch().scores([(row, c) for c in completions], BENCH)]
    assert labels == ["correct", "wrong", "wrong"]
