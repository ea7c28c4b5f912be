"""Rows that hold a whole chat: its parts as columns. One row of such a file:

{"id": "7", "messages": [{"role": "system", "content": "Answer Good or Bad."},
                         {"role": "user", "content": "2 + 2 is 5."},
                         {"role": "assistant", "content": "Bad"},
                         {"role": "user", "content": "2 + 2 is 4."}], "expected": "Good"}
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ptst.data.columns import no_column
from ptst.data.table import Row
from ptst.errors import DataError

PARTS = ("system", "earlier", "user")
"""The columns that take the place of a chat."""
SHAPE = (
    "it must be [{role, content}, ...]: at most one system message, which is the first, then the "
    "turns of user and assistant, the last of them the user's"
)


def apart(row: Row, column: str, place: str) -> Row:
    """A row with `system`, `earlier` and `user` in the place of its chat (`Rows.messages`).

    Raises:
        DataError: there is no such column, it holds no chat, or a column has one of these names.
    """
    if column not in row:
        raise DataError(f"{place}: messages={column}: {no_column(column, row)}")
    others = {name: value for name, value in row.items() if name != column}
    if taken := [name for name in PARTS if name in others]:
        raise DataError(
            f"{place}: there is a column {taken[0]!r} beside the chat {column!r}, of which a part is "
            "called so; give the column another name."
        )
    chat = row[column]
    if not is_chat(chat):
        raise DataError(f"{place}: column {column!r} is no chat: {SHAPE}. It is {str(chat)[:120]}")
    system = chat[0]["content"] if chat[0]["role"] == "system" else ""
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in chat]
    turns = turns[turns[0]["role"] == "system" :]
    return {**others, "system": system, "earlier": turns[:-1], "user": turns[-1]["content"]}


def is_chat(chat: Any) -> bool:
    """Whether it is a chat that ends with a query: see `SHAPE`."""
    if not isinstance(chat, list) or not all(isinstance(turn, dict) for turn in chat):
        return False
    if not all(isinstance(turn.get("content"), str) for turn in chat):
        return False
    roles = [turn.get("role") for turn in chat]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns[0] != "user" or turns[-1] != "user" or {*turns} - {"user", "assistant"}:
        return False
    return ("assistant", "assistant") not in pairwise(turns)
