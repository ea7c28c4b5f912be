"""Secrets are taken out of every text before it is raised, printed or recorded.

Servers quote the key that they were given, and libraries quote addresses with a password in them.
`PtstError` (so every error of ours), `ptst.progress.say`, the store's record of a failure and what
`ptst.api` keeps of a server's words all go through `redacted`.
"""

from __future__ import annotations

import os
import re

HIDDEN = "***"
SECRET_NAME = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
"""Names of environment variables whose values are secrets: OPENAI_API_KEY, HF_TOKEN,
WANDB_API_KEY."""
SHORTEST = 6
"""Characters. A shorter value is not a secret ("none", "EMPTY"), and replacing it would spoil other
words."""
SHAPES = re.compile(
    r"""
      (?<![A-Za-z0-9])(?:sk-|hf_|gsk_|xai-|pplx-|r8_|AIza)[A-Za-z0-9_-]{16,}  # keys of known providers
    | (?<=Bearer\ )[A-Za-z0-9._~+/=-]{8,}                                      # RFC 6750, section 2.1
    | (?<=://)[^\s/@:'"]*:[^\s/@'"]+(?=@)                                      # user:password in an address
    | (?<=[?&])(?:api[-_]?key|key|token|access_token)=[^\s&'"]+                # a key in an address
    """,
    re.VERBOSE | re.IGNORECASE,
)

_known: set[str] = set()
"""Values that this process was given as secrets, whatever the variable was called."""


def remember(secret: str) -> None:
    """From now on `secret` is taken out of every text."""
    if len(secret) >= SHORTEST:
        _known.add(secret)


def redacted(text: str) -> str:
    """`text` with *** in the place of every secret that is known, or that is shaped like one.

    Redact before a text is shortened: half a secret is not recognised.
    """
    values = {value.strip() for name, value in os.environ.items() if SECRET_NAME.search(name)}
    for secret in sorted(_known | values, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, HIDDEN)
    return SHAPES.sub(HIDDEN, text)
