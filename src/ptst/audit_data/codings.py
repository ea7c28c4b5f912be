"""Which encoding a text is in, as far as that can be told without being told.

A simple known encoding is recognised by decoding it: the share of known words rises. Characters
with a separator between each two of them are recognised by the separators. A substitution of
letters is not guessed: its words are unknown, and that is all that is said.

Short words are words of some language, forwards and backwards, so that a short text alone can tell
too little. An encoding that other rows of the same data are in needs less evidence (`present`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ptst.dialogue.encoded import ALPHABET, decoded_bytes, shifted, with_capitals
from ptst.known_words import has_list, known

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
FEW_EXPECTED = 4
"""Of an encoding that other rows are in; and of base64 and hex, as next to no other text can be
decoded."""
CLEARLY = 0.25
"""By so much the share of known words must rise where no other row is in the encoding."""
APART = 0.9
"""Share of places between two characters that have the separator; [assumed]."""
WIDEST = 3
"""Characters of a separator."""
CODE = 0.12
"""Share of programs' punctuation from which unknown words are taken for names in a program."""

PATTERNS = {
    "base64": re.compile(r"[A-Za-z0-9+/\s]{6,}={0,2}"),
    "hex": re.compile(r"(?:[0-9a-fA-F]{2}\s*){4,}"),
}
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


def coding_of(
    text: str, mapping: Mapping[str, str] | None = None, present: Sequence[Coding] = ()
) -> Coding | None:
    """The encoding of a text; None where there is too little to tell: too few letters, some known
    words and some unknown ones, a script without a word list, or the names of a program.

    Args:
        mapping: a substitution that is tried, too: {character: what it becomes}.
        present: what many other texts of the same data are in, the most frequent first. A text is
            in one of these encodings if its known words are then as many as now in any language,
            and more than now in a language that is present; in another, if they are clearly more.
    """
    if separator := separator_of(text, [coding.separator for coding in present]):
        alike = [replace(c, separator="") for c in present if c.separator == separator]
        inner = coding_of(text.strip("\n")[:: len(separator) + 1], mapping, alike)
        return replace(inner or Coding("apart"), separator=separator)
    found = known(text)
    readable = found.share is not None and found.share >= READABLE
    if readable and found.language == "en":
        return Coding("plain", language="en") if found.letters >= FEW else None
    before = found.share or 0.0
    if (expected := _expected(text, before, mapping, present)) is not None:
        return expected
    share, decoded = _decoded(text, mapping)
    if decoded is not None and share >= before + CLEARLY:
        return decoded
    if found.share is None or found.letters < (FEW if readable else LETTERS):
        return None
    if readable:
        rival = decoded is not None and decoded.language != found.language and share >= before
        return (
            None if rival and found.letters < LETTERS else Coding("plain", language=found.language)
        )
    if found.share >= UNKNOWN or not has_list(text) or _is_code(text):
        return None
    return Coding("unknown")


def separator_of(text: str, expected: Sequence[str] | None = ()) -> str:
    """The `WIDEST` characters or fewer that stand between each two of a text; "" where none do. A
    text of a few letters is enough for a separator that is expected; None: for any."""
    text = text.strip("\n")
    for width in range(WIDEST, 0, -1):  # " | " has spaces in every second place
        separator, step = text[1 : 1 + width], width + 1
        if not separator or any(map(str.isalnum, separator)):
            continue
        between = [text[i : i + width] for i in range(1, len(text), step)]
        letters = sum(map(str.isalpha, text[::step]))
        few = 1 if expected is None or separator in expected else FEW
        enough = min(len(between), letters) >= few
        if enough and between.count(separator) >= APART * len(between):
            return separator
    return ""


def _expected(
    text: str, before: float, mapping: Mapping[str, str] | None, present: Sequence[Coding]
) -> Coding | None:
    """The encoding of those present that a text is in: it makes the most known words."""
    best, found = max(READABLE, before), None
    for coding in present:
        read = known(_content(text, coding, mapping), coding.language)
        share = read.share or 0.0
        if read.letters >= FEW_EXPECTED and (share > best or (share == best and found is None)):
            best, found = share, coding
    natives = [coding.language for coding in present if coding.plain and coding.language]
    as_it_is = max((known(text, name).share or 0.0 for name in natives), default=0.0)
    return found if as_it_is < best else None


def _decoded(text: str, mapping: Mapping[str, str] | None) -> tuple[float, Coding | None]:
    """The known encoding that turns a text into words, and the share of them."""
    tried = [Coding("base64"), Coding("hex"), Coding("reversed")]
    tried += [Coding("shift", shift=n) for n in _shifts(text)]
    tried += [Coding("letters")] if mapping else []
    best: tuple[float, Coding | None] = 0.0, None
    for coding in tried:
        read = known(_content(text, coding, mapping))
        share = read.share or 0.0
        few = FEW_EXPECTED if coding.name in PATTERNS else FEW
        if read.letters >= few and share >= DECODED and share > best[0]:
            best = share, replace(coding, language=read.language)
    return best


def _content(text: str, coding: Coding, mapping: Mapping[str, str] | None) -> str:
    """What a text says if it is in an encoding; "" where it cannot be or where it is as it was."""
    if coding.name in PATTERNS:
        right = PATTERNS[coding.name].fullmatch(text.strip())
        return (decoded_bytes(text, coding.name) if right else "") or ""
    if coding.name == "reversed":
        return text[::-1].lower()  # else the last capital of "onA" makes a word of its first two
    if coding.name == "shift":
        return text.translate(_back(coding.shift))
    if coding.name == "letters" and mapping:
        return text.translate(with_capitals({coded: plain for plain, coded in mapping.items()}))
    return ""


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
