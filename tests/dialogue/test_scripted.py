"""The order of turns, who says them, and how they read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from talks import Parrot, rounds_of

from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.dialogue.scripted import Scripted, said
from ptst.engine import Ask, Reply
from ptst.errors import ConfigError, DataError
from ptst.schema import Config
from ptst.store import Store, read_jsonl


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def row(*earlier: dict[str, str], query: str = "three") -> dict[str, Any]:
    return {"id": "0", "input": query, "earlier": list(earlier)}


def held(dialogue: Scripted, query: dict[str, Any], tmp_path: Path) -> tuple[list[str], Any]:
    """What a model that answers in capitals was asked, and the row that came of it."""
    parrot = Parrot()
    rounds = rounds_of(tmp_path, parrot)
    rounds.prompt = said
    (columns,) = rounds.run([dialogue.talk(query)])
    return [text for batch in parrot.asked for text in batch], columns


def spelled(dialogue: Scripted, query: dict[str, Any]) -> list[list[str]]:
    """The turns of every ask, in order."""
    talk, found = dialogue.talk(query), list[list[str]]()
    ask: Ask = next(talk)
    while True:
        found.append([turn["content"] for turn in said(ask)])
        try:
            ask = talk.send(Reply(f"reply {len(found)}", 1, True))
        except StopIteration:
            return found


def test_given_replies_are_said_and_the_model_is_asked_once() -> None:
    query = row(user("one"), assistant("ONE"), user("two"), assistant("TWO"))
    assert spelled(Scripted(), query) == [["one", "ONE", "two", "TWO", "three"]]


def test_its_own_replies_stand_in_between() -> None:
    given = row(user("one"), assistant("ONE"), user("two"), assistant("TWO"))
    turns = [
        ["one"],
        ["one", "reply 1", "two"],
        ["one", "reply 1", "two", "reply 2", "three"],
    ]
    assert spelled(Scripted(own_replies=True), given) == turns
    assert spelled(Scripted(), row(user("one"), user("two"))) == turns
    mixed = row(user("one"), user("two"), assistant("TWO"))
    assert spelled(Scripted(), mixed) == [["one"], ["one", "reply 1", "two", "TWO", "three"]]


def test_the_last_answer_is_judged_and_the_turns_are_kept(tmp_path: Path) -> None:
    asked, columns = held(Scripted(), row(user("one"), user("two")), tmp_path)
    assert asked == ["one", "two", "three"]
    assert columns["completion"] == "THREE"
    assert columns["turns"] == [
        user("one"),
        assistant("ONE"),
        user("two"),
        assistant("TWO"),
        user("three"),
    ]


def test_without_earlier_turns_it_asks_the_query(tmp_path: Path) -> None:
    assert held(Scripted(), row(), tmp_path)[0] == ["three"]
    assert next(Scripted().talk(query := row())).row is query  # its prompt is spelled already


def test_a_withheld_reply_ends_it() -> None:
    talk = Scripted().talk(row(user("one")))
    next(talk)
    with pytest.raises(StopIteration) as end:
        talk.send(Reply("", None, False, withheld="content_filter"))
    assert (end.value.value["withheld"], end.value.value["turns"]) == (
        "content_filter",
        [user("one")],
    )


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"id": "4", "input": "x"}, "query 4 has no column 'earlier'.*queries.messages"),
        ({**row(), "earlier": "one"}, "query 0: 'earlier' is no chat"),
        (row(assistant("ONE")), "with the user's turn first"),
        (row({"role": "system", "content": "s"}, {"role": "tool", "content": "t"}), "no chat"),
    ],
)
def test_a_row_without_its_turns_is_refused(query: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Scripted().check_row(query)
    Scripted().check_row(row(user("one"), assistant("ONE")))


def test_bare_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose a chat template"):
        Scripted().check(compose(["template@test_template=text_vanilla"]))


@pytest.mark.parametrize("template", ["chat_vanilla", "chat_alpaca"])
def test_every_turn_of_the_user_reads_as_a_query_does(
    template: str, composed: Callable[..., Config], tmp_path: Path
) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(
        '{"ask": "What is two?", "earlier": [{"role": "user", "content": "What is two?"}]}\n'
    )
    tiny = [word for word in TINY if not word.startswith("engine.") and "hazards" not in word]
    words = [*tiny, "finetune=none", "engine=canned", "engine.says=echo", "judge=keywords"]
    own = "evaluation.hazards"
    words += [f"template@test_template={template}", f"{own}.queries.source=local"]
    words += [f"{own}.queries.path={file}", f"{own}.queries.columns.input=ask"]
    words += [f"{own}.unit=null", f"{own}.category=null"]
    words += [f"+{own}.dialogue._target_=ptst.dialogue.scripted.Scripted"]
    config = composed(*words)
    keys = run_cell(config).keys.evaluations["hazards"]
    folder = Store(Path(config.paths.store)).path("generate", keys.generate)
    (answered,) = read_jsonl(folder / "completions.jsonl")
    first, last = answered["turns"][1]["content"], answered["completion"]
    assert first == last != "What is two?"
