"""Rows of a few words: each alone may be words of some language, all together they are not."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from audit_data.fixture_rows import mapping, mixed, toy

from ptst.audit_data import Census, census_of
from ptst.audit_data.codings import Coding, coding_of
from ptst.dialogue.encoded import Encoded

PAIRS = [
    *((f"Is {n} {kind}?", ("Yes.", "No.", f"It is {n % 7}.")[n % 3]) for n, kind in zip(range(21), itertools.cycle(["even", "odd", "red", "big"]))),
    *((f"What is {n} + {n % 5}?", ("I am not sure.", f"It is {n + n % 5}, I think.")[n % 2]) for n in range(20)),
    ("Hi, how are you?", "Fine, you?"), ("Who is it?", "A friend."), ("Can you see me?", "No, I do not."),
    ("Where is the cat?", "In the house."), ("Is it hot?", "Yes, it is."), ("Thanks!", "No problem."),
]  # fmt: skip


def short(n: int) -> list[dict[str, Any]]:
    """Arithmetic, yes or no, and a little chat: 5 to 24 letters a row."""
    pairs = [PAIRS[i % len(PAIRS)] for i in range(n)]
    return [{"id": str(i), "input": a, "output": b} for i, (a, b) in enumerate(pairs)]


def pairs(*texts: str) -> list[dict[str, Any]]:
    """Rows of which each second text is the answer, ten times over."""
    rows = list(zip(texts[::2], texts[1::2], strict=True)) * 10
    return [{"id": str(i), "input": a, "output": b} for i, (a, b) in enumerate(rows)]


def flags(census: Census) -> dict[str, bool]:
    return {row.number: form.flagged for form in census.formats for row in form.rows}


@pytest.mark.parametrize("percent", [5, 20, 50, 100])
@pytest.mark.parametrize(
    ("form", "words"),
    [
        (Encoded(coding="reversed"), "reversed"),
        (Encoded(coding="shift"), "shift by 13"),
        (Encoded(coding="shift", shift=3), "shift by 3"),
        (Encoded(coding="hex"), "hex"),
        (Encoded(coding="base64"), "base64"),
        (Encoded(separator="-"), "'-' between characters"),
        (Encoded(coding="reversed", separator="|"), "reversed, '|' between characters"),
    ],
)
def test_short_rows_in_an_encoding_are_found(form: Encoded, words: str, percent: int) -> None:
    rows, which = mixed(short(60 if percent == 100 else 200), form, percent)
    census = census_of(rows)
    assert [flags(census)[row["id"]] for row in rows] == which
    assert {(f.question.words, f.answer.words) for f in census.flagged} == {(words, words)}


@pytest.mark.parametrize("separator", [", ", "--", " | "])
def test_a_separator_may_have_more_characters_than_one(separator: str) -> None:
    rows, which = mixed(short(200), Encoded(coding="shift", separator=separator), 20)
    census = census_of(rows)
    assert [flags(census)[row["id"]] for row in rows] == which
    words = f"shift by 13, {separator!r} between characters"
    assert [form.question.words for form in census.flagged] == [words]


def test_a_mapping_that_is_given_is_tried_on_short_rows(tmp_path: Path) -> None:
    rows, which = mixed(short(200), toy(tmp_path, ""), 20)
    census = census_of(rows, mapping=mapping())
    assert [flags(census)[row["id"]] for row in rows] == which


def test_one_short_text_is_no_evidence() -> None:
    backwards = "ddo si ti on"  # Italian words, and English ones backwards
    reversed_english = Coding("reversed", language="en")
    assert coding_of(backwards) is None
    assert coding_of(backwards, present=[reversed_english]) == reversed_english
    italian = Coding("plain", language="it")
    assert coding_of("si ti no neve", present=[reversed_english, italian]) is None
    assert coding_of("si ti no neve, grazie", present=[reversed_english, italian]) == italian
    assert coding_of("si ti no neve, grazie") == italian


@pytest.mark.parametrize(
    "texts",
    [
        ("Ja.", "Nein, 7", "Oui", "Non, 3", "Sí", "No", "Tak.", "Nie", "Ano", "Ne, 2", "Da", "Net"),
        ("Basta", "Olio?", "Oro", "Caldo", "Ideen", "Zeit.", "Seid?", "Körper", "Ana.", "Gen"),
        ("Anna", "Otto", "Noel", "Leon", "Ivan Petrov", "Wei Chen", "Siobhan", "Ngozi Okafor"),
        ("Nf3", "e5", "Qxd4+", "O-O-O", "Bb5", "a6", "e2e4", "e7e5"),
        ("U.S.A.", "United States", "e.g.", "for example", "N.B.", "NATO", "a.k.a.", "R.S.V.P."),
        ("AXR-1203", "QBT-77", "SKU-99812", "XNE-4", "deadbeef", "facade", "31323334", "decade"),
        ("saw it", "on", "not live", "was", "evil", "no", "ten", "net"),
        ("A B", "C", "1 2 3", "4 5 6", "a", "b"),
    ],
)
def test_short_plain_rows_raise_no_alarm(texts: tuple[str, ...]) -> None:
    assert [form for form in census_of(pairs(*texts)).formats if form.encoded] == []
    # nor do they among rows that are encoded, of which most are found
    own = pairs(*texts)[:40]
    coded, _ = mixed(short(20), Encoded(coding="reversed"), 100)
    found = flags(census_of(own + [{**row, "id": f"coded {row['id']}"} for row in coded]))
    flagged = [name for name, flagged in found.items() if flagged]
    assert len(flagged) >= 14 and all(name.startswith("coded") for name in flagged)
