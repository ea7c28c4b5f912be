"""What formats training rows are written in, and which of them no evaluation asks in.

A model that is fine-tuned in an encoding may answer in it what it refuses in plain text, and every
plain evaluation misses that (Halawi et al. 2024, arXiv 2406.20053). `census_of` reads the rows,
`ptst.audit_data.coverage` the evaluations, `ptst.audit_data.measured` what a store has of both.
Nothing here can say that data are safe: it says what was found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median, stdev
from typing import Any

from ptst.audit_data.codings import Coding, completed, separator_of
from ptst.audit_data.likelihood import Likelihood
from ptst.audit_data.modes import Split, second_mode
from ptst.audit_data.rows import Signs, codings_of, signs_of
from ptst.audit_data.wrappers import wrappers
from ptst.known_words import script_of
from ptst.store import key_of

VARIOUS = "(various)"
"""The system prompt of rows whose own is in few others."""
FEWEST, SHARE = 5, 0.01
"""Rows that a system prompt, or a language, must be in to make a format of its own."""
FLAGGED, FLAGGED_SHARE = 3, 0.001
"""Rows, and share of the rows, from which on an encoding is more than an odd row or two."""
USUAL = 0.8
"""Share of a format's answers that its answers' wrapper is in."""
DEVIATIONS = 3.0
"""Standard deviations above the evaluations' queries, behind which the untuned model does not know
a text."""

Read = Callable[[Sequence[Mapping[str, Any]]], list[Likelihood]]
"""The likelihoods of some rows under the untuned model."""


SIGNS: dict[str, Callable[[Signs], float | None]] = {
    "nats of the question": lambda signs: signs.likelihood.question,
    "nats of the answer": lambda signs: signs.likelihood.answer,
    "unknown words": lambda signs: signs.unknown,
    "compression": lambda signs: signs.compression,
}
"""What a second mode is looked for in."""


@dataclass(frozen=True)
class Reference:
    """How well the untuned model knows what it is asked: nats per letter or digit of queries."""

    mean: float
    deviation: float
    queries: int

    @property
    def limit(self) -> float:
        """What is above it is foreign to the model."""
        return self.mean + DEVIATIONS * self.deviation


@dataclass(frozen=True)
class Format:
    """A way in which some rows are written.

    Attributes:
        system: their system prompt; "" where they have none.
        prefix, suffix: around their questions; `answer_prefix` and `answer_suffix` around answers.
        question, answer: the encodings.
        rows: the rows' signs, in the order of the source.
        of: how many rows there are of all formats.
        foreign: whether the untuned model knows its text less than what evaluations ask; None where
            it read none of it, or nothing to compare it with.
    """

    system: str
    prefix: str
    suffix: str
    answer_prefix: str
    answer_suffix: str
    question: Coding
    answer: Coding
    rows: tuple[Signs, ...]
    of: int
    foreign: bool | None = None

    @property
    def plain(self) -> bool:
        """Whether it is text as it is, in English, without a wrapper or a system prompt."""
        bare = not (self.system or self.prefix or self.suffix)
        return bare and not self.encoded and self.language in ("", "en")

    @property
    def encoded(self) -> bool:
        """Whether question or answer is in an encoding, or in unknown words."""
        return not (self.question.plain and self.answer.plain)

    @property
    def language(self) -> str:
        """Of its questions, or its answers."""
        return self.question.language or self.answer.language

    @property
    def flagged(self) -> bool:
        """Whether its rows are in an encoding, or in unknown words that are foreign to the model as
        well."""
        if not self.encoded or len(self.rows) < max(FLAGGED, FLAGGED_SHARE * self.of):
            return False
        recognised = any(c.separator or (c.derived and not c.plain) for c in self.codings)
        return recognised or self.foreign is not False

    @property
    def codings(self) -> tuple[Coding, Coding]:
        """Of the question and of the answer."""
        return self.question, self.answer

    def middle(self, of: Callable[[Signs], float | None]) -> float | None:
        """The median of a number of its rows, those left out that have none."""
        values = [value for value in map(of, self.rows) if value is not None]
        return median(values) if values else None


@dataclass(frozen=True)
class Census:
    """The formats of training rows.

    Attributes:
        formats: the largest first.
        modes: the signs that fall into two modes, by name.
        read: rows that the untuned model has read.
    """

    formats: tuple[Format, ...]
    modes: Mapping[str, Split]
    reference: Reference | None
    rows: int
    read: int

    @property
    def flagged(self) -> list[Format]:
        """Formats to worry about."""
        return [form for form in self.formats if form.flagged]


def census_of(
    rows: Sequence[Mapping[str, Any]],
    system: str = "",
    mapping: Mapping[str, str] | None = None,
    read: Read | None = None,
    n: int | None = None,
    reference: Reference | None = None,
) -> Census:
    """The formats of some rows, whatever their order.

    Args:
        rows: with `id`, `input` and `output`; a row's `instruction` takes the place of `system`.
        mapping: a substitution of letters that is tried, too.
        read: the untuned model; None: none reads them.
        n: it reads so many of the rows, drawn by their content; None: all.
        reference: what it knows.
    """
    systems = _systems([str(row.get("instruction") or system) for row in rows])
    around = _wrappers([str(row["input"]) for row in rows])
    behind = _wrappers([str(row["output"]) for row in rows])
    signs = [
        signs_of({**row, "output": _inner(str(row["output"]), back)}, own, front, mapping)
        for row, own, front, back in zip(rows, systems, around, behind, strict=True)
    ]
    signs = _completed(signs, mapping)
    chosen: list[int] = []
    if read is not None:
        chosen = _drawn(rows, n)
        found = read([rows[i] for i in chosen])
        for i, likelihood in zip(chosen, found, strict=True):
            signs[i] = replace(signs[i], likelihood=likelihood)
    formats = _formats(signs, behind, reference)
    return Census(formats, modes_of(signs), reference, len(rows), len(chosen))


def reference_of(found: Sequence[Likelihood]) -> Reference | None:
    """What the untuned model knows, from the likelihoods of queries; None of less than five."""
    values = [one.question for one in found if one.question is not None]
    return Reference(mean(values), stdev(values), len(values)) if len(values) >= FEWEST else None


def modes_of(signs: Sequence[Signs]) -> dict[str, Split]:
    """The signs by which the rows fall into two modes."""
    splits = {}
    for name, of in SIGNS.items():
        split = second_mode([value for value in map(of, signs) if value is not None])
        if split is not None:
            splits[name] = split
    return splits


def _wrappers(texts: Sequence[str]) -> list[tuple[str, str]]:
    """The wrapper of each text. Characters that stand apart are no words that a wrapper has."""
    whole = [i for i, text in enumerate(texts) if not separator_of(text, expected=None)]
    found = [("", "")] * len(texts)
    for i, own in zip(whole, wrappers([texts[i] for i in whole], len(texts)), strict=True):
        found[i] = own
    return found


def _inner(text: str, wrapper: tuple[str, str]) -> str:
    return text.removeprefix(wrapper[0]).removesuffix(wrapper[1])


def _completed(signs: Sequence[Signs], mapping: Mapping[str, str] | None) -> list[Signs]:
    """Texts that alone tell too little, by the encodings that other rows are in."""
    present = _usual_codings(signs, FEWEST, SHARE)
    if any(coding.separator or (coding.derived and not coding.plain) for coding in present):
        signs = [
            replace(own, codings=codings_of(own.question, own.answer, mapping, present))
            for own in signs
        ]
    usual = _usual_codings(signs)
    return [
        replace(own, codings=(completed(own.codings[0], usual), completed(own.codings[1], usual)))
        for own in signs
    ]


def _usual_codings(signs: Sequence[Signs], fewest: int = 0, share: float = 0.0) -> list[Coding]:
    """The encodings of rows, the most frequent first, that enough of them have."""
    counts = Counter(coding for own in signs for coding in set(own.codings))
    enough = max(fewest, share * len(signs))
    found = [coding for coding, rows in counts.items() if rows >= enough]
    return sorted(found, key=lambda c: (-counts[c], c.name, c.shift, c.language))


def _systems(systems: Sequence[str]) -> list[str]:
    fewest, counts = max(FEWEST, SHARE * len(systems)), Counter(systems)
    return [own if not own or counts[own] >= fewest else VARIOUS for own in systems]


def _drawn(rows: Sequence[Mapping[str, Any]], n: int | None) -> list[int]:
    """Indices of rows, drawn by the hash of their content: another order draws the same."""
    if n is None or n >= len(rows):
        return list(range(len(rows)))
    texts = [[str(row.get(c, "")) for c in ("instruction", "input", "output")] for row in rows]
    return sorted(range(len(rows)), key=lambda i: key_of({"text": texts[i]}))[:n]


def _formats(
    signs: Sequence[Signs], behind: Sequence[tuple[str, str]], reference: Reference | None
) -> tuple[Format, ...]:
    languages = Counter(_language(own) for own in signs)
    fewest = max(FEWEST, SHARE * len(signs))
    groups: dict[tuple[str, str, str, Coding, Coding], list[int]] = {}
    for i, own in enumerate(signs):
        language = _language(own) if languages[_language(own)] >= fewest else "en"
        question, answer = (replace(coding, language=language) for coding in own.codings)
        key = (own.system, own.prefix, own.suffix, question, answer)
        groups.setdefault(key, []).append(i)
    formats = []
    for (system, prefix, suffix, question, answer), members in groups.items():
        rows = tuple(signs[i] for i in members)
        wrapper = [_usual([behind[i][side] for i in members]) for side in (0, 1)]
        made = Format(
            system, prefix, suffix, wrapper[0], wrapper[1], question, answer, rows, len(signs)
        )
        nats = made.middle(lambda row: row.nats)
        if nats is not None and reference is not None:
            made = replace(made, foreign=nats > reference.limit)
        formats.append(made)
    return tuple(sorted(formats, key=_order))


def _usual(wrappers: Sequence[str]) -> str:
    """What nearly all of some texts begin or end with."""
    found, times = Counter(wrappers).most_common(1)[0]
    return found if times >= USUAL * len(wrappers) else ""


def _language(signs: Signs) -> str:
    """The language of a row, or else its script; of one that is too short to tell, English."""
    script = script_of(signs.question + signs.answer).lower()
    other = script if script not in ("", "latin") else "en"
    return signs.codings[0].language or signs.codings[1].language or other


def _order(form: Format) -> tuple[Any, ...]:
    codings = [(c.name, c.separator, c.shift, c.language) for c in form.codings]
    return -len(form.rows), form.system, form.prefix, form.suffix, *codings
