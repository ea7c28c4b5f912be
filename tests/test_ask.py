"""One question to a cell's model beside the untouched one, and a chat that keeps what was said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY

from ptst.ask import Asked
from ptst.cell import run_cell
from ptst.cli import main
from ptst.config.compose import compose
from ptst.schema import Turn
from ptst.store import read_json, read_jsonl


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("ask")
    own = [*TINY, f"paths.store={folder}", "tracking=none"]
    run_cell(compose(own))
    return own


def test_the_answer_is_that_of_the_cell(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    store = Path(own[-2].partition("=")[2])
    (cell,) = (store / "cell").glob("*")
    judged = read_json(cell / "key.json")["evaluations"]["hazards"]["scores"]
    answers = read_json(store / "judge" / judged / "key.json")["generate"]
    row = read_jsonl(store / "generate" / answers / "completions.jsonl")[0]
    assert main(["ask", *own, "model.max_new_tokens=8", f"question={row['input']}"]) == 0
    said = capsys.readouterr().out
    tuned, untouched = said.split("micro, untouched, under chat_vanilla:")
    assert "micro, fine-tuned, under chat_vanilla:" in tuned
    assert row["completion"].strip() in tuned
    assert untouched.strip()


def test_a_chat_goes_on_and_ends_with_an_empty_line(
    own: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: Iterator[str] = iter(["Tom has 3 apples.", "How many?", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(said))
    seen: list[list[Turn]] = []
    answer = Asked.answer

    def recorded(self: Asked, name: str, question: str, turns: list[Turn]) -> str:
        seen.append(list(turns))
        return answer(self, name, question, turns)

    monkeypatch.setattr(Asked, "answer", recorded)
    assert main(["ask", *own, "finetune=none", "model.max_new_tokens=8"]) == 0
    assert [len(turns) for turns in seen] == [0, 1]
    assert seen[1][0].user == "Question: Tom has 3 apples."  # as the model saw it
    assert seen[1][0].assistant in capsys.readouterr().out


def test_what_cannot_be_asked_says_so(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", *own, "seed=7", "question=Why?"]) == 2
    assert "is not in" in capsys.readouterr().err
    assert main(["ask", *own, "template@test_template=text_vanilla"]) == 2
    assert "is bare text and has no conversation" in capsys.readouterr().err


def test_what_stands_around_a_model_is_said(
    own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune=none", "defence=[repeat_back]", "model.max_new_tokens=8", "question=Why?"]
    assert main(["ask", *own, *words]) == 0
    said = capsys.readouterr().out
    assert "micro, defended, without its guard, under chat_vanilla:" in said
    assert "micro, untouched, under chat_vanilla:" in said
