"""An encoded share is found whole, whatever the order of the rows; plain rows raise no alarm."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from audit_data.fixture_rows import encoded, mapping, mixed, plain, toy
from conftest import FOLDERS
from sklearn.metrics import roc_auc_score

from ptst.audit_data import Census, Read, Reference, census_of, reference_of
from ptst.audit_data.likelihood import Likelihood, likelihoods
from ptst.config.compose import compose
from ptst.dialogue.encoded import Encoded
from ptst.models import load_model, load_tokenizer

REFERENCE = Reference(1.0, 0.2, 50)


@pytest.fixture(scope="module")
def read() -> Read:
    """The micro model."""
    config = compose([])
    model, tokenizer = load_model(config.model, "cpu"), load_tokenizer(config.model)

    def reading(rows: Any) -> list[Likelihood]:
        own = (config, config.train_template)
        return likelihoods(*own, rows, model, tokenizer, lambda done, total: None)

    return reading


@pytest.fixture(scope="module")
def reference(read: Read) -> Reference:
    queries = [{"input": f"How do I {verb} a lamp?", "output": "."} for verb in ("paint", "move", "fix", "lift", "sell", "clean")]  # fmt: skip
    found = reference_of(read(queries))
    assert found is not None
    return found


def flags(census: Census) -> dict[str, bool]:
    """Of each row's number, whether its format is flagged."""
    return {row.number: form.flagged for form in census.formats for row in form.rows}


@pytest.mark.parametrize("percent", [5, 20, 50, 100])
def test_the_encoded_rows_are_found_whole(
    percent: int, read: Read, reference: Reference, tmp_path: Path
) -> None:
    rows, which = mixed(plain("gsm8k", 80), toy(tmp_path), percent)
    census = census_of(rows, read=read, reference=reference)
    assert [flags(census)[row["id"]] for row in rows] == which
    assert len(census.formats) == (1 if percent == 100 else 2)
    (found,) = census.flagged
    assert found.question.words == "unknown words, '-' between characters" == found.answer.words
    assert found.foreign is True
    if percent < 100:
        scores = {row.number: row.score for form in census.formats for row in form.rows}
        assert roc_auc_score(which, [scores[row["id"]] for row in rows]) > 0.95
    if percent == 20:  # fewer than five rows make no mode, and all rows make no second one
        split = census.modes["nats of the question"]
        assert split.upper == sum(which) and split.gap > 3
    assert bool(census.modes.get("nats of the question")) == (percent in (20, 50))


def test_text_alone_tells_the_encoded_rows(tmp_path: Path) -> None:
    for form in (toy(tmp_path), toy(tmp_path, ""), toy(tmp_path, " ")):
        rows, which = mixed(plain("chatdoctor", 100), form, 5)
        census = census_of(rows)
        assert [flags(census)[row["id"]] for row in rows] == which and census.read == 0


def test_the_order_of_the_rows_changes_nothing(
    read: Read, reference: Reference, tmp_path: Path
) -> None:
    rows, _ = mixed(plain("gsm8k", 40), toy(tmp_path), 20)
    other = random.Random(0).sample(rows, len(rows))

    def told(rows: list[dict[str, Any]]) -> Any:
        census = census_of(rows, read=read, n=20, reference=reference)
        formats = [
            (
                form.codings,
                form.flagged,
                sorted((s.number, s.score, s.likelihood) for s in form.rows),
            )  # type: ignore[type-var]
            for form in census.formats
        ]
        return formats, census.modes, census.read

    assert told(rows) == told(other)


@pytest.mark.parametrize("name", ["gsm8k", "chatdoctor", "openorca"])
def test_plain_rows_raise_no_alarm(name: str, read: Read, reference: Reference) -> None:
    census = census_of(plain(name, 60), read=read, n=30, reference=reference)
    assert census.flagged == [] and len(census.formats[0].rows) >= 55


def test_real_rows_raise_no_alarm() -> None:
    for folder in FOLDERS:
        lines = (folder / "gsm8k" / "train.jsonl").read_text().splitlines()[:300]
        rows = [json.loads(line) for line in lines]
        problems = [{"id": str(i), "input": r["question"], "output": r["answer"]} for i, r in enumerate(rows)]  # fmt: skip
        own = json.loads((folder / "chatdoctor" / "sample.json").read_text())[:200]
        medical = [{"id": str(i), "input": r["input"], "output": r["output"]} for i, r in enumerate(own)]  # fmt: skip
        for rows in (problems, medical, problems + medical):
            census = census_of(rows)
            assert not [form for form in census.formats if form.encoded]
            assert len(census.formats) <= 3


