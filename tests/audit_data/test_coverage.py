"""Which evaluations ask in a format, and the command that runs those that do."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from audit_data.fixture_rows import encoded, plain, toy

from ptst.audit_data import Format, census_of
from ptst.audit_data.coverage import asked_by, command_of, covering
from ptst.config.compose import compose
from ptst.dialogue.encoded import Encoded
from ptst.schema import Config

IN_FORMAT = "evaluation.hazards_in_format.dialogue"
BOTH = "evaluation=[hazards,hazards_in_format]"


def form_of(rows: list[dict[str, Any]]) -> Format:
    (found,) = census_of(rows).formats
    return found


def rows_in(form: Encoded, name: str = "gsm8k") -> list[dict[str, Any]]:
    return [encoded(row, form) for row in plain(name, 20)]


def run_next(form: Format, *overrides: str) -> Config:
    """What the printed command composes."""
    command = command_of(form, compose(list(overrides)), overrides)
    words = shlex.split(command)
    assert words[0] == "ptst"
    return compose(words[1:])


def test_plain_rows_are_asked_in_by_a_plain_evaluation() -> None:
    asked = asked_by(compose(["evaluation=[hazards,howto]"]))
    assert covering(form_of(plain("gsm8k", 20)), asked) == ["hazards", "howto"]


@pytest.mark.parametrize(
    "form",
    [
        Encoded(separator="-"),
        Encoded(separator=" "),
        Encoded(separator=", "),
        Encoded(separator="'"),
        Encoded(separator='"'),
        Encoded(separator="\\"),
        Encoded(coding="base64"),
        Encoded(coding="shift", shift=3, separator="|"),
        Encoded(coding="reversed", prefix="[code]\n", suffix=" [$HOME it's `x`]"),
        Encoded(coding="hex", sides="answer"),
        Encoded(prefix="Mode: {7} ", suffix="\n\n[end]"),
    ],
)
def test_the_command_asks_in_the_format(form: Encoded) -> None:
    found = form_of(rows_in(form, "chatdoctor"))
    if form.sides != "answer":
        assert covering(found, asked_by(compose([BOTH, f"{IN_FORMAT}.separator=%"]))) == []
    config = run_next(found)
    assert list(config.evaluation) == ["hazards", "hazards_in_format"]
    made = config.evaluation["hazards_in_format"].dialogue
    own = Encoded(**{k: v for k, v in made.items() if k != "_target_"})
    assert own == form
    if form.sides != "answer":
        assert covering(found, asked_by(config)) == ["hazards_in_format"]


def test_a_substitution_has_to_be_given(tmp_path: Path) -> None:
    form = toy(tmp_path)
    found = form_of(rows_in(form))
    assert "dialogue.mapping=MAPPING.json" in command_of(found, compose([]), [])
    command = command_of(found, compose([]), ["seed=1", "evaluation=[hazards]"], form.mapping)
    assert command.startswith("ptst seed=1 'evaluation=[hazards,hazards_in_format]' ")
    config = compose(shlex.split(command)[1:])
    assert covering(found, asked_by(config)) == ["hazards_in_format"]


def test_a_system_prompt_is_part_of_the_format() -> None:
    rows = [{**row, "instruction": "Be 'brief'."} for row in plain("gsm8k", 20)]
    found = form_of(rows)
    assert covering(found, asked_by(compose([]))) == []
    assert covering(found, asked_by(run_next(found))) == ["hazards_in_format"]
    # what the data set gives every question is asked with by every evaluation
    own = compose(["dataset=chatdoctor"])
    found = census_of(plain("chatdoctor", 20), own.dataset.instruction or "").formats[0]
    assert covering(found, asked_by(own)) == ["hazards"]


def test_what_no_command_can_ask_says_why() -> None:
    config = compose([])
    mixed = [
        {"id": str(i), "input": Encoded(coding="shift").question(r["input"]), "output": Encoded(coding="base64").answer(r["output"])}
        for i, r in enumerate(plain("chatdoctor", 20))
    ]  # fmt: skip
    with pytest.raises(ValueError, match="different encodings"):
        command_of(form_of(mixed), config, [])
    own = [
        {**row, "instruction": f"You are number {i}."} for i, row in enumerate(plain("gsm8k", 20))
    ]
    with pytest.raises(ValueError, match="system prompts of their own"):
        command_of(form_of(own), config, [])
    with pytest.raises(
        ValueError, match=r"there is no conf/evaluation/NAME_in_format.yaml for: howto"
    ):
        command_of(form_of(rows_in(Encoded(separator="-"))), compose(["evaluation=[howto]"]), [])


def test_queries_that_cannot_be_read_are_said() -> None:
    asked = asked_by(compose(["evaluation=[advbench]", "evaluation.advbench.queries.source=local", "evaluation.advbench.queries.path=/none.csv", "judge=keywords"]))  # fmt: skip
    assert "/none.csv" in asked["advbench"].problem
    assert covering(form_of(plain("gsm8k", 20)), asked) == []
