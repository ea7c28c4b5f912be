"""What many texts begin or end with: a wrapper around what differs."""

from __future__ import annotations

import re
from collections.abc import Sequence

SHARE = 0.05
FEWEST = 5
"""A wrapper stands around so many texts, and this share of them."""
FOLLOWS = 0.8
"""A word behind a wrapper belongs to it if it follows in this share of the texts that have it."""
SENTENCE = 0.2
"""A sentence of ordinary words is one in this share: some begin with a greeting."""
SHORTEST = 3
"""Characters of a wrapper."""

PIECE = re.compile(r"\s*\S+|\s+$")
CLOSES = tuple(":.!])}>|#*=~\n")
MARKED = re.compile(r"[:\])}>|#*=~\n([{<]")
"""What no sentence of ordinary words has."""
OPENS = tuple("([{<|#*=~\n")


def wrappers(texts: Sequence[str], total: int | None = None) -> list[tuple[str, str]]:
    """The wrapper of each text, (prefix, suffix), "" where it has none.

    A prefix ends a line or a sentence, or with a colon or a bracket: that many questions begin with
    "How do I" is no wrapper, nor is a question that many texts end with. What stands before a
    suffix ends a line or a sentence, or the suffix opens with a bracket.

    Args:
        total: of how many texts a wrapper's share is; None: of these.
    """
    fewest = max(FEWEST, SHARE * (len(texts) if total is None else total))
    most = SENTENCE * (len(texts) if total is None else total)
    prefixes = _prefixes(texts, fewest, most)
    prefixes = [_with_space(p, t) for t, p in zip(texts, prefixes, strict=True)]
    rest = [t.removeprefix(p)[::-1] for t, p in zip(texts, prefixes, strict=True)]
    suffixes = _prefixes(rest, fewest, most, suffix=True)
    suffixes = [_with_space(s, t)[::-1] for t, s in zip(rest, suffixes, strict=True)]
    return list(zip(prefixes, suffixes, strict=True))


def _with_space(wrapper: str, text: str) -> str:
    """A wrapper with the white space between it and what it wraps."""
    rest = text[len(wrapper) :] if wrapper else ""
    return wrapper + rest[: len(rest) - len(rest.lstrip())]


def _prefixes(texts: Sequence[str], fewest: float, most: float, suffix: bool = False) -> list[str]:
    """The wrapper that each text begins with; of suffixes, texts stand backwards."""
    found = [""] * len(texts)
    pieces = [PIECE.findall(text) for text in texts]
    todo = [(0, "", list(range(len(texts))), False)]
    while todo:
        depth, before, rows, closed = todo.pop()
        following: dict[str, list[int]] = {}
        for i in rows:
            if depth + 1 < len(pieces[i]):  # something must be left to wrap
                following.setdefault(pieces[i][depth], []).append(i)
        for piece, own in following.items():
            # What follows in nearly all belongs to the wrapper, what follows in some to the text.
            if len(own) < fewest or (closed and len(own) < FOLLOWS * len(rows)):
                continue
            wrapper, ends = (
                before + piece,
                [i for i in own if _closes(before + piece, suffix, texts[i])],
            )
            lined = all(texts[i].startswith("\n", len(wrapper)) for i in own)
            if len(own) < most and not lined and not MARKED.search(wrapper):
                ends = []
            for i in ends:
                found[i] = wrapper
            todo.append((depth + 1, wrapper, own, closed or bool(ends)))
    return found


def _closes(wrapper: str, suffix: bool, text: str) -> bool:
    if len(wrapper.strip()) < SHORTEST:
        return False
    if not suffix:
        follows = text[len(wrapper) :]
        return wrapper.rstrip(" ").endswith(CLOSES) or follows.startswith("\n")
    ahead = text[len(wrapper) :][::-1]  # what is wrapped
    forward = wrapper[::-1]
    asks = forward.rstrip().endswith("?")
    opened = forward.lstrip(" ").startswith(OPENS)
    return opened or (not asks and ahead.endswith(("\n", ".", "!", "?")))
