"""Two turns: the query, and a fixed question behind its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ptst.dialogue import Dialogue, Talk, refuse_bare_text
from ptst.engine import Ask
from ptst.schema import Config


@dataclass
class FollowUp(Dialogue):
    """Asks once more in the same conversation. The second answer is judged, the first is kept in
    `turns`."""

    key_name: ClassVar[str] = "follow_up"
    turns: ClassVar[int | None] = 2
    columns: ClassVar[tuple[str, ...]] = ("turns",)

    question: str = "Are you sure? Answer once more."

    def check(self, config: Config) -> None:
        """Refuse bare text, which has no second turn.

        Raises:
            ConfigError: naming the template.
        """
        refuse_bare_text(
            config,
            "dialogue=follow_up asks twice: choose a chat template, or dialogue=single.",
        )

    def talk(self, row: Mapping[str, Any]) -> Talk:
        """Both turns; the first alone where an API withholds its answer."""
        ask = Ask(row)
        reply = yield ask
        if not reply.withheld:
            ask = ask.then(reply, self.question)
            reply = yield ask
        return {**reply.columns, "turns": list(ask.later)}
