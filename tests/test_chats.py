"""Rows that hold a chat, and the first rows of a set."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from ptst import data
from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.errors import ConfigError, DataError
from ptst.schema import Config, Rows
from ptst.wording import rows_in_words

SYSTEM = {"role": "system", "content": "Answer Good or Bad."}
EXAMPLE = [
    {"role": "user", "content": "2 + 2 is 5."},
    {"role": "assistant", "content": "Bad"},
]
QUERY = {"role": "user", "content": "2 + 2 is 4."}


def rows(folder: Path, *chats: Any, **more: Any) -> Rows:
    file = folder / "test.jsonl"
    lines = [{"id": f"x{i}", "messages": chat, "expected": "Good"} for i, chat in enumerate(chats)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    columns = {"input": "user", "instruction": "system", "output": "expected"}
    own = {"columns": columns, "messages": "messages", **more}
    return Rows(name="chats", source="local", path=str(file), split="test", **own)


def test_a_chat_is_its_query_its_system_prompt_and_what_was_said_before(tmp_path: Path) -> None:
    chats = [[SYSTEM, *EXAMPLE, QUERY], [QUERY]]
    assert data.load_rows(rows(tmp_path, *chats), ("input", "output")) == [
        {"id": "0", "input": "2 + 2 is 4.", "output": "Good", "source_id": "x0", "earlier": EXAMPLE, "instruction": SYSTEM["content"]},
        {"id": "1", "input": "2 + 2 is 4.", "output": "Good", "source_id": "x1", "earlier": [], "instruction": ""},
    ]  # fmt: skip


def test_without_its_column_the_system_prompt_is_dropped(tmp_path: Path) -> None:
    own = rows(tmp_path, [SYSTEM, QUERY], columns={"input": "user"})
    (row,) = data.load_rows(own, ("input",))
    assert "instruction" not in row and row["system"] == SYSTEM["content"]


@pytest.mark.parametrize(
    "chat",
    [
        "2 + 2 is 4.",
        [],
        [SYSTEM],
        [QUERY, SYSTEM],
        [QUERY, SYSTEM, QUERY],
        EXAMPLE,
        [EXAMPLE[1], QUERY],
        [QUERY, EXAMPLE[1], EXAMPLE[1], QUERY],
        [{"role": "tool", "content": "x"}, QUERY],
        [{"role": "user"}],
        [QUERY, "and?"],
    ],
)
def test_what_is_no_chat_is_refused_with_its_place(tmp_path: Path, chat: Any) -> None:
    with pytest.raises(DataError, match=r"test\.jsonl:2: column 'messages' is no chat: it must be"):
        data.load_rows(rows(tmp_path, [QUERY], chat), ("input",))


def test_a_column_that_is_called_as_a_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'chat'"):
        data.load_rows(rows(tmp_path, [QUERY], messages="chat"), ("input",))
    (tmp_path / "own.jsonl").write_text(json.dumps({"messages": [QUERY], "user": "Ann"}))
    own = replace(rows(tmp_path, [QUERY]), path=str(tmp_path / "own.jsonl"))
    with pytest.raises(DataError, match="a column 'user' beside the chat 'messages'"):
        data.load_rows(own, ("input",))


def asked(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Query {number}."}]


def test_the_first_rows_are_the_first_and_at_most_those_there_are(tmp_path: Path) -> None:
    def ids(**more: Any) -> list[str]:
        chats = [asked(i) for i in range(5)]
        return [row["source_id"] for row in data.load_rows(rows(tmp_path, *chats, **more), ())]

    assert ids(first=3) == ["x0", "x1", "x2"]
    assert ids(first=9) == ids() == ["x0", "x1", "x2", "x3", "x4"]
    assert set(ids(first=3, n=2)) < {"x0", "x1", "x2"}
    assert ids(first=1, where={"id": "x3"}) == ["x3"]
    with pytest.raises(DataError, match=r"n=4 rows asked for, but first=3 leaves 3"):
        ids(first=3, n=4)


def test_they_are_part_of_what_rows_are_known_by_only_where_they_are_given(tmp_path: Path) -> None:
    plain = rows(tmp_path, [QUERY], messages=None)
    assert not {"first", "messages"} & set(data.identity(plain))
    assert data.identity(replace(plain, first=3)) == {**data.identity(plain), "first": 3}
    told = data.identity(replace(plain, messages="messages"))
    assert told == {**data.identity(plain), "messages": "messages"}
    assert rows_in_words(replace(plain, first=250)).endswith(", the first 250 rows")
    drawn = rows_in_words(replace(plain, first=250, n=9))
    assert drawn.endswith(", 9 rows drawn with seed 0 from the first 250 rows")


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ({}, None),
        ({"size": 500}, 500),
        ({"size": 500, "first": 250}, 250),
        ({"size": 40, "first": 250}, 40),
        ({"first": 250}, 250),  # at most
        ({"n": 7, "first": 250, "size": 500}, 7),
    ],
)
def test_the_count_is_what_the_configuration_says(more: dict[str, int], count: int | None) -> None:
    assert Rows(name="x", source="hub", **more).known_count() == count


def test_a_count_of_none_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"evaluation\.hazards\.queries\.first=0 must be at least"
    ):
        compose(["evaluation.hazards.queries.first=0"])


def test_the_first_rows_of_what_is_trained_on_are_not_held_out(
    composed: Callable[..., Config],
) -> None:
    config = composed(*TINY, "task.gsm8k.queries.split=train", "task.gsm8k.queries.first=3")
    with pytest.raises(ConfigError, match="would test on the very data"):
        run_cell(config)
