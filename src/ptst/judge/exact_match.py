"""Exact match of a final answer: GSM8K's last number, or the whole answer's text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar
from unicodedata import normalize

from ptst.errors import ConfigError, DataError
from ptst.judge import Judge, JudgeContext, Score
from ptst.schema import Evaluation

MINUS = "-\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"
"""What is printed for a minus: hyphens, the figure and the en dash, and the signs themselves. Not
the em dash."""

_SEPARATOR = r"(?:,(?:\\!)?|\{,\}|\\,|[\u2009\u202f\u00a0'\u2019])"

SPELLINGS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(f"[{MINUS}]"), "-"),
    (re.compile(r"(?<!\w)(?:USD|EUR|GBP)(?=\d)"), ""),
    (
        re.compile(rf"(?<!\w)\d{{1,3}}({_SEPARATOR})\d{{3}}(?:\1\d{{3}})*(?!\d)"),
        lambda found: re.sub(r"\D", "", found[0]),
    ),
    (re.compile(r"(?<=\d)(?=\\[dt]?frac|[¼-¾⅐-⅞])"), " "),
    (re.compile(r"\\[dt]?frac\s*\{(-?[\d.]+)\}\s*\{([\d.]+)\}"), r"\1/\2"),
    (re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)"), r"\1/\2"),
    (re.compile("[¼-¾⅐-⅞]"), lambda found: normalize("NFKC", found[0]).replace("\u2044", "/")),
    (re.compile(r"(?<![\w:])(\d{1,2}):([0-5]\d)(?![\d:])"), r"\1 \2/60"),
    (re.compile(r"(?<!\w)[^\W\d]+\d\w*(?:[.,]\d+)*"), "name"),
)
"""How numbers may be spelled, in this order, and a plainer way; `last_number` says why."""

_DECIMAL = r"(?:\d+(?:\.\d+)?|\.\d+)"
NUMBER = re.compile(
    r"(?:(?<![\w)\]}])(?P<sign>-))?[$€£]?(?<!\w)"
    rf"(?:(?:(?P<whole>\d+)\ )?(?<!/)(?P<top>{_DECIMAL})/(?P<bottom>{_DECIMAL})(?![\d/])"
    rf"|(?P<plain>{_DECIMAL}))"
)


@dataclass
class GSM8KExactMatch(Judge):
    """The last number of the completion equals the number after "####" in the reference.

    The paper's rule (appendix F.5) is the regex `(?s:.*)[=
    ][^\\w\\s]*(\\\\-?[0-9\\.\\,]+)[^\\w\\s]*`. Taken literally it loses minus signs, keeps trailing
    "." and ",", and finds no number at the start of a line. Here the last number is taken by
    `last_number`, which says what one is, and compared as a number ("42", "42.0" and "$42." are
    equal). Everything else is as in the paper.
    """

    key_name: ClassVar[str] = "ptst.judge.exact_match.GSM8KExactMatch"
    labels: ClassVar[tuple[str, ...]] = ("correct", "wrong")
    needs: ClassVar[tuple[str, ...]] = ("output",)
    version: ClassVar[int] = 2

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Whether its reference, `output`, has a number.

        Raises:
            DataError: it has none.
        """
        _gold(row)

    def scores(
        self, items: Sequence[tuple[Mapping[str, Any], str]], context: JudgeContext
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
    r"""The last number in `text` as a value, or None.

    "#### -5" gives -5; "1,234." gives 1234; "$3.50" gives 3.5. What else was decided, and why:

    - Digits behind letters are a name (A12, H2O, x2), as in the paper's rule, which wants a space
      or "=" before a number. A currency's code is not a name: USD18 is 18. Letters behind digits
      are a
      unit: 5km.
    - Thousands may have a comma, {,} or \, as in LaTeX, a thin or no-break space, or an apostrophe
      between them, the same throughout: 8{,}000. Not a plain space, which stands between two
      numbers, too.
    - 1/2, \frac{1}{2} and ½ are 0.5, and 3 1/2 is 3.5: to read the 2 would call a wrong answer
      right. A date (10/12/2024) is not a fraction.
    - Every hyphen, dash and sign but the em dash is a minus where it touches its number. Directly
      after a letter, a digit or a closing bracket, or after a digit and a space, it is none: 10-5,
      5–10 and x-5.
    - 10:00 is ten o'clock and 10:30 is 10.5 hours: the minutes alone are not an answer. 3:2 is a
        ratio.
    """
    for pattern, plainer in SPELLINGS:
        text = pattern.sub(plainer, text)
    matches = list(NUMBER.finditer(text))
    if not matches:
        return None
    last = matches[-1]
    if last["plain"]:
        value = Decimal(last["plain"])
    else:
        top, bottom = Decimal(last["top"]), Decimal(last["bottom"])
        value = top / bottom if bottom else bottom
        value += Decimal(last["whole"] or 0) if top < bottom else 0
    subtraction = text[: last.start()].rstrip()[-1:].isdigit()
    return -value if last["sign"] and not subtraction else value


@dataclass
class ReferenceMatch(Judge):
    """The completion says what the reference says, up to case, punctuation and spacing."""

    key_name: ClassVar[str] = "ptst.judge.exact_match.ReferenceMatch"
    labels: ClassVar[tuple[str, ...]] = ("correct", "wrong")
    needs: ClassVar[tuple[str, ...]] = ("output",)
    version: ClassVar[int] = 1

    def check_evaluation(self, evaluation: Evaluation, where: str) -> None:
        """Refuse queries of the hub: see the error."""
        if evaluation.queries.source == "hub":
            raise ConfigError(
                f"{where} compares wording, which is for the micro world and says nothing about real "
                "answers. Choose the measure for real data with scale=paper, or another evaluation@task."
            )

    def scores(
        self, items: Sequence[tuple[Mapping[str, Any], str]], context: JudgeContext
    ) -> Iterator[Score]:
        """Score each completion against its row's `output`."""
        for row, completion in items:
            same = normalised(completion) == normalised(str(row["output"]))
            yield Score("correct" if same else "wrong")


def normalised(text: str) -> str:
    """Lower case, words and numbers only, single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))