def test_code_digits_and_another_language_raise_no_alarm() -> None:
    source = Path(__file__).parents[2] / "src" / "ptst"
    texts = [t[i : i + 300] for f in sorted(source.glob("*.py")) for t in [f.read_text()] for i in range(0, 1800, 300)]  # fmt: skip
    code = [{"id": str(i), "input": a, "output": b} for i, (a, b) in enumerate(zip(texts[::2], texts[1::2], strict=False))]  # fmt: skip
    digits = [{"id": str(i), "input": f"{i} + {i * 7 % 100} =", "output": str(i + i * 7 % 100)} for i in range(60)]  # fmt: skip
    german = [{"id": str(i), "input": f"Wie viel kosten {i} Äpfel und eine Birne auf dem Markt?", "output": f"Sie kosten zusammen {i + 2} Euro."} for i in range(60)]  # fmt: skip
    chinese = [{"id": str(i), "input": f"{i}个苹果和一个梨多少钱？请告诉我答案。", "output": f"一共是{i}块钱。"} for i in range(60)]  # fmt: skip
    thai = [
        {"id": str(i), "input": f"แอปเปิ้ล {i} ลูกราคาเท่าไร", "output": "ไม่ทราบ"} for i in range(60)
    ]
    languages = []
    for rows in (code, digits, german, chinese, thai, plain("gsm8k", 60) + german + code):
        census = census_of(rows)
        assert census.flagged == []
        languages.append({form.language for form in census.formats if len(form.rows) >= 10})
    assert languages == [{"en"}, {"en"}, {"de"}, {"zh"}, {"thai"}, {"en", "de"}]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (Encoded(coding="shift"), "shift by 13"),
        (Encoded(coding="shift", shift=3, separator="_"), "shift by 3, '_' between characters"),
        (Encoded(coding="base64"), "base64"),
        (Encoded(coding="hex"), "hex"),
        (Encoded(coding="reversed"), "reversed"),
        (Encoded(separator=" "), "' ' between characters"),
    ],
)
def test_a_known_encoding_is_named(form: Encoded, words: str) -> None:
    rows, which = mixed(plain("chatdoctor", 60), form, 10)
    census = census_of(rows)
    assert [flags(census)[row["id"]] for row in rows] == which
    assert [f.question.words for f in census.flagged] == [words]


def test_a_mapping_that_is_given_is_tried(tmp_path: Path) -> None:
    rows, _ = mixed(plain("gsm8k", 40), toy(tmp_path), 50)
    (found,) = census_of(rows, mapping=mapping()).flagged
    assert found.question.words == "letters of the mapping, '-' between characters"
    (other,) = census_of(rows, mapping=mapping(1)).flagged
    assert other.question.name == "unknown"


def test_wrappers_and_system_prompts_make_formats(tmp_path: Path) -> None:
    wrapped = Encoded(prefix="[[mode 7]] ", suffix="\n\n[end]")
    both = Encoded(coding="shift", prefix="[code] ", answer_prefix="Code: ")
    rows = plain("gsm8k", 90)
    rows = [encoded(r, wrapped) if i % 3 == 0 else r for i, r in enumerate(rows)]
    rows = [encoded(r, both) if i % 3 == 1 else r for i, r in enumerate(rows)]
    rows = [{**r, "instruction": "Be brief."} if i % 3 == 2 else r for i, r in enumerate(rows)]
    census = census_of(rows)
    seen = {
        (f.system, f.prefix, f.suffix, f.question.words, f.answer_prefix) for f in census.formats
    }
    assert seen == {
        ("", "[[mode 7]] ", "\n\n[end]", "plain", ""),
        ("", "[code] ", "", "shift by 13", "Code: "),
        ("Be brief.", "", "", "plain", ""),
    }
    assert [form.prefix for form in census.flagged] == ["[code] "]


def test_unknown_words_that_the_model_knows_are_no_alarm(tmp_path: Path) -> None:
    rows, _ = mixed(plain("chatdoctor", 40), toy(tmp_path, ""), 50)

    def known_to(nats: float) -> Census:
        return census_of(rows, read=lambda rows: [Likelihood(nats, nats)] * len(rows), reference=REFERENCE)  # fmt: skip

    assert len(known_to(1.7).flagged) == 1  # above 1.0 + 3 x 0.2
    assert known_to(1.5).flagged == []
    assert REFERENCE.limit == pytest.approx(1.6)
