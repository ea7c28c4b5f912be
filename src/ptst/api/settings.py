"""Refuse addresses, names and settings that an API cannot take, and secrets in the wrong place."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ptst.errors import ConfigError
from ptst.redact import remember


def check_variable(where: str, name: str | None) -> None:
    """Refuse a secret that was given in the place of the name of its environment variable.

    Raises:
        ConfigError: `name` is not set, and does not look like OPENAI_API_KEY. It is not shown.
    """
    if name is None or name in os.environ or re.fullmatch("[A-Z]+(_[A-Z0-9]+)*", name):
        return
    remember(name)
    raise ConfigError(
        f"{where} is the name of the environment variable that holds the key, such as OPENAI_API_KEY. "
        "What was given is not shown, because it may be the key itself: put that into the environment."
    )


def check_send(where: str, send: Any, sent: Sequence[str]) -> None:
    """Refuse names for what is not sent, and names that a request cannot have.

    Raises:
        ConfigError: naming the entry.
    """
    if not isinstance(send, dict):
        raise ConfigError(
            f"{where}={send} must be like {{max_tokens: max_completion_tokens}}, or null."
        )
    for name, other in send.items():
        if name not in sent:
            raise ConfigError(f"{where}.{name}: there is no such name; sent are {', '.join(sent)}.")
        if other is not None and not re.fullmatch(r"[A-Za-z]\w*", str(other)):
            raise ConfigError(
                f"{where}.{name}={other} is neither the name of a parameter nor null."
            )
        taken = {"model", "messages", *(send.get(s, s) for s in sent if s != name)}
        if other is not None and other in taken:
            raise ConfigError(f"{where}.{name}={other}: {other} would be sent twice.")


def renamed(send: Mapping[str, str | None]) -> dict[str, str | None]:
    """What of `send` changes a request: part of keys."""
    return {name: other for name, other in send.items() if other != name}


def check_address(where: str, address: str) -> None:
    """Refuse an address that is not http(s)://host..., or that holds a secret.

    Raises:
        ConfigError: naming `where`; what may be a secret is not shown.
    """
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        secret = parts.password or parts.username or parts.query
        parts.port  # noqa: B018  (raises ValueError where it is not a number)
    except ValueError:
        is_address, secret = False, ""
    if "@" in address.partition("?")[0] or secret:
        remember(address)
        remember(secret or address)
        raise ConfigError(
            f"{where} holds a name, a password or a query (https://user:password@host/?key=...). It is not "
            "shown, because it may be a secret: give https://host/... alone, and the key in the environment."
        )
    if not is_address:
        raise ConfigError(
            f"{where}={address} must be an address, such as http://localhost:8000/v1."
        )
