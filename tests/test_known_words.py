"""Words are told from strings of letters, in any language there is a list of."""

from __future__ import annotations

import json

import pytest
from conftest import FOLDERS

from ptst import micro
from ptst.known_words import known, script_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("I cannot help with that, sorry.", "en"),
        ("Was kostet der Käse heute auf dem Markt?", "de"),
        ("Ce n'est pas la première fois que nous le disons.", "fr"),
        ("Сколько стоит этот билет на поезд?", "ru"),
        ("这个问题的答案是什么？我不知道。", "zh"),
        ("これは日本語の文章です。", "ja"),
        ("यह किताब मेरे भाई की है और वह स्कूल में है।", "hi"),
        (
            "def positions(values):\n  return [i for i in range(len(values)) if isValid(values[i])]",
            "en",
        ),
    ],
)
def test_words_of_a_language_are_known(text: str, language: str) -> None:
    found = known(text)
    assert found.language == language and found.share is not None and found.share > 0.75


@pytest.mark.parametrize(
    "text", ["Ubj qb V cnvag n ynzc va gur tneqra?", ".yrros ,taht htiw pleh tonnac I"]
)
def test_words_that_are_none_are_not(text: str) -> None:
    assert (known(text).share or 0) < 0.3


def test_without_a_word_of_two_letters_there_is_no_share() -> None:
    assert known("12 + 34 = 46, a b c").share is None
    assert known("").share is None


def test_the_share_is_of_letters() -> None:
    assert known("help qzxvkw").share == pytest.approx(4 / 10)


def test_scripts_have_their_unicode_names() -> None:
    assert [script_of(text) for text in ("a1", "Привет", "日本語です", "中文", "42")] == [
        "LATIN", "CYRILLIC", "HIRAGANA", "CJK", "",
    ]  # fmt: skip


def test_nearly_all_words_of_real_and_of_invented_rows_are_known() -> None:
    texts = [row["question"] for row in micro.rows("gsm8k", "train", 50)]
    texts += [row["output"] for row in micro.rows("chatdoctor", "train", 50)]
    for folder in FOLDERS:
        lines = (folder / "gsm8k" / "test.jsonl").read_text().splitlines()[:200]
        texts += [f"{row['question']} {row['answer']}" for row in map(json.loads, lines)]
    assert all((known(text).share or 0) > 0.45 for text in texts)
