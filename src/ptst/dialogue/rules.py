"""A conversation under rules: the model is told them, and then what a case says, turn by turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from ptst.dialogue import Dialogue, Talk
from ptst.engine import Ask, Message, Place
from ptst.errors import ConfigError, DataError
from ptst.rules import SCENARIOS, failure, wrong_case
from ptst.schema import Config

RULES_IN = ("system", "user", "question")
PLACES = ("append", "prepend", "replace")
AGREED = "I have read the rules and will keep them."
"""What the model is said to have answered where the rules are its first message."""


@dataclass
class UnderRules(Dialogue):
    """Tells the rules, plays the turns that are given, and asks until a rule is broken.

    It stops at the first reply that breaks a rule both as `ptst.rules.failure` reads it and with
    the quirks of the published implementation, so that either reading finds every turn it needs.
    `rules` and `turns` keep what the model was told, and all turns behind it as messages.
    """

    key_name: ClassVar[str] = "rules"
    turns: ClassVar[int | None] = None
    columns: ClassVar[tuple[str, ...]] = ("rules", "turns")
    version: ClassVar[int] = 1
    """Counts for the wording of the rules, too."""

    rules_in: str = "system"
    """Where the rules stand: `system` prompt; `user`: a first message that is answered with a fixed
    sentence; `question`: ahead of the first question, in one message with it."""
    place: str = "append"
    """Where they stand beside the test template's own system prompt: `append` puts them behind it,
    `prepend` ahead of it, `replace` leaves it out. rules_in=system only."""
    remove_precedence_reminders: bool = False
    """Leaves out the sentences that the rules hold in every reply, whatever a message says."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("rules_in", self.rules_in, RULES_IN),
            ("place", self.place, PLACES),
        ):
            if value not in known:
                raise ConfigError(f"{name}={value} is not one of: {', '.join(known)}.")
        if self.rules_in != "system" and self.place != "append":
            raise ConfigError(
                f"place={self.place} says where rules stand in a system prompt, and rules_in={self.rules_in} puts "
                "them elsewhere; leave one of the two out."
            )

    def check(self, config: Config) -> None:
        """Refuse bare text, unless the rules and the only question of a case are one message.

        Raises:
            ConfigError: naming the template.
        """
        if config.test_template.mode != "text":
            return
        bare = f"test_template={config.test_template.name} is bare text, which has"
        if self.rules_in != "question":
            raise ConfigError(
                f"{bare} no {'system prompt' if self.rules_in == 'system' else 'second turn'} for "
                f"{self.where}.rules_in={self.rules_in}: choose a chat template, or rules_in=question."
            )
        queries = config.evaluations[self.where.split(".")[1]].queries
        if queries.source == "rules" and queries.where.get("length") != "1":
            where = self.where.removesuffix("dialogue") + "queries.where.length"
            raise ConfigError(
                f"{bare} one question and one answer, and some cases have more turns; take those of one turn: "
                f"+{where}=1, or choose a chat template."
            )

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Refuse a case that does not fit its scenario, or whose messages lack a name.

        Raises:
            DataError: naming the query.
        """
        if wrong := wrong_case(row):
            raise DataError(f"query {row['id']}: {wrong}.")

    def talk(self, row: Mapping[str, Any]) -> Talk:
        """The messages of a case, until the first reply that breaks a rule."""
        reminders = not self.remove_precedence_reminders
        rules = SCENARIOS[row["scenario"]].text(row["params"], reminders)
        messages = [row["input"], *row.get("then", [])]
        ahead = [(turn["user"], turn["assistant"]) for turn in row.get("prefilled", [])]
        ask = self._first(row, rules, ahead)
        reply = yield ask
        said = [(messages[0], reply.text)]
        for message in messages[1:]:
            broken = failure(row, said) and failure(row, said, quirks=True)
            if reply.withheld or broken:
                break
            ask = ask.then(reply, {"input": message})
            reply = yield ask
            said.append((message, reply.text))
        turns = [
            {"role": role, "content": text}
            for exchange in [*ahead, *said]
            for role, text in zip(("user", "assistant"), exchange, strict=True)
        ]
        return {**reply.columns, "rules": rules, "turns": turns}

    def _first(self, row: Mapping[str, Any], rules: str, ahead: list[tuple[str, str]]) -> Ask:
        """The first question, with the rules and what was said before it."""
        users = [*(user for user, _ in ahead), row["input"]]
        replies = [reply for _, reply in ahead]
        if self.rules_in == "user":
            users, replies = [rules, *users], [AGREED, *replies]
        if self.rules_in == "question":
            users[0] = f"{rules}\n\n{users[0]}"
        later: list[Message] = []
        for reply, user in zip(replies, users[1:], strict=True):
            later += [
                {"role": "assistant", "content": reply},
                {"role": "user", "content": {"input": user}},  # reads as a first question does
            ]
        system = rules if self.rules_in == "system" else None
        place = cast(Place, self.place)
        return Ask({"id": row["id"], "input": users[0]}, tuple(later), system=system, place=place)
