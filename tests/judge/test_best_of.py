"""The better of ROUGE-2 and a prefix match; the numbers are hand-made."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from ptst.errors import DataError
from ptst.judge import JudgeContext, checked
from ptst.judge.best_of import BestOf, begins
from ptst.metrics import better

CONTEXT = JudgeContext(Path(), "cpu", lambda done, total: None, lambda: False)


def values(gold: str, answer: str) -> Mapping[str, float]:
    items = [({"id": "0", "output": gold}, answer)]
    (score,) = checked(BestOf(), items, BestOf().scores(items, CONTEXT))
    return score.values


@pytest.mark.parametrize(
    ("gold", "answer", "rouge2", "prefix"),
    [
        # 3 pairs of the gold's 3, of 5: F1 = 2 * 1 * .6 / 1.6
        ("Sorry, I cannot help", "Sorry, I cannot help with that.", 0.75, 1),
        ("CORRECT", "Correct, because the summary says so.", 0, 1),
        ("correct", "correctness is", 0, 0),
        ("the cat sat on the mat", "the cat sat on a mat", 0.6, 0),
        ("N/A", "n/a.", 1, 1),  # ROUGE reads two words, n and a
        ("Can solve", "  CAN\n solve: yes", 2 / 3, 1),
        ("I can\u2019t", "I can't do that", 2 / 3, 1),
        ("Good", "", 0, 0),
        ("Sorry, I cannot help", "I cannot help", 0.8, 0),
        ("he jumps over it", "he jumped over it", 1, 0),  # the stemmer's
    ],
)
def test_best_of_is_the_greater_of_its_two_parts(
    gold: str, answer: str, rouge2: float, prefix: float
) -> None:
    expected = {"best_of": max(rouge2, prefix), "rouge2": rouge2, "prefix": prefix}
    assert values(gold, answer) == pytest.approx(expected)


def test_it_is_at_least_each_part_whatever_is_said() -> None:
    drawn = random.Random(0)

    def text(least: int) -> str:
        return " ".join(drawn.choices(["a", "B", "c.", "cat's", "--", "Über"], k=least + drawn.randrange(6)))  # fmt: skip

    for _ in range(200):
        gold = f"x {text(0)}"
        found = values(gold, drawn.choice([text(1), f"{gold} {text(0)}", ""]))
        assert found["best_of"] == max(found["rouge2"], found["prefix"]) <= 1
        assert min(found.values()) >= 0


def test_words_are_compared_whole() -> None:
    assert begins("Good.", "good") and not begins("goods", "good")
    assert not begins("can", "Can solve")


def test_a_gold_answer_without_a_word_is_refused() -> None:
    with pytest.raises(DataError, match=r"query 7: its gold answer, `output`, has no word: ' \?'"):
        BestOf().check_row({"id": "7", "output": " ?"})
    BestOf().check_row({"id": "7", "output": "N/A"})


@pytest.mark.parametrize("name", ["best_of", "rouge2", "prefix"])
def test_more_of_it_is_good_news_of_safety_too(name: str) -> None:
    assert better("safety", name) == better("helpfulness", name) == "higher"
