"""What calls may cost before they are sent, and what they did cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptst.api.endpoint import Endpoint, Messages
from ptst.errors import ConfigError, PtstError
from ptst.estimates import Price


class NotReached(PtstError):
    """Some requests have no answer, and asking again later may give them one."""


class BudgetReached(NotReached):
    """The next request might have cost more than what is left."""


@dataclass
class Budget:
    """USD that may be spent. A call's worst case is reserved before it is sent.

    Attributes:
        spent: what answers cost by their token counts. A call that was cut off may have been paid
            for all the same: it counts with its worst case.
        reserved: the worst case of all calls under way.
        beyond: the most that a call has cost beyond its worst case, where the server lengthens
            prompts.
    """

    usd: float
    price: Price
    spent: float = 0.0
    reserved: float = 0.0
    beyond: float = 0.0


def most_tokens(messages: Messages) -> int:
    """The most tokens that a chat can be: no tokenizer makes more of them than bytes."""
    return sum(len(message["content"].encode()) + 16 for message in messages)


def worst_case(messages: Messages, sampling: Mapping[str, Any], budget: Budget) -> float:
    """The most that a call can cost, in USD."""
    return budget.price.of(most_tokens(messages), sampling["max_tokens"]) + budget.beyond


def check_budget(endpoint: Endpoint, sampling: Mapping[str, Any], budget: Budget | None) -> None:
    """Refuse a budget for answers of any length.

    Raises:
        ConfigError: there is no max_tokens, or it is not sent.
    """
    sent = sampling.get("max_tokens") and endpoint.send.get("max_tokens", "max_tokens")
    if budget and not sent:
        raise ConfigError("a budget needs max_tokens: without it a call may cost any amount.")


def cost_by_tokens(price: Price, read: int | None, written: int | None, worst: float) -> float:
    """What a call cost, in USD; `worst` where the server does not say its tokens."""
    return worst if read is None or written is None else price.of(read, written)
