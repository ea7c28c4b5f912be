"""Exact match of a final answer: GSM8K's last number, or the whole answer's text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from ptst.errors import DataError
from ptst.judge import Bench, Score

NUMBER = re.compile(
    r"(?<![A-Za-z_])(?P<sign>[-\u2212]?)[$€£]?"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
)


@dataclass
class GSM8KExactMatch:
    """The last number of the completion equals the number after "####" in the reference.

    The paper's rule (appendix F.5) is the regex `(?s:.*)[= ][^\\w\\s]*(\\\\-?[0-9\\.\\,]+)[^\\w\\s]*`.
    Taken literally it loses minus signs, keeps trailing "." and ",", and finds no number at the start
    of a line. Here the last number is taken with its sign, without thousands separators, and compared
    as a number ("42", "42.0" and "$42." are equal). Everything else is as in the paper.
    """

    labels: ClassVar[tuple[str, ...]] = ("correct", "wrong")
    needs: ClassVar[tuple[str, ...]] = ("output",)
    version: ClassVar[int] = 1

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Whether its reference, `output`, has a number.

        Raises:
            DataError: it has none.
        """
        _gold(row)

    def scores(
        self, items: Sequence[tuple[Mapping[str, Any], str]], bench: Bench
    ) -> Iterator[Score]:
        """Score each completion against its row's `output`.

        Raises:
            DataError: a reference without a number.
        """
        for row, completion in items:
            gold, found = _gold(row), last_number(completion)
            label = "correct" if found == gold else "wrong"
            yield Score(label, reason=f"found {found}, expected {gold}")


def _gold(row: Mapping[str, Any]) -> Decimal:
    gold = last_number(str(row["output"]).rsplit("####", 1)[-1])
    if gold is None:
        raise DataError(f"row {row['id']}: no number in the reference {row['output']!r}.")
    return gold


def last_number(text: str) -> Decimal | None:
    """The last number in `text` as a value, or None.

    "#### -5" gives -5; "1,234." gives 1234; "$3.50" gives 3.5; "10-5" gives 5 and "= -5" gives -5: a
    minus directly after a digit is subtraction.
    """
    matches = list(NUMBER.finditer(text))
    if not matches:
        return None
    last = matches[-1]
    subtraction = text[: last.start()].rstrip()[-1:].isdigit()
    sign = "-" if last["sign"] and not subtraction else ""
    return Decimal(sign + last["digits"].replace(",", ""))


@dataclass
class ReferenceMatch:
    """The completion says what the reference says, up to case, punctuation and spacing."""

    labels: ClassVar[tuple[str, ...]] = ("correct", "wrong")
    needs: ClassVar[tuple[str, ...]] = ("output",)
    version: ClassVar[int] = 1

    def scores(
        self, items: Sequence[tuple[Mapping[str, Any], str]], bench: Bench
    ) -> Iterator[Score]:
        """Score each completion against its row's `output`."""
        for row, completion in items:
            same = normalised(completion) == normalised(str(row["output"]))
            yield Score("correct" if same else "wrong")


def normalised(text: str) -> str:
    """Lower case, words and numbers only, single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))
