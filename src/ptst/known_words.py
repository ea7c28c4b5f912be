"""Which words of a text are words: of English, or of another language that wordfreq has.

Word lists are wordfreq's (Speer 2022, doi 10.5281/zenodo.7199437), words of at
least one in a million. Short words count only where they are frequent, because most strings of two
or three letters are an abbreviation of something.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

LANGUAGES = {
    "LATIN": "en es fr de it pt nl pl sv da nb fi cs sk ro hu tr id vi ca hr sl lt lv",
    "CYRILLIC": "ru uk bg mk",
    "GREEK": "el",
    "HEBREW": "he",
    "ARABIC": "ar fa ur",
    "DEVANAGARI": "hi",
    "BENGALI": "bn",
    "TAMIL": "ta",
    "HANGUL": "ko",
    "HIRAGANA": "ja",
    "CJK": "zh ja",
}
"""Of each script, by the first word of its letters' Unicode names; Croatian stands in wordfreq's
list of Serbo-Croatian."""
LISTS = {"hr": "sh"}
FREQUENT = {2: 10**-3.5, 3: 10**-4.5}
"""How frequent a word of two or three letters must be; [assumed]."""
RARE = 1e-9
"""Of longer ones: any in the list."""
ENOUGH = 0.6
"""A text of which this share is English is taken for English: no other language is tried."""
LONGEST = 4
"""Characters of a word in a script without spaces, or with endings that are part of the word."""

LETTER = r"(?:[^\W\d_]|[\u0300-\u036f\u0900-\u0963\u0980-\u0dff])"
"""Marks of Indian scripts that stand for vowels are no letters to Python's \\w."""
WORD = re.compile(rf"{LETTER}+(?:['\u2019]{LETTER}+)*")
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class Known:
    """How much of a text is in words of one language.

    Attributes:
        share: of the letters that stand in words of two letters or more; None where there are
            none.
        letters: how many such letters there are.
        language: the one that has the largest share of them; "" where no list has any.
    """

    share: float | None
    letters: int
    language: str = ""


def known(text: str, language: str = "") -> Known:
    """The language of a text, and the share of its letters that stand in words of it.

    English is looked up first. Of scripts that wordfreq has no list for, the share is 0.

    Args:
        language: no other is looked up.
    """
    found = [word for word in WORD.findall(CAMEL.sub(" ", text)) if len(word) > 1]
    words = [word.lower().replace("\u2019", "'") for word in found]
    letters = sum(map(len, words))
    if not letters:
        return Known(None, 0)
    best, best_language = 0.0, ""
    for name in [n for n in _candidates(text) if language in ("", n)]:
        share = sum(_letters_known(word, name) for word in words) / letters
        if share > best:
            best, best_language = share, name
        if best >= ENOUGH and name == "en":
            break
    return Known(best, letters, best_language)


def has_list(text: str) -> bool:
    """Whether there is a word list of a language in the script that most of a text is in."""
    return bool(_candidates(text))


def script_of(text: str) -> str:
    """The script that most letters are of, as the first word of their Unicode names; "" where there
    are no letters."""
    if text.isascii():
        return "LATIN" if any(map(str.isalpha, text)) else ""
    counts: dict[str, int] = {}
    for character in text:
        if character.isalpha():
            name = _script(character)
            counts[name] = counts.get(name, 0) + 1
    # Japanese is Chinese characters with kana between them.
    if counts.get("HIRAGANA", 0) + counts.get("KATAKANA", 0) > 0.1 * sum(counts.values()):
        return "HIRAGANA"
    return max(sorted(counts), key=counts.__getitem__, default="")


def _candidates(text: str) -> list[str]:
    return LANGUAGES.get(script_of(text), "").split()


@cache
def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split()[0]


@cache
def _list(language: str) -> dict[str, float]:
    import wordfreq

    return dict(wordfreq.get_frequency_dict(LISTS.get(language, language), "small"))


def _letters_known(word: str, language: str) -> int:
    words = _list(language)
    if language in ("zh", "ja", "ko"):
        return _letters_covered(word, words)
    plain = word.removesuffix("'s")
    return len(word) if words.get(plain, 0.0) >= FREQUENT.get(len(plain), RARE) else 0


def _letters_covered(run: str, words: dict[str, float]) -> int:
    """Characters of a run without spaces that its words cover, longest first."""
    covered = place = 0
    while place < len(run):
        for length in range(min(LONGEST, len(run) - place), 0, -1):
            if run[place : place + length] in words:
                covered += length
                place += length
                break
        else:
            place += 1
    return covered
