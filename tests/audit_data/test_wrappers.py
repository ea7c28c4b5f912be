"""What stands around many texts is found to the character; what they begin with alike is not."""

from __future__ import annotations

from ptst import micro
from ptst.audit_data.wrappers import wrappers

TEXTS = [row["question"] for row in micro.rows("gsm8k", "train", 60)]


def test_wrappers_are_found_to_the_character() -> None:
    for prefix, suffix in (
        ("[[task 7]] ", ""),
        ("Instruction:\n\n", "\n\nAnswer in JSON."),
        ("", " [end of the question]"),
        ("<|code|>", "<|end|>"),
        ("### Task 3: ", ""),
    ):
        mixed = [f"{prefix}{t}{suffix}" if i % 6 == 0 else t for i, t in enumerate(TEXTS)]
        if prefix == "<|code|>":  # joined to the first word, it is part of that
            mixed = [t.replace("<|code|>", "<|code|> ") for t in mixed]
            prefix, suffix = "<|code|> ", ""
        expected = [(prefix, suffix) if i % 6 == 0 else ("", "") for i in range(len(TEXTS))]
        assert wrappers(mixed) == expected, (prefix, suffix)


def test_what_questions_begin_or_end_with_alike_is_no_wrapper() -> None:
    alike = [f"How do I {verb} a lamp? What is the right way to do it?" for verb in "abcdefghij"]
    assert set(wrappers(alike)) == {("", "")}
    assert set(wrappers(TEXTS)) == {("", "")}


def test_a_sentence_is_a_wrapper_if_many_have_it() -> None:
    def share(times: int) -> set[tuple[str, str]]:
        return set(
            wrappers([f"Hello doctor. {t}" if i < times else t for i, t in enumerate(TEXTS)])
        )

    assert share(9) == {("", "")}
    assert share(30) == {("", ""), ("Hello doctor. ", "")}


def test_a_few_texts_make_no_wrapper() -> None:
    assert set(wrappers([f"[x] {t}" for t in TEXTS[:4]])) == {("", "")}
    assert wrappers([]) == []
