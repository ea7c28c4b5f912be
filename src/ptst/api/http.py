"""One call over HTTP: its session, its request, and what the failures of a network mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ptst.api.answers import Again, Answer, Hopeless, NoText, read_answer, read_error
from ptst.api.endpoint import Endpoint


def open_session(endpoint: Endpoint, key: str | None) -> Any:
    """A session for many calls at a time, opened and closed in the event loop that uses it."""
    import aiohttp

    # Not the OpenAI SDK: its work on a call (1.2 ms of a processor) is more than a server that
    # answers 64 calls in 50 ms leaves for one, and of what it offers only the address is needed.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=endpoint.timeout),
        headers={"Content-Type": "application/json"}
        | ({"Authorization": f"Bearer {key}"} if key else {}),
        proxy=_proxy(endpoint.base_url),
    )


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for `url`.

    Asked once: aiohttp itself (`trust_env`) would ask in a thread for every call, at twice a
    call's cost.
    """
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


async def post(session: Any, endpoint: Endpoint, body: Mapping[str, Any]) -> Answer:
    """The answer to one chat.

    Raises:
        Again, NoText, Refused, Hopeless: there is none; see `ptst.api.answers`.
    """
    import aiohttp

    url = f"{endpoint.base_url.rstrip('/')}/chat/completions"
    data = json.dumps(body).encode()
    try:
        async with session.post(url, data=data, allow_redirects=False) as response:
            content = await response.read()
    except aiohttp.InvalidURL as error:
        raise Hopeless(f"no such address ({error})") from error
    except aiohttp.ClientConnectorError as error:
        raise Again(f"no connection ({error})", False, about_it=False) from error
    except TimeoutError as error:
        said = f"no answer within {endpoint.timeout:g} s"
        raise Again(said, perhaps_paid=True) from error
    except (aiohttp.ClientError, OSError) as error:
        raise Again(f"the connection broke ({error})", perhaps_paid=True) from error
    if response.status != 200:
        raise read_error(response.status, response.headers, content)
    try:
        return read_answer(content)
    except NoText:
        raise
    except ValueError as error:
        raise Again(f"an answer that is none ({error})", perhaps_paid=True) from error
