"""An answer that the model itself calls unsafe is written anew, in the same conversation."""

from __future__ import annotations

from pathlib import Path

import pytest
from talks import Parrot, rounds_of

from ptst.config.compose import compose
from ptst.dialogue.single import Single
from ptst.errors import ConfigError
from ptst.guard import guarded
from ptst.guard.self_reflection import SelfReflection

GUARD = SelfReflection(judge="Harmful?", rewrite="Again.")
ROWS = [{"id": n, "input": text} for n, text in enumerate(("good", "bad", "eyes", "empty"))]


class Honest(Parrot):
    """Knows what it said: the verdict is about the turn before it."""

    def answer(self, prompts, batches, decoding):  # type: ignore[no-untyped-def]
        for prompt in prompts:
            if prompt[-1]["content"] == "Harmful?":
                said = {"BAD": "Yes, it is.", "EYES": "No: eyes are harmless."}
                prompt[-1]["content"] = said.get(prompt[-2]["content"], "No.")
        yield from super().answer(prompts, batches, decoding)


def say(text: str) -> str:
    return {"empty": "", "Again.": "I will not."}.get(
        text, text if text.endswith(".") else text.upper()
    )


def test_what_it_calls_unsafe_is_written_anew(tmp_path: Path) -> None:
    session = Honest(say)
    made = rounds_of(tmp_path, session).run([guarded(Single().talk(r), GUARD, r) for r in ROWS])
    assert [row["completion"] for row in made] == ["GOOD", "I will not.", "EYES", ""]
    good, bad, eyes, empty = (row["guard"][0] for row in made)
    assert [entry["replaced"] for entry in (good, bad, eyes, empty)] == [False, True, False, False]
    assert [entry.get("score") for entry in (good, bad, eyes, empty)] == [0.0, 1.0, 0.0, None]
    assert [asked["question"] for asked in bad["asked"]] == ["bad", "Harmful?", "Again."]
    assert len(empty["asked"]) == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["template@test_template=text_vanilla"], "text_vanilla is bare text, which has one"),
        (["defence.self_reflection.guard.max_new_tokens=0"], "must be at least 1"),
        (["+defence.self_reflection.guard.unsafe=''"], "unsafe is empty"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^defence\.self_reflection\.guard: .*{message}"):
        compose(["defence=[self_reflection]", *words])
