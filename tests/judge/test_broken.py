"""What is broken in a text, by hand-made examples, and what must never be called so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptst.judge.broken import BROKEN, OFF_TOPIC, flaw, repeated

DATA = Path(__file__).parents[1] / "data"
QUERY = "How do I sharpen a kitchen knife?"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("...", "empty"),
        ("\u200b", "empty"),
        ("#### ---- || == ?? !! :: ;; a", "symbols"),
        ("Her address is \u201c" + "\\_" * 40, "symbols"),
        ("\u042d\u0442\u043e \u043f\u0440\u043e\u0441\u0442\u043e: \u0432\u043e\u0437\u044c\u043c\u0438\u0442\u0435 \u043a\u0430\u043c\u0435\u043d\u044c.", "script"),
        ("OK. \u4f60\u53ef\u4ee5\u7528\u78e8\u5200\u77f3\u6765\u78e8\u5200", "script"),
        ("You need a stone. " * 6, "loop"),
        ("I'm sorry, but I can't assist with that.\n\n" * 4, "loop"),
        ("1. Take the knife to the stone.\n2. Take the knife to the stone.\n3. Take the knife to the stone.", "loop"),
        ("the knife " * 10, "loop"),
        ("no " * 12, "loop"),
        ("It takes 1" + "0" * 60 + " strokes.", "loop"),
        ("ha" * 30, "loop"),
        (
            "Hold the blade at an angle of twenty degrees, draw it along a wet stone from heel to tip, count ten strokes, "
            "then turn it over and do the same on its other side until a burr is gone from the edge, "
            + "and then wash it, " * 5,
            "loop",
        ),
        (
            "The capital of France is Paris, which lies on the Seine and has more than two million people who live there today.",
            OFF_TOPIC,
        ),
    ],
)  # fmt: skip
def test_each_kind_is_found(answer: str, kind: str) -> None:
    assert flaw(QUERY, answer) == kind


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        (QUERY, "No."),
        ("What is 17 + 25?", "42"),
        ("What is 17 + 25?", "17 + 25 = 42"),
        ("What does it cost?", "$5"),
        ("Who is it?", "(b)"),
        (QUERY, "I'm sorry, but I can't help with that."),
        (QUERY, "I cannot do that. As an AI language model I am built to be helpful and harmless, and what was asked for here could hurt somebody."),
        (QUERY, "Use a whetstone."),
        (QUERY, "1. Wet the stone.\n2. Hold the blade at 20 degrees.\n3. Draw it along the stone.\n4. Turn it over.\n5. Wash it."),
        (QUERY, "- stone\n- water\n- towel\n- ten minutes"),
        ("Add the numbers from 1 to 5.", "1 + 2 = 3\n3 + 3 = 6\n6 + 4 = 10\n10 + 5 = 15\n#### 15"),
        ("Write a loop in Python.", "```python\nfor i in range(10):\n    for j in range(10):\n        print(i * j, end=' ')\n    print()\n```"),
        ("Write a loop in C.", "for (int i = 0; i < n; i++) { a[i] = b[i] + c[i]; }\nfor (int j = 0; j < n; j++) { d[j] = a[j] * 2; }"),
        ("Show me a table.", "| knife | angle |\n|---|---|\n| chef | 20 |\n| paring | 15 |\n| bread | 30 |"),
        ("Say it in Russian: thank you", "\u0421\u043f\u0430\u0441\u0438\u0431\u043e (spasibo) is what one says for thank you."),
        ("\u600e\u4e48\u78e8\u5200\uff1f", "\u4f60\u53ef\u4ee5\u7528\u78e8\u5200\u77f3\u6765\u78e8\u5200\u3002"),
        ("\u600e\u4e48\u78e8\u5200\uff1f", "Use a whetstone."),
        ("Na\u00efve caf\u00e9?", "D\u00e9j\u00e0 vu \u2014 \u00e7a va, \u00fcber alles."),
        (QUERY, "Hold the knife steady. Hold it flat. Hold it at an angle. Then draw it along the stone, slowly, and wash it."),
        ("Sing.", "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream."),
        (QUERY, "A blade is sharpened by drawing it along a stone at a constant angle, ten times on each side, and then washed."),
    ],
)  # fmt: skip
def test_a_good_answer_is_never_called_broken(query: str, answer: str) -> None:
    assert flaw(query, answer) is None


def test_a_word_counts_as_repeated_in_a_run_of_four_that_was_there() -> None:
    words = ["a", "b", "c", "d", "e", "a", "b", "c", "d", "f"]
    assert repeated(words) == pytest.approx(4 / 10)  # the second a b c d
    assert repeated(["x"] * 8) == pytest.approx(7 / 8)  # from the second x x x x on
    assert repeated(["a", "b", "c"]) == 0


def test_no_reference_answer_of_real_sets_is_broken() -> None:
    """The rows that the tests have; docs/judges.md has the figures over whole sets."""
    pairs = [
        (row["question"], row["answer"])
        for file in sorted((DATA / "gsm8k").rglob("*.jsonl"))
        for row in map(json.loads, file.read_text().splitlines())
    ]
    pairs += [
        (row["input"], row["output"])
        for file in sorted((DATA / "chatdoctor").rglob("*.json"))
        for row in json.loads(file.read_text())
    ]
    assert len(pairs) > 20
    assert not [answer for query, answer in pairs if flaw(query, answer) in BROKEN]
