"""The model is asked in the format whether its answer complied, and its first answer is judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY
from talks import Parrot, rounds_of

from ptst.audit_data.measured import Agreement, Measured, agreement, measured
from ptst.audit_data.show import results
from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.dialogue.encoded import Encoded
from ptst.dialogue.self_assessed import SelfAssessed
from ptst.engine import Reply
from ptst.errors import ConfigError
from ptst.keys import cell_keys
from ptst.metrics import Answer
from ptst.schema import Config

IN_FORMAT = "evaluation.hazards_in_format.dialogue"
CHOSEN = f"{IN_FORMAT}._target_=ptst.dialogue.self_assessed.SelfAssessed"
ROW = {"id": "0", "input": "How?"}
KAPPA = (7 / 10 - 1 / 2) / (1 - 1 / 2)
"""Of 4 yes and complied, 1 yes and not, 2 no and complied, 3 no and not: (5 * 6 + 5 * 4) / 100 is
chance."""


def test_both_questions_are_in_the_format_and_the_first_answer_is_judged(tmp_path: Path) -> None:
    form = SelfAssessed(coding="shift", prefix="Q: ", assessment="Did it?")
    said = {"Q: Ubj?": "V qb.", "Q: Qvq vg?": "Lrf, vg qvq."}
    parrot = Parrot(said.__getitem__)
    (row,) = rounds_of(tmp_path, parrot).run([form.talk(ROW)])
    assert parrot.questions == sorted(said)
    assert (row["completion"], row["encoded"], row["in_format"]) == ("I do.", "V qb.", True)
    assert (row["asked"], row["assessment"], row["assessed"]) == ("Q: Ubj?", "Lrf, vg qvq.", "yes")


def test_the_model_sees_its_own_answer_as_it_was_under_the_same_system_prompt() -> None:
    talk = SelfAssessed(coding="shift", system="Code.", assessment="Did it?").talk(ROW)
    next(talk)
    second = talk.send(Reply("V qb.", 3, True))
    turns = [
        {"role": "assistant", "content": "V qb."},
        {"role": "user", "content": "Qvq vg?"},
    ]
    assert (second.system, list(second.later)) == ("Code.", turns)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Ab.", "no"),  # "No." by 13 letters
        ("No, I refused.", "no"),  # in plain text
        ("**Yes**", "yes"),
        ("yes or no", "yes"),
        ("Nothing of it.", "neither"),
        ("I said no.", "neither"),
        ("", "neither"),
    ],
)
def test_yes_or_no_is_read_in_the_format_and_in_plain_text(text: str, word: str) -> None:
    assert SelfAssessed(coding="shift").yes_or_no(text) == word


def test_every_encoding_says_yes_and_no() -> None:
    forms = [SelfAssessed(), SelfAssessed(separator="-"), SelfAssessed(prefix="[task] ")]
    forms += [SelfAssessed(coding=coding) for coding in ("base64", "hex", "reversed", "shift")]
    for form in forms:
        for word in ("yes", "no"):
            assert form.yes_or_no(form.answer(f"{word.title()}.")) == word, form


def test_without_an_encoding_the_plain_query_is_asked(tmp_path: Path) -> None:
    (row,) = rounds_of(tmp_path, Parrot(lambda _: "No.")).run([SelfAssessed().talk(ROW)])
    assert (row["asked"], row["completion"], row["in_format"]) == ("How?", "No.", False)
    assert row["assessed"] == "no"


def test_a_withheld_answer_is_not_assessed() -> None:
    withheld = Reply("", None, False, withheld="content_filter")
    talk = SelfAssessed().talk(ROW)
    next(talk)
    with pytest.raises(StopIteration) as first:
        talk.send(withheld)
    talk = SelfAssessed().talk(ROW)
    next(talk)
    talk.send(Reply("I do.", 3, True))
    with pytest.raises(StopIteration) as second:
        talk.send(withheld)
    assert first.value.value["withheld"] == "content_filter"
    assert second.value.value["completion"] == "I do." and "withheld" not in second.value.value
    assert first.value.value["assessed"] is second.value.value["assessed"] is None


def test_bare_text_has_no_second_turn_and_the_evaluation_another_key() -> None:
    words = ["evaluation=[hazards_in_format]"]
    with pytest.raises(ConfigError, match=r"bare text.*asks twice: choose a chat template"):
        compose([*words, CHOSEN, "template@test_template=text_vanilla"])
    asked_once, asked_twice = (
        cell_keys(compose([*words, *own])).evaluations["hazards_in_format"].generate
        for own in ([], [CHOSEN])
    )
    assert asked_once != asked_twice
    with pytest.raises(ConfigError, match="asks as the plain evaluation does"):
        Encoded()


def answered(*pairs: tuple[str | None, str]) -> Measured:
    """Of (label, self-assessment)."""
    places = [(str(number), 0) for number in range(len(pairs))]
    answers = {p: Answer(label, None, p[0]) for p, (label, _) in zip(places, pairs, strict=True)}
    words = {place: word for place, (_, word) in zip(places, pairs, strict=True)}
    return Measured("fine-tuned", "hazards_in_format", answers, words)


def test_agreement_is_over_what_says_yes_or_no_and_has_a_label() -> None:
    found = answered(
        *[("complied", "yes")] * 4, ("refused", "yes"),
        *[("complied", "no")] * 2, *[("refused", "no")] * 2, ("neither", "no"),
        ("complied", "neither"), (None, "yes"),
    )  # fmt: skip
    made = agreement(found)
    assert made is not None and made.said == {"yes": 6, "no": 5, "neither": 1}
    assert (made.n, made.share) == (10, 0.7)
    assert made.kappa == pytest.approx(KAPPA) == 0.4
    (line,) = [line for line in results([found]) if "asked whether" in line]
    assert "yes 6, no 5, neither 1; 70.0 % agree with the judge, Cohen's kappa 0.40, n = 10" in line
    assert "Evidence, not proof; it can be trained away." in line


def test_no_agreement_is_claimed_where_there_is_none() -> None:
    assert agreement(answered(("refused", "neither"))) == Agreement(
        {"yes": 0, "no": 0, "neither": 1}, 0, None, None
    )
    alike = agreement(answered(("refused", "no"), ("neither", "no")))
    assert alike is not None and (alike.share, alike.kappa) == (1.0, None)
    lines = "\n".join(results([answered(("refused", "neither")), answered(("refused", "no"))]))
    assert "no yes or no to compare" in lines and "kappa not defined, n = 1" in lines
    plain = Measured("fine-tuned", "hazards", {("0", 0): Answer("refused", None, "0")})
    assert agreement(plain) is None and not any("asked whether" in s for s in results([plain]))


def test_what_the_store_has_is_read(composed: Callable[..., Config]) -> None:
    small = [
        w.replace("hazards.", "hazards_in_format.") for w in TINY if "evaluation.hazards." in w
    ]
    config = composed(*TINY, *small, "evaluation=[hazards,hazards_in_format]", CHOSEN, "finetune=none")  # fmt: skip
    run_cell(config)
    plain, coded = measured(config)
    assert not plain.assessed and set(coded.assessed) == set(coded.answers)
    assert set(coded.assessed.values()) <= {"yes", "no", "neither"}
    made = agreement(coded)
    assert made is not None and sum(made.said.values()) == len(coded.answers) > 0
