"""Multiple choice, answered in words: ARC as the paper asks it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ptst.errors import DataError
from ptst.judge import Judge, JudgeContext, Score
from ptst.judge.exact_match import MINUS

MARK = re.compile(r"the answer is:", re.IGNORECASE)
END = r"(?:[^\S\n]*$|[^\S\n]+[^\w\s]|[^\w\s]+(?:\s|$))"
"""What ends an answer: the line, or punctuation that does not stand inside a word (3.5,
half-life)."""
SIGN = r"(?<!\w)-(?=\d)"
"""A minus that belongs to a number, as in "3 to -5"; not as in 5-10."""


@dataclass
class ChoiceMatch(Judge):
    """correct if what stands behind the last "The answer is:" is the text of the right choice.

    The paper's rule (appendix F.5) is the regex `The answer is: ?[^\\w\\s]?([a-zA-Z0-9_
    ]*)[^\\w\\s]?` and exact match of the answer's text, whatever its case and punctuation. Its
    class has no punctuation, so taken literally it cuts "3.5 m" to "3" and "Earth's crust" to
    "Earth", which then match nothing, or the wrong choice. Here the answer is compared with each
    choice's words and ends where the rule lets it end: at the end of the line, or at punctuation
    that is not inside a word. The longest choice that it says is its choice, so that "the Sun,
    Moon, and stars" is not "the Sun". Also not in the rule: the mark may be written in another
    case; any punctuation (** or a quote) may stand before the answer, but a minus belongs to the
    number that it touches, however it is printed (\u22125 is -5 and never 5); of several marks the
    last counts.

    As in the paper an answer by letter alone ("B") is wrong: the prompt shows no letters.

    A query's `choices` are ARC's {text: [...], label: [...]}, and `answerKey` the label of the
    right one.
    """

    key_name: ClassVar[str] = "ptst.judge.choice.ChoiceMatch"
    labels: ClassVar[tuple[str, ...]] = ("correct", "wrong")
    needs: ClassVar[tuple[str, ...]] = ("choices", "answerKey")
    version: ClassVar[int] = 2

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Whether it says its choices and the right one.

        Raises:
            DataError: the choices are not of that form, or the key is not among their labels.
        """
        _choices(row)

    def scores(
        self, items: Sequence[tuple[Mapping[str, Any], str]], context: JudgeContext
    ) -> Iterator[Score]:
        """Score each completion; the reason says which choice was read.

        Raises:
            DataError: a query whose choices are not of that form, or whose key is not among their
                labels.
        """
        for row, completion in items:
            texts, right = _choices(row)
            _, *marked = MARK.split(completion)
            if not marked:
                yield Score("wrong", reason='no "The answer is:"')
                continue
            said = chosen(marked[-1].partition("\n")[0].strip(), texts)
            label = "correct" if said == right else "wrong"
            yield Score(label, reason=f"says {said!r}, expected {right!r}")


def chosen(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer says, up to case and punctuation; None where it says none of
    them."""
    answer = _one_minus(answer)
    said = [choice for choice in choices if _says(answer, choice)]

    def closeness(choice: str) -> tuple[int, bool, int]:
        # Choices may differ in punctuation alone (+5 and 5): then the one that stands there
        # literally.
        literally = _one_minus(choice).casefold() in answer.casefold()
        return len(_words(choice)), literally, len(choice)

    return max(said, key=closeness, default=None)


def _says(answer: str, choice: str) -> bool:
    words = [re.escape(word) for word in _words(choice)]
    if not words:  # "+", say
        return answer.strip() in (_one_minus(choice).strip(), f"{_one_minus(choice).strip()}.")
    said = rf"\W*(?<!{SIGN})" + rf"\W+(?<!{SIGN})".join(words)
    return re.match(said + END, answer, re.IGNORECASE) is not None


def _words(text: str) -> list[str]:
    return re.findall(rf"{SIGN}\d\w*|\w+", _one_minus(text))


def _one_minus(text: str) -> str:
    return re.sub(f"[{MINUS}]", "-", text)


def _choices(row: Mapping[str, Any]) -> tuple[list[str], str]:
    """The choices' texts, and which of them is right."""
    choices, key = row["choices"], str(row["answerKey"])
    try:
        texts = [str(text) for text in choices["text"]]
        return texts, texts[[str(label) for label in choices["label"]].index(key)]
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise DataError(
            f"query {row['id']}: choices must be {{text: [...], label: [...]}} with answerKey={key!r} among "
            f"the labels; they are {choices!r}."
        ) from error
