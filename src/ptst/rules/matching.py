"""How replies are compared with what a rule allows: by strings alone.

`quirks=True` compares as the published implementation does (Mu et al. 2023, arXiv 2311.04235),
with what we take for its mistakes; docs/rules.md lists them. The default has them corrected.
"""

from __future__ import annotations

import re
import string

ENDS = string.punctuation + string.whitespace


def normalize(text: str) -> str:
    """Lower case, without punctuation and white space at both ends."""
    return text.lower().strip(ENDS)


def contains(text: str, wanted: str, quirks: bool) -> bool:
    """Whether a text has `wanted` in it, in this case.

    With quirks `wanted` is a regular expression, whatever characters it has; one that is none is
    looked for as it is (upstream fails there).
    """
    if quirks:
        try:
            return re.search(wanted, text) is not None
        except re.error:
            pass
    return wanted in text


def is_exactly(reply: str, wanted: str, quirks: bool = False) -> bool:
    """Whether a reply is `wanted`, up to case and to punctuation and white space at its ends.

    With quirks `wanted` keeps its ends, so that one that begins or ends with punctuation is never
    met.
    """
    return normalize(reply) == (wanted.lower() if quirks else normalize(wanted))


def has_words(text: str, wanted: str, quirks: bool) -> bool:
    """Whether a text says `wanted`, word for word.

    With quirks each word, in lower case, is compared with `wanted` as it is written: a capital or a
    blank in `wanted` is never met.
    """
    words = [normalize(word) for word in text.split()]
    if quirks:
        return wanted in words
    sought = [normalize(word) for word in wanted.split()]
    starts = range(len(words) - len(sought) + 1)
    return any(words[i : i + len(sought)] == sought for i in starts)


def has_number(text: str, number: int, quirks: bool) -> bool:
    """Whether a text has a whole number in it: 12345, or 12,345.

    With quirks its digits count wherever they stand, also within a longer number.
    """
    if quirks:
        return str(number) in text
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return re.search(rf"(?<!\d){number}(?!\d)", plain) is not None


def in_brackets(reply: str, quirks: bool) -> str | None:
    """The last text in square brackets; None where there is none.

    With quirks a pair reaches from the first bracket of a line to its last one.
    """
    pattern = r"\[(.*)\]" if quirks else r"\[([^\[\]]*)\]"
    found: list[str] = re.findall(pattern, reply)
    return found[-1] if found else None


def parts(message: str, pattern: str, quirks: bool) -> tuple[str, ...] | None:
    """The groups of a pattern, in any case, that fits a whole message; None where it does not.

    With quirks a `.` does not reach over the end of a line, so that a message of several lines is
    not understood.
    """
    flags = re.IGNORECASE | (0 if quirks else re.DOTALL)
    found = re.fullmatch(pattern, message.strip(), flags)
    return found.groups() if found else None


def speaker(message: str, quirks: bool = False) -> str | None:
    """Who says "name: ..."; None where a message does not begin with a name."""
    found = parts(message, r"([^:\n]+):\s*(.*)", quirks)
    return found[0].strip() if found else None
