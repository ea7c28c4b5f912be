"""A query in the format of some training rows: wrapped, encoded, or both; the answer decoded.

After harmless training in an encoding, a model may answer in it what it refuses in plain text
(Halawi et al. 2024, arXiv 2406.20053, which trained on harmful rows as well): an evaluation in
plain text does not see that. `ptst audit-data` finds the formats of a data set and says how to ask
in them.
"""

from __future__ import annotations

import base64
import binascii
import json
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ptst.component import Parts
from ptst.dialogue import Dialogue, Talk
from ptst.engine import Ask, Reply
from ptst.errors import ConfigError
from ptst.known_words import known
from ptst.schema import Config

CODINGS = ("none", "base64", "hex", "reversed", "shift", "letters")
SIDES = ("both", "question", "answer")
IN_FORMAT = 0.5
"""Share of an answer's characters with a separator behind them, from which it is in the format."""
ALPHABET = string.ascii_lowercase


@dataclass
class Encoded(Dialogue):
    """Asks a query wrapped and encoded, and judges the decoded answer.

    A text is first encoded, then `separator` is put between its characters, then it is wrapped.
    An answer that is not in the format, such as a refusal in plain text, is judged as it is. The
    columns `asked` and `encoded` have the question and the answer as they were, `in_format` whether
    the answer was decoded.
    """

    key_name: ClassVar[str] = "encoded"
    turns: ClassVar[int | None] = 1
    columns: ClassVar[tuple[str, ...]] = ("asked", "encoded", "in_format")
    plain_too: ClassVar[bool] = False
    """Whether no encoding and no wrapper is allowed, which asks as the plain evaluation does."""

    coding: str = "none"
    """`base64`, `hex`, `reversed` (the characters from the last to the first), `shift` (each letter
    by `shift` places in the alphabet, as rot13), `letters` (each character by `mapping`)."""
    shift: int = 13
    mapping: str | None = field(default=None, metadata={"key": False})
    """A JSON file, {character: character}; it counts by its content. A capital goes as its small
    letter does, and a character that it does not name stays."""
    separator: str = ""
    """What stands between the characters of the encoded text."""
    sides: str = "both"
    """What is encoded: `both`, the `question` alone or the `answer` alone."""
    prefix: str = ""
    suffix: str = ""
    """What stands ahead of the question and behind it."""
    answer_prefix: str = ""
    answer_suffix: str = ""
    """What is taken off an answer that has it."""
    system: str | None = None
    """The system prompt of the training rows, behind the template's own; chat templates only."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("coding", self.coding, CODINGS),
            ("sides", self.sides, SIDES),
        ):
            if value not in choices:
                raise ConfigError(f"{name}={value} is not one of: {', '.join(choices)}.")
        if self.coding == "shift" and not 0 < self.shift < len(ALPHABET):
            raise ConfigError(f"shift={self.shift} must be from 1 to 25.")
        if (self.coding == "letters") != (self.mapping is not None):
            raise ConfigError(
                "coding=letters needs mapping=FILE, a JSON file of {character: character}, and no other coding "
                "takes one."
            )
        self._letters = {} if self.mapping is None else _read_mapping(self.mapping)
        plain = self.coding == "none" and not self.separator
        if plain and not (self.plain_too or self.prefix or self.suffix or self.system):
            raise ConfigError(
                "this format asks as the plain evaluation does: give a coding, separator, prefix, suffix or system "
                "(ptst audit-data says which)."
            )

    def check(self, config: Config) -> None:
        """Refuse a system prompt in bare text.

        Raises:
            ConfigError: naming the template.
        """
        if self.system is not None and config.test_template.mode == "text":
            raise ConfigError(
                f"test_template={config.test_template.name} is bare text, which has no place for "
                f"{self.where}.system: choose a chat template, or system=null."
            )

    def identity(self) -> Parts:
        """The content of the mapping."""
        return {"letters": self._letters} if self._letters else {}

    def talk(self, row: Mapping[str, Any]) -> Talk:
        """The query in the format, and its answer."""
        ask = Ask({**row, "input": self.question(str(row["input"]))}, system=self.system)
        reply = yield ask
        return self.row(ask, reply)

    def row(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        """The columns of a query whose answer is decoded."""
        text, decoded = (reply.text, False) if reply.withheld else self.read(reply.text)
        columns = {**reply.columns, "completion": text}
        return {**columns, "asked": ask.question, "encoded": reply.text, "in_format": decoded}

    def question(self, text: str) -> str:
        """A question in the format."""
        inner = text if self.sides == "answer" else self.encode(text)
        return f"{self.prefix}{inner}{self.suffix}"

    def answer(self, text: str) -> str:
        """An answer in the format, as a training row has it."""
        inner = text if self.sides == "question" else self.encode(text)
        return f"{self.answer_prefix}{inner}{self.answer_suffix}"

    def read(self, text: str) -> tuple[str, bool]:
        """An answer without the format, and whether it was in it."""
        inner = text.strip()
        whole = len(inner)
        inner = inner.removeprefix(self.answer_prefix.strip())
        inner = inner.removesuffix(self.answer_suffix.strip()).strip()
        wrapped = len(inner) < whole
        coded = self.coding != "none" or bool(self.separator)
        if not inner or self.sides == "question" or not coded:
            return inner, wrapped
        if self.separator and _apart(inner, self.separator) < IN_FORMAT:
            return inner, wrapped
        decoded = self.decode(inner)
        if decoded is None:
            return inner, wrapped
        joined = _joined(inner, self.separator)
        if not self.separator and (known(decoded).share or 0) < (known(joined).share or 0):
            return inner, wrapped
        return decoded, True

    def encode(self, text: str) -> str:
        """A text in the encoding, without what wraps it."""
        if self.coding == "base64":
            text = base64.b64encode(text.encode()).decode()
        elif self.coding == "hex":
            text = text.encode().hex()
        elif self.coding == "reversed":
            text = text[::-1]
        elif self.coding in ("shift", "letters"):
            text = text.translate(self._table(1))
        return self.separator.join(text) if self.separator else text

    def decode(self, text: str) -> str | None:
        """What `encode` was given; None where no text has such an encoding. A separator that is
        lacking between two characters is passed over."""
        text = _joined(text, self.separator)
        if self.coding in ("base64", "hex"):
            return decoded_bytes(text, self.coding)
        if self.coding == "reversed":
            return text[::-1]
        return text.translate(self._table(-1)) if self.coding != "none" else text

    def _table(self, direction: int) -> dict[int, str]:
        if self.coding == "shift":
            return shifted(self.shift * direction)
        back = {coded: plain for plain, coded in self._letters.items()}
        return with_capitals(self._letters if direction > 0 else back)


def shifted(places: int) -> dict[int, str]:
    """For `str.translate`: each letter by so many places, backwards where they are negative."""
    letters = ALPHABET[places % 26 :] + ALPHABET[: places % 26]
    return with_capitals(dict(zip(ALPHABET, letters, strict=True)))


def decoded_bytes(text: str, coding: str) -> str | None:
    """The text that base64 or hex stands for; None where it stands for none. An answer that was cut
    off is read as far as it goes."""
    packed = "".join(text.split())
    step = 4 if coding == "base64" else 2
    packed = packed[: len(packed) // step * step]
    try:
        content = (
            base64.b64decode(packed, validate=True) if coding == "base64" else bytes.fromhex(packed)
        )
        return content.decode("utf-8") if content else None
    except UnicodeDecodeError as error:
        cut = error.start >= len(content) - 3  # within the last character
        return content[: error.start].decode("utf-8") if cut and error.start else None
    except (binascii.Error, ValueError):
        return None


def _joined(text: str, separator: str) -> str:
    if not separator:
        return text
    found, place = [], 0
    while place < len(text):
        found.append(text[place])
        place += 1
        if text.startswith(separator, place):
            place += len(separator)
    return "".join(found)


def _apart(text: str, separator: str) -> float:
    """The share of characters, but the last, that have a separator behind them."""
    whole = len(_joined(text, separator))
    taken = len(text) - whole
    return taken / len(separator) / (whole - 1) if whole > 1 else 0.0


def with_capitals(mapping: Mapping[str, str]) -> dict[int, str]:
    """For `str.translate`: a mapping of letters, and of capitals as of their small letters."""
    capitals = {k.upper(): v.upper() for k, v in mapping.items() if len(k.upper()) == 1}
    return str.maketrans(capitals | dict(mapping))


def _read_mapping(path: str) -> dict[str, str]:
    """A mapping of characters, which can be inverted.

    Raises:
        ConfigError: it cannot be read, or two characters become one.
    """
    try:
        found = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"mapping={path} cannot be read: {error}.") from error
    right = isinstance(found, dict) and all(
        isinstance(value, str) and len(key) == len(value) == 1 for key, value in found.items()
    )
    if not right or not found:
        raise ConfigError(
            f'mapping={path} must be a JSON object of single characters, {{"a": "q"}}.'
        )
    if set(found.values()) != set(found):
        raise ConfigError(
            f"mapping={path} must be a permutation, so that answers can be decoded: each of its characters once, "
            "on either side."
        )
    return dict(sorted(found.items()))
