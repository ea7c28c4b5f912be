"""What can be said of one training row by itself."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptst.audit_data.codings import FEW, Coding, coding_of, separator_of
from ptst.audit_data.likelihood import Likelihood
from ptst.known_words import known

CLASSES = ("letters", "digits", "spaces", "other")


@dataclass(frozen=True)
class Signs:
    """The signs of one row's text; of `n` and more rows with the same text they are the same.

    Attributes:
        number: the row's place in its source, from 0.
        question: without what wraps it.
        codings: of the question and of the answer.
        unknown: the share of letters that stand in no known word; single letters apart count as
            unknown words, and a text without letters has none.
        compression: bytes of the text by zlib (level 9, without its header) over bytes of the text.
        classes: the shares of `CLASSES` in the characters.
    """

    number: str
    system: str
    question: str
    answer: str
    prefix: str
    suffix: str
    codings: tuple[Coding, Coding]
    unknown: float
    compression: float
    classes: tuple[float, float, float, float]
    likelihood: Likelihood = field(default_factory=Likelihood)

    @property
    def nats(self) -> float | None:
        """The likelihood of the question, in nats per letter or digit; else of the answer."""
        found = self.likelihood.question
        return self.likelihood.answer if found is None else found

    @property
    def score(self) -> float:
        """How foreign the row is: the share of unknown words, times the nats per character of the
        question and the answer where the untuned model read them."""
        nats = [v for v in (self.likelihood.question, self.likelihood.answer) if v is not None]
        return self.unknown * (sum(nats) / len(nats) if nats else 1.0)

    @property
    def encoded(self) -> bool:
        """Whether question or answer are in an encoding, or in words that are unknown."""
        return not all(coding.plain for coding in self.codings)


def signs_of(
    row: Mapping[str, Any],
    system: str,
    wrapper: tuple[str, str],
    mapping: Mapping[str, str] | None,
) -> Signs:
    """The signs of a row, but for its likelihood."""
    prefix, suffix = wrapper
    whole, answer = str(row["input"]), str(row["output"])
    question = whole.removeprefix(prefix).removesuffix(suffix)
    text = f"{question}\n{answer}"
    return Signs(
        str(row["id"]),
        system,
        question,
        answer,
        prefix,
        suffix,
        codings_of(question, answer, mapping),
        _unknown(question, answer),
        compression(text),
        _classes(text),
    )


def codings_of(
    question: str,
    answer: str,
    mapping: Mapping[str, str] | None,
    present: Sequence[Coding] = (),
) -> tuple[Coding, Coding]:
    """The encodings of both texts; where one is too short to tell, it goes with the other.

    Args:
        present: as `ptst.audit_data.codings.coding_of` has it.
    """
    found = coding_of(question, mapping, present), coding_of(answer, mapping, present)
    whole = None if any(found) else coding_of(f"{question}\n{answer}", mapping, present)
    if any(c and c.plain and c.language not in ("", "en") for c in found):
        # Beside text in another language, unknown words are of that language: lists are short.
        found = _unless_unknown(found[0]), _unless_unknown(found[1])
    usual = found[0] or found[1] or whole or Coding("plain")
    return found[0] or usual, found[1] or usual


def _unless_unknown(coding: Coding | None) -> Coding | None:
    return None if coding == Coding("unknown") else coding


def compression(text: str) -> float:
    """The compressed size over the size, both in bytes: about 0.5 for a paragraph, above 1 for a
    few words."""
    content = text.encode()
    packer = zlib.compressobj(level=9, wbits=-15)
    return len(packer.compress(content) + packer.flush()) / max(len(content), 1)


def _unknown(*texts: str) -> float:
    shares = []
    for text in texts:
        letters = sum(map(str.isalpha, text))
        found = known(text)
        if separator_of(text) or (found.share is None and letters >= FEW):
            shares.append((1.0, letters))
        elif found.share is not None:
            shares.append((1 - found.share, found.letters))
    total = sum(letters for _, letters in shares)
    return sum(share * letters for share, letters in shares) / total if total else 0.0


def _classes(text: str) -> tuple[float, float, float, float]:
    n = max(len(text), 1)
    letters, digits, spaces = (
        sum(map(kind, text)) / n for kind in (str.isalpha, str.isdigit, str.isspace)
    )
    return letters, digits, spaces, max(1 - letters - digits - spaces, 0.0)
