"""Several turns, which the query brings along: what was said before it, and then the query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ptst.data.chats import is_chat
from ptst.dialogue import Dialogue, Talk, refuse_bare_text
from ptst.engine import Ask, Reply
from ptst.errors import DataError
from ptst.schema import Config

SHAPE = "it must be a list of {role, content}, with the user's turn first, or an empty list"


@dataclass
class Scripted(Dialogue):
    """Says the turns of the row's column `earlier` (`ptst.schema.Rows.messages`), then asks the
    query; the answer to the query is judged.

    Every turn of the user reads as a query does, by the test template and the evaluation's
    `question`. A reply that the row has is the assistant's turn, and nothing is asked for it; where
    it has none, and everywhere with `own_replies`, the model is asked, and its reply is the turn.
    The conversation as it was is kept in `turns`. It ends where an API withholds a reply.
    """

    key_name: ClassVar[str] = "scripted"
    columns: ClassVar[tuple[str, ...]] = ("turns",)

    own_replies: bool = False

    def check(self, config: Config) -> None:
        """Refuse bare text, which has one question and one answer.

        Raises:
            ConfigError: naming the template.
        """
        refuse_bare_text(
            config,
            "dialogue=scripted has several turns: choose a chat template.",
        )

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Whether the row has its earlier turns.

        Raises:
            DataError: there is no column `earlier`, or something else is in it.
        """
        if "earlier" not in row:
            raise DataError(
                f"query {row['id']} has no column 'earlier', the turns before it: name the column that holds a "
                "whole chat with queries.messages, or take dialogue=null."
            )
        query = {"role": "user", "content": str(row["input"])}
        earlier = row["earlier"]
        if not isinstance(earlier, list) or not is_chat([*earlier, query]):
            raise DataError(
                f"query {row['id']}: 'earlier' is no chat: {SHAPE}: {str(earlier)[:120]}"
            )

    def talk(self, row: Mapping[str, Any]) -> Talk:
        """The turns in their order; the model is asked where a reply is wanted."""
        ask: Ask | None = None
        reply: Reply | None = None
        query = {"role": "user", "content": row}
        for turn in [*row["earlier"], query]:
            if turn["role"] == "assistant":
                if not self.own_replies:
                    reply = Reply(turn["content"], None, True)
                continue
            asked = row if turn is query else {**row, "input": turn["content"]}
            if ask is None:
                ask = Ask(asked)
                continue
            if reply is None:
                reply = yield ask
            if reply.withheld:
                return {**reply.columns, "turns": said(ask)}
            ask, reply = ask.then(reply, asked), None
        assert ask is not None
        last = yield ask
        return {**last.columns, "turns": said(ask)}


def said(ask: Ask) -> list[dict[str, str]]:
    """The turns up to an ask's question, in words: [{role, content}, ...]."""
    turns = [{"role": "user", "content": ask.row}, *ask.later]

    def words(content: Any) -> str:
        return content if isinstance(content, str) else str(content["input"])

    return [{"role": turn["role"], "content": words(turn["content"])} for turn in turns]
