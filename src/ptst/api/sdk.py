"""OpenAI's SDK, for what is more than one call: files, batches and fine-tuning jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ptst.api.endpoint import Endpoint
from ptst.errors import Interrupted


def openai_client(endpoint: Endpoint, retries: int) -> Any:
    """A client of the endpoint.

    Raises:
        ConfigError: its key is not in the environment.
    """
    from openai import OpenAI

    return OpenAI(
        base_url=endpoint.base_url,
        api_key=endpoint.key() or "none",
        timeout=endpoint.timeout,
        max_retries=retries,
    )


def pause(seconds: float, stop: Callable[[], bool], goes_on: str) -> None:
    """Wait for what goes on at the provider; `stop` is asked once a second.

    Raises:
        Interrupted: `stop` said so; with `goes_on` for its message.
    """
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if stop():
            raise Interrupted(goes_on)
        time.sleep(min(1.0, left))
