"""Whom to ask: an OpenAI-compatible endpoint, its key, and what it calls its parameters."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptst.errors import ConfigError
from ptst.redact import remember
from ptst.schema import Model

OPENAI = "https://api.openai.com/v1"

Messages = Sequence[Mapping[str, str]]
"""A chat as the API takes it: {"role": ..., "content": ...} each."""


@dataclass(frozen=True)
class Endpoint:
    """Whom to ask, and how patiently.

    Attributes:
        api_key_env: the environment variable that holds the key; None for a server that wants none.
        timeout: seconds for one call, from its start to its last byte.
        concurrency: calls under way at a time.
        key_setting: what sets `api_key_env`, for messages.
        send: what is sent under another name, or with None not at all: {"max_tokens":
            "max_completion_tokens"}.
    """

    model: str
    base_url: str = OPENAI
    api_key_env: str | None = "OPENAI_API_KEY"
    timeout: float = 120.0
    concurrency: int = 32
    key_setting: str = "judge.api_key_env"
    send: Mapping[str, str | None] = field(default_factory=dict)

    def body(self, messages: Messages, sampling: Mapping[str, Any]) -> dict[str, Any]:
        """What is sent for a chat."""
        names = {name: self.send.get(name, name) for name in sampling}
        named = {other: sampling[name] for name, other in names.items() if other is not None}
        return {"model": self.model, "messages": list(messages), **named}

    def hint(self, sampling: Mapping[str, Any], said: str) -> str:
        """The setting that mends a parameter which the endpoint says it does not take; else ""."""
        refused = re.search(f"\\b({'|'.join(sampling)})\\b", said)
        if not refused or not re.search(
            "support|unrecognized|unknown|permitted|deprecated", said, re.I
        ):
            return ""
        other = re.search(r"[Uu]se ['`\"]?(\w+)['`\"]? instead", said)
        setting = self.key_setting.rpartition(".")[0]
        return f" Set {setting}.send={{{refused[1]}: {other[1] if other else 'null'}}}."

    def key(self) -> str | None:
        """The key, from the environment; None for a server that wants none.

        Raises:
            ConfigError: the variable is not set.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise ConfigError(
                f"{self.model} at {self.base_url} needs a key: set the environment variable "
                f"{self.api_key_env} ({self.key_setting} names another), or {self.key_setting}=null for a "
                "server that needs none."
            )
        remember(key)
        return key


def endpoint_of(model: Model, name: str) -> Endpoint:
    """Where a model behind an API is asked.

    Args:
        name: the model's name at the API: its own, or that of a fine-tuning.
    """
    assert model.api is not None
    return Endpoint(
        name,
        model.api.base_url,
        model.api.key_env,
        model.api.timeout,
        model.api.concurrency,
        key_setting="model.api.key_env",
        send=model.api.send or {},
    )
