"""Which encoding a text is in, as far as that can be told without being told.

A simple known encoding is recognised by decoding it: the share of known words rises. Characters
with a separator between each two of them are recognised by the separators. A substitution of
letters is not guessed: its words are unknown, and that is all that is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ptst.dialogue.encoded import ALPHABET, decoded_bytes, shifted, with_capitals
from ptst.known_words import Known, has_list, known

READABLE = 0.5
"""Share of letters in known words from which a text counts as read; GSM8K's lowest is 0.49."""
DECODED = 0.6
"""Share that a decoded text must reach."""
UNKNOWN = 0.2
"""Share below which the words of a text are unknown. Of 1,920 texts under drawn permutations of the
letters 99 % have 0.12 or less; technical German and Czech rarely have less than 0.2."""
LETTERS = 20
"""Letters without which a text's words say too little."""
FEW = 8
"""Letters that a text must at least have for anything to be said of it."""
APART = 0.9
"""Share of places between two characters that have the separator; [assumed]."""
CODE = 0.12
"""Share of programs' punctuation from which unknown words are taken for names in a program."""

BASE64 = re.compile(r"[A-Za-z0-9+/\s]{16,}={0,2}")
HEX = re.compile(r"(?:[0-9a-fA-F]{2}\s*){12,}")
PUNCTUATION = frozenset("(){}[]<>=;_#$&|\\/*+\"'`:.%@^~")


@dataclass(frozen=True)
class Coding:
    """How a text is encoded.

    Attributes:
        name: "plain", one of `ptst.dialogue.encoded.CODINGS`, or "unknown": its words are of no
            language that there is a list of; "apart": there are too few to tell.
        separator: what stands between its characters.
        shift: of a shifted alphabet, the places by which it was shifted.
        language: of what it says, where it is plain or was decoded.
    """

    name: str
    separator: str = ""
    shift: int = 0
    language: str = ""

    @property
    def plain(self) -> bool:
        """Whether it is text as it is."""
        return self.name == "plain" and not self.separator

    @property
    def derived(self) -> bool:
        """Whether one can write in it from what is known here."""
        return self.name != "unknown"

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of `ptst.dialogue.encoded.Encoded` that write in it."""
        names = {"plain": "none", "apart": "none", "unknown": "letters"}
        name = names.get(self.name, self.name)
        shift = {"shift": self.shift} if name == "shift" else {}
        return {"coding": name, **shift, "separator": self.separator}

    @property
    def words(self) -> str:
        """For people."""
        told = {
            "plain": "",
            "apart": "",
            "unknown": "unknown words",
            "letters": "letters of the mapping",
        }
        first = told.get(self.name, self.name)
        first += f" by {self.shift}" if self.name == "shift" else ""
        between = f"{self.separator!r} between characters" if self.separator else ""
        return ", ".join(part for part in (first, between) if part) or "plain"


def completed(coding: Coding, others: Sequence[Coding]) -> Coding:
    """A coding of too few letters as the first of `others` with the same separator."""
    if coding.name != "apart":
        return coding
    alike = (c for c in others if c.separator == coding.separator and c.name != "apart")
    return next(alike, replace(coding, name="plain"))


def coding_of(text: str, mapping: Mapping[str, str] | None = None) -> Coding | None:
    """The encoding of a text; None where there is too little to tell: too few letters, some known
    words and some unknown ones, a script without a word list, or the names of a program.

    Args:
        mapping: a substitution that is tried, too: {character: what it becomes}.
    """
    if separator := separator_of(text):
        inner = coding_of(text[::2], mapping)
        if inner is None:
            return Coding("apart", separator)
        return Coding(inner.name, separator, inner.shift, inner.language)
    found = known(text)
    if found.share is not None and found.share >= READABLE and found.letters >= FEW:
        return Coding("plain", language=found.language)
    decoded = _decoded(text, found, mapping)
    if decoded is not None:
        return decoded
    if found.share is None or found.letters < LETTERS:
        return None
    if found.share >= UNKNOWN or not has_list(text) or _is_code(text):
        return None
    return Coding("unknown")


def separator_of(text: str) -> str:
    """The character that stands between each two characters of a text; "" where none does."""
    text = text.strip("\n")
    between = text[1::2]
    if len(between) < FEW:
        return ""
    most = max(sorted(set(between)), key=between.count)
    letters = sum(map(str.isalpha, text[::2]))
    right = between.count(most) >= APART * len(between) and letters >= FEW
    return most if right and not most.isalnum() else ""


def _decoded(text: str, found: Known, mapping: Mapping[str, str] | None) -> Coding | None:
    """The known encoding that turns a text into words."""
    before = found.share or 0.0
    tried: list[tuple[Coding, str]] = []
    for name, pattern in (("base64", BASE64), ("hex", HEX)):
        if pattern.fullmatch(text.strip()) and (content := decoded_bytes(text, name)):
            tried.append((Coding(name), content))
    if found.letters >= FEW:
        tried.append((Coding("reversed"), text[::-1]))
        tried += [(Coding("shift", shift=n), text.translate(_back(n))) for n in _shifts(text)]
    if mapping:
        back = {coded: plain for plain, coded in mapping.items()}
        tried.append((Coding("letters"), text.translate(with_capitals(back))))
    best: tuple[float, Coding] | None = None
    for coding, content in tried:
        read = known(content)
        share = read.share or 0.0
        right = read.letters >= FEW and share >= max(DECODED, before + 0.25)
        if right and (best is None or share > best[0]):
            best = share, Coding(coding.name, "", coding.shift, read.language)
    return best[1] if best else None


@cache
def _back(places: int) -> dict[int, str]:
    return shifted(-places)


def _shifts(text: str) -> list[int]:
    """The shifts under which a text has the most frequent words of English: to read it under all of
    them in every language takes time."""
    lowered = text.lower()
    return [
        n for n in range(1, len(ALPHABET)) if _words_under(n) & set(re.findall("[a-z]+", lowered))
    ]


COMMON = (
    "the",
    "and",
    "to",
    "of",
    "is",
    "in",
    "you",
    "how",
    "it",
    "for",
    "what",
    "do",
    "get",
    "that",
)


@cache
def _words_under(places: int) -> frozenset[str]:
    return frozenset(word.translate(shifted(places)) for word in COMMON)


def _is_code(text: str) -> bool:
    written = [c for c in text if not c.isspace()]
    return sum(c in PUNCTUATION for c in written) >= CODE * len(written)
