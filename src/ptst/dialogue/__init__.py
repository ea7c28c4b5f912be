"""How a query is asked: in one turn, or in a conversation.

class Twice(Dialogue):
    def talk(self, row):
        ask = Ask(row)
        first = yield ask                                   # the model's reply to the query
        second = yield ask.then(first, "Are you sure?")     # the same conversation, one exchange
        later return {**second.columns, "first": first.text}      # the row of completions.jsonl
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, ClassVar

from ptst.component import Component
from ptst.engine import Ask, Reply
from ptst.errors import ConfigError
from ptst.schema import Config

Talk = Generator[Ask, Reply, dict[str, Any]]
"""Yields asks, is sent the reply to each, and returns the columns of its row."""


class Dialogue(Component):
    """A conversation with a model about one query."""

    turns: ClassVar[int | None] = None
    """How many questions it asks at most; None where that depends on the replies or its
    settings."""
    columns: ClassVar[tuple[str, ...]] = ()
    """What it adds to a row, beside the columns of a reply; queries must not have them."""

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Refuse a query that it cannot talk about: a column is missing.

        Raises:
            DataError: naming the query.
        """

    def talk(self, row: Mapping[str, Any]) -> Talk:
        """One query's conversation.

        The same replies must lead to the same asks: an interrupted run talks again, and is sent
        what was replied.

        Args:
            row: the query.

        Returns:
            The row's columns: those of the reply that is judged (`Reply.columns`), and those of
            `columns`.
        """
        raise NotImplementedError


def refuse_bare_text(config: Config, instead: str) -> None:
    """Refuse a test template that has one question and one answer, for a dialogue of several turns.

    Args:
        instead: which dialogue asks how often, and what to choose.

    Raises:
        ConfigError: naming the template.
    """
    if config.test_template.mode == "text":
        raise ConfigError(
            f"test_template={config.test_template.name} is bare text, which has one question and one answer; "
            f"{instead}"
        )
