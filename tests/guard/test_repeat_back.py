"""A guard stands around every turn, may ask another model, and says what it did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from talks import Parrot, rounds_of

from ptst.dialogue.follow_up import FollowUp
from ptst.dialogue.single import Single
from ptst.engine import question
from ptst.errors import ConfigError, PtstError
from ptst.guard import Guard, guarded, prepared
from ptst.guard.repeat_back import RepeatBack

ROWS = [{"id": i, "input": text} for i, text in enumerate(("good", "bad thing", "empty"))]
GUARD = RepeatBack(ask="Repeat: {answer}", refusal="No.")


def model(text: str) -> str:
    """Answers in capitals; repeats what it is asked to, unless it is bad."""
    if text == "empty":
        return ""
    if text.startswith("Repeat: "):
        return "I will not." if "BAD" in text else text.removeprefix("Repeat: ") + "\n"
    return text.upper()


def test_an_answer_that_is_not_repeated_is_replaced(tmp_path: Path) -> None:
    session = Parrot(model)
    made = rounds_of(tmp_path, session).run([guarded(Single().talk(r), GUARD, r) for r in ROWS])
    assert [row["completion"] for row in made] == ["GOOD", "No.", ""]
    (good,), (bad,), (empty,) = (row["guard"] for row in made)
    assert (good["replaced"], empty["replaced"]) == (False, False)
    assert bad == {
        "asked": [
            {"model": "tested", "question": "bad thing", "answer": "BAD THING"},
            {"model": "tested", "question": "Repeat: BAD THING", "answer": "I will not."},
        ],
        "replaced": True,
        "reason": "the model did not repeat it",
        "answer": "No.",
    }
    assert len(empty["asked"]) == 1


class Suspicious(Guard):
    """Gives every answer its length as a score."""

    def talk(self, ask: Any, row: Any) -> Any:
        reply = yield ask
        return replace(reply, score=float(len(reply.text)))


def test_a_score_of_a_guard_is_kept_whether_or_not_the_answer_is_replaced(tmp_path: Path) -> None:
    rounds = rounds_of(tmp_path, Parrot(model))
    made = rounds.run([guarded(Single().talk(r), Suspicious(), r) for r in ROWS])
    assert [row["guard"][0]["score"] for row in made] == [4.0, 9.0, 0.0]
    assert (
        "score" not in rounds.run([guarded(Single().talk(ROWS[0]), GUARD, ROWS[0])])[0]["guard"][0]
    )


def test_both_turns_of_a_dialogue_are_guarded_and_the_next_turn_sees_what_was_replaced(
    tmp_path: Path,
) -> None:
    talk = FollowUp(question="more")
    session = Parrot(model)
    made = rounds_of(tmp_path, session).run([guarded(talk.talk(row), GUARD, row) for row in ROWS])
    assert [row["completion"] for row in made] == ["MORE"] * 3
    assert [row["turns"][0]["content"] for row in made] == ["GOOD", "No.", ""]
    assert [len(row["guard"]) for row in made] == [2, 2, 2]
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"batches-2.jsonl", *(f"batches-2-round{n}.jsonl" for n in (1, 2, 3))}


def test_the_untuned_model_may_repeat(tmp_path: Path) -> None:
    tested, untuned = Parrot(model), Parrot(lambda text: text.removeprefix("Repeat: "))
    own = RepeatBack(ask="Repeat: {answer}", repeater="untuned")
    run = rounds_of(tmp_path, tested, untuned)
    made = run.run([guarded(Single().talk(row), own, row) for row in ROWS])
    assert [row["completion"] for row in made] == ["GOOD", "BAD THING", ""]
    assert untuned.questions == ["Repeat: BAD THING", "Repeat: GOOD"]
    assert tested.questions == ["bad thing", "empty", "good"]


def test_what_a_guard_prepares_is_asked_once(tmp_path: Path) -> None:
    class Counts(Guard):
        def prepare(self, ask, tested, folder) -> dict[str, Any]:
            replies = ask([question("one"), question("two")])
            return {"said": [reply.text for reply in replies + ask([question("three")])]}

    tested: Any = None
    for asked in (3, 0):
        session = Parrot()
        facts = prepared(Counts(), rounds_of(tmp_path, session), tested)
        assert facts == {"said": ["ONE", "TWO", "THREE"]}
        assert sum(map(len, session.asked)) == asked


def test_a_guard_that_returns_no_reply_is_named(tmp_path: Path) -> None:
    class Wrong(Guard):
        def talk(self, ask, row):
            reply = yield ask
            return reply.text

    with pytest.raises(PtstError, match=r"guard Wrong returned 'GOOD'; it must be a ptst\.engine"):
        rounds_of(tmp_path, Parrot(model)).run([guarded(Single().talk(ROWS[0]), Wrong(), ROWS[0])])


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one \{answer\}"):
        RepeatBack(ask="Repeat.")
    with pytest.raises(ConfigError, match=r"words=0 must be at least 1"):
        RepeatBack(words=0)
    with pytest.raises(ConfigError, match="tested, untuned"):
        RepeatBack(repeater="gpt")


def test_only_the_beginning_of_a_long_answer_is_repeated(tmp_path: Path) -> None:
    own = RepeatBack(ask="Repeat: {answer}", words=2)
    rows = [{"id": 0, "input": "one two three bad"}]
    made = rounds_of(tmp_path, Parrot(model)).run([guarded(Single().talk(r), own, r) for r in rows])
    assert made[0]["completion"] == "ONE TWO THREE BAD"
    assert made[0]["guard"][0]["asked"][1]["question"] == "Repeat: ONE TWO"
