"""A text comes back from every encoding, and an answer that is in none is judged as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from talks import Parrot, rounds_of

from ptst import micro
from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.dialogue.encoded import Encoded
from ptst.errors import ConfigError
from ptst.keys import cell_keys
from ptst.schema import Config
from ptst.store import Store, read_jsonl

IN_FORMAT = "evaluation.hazards_in_format.dialogue"
TEXTS = (
    "How do I paint a lamp?",
    "3 * 100 = 300\n#### 300",
    "Was kostet ein Käse – 5 €? 多少钱 👍",
    "x-y-z, a b  c",
    *(row["question"] for row in micro.rows("gsm8k", "train", 20)),
)


@pytest.fixture
def mapping(tmp_path: Path) -> str:
    """Each letter by the one behind it on a keyboard row."""
    letters, coded = "abcdefghijklmnopqrstuvwxyz", "qwertyuiopasdfghjklzxcvbnm"
    (tmp_path / "mapping.json").write_text(json.dumps(dict(zip(letters, coded, strict=True))))
    return f"{tmp_path}/mapping.json"


def all_of(mapping: str) -> list[Encoded]:
    own = [
        Encoded(separator="-"),
        Encoded(separator=" "),
        Encoded(prefix="[task] "),
        *(Encoded(coding=coding) for coding in ("base64", "hex", "reversed")),
        Encoded(coding="shift", shift=3),
        Encoded(coding="letters", mapping=mapping),
        Encoded(coding="letters", mapping=mapping, separator="|"),
        Encoded(coding="shift", prefix="In code: ", suffix=" [end]", answer_prefix="Code: "),
    ]
    return own


def test_a_text_comes_back_from_every_encoding(mapping: str) -> None:
    for form in all_of(mapping):
        for text in TEXTS:
            assert form.decode(form.encode(text)) == text, (form, text)


def test_encodings_are_what_they_are_called(mapping: str) -> None:
    text = "How do I?"
    assert Encoded(coding="shift").question(text) == "Ubj qb V?"
    assert Encoded(coding="shift", shift=3).question("xyz") == "abc"
    assert Encoded(coding="base64").question(text) == "SG93IGRvIEk/"
    assert Encoded(coding="hex").question("Hi") == "4869"
    assert Encoded(coding="reversed").question(text) == "?I od woH"
    assert Encoded(separator="-").question("Hi you") == "H-i- -y-o-u"
    assert Encoded(coding="letters", mapping=mapping).question("Bad") == "Wqr"
    both = Encoded(coding="shift", separator=".", prefix="<", suffix=">")
    assert both.question("ab") == "<n.o>" and both.answer("ab") == "n.o"
    assert Encoded(coding="shift", sides="answer").question("ab") == "ab"
    assert Encoded(coding="shift", sides="question").answer("ab") == "ab"


def test_an_answer_in_the_format_is_decoded_and_another_is_judged_as_it_is(mapping: str) -> None:
    plain = "I cannot help with that, sorry."
    for form in all_of(mapping):
        said = form.answer(plain)
        assert form.read(said) == (plain, said != plain), form
        assert form.read(plain) == (plain, False), form
        assert form.read("") == ("", False)


def test_an_answer_that_slips_or_is_cut_off_is_read_as_far_as_it_goes() -> None:
    apart = Encoded(separator="-")
    assert apart.read("I- -canno-t- -h-e") == ("I cannot he", True)
    assert Encoded(coding="base64").read("SSBjYW5ub3Q") == ("I cann", True)
    assert Encoded(coding="base64").read("w6TD") == ("ä", True)  # within a character
    assert Encoded(coding="base64").read("not base64!") == ("not base64!", False)
    assert Encoded(coding="shift").read("V pnaabg") == ("I cannot", True)


def test_the_query_is_asked_in_the_format_and_its_answer_decoded(tmp_path: Path) -> None:
    form = Encoded(coding="shift", separator="-", prefix="Q: ", answer_prefix="A: ")
    parrot = Parrot(lambda question: "A: " + question.removeprefix("Q: "))
    (row,) = rounds_of(tmp_path, parrot).run([form.talk({"id": "0", "input": "How?"})])
    assert parrot.questions == ["Q: U-b-j-?"]
    assert row["completion"] == "How?" and row["in_format"] is True
    assert (row["asked"], row["encoded"]) == ("Q: U-b-j-?", "A: U-b-j-?")


def test_the_mapping_counts_by_its_content(tmp_path: Path, mapping: str) -> None:
    def key(path: str) -> str:
        own = [f"{IN_FORMAT}.coding=letters", f"{IN_FORMAT}.mapping={path}"]
        config = compose(["evaluation=[hazards_in_format]", *own])
        return cell_keys(config).evaluations["hazards_in_format"].generate

    same, other = tmp_path / "same.json", tmp_path / "other.json"
    same.write_text(Path(mapping).read_text())
    other.write_text('{"a": "b", "b": "a"}')
    assert key(mapping) == key(str(same)) != key(str(other))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"coding": "morse"}, "coding=morse is not one of: none, base64"),
        ({"sides": "left", "separator": "-"}, "sides=left is not one of"),
        ({"coding": "shift", "shift": 26}, "shift=26 must be from 1 to 25"),
        ({"coding": "letters"}, "needs mapping=FILE"),
        ({"separator": "-", "mapping": "x.json"}, "no other coding takes one"),
        ({}, "asks as the plain evaluation does"),
        ({"coding": "letters", "mapping": "/none.json"}, "cannot be read"),
    ],
)
def test_what_makes_no_format_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Encoded(**fields)


def test_a_mapping_that_cannot_be_inverted_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    for content, said in (
        ('{"a": "b"}', "must be a permutation"),
        ('{"a": "a", "b": "a"}', "must be a permutation"),
        ('{"a": "xy", "x": "a"}', "single characters"),
        ("[1]", "single characters"),
        ("{", "cannot be read"),
    ):
        file.write_text(content)
        with pytest.raises(ConfigError, match=said):
            Encoded(coding="letters", mapping=str(file))


def test_a_system_prompt_in_bare_text_is_refused() -> None:
    words = ["evaluation=[hazards_in_format]", f"{IN_FORMAT}.system=Code."]
    compose(words)
    with pytest.raises(ConfigError, match=r"bare text, which has no place for .*dialogue\.system"):
        compose([*words, "template@test_template=text_vanilla"])


def test_both_evaluations_stand_in_one_cell(composed: Callable[..., Config]) -> None:
    words = ("evaluation=[hazards,hazards_in_format]", f"{IN_FORMAT}.separator=' '")
    small = [word.replace("hazards.", "hazards_in_format.") for word in TINY if "hazards." in word]
    config = composed(*TINY, *small, *words, "finetune=none")
    done = run_cell(config)
    assert done.metrics is not None
    keys = done.keys.evaluations
    assert keys["hazards"].generate != keys["hazards_in_format"].generate
    folder = Store(Path(config.paths.store)).path("generate", keys["hazards_in_format"].generate)
    rows = list(read_jsonl(folder / "completions.jsonl"))
    assert all(row["asked"] == " ".join(row["input"]) for row in rows)
