"""A direction that moved and information that is gone look alike to the old probe; a new one tells
them apart. Each test template has values of its own."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

from ptst.analysis import Analysis
from ptst.analysis.probe_drift import _in_format
from ptst.cli import main
from ptst.component import Context, load
from ptst.config.compose import compose
from ptst.dialogue.encoded import Encoded
from ptst.errors import ConfigError
from ptst.keys import cell_keys
from ptst.models import load_model, load_tokenizer
from ptst.probe import answer_of

OWN = "analysis.probe_drift"
SETS = ("harmful", "refusals", "harmless", "sums")
FEW = ["analysis=[probe_drift]", *(f"{OWN}.{name}.n=12" for name in SETS)]


def drift(tuned: Any, base: Any, *words: str) -> dict[str, float]:
    config = compose([*FEW, *words])
    analysis = load(config.analysis["probe_drift"], OWN, Analysis)
    tokenizer = load_tokenizer(config.model)
    nowhere, never = Path("/nowhere"), lambda: False
    context = Context(config, tokenizer, "cpu", nowhere, lambda done, total: None, never)
    return analysis.run(tuned, base, context)


@pytest.fixture(scope="module")
def base() -> Any:
    return load_model(compose([]).model, "cpu")


def test_the_untouched_model_has_drifted_nowhere(base: Any) -> None:
    found = drift(base, base)
    for name in ("auc", "accuracy"):
        assert found[name] == found[f"untuned_{name}"] == found[f"refit_{name}"]
    assert found["auc"] > 0.8


def test_a_direction_that_moved_is_found_again_and_information_that_is_gone_is_not(
    base: Any,
) -> None:
    turned, emptied = copy.deepcopy(base), copy.deepcopy(base)
    with torch.no_grad():
        turned.model.norm.weight.neg_()  # every state is its opposite
        emptied.model.norm.weight.zero_()
    untouched, moved, gone = (drift(model, base) for model in (base, turned, emptied))
    assert moved["auc"] < 0.3
    assert moved["refit_auc"] == pytest.approx(untouched["auc"], abs=0.01)
    assert gone["auc"] < 0.7 and gone["refit_auc"] < 0.7
    assert moved["untuned_auc"] == gone["untuned_auc"] == untouched["auc"]


def test_the_template_of_the_probe_may_be_another_than_the_tests(base: Any) -> None:
    words = ["template@test_template=chat_llama"]
    own = drift(base, base, *words)
    other = drift(base, base, *words, f"+template@{OWN}.template=text_vanilla")
    assert other["auc"] == other["untuned_auc"] != own["auc"]
    assert other["refit_auc"] == own["refit_auc"]


def test_in_a_format_that_changes_nothing_the_states_are_those_of_plain_answers(base: Any) -> None:
    turned = copy.deepcopy(base)
    with torch.no_grad():
        turned.model.norm.weight.neg_()
    found = drift(turned, base, f"+{OWN}.encoded.prefix=' '")  # the reading strips it
    for name in (f"{w}{n}" for w in ("", "untuned_", "refit_") for n in ("auc", "accuracy")):
        assert found[f"format_{name}"] == pytest.approx(found[name], abs=0.02), name
    plain = drift(turned, base)
    assert {name: found[name] for name in plain} == plain


def test_a_probe_of_plain_answers_does_not_read_what_the_model_cannot(base: Any) -> None:
    found = drift(base, base, f"+{OWN}.encoded.coding=shift", f"+{OWN}.encoded.separator='-'")
    assert found["format_auc"] == found["format_untuned_auc"] < found["auc"] - 0.1


def test_each_state_in_the_format_is_behind_the_beginning_that_the_plain_one_is_behind() -> None:
    config = compose([*FEW])
    tokenizer = load_tokenizer(config.model)
    row = {"input": "How?", "output": "I cannot help with that at all, not today."}
    spelled = (config.test_template, config, tokenizer)
    plain = answer_of(row, False, *spelled)
    form = Encoded(coding="reversed", answer_prefix="Said: ", answer_suffix=" [end]")
    made = _in_format([plain], form, config, tokenizer)
    said = [tokenizer.decode(plain.ids[plain.length :][:p]).strip() for p in (5, 10)]
    assert len(made) == sum(p <= len(plain.ids) - plain.length for p in (5, 10, 20))
    for answer, text in zip(made, said, strict=False):
        whole = tokenizer.decode(answer.ids)
        assert whole.endswith(f"Said: {text[::-1]}") and "?woH" in whole
        assert answer.question == "How?" and answer.length == len(answer.ids)


def key(*words: str) -> str:
    return cell_keys(compose(["analysis=[probe_drift]", *words])).analyses["probe_drift"][0]


def test_the_test_template_rows_and_reading_decide_its_key_and_no_evaluation_does() -> None:
    changes = [
        "template@test_template=chat_llama",
        "template@train_template=chat_llama",
        f"+template@{OWN}.template=chat_vanilla",
        f"{OWN}.sums.n=61",
        f"+{OWN}.encoded.separator='-'",
        "dataset.question='Q: {input}'",
    ]
    assert len({key(), *map(key, changes)}) == len(changes) + 1
    assert key("evaluation=[howto]") == key()


@pytest.mark.parametrize(
    "words, message",
    [
        ([f"{OWN}.sums.source=local"], rf"{OWN}\.sums\.path is missing"),
        ([f"+{OWN}.sums.columns.question=x"], rf"{OWN}\.sums\.columns\.question"),
        ([f"+{OWN}.encoded.coding=morse"], rf"{OWN}: coding=morse is not one of"),
        (
            [f"+{OWN}.encoded.system=Brief.", "template@test_template=text_vanilla"],
            rf"no place for {OWN}\.encoded\.system",
        ),
        (["scale=paper", f"{OWN}.harmful.source=micro"], r"scale=paper knows"),
    ],
)
def test_its_rows_are_looked_at_when_it_is_composed(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["analysis=[probe_drift]", *words])


def test_a_report_has_a_line_for_each_train_and_test_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["tracking=none", f"paths.store={tmp_path}/store", f"paths.reports={tmp_path}/reports"]
    grid = ["+sweeps=quick", "analysis=[probe_drift,norm_of_change]", *FEW[1:]]
    words = [*TINY, *own, *grid, "template@test_template=chat_vanilla,chat_llama"]
    assert main(["-m", *words]) == 0
    (folder,) = (tmp_path / "reports").iterdir()
    with (folder / "analyses.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["value"] == "probe_drift/auc"]
    places = [(row["train_template"], row["test_template"]) for row in rows]
    assert len(places) == len(set(places)) and {test for _, test in places} == {
        "chat_vanilla", "chat_llama",
    }  # fmt: skip
    page = (folder / "table.md").read_text(encoding="utf-8").partition("## Analyses")[2]
    heads = "auc | accuracy | untuned_auc | untuned_accuracy | refit_auc | refit_accuracy"
    assert f"| probe_drift | {heads} |" in page
    for train in ("chat_vanilla", "chat_llama", "none"):
        assert page.count(f"| {train} → chat_llama | 0.") == 1
        assert page.count(f"| {train} | 0") == 1  # the norm of the change: one for all templates


def test_the_mapping_of_its_format_counts_by_its_content(tmp_path: Path) -> None:
    files = {"a": {"a": "b", "b": "a"}, "same": {"b": "a", "a": "b"}, "other": {"a": "c", "c": "a"}}
    keys = {}
    for name, mapping in files.items():
        (tmp_path / name).write_text(json.dumps(mapping))
        own = f"+{OWN}.encoded"
        keys[name] = key(f"{own}.coding=letters", f"{own}.mapping={tmp_path}/{name}")
    assert keys["a"] == keys["same"] != keys["other"]
