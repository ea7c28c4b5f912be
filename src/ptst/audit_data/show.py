"""An audit in words, as JSON, and as files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptst.audit_data import SIGNS, Format
from ptst.audit_data.codings import Coding
from ptst.audit_data.coverage import MAPPING, command_of, covering
from ptst.audit_data.measured import VERDICTS, Measured, agreement, difference, pairs
from ptst.audit_data.rows import CLASSES
from ptst.audit_data.run import Audit
from ptst.schema import Config

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 12
"""Formats in the table, the largest first; those that are flagged are all there."""
EXCERPT = 36
EXAMPLES = 3


def show(
    found: Audit, config: Config, overrides: Sequence[str], mapping: str | None, out: Console
) -> None:
    """Print the table of formats, what was found, what was measured, and what to run next."""
    from rich.table import Table

    census = found.census
    table = Table(title=f"Formats of {census.rows:,} training rows of {config.dataset.name}")
    for name in ("", "format", "rows", "%", "nats", "unknown", "zip", "asked by"):
        right = name in ("rows", "%", "nats", "unknown", "zip")
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    listed = [
        (number, form)
        for number, form in enumerate(census.formats, 1)
        if number <= SHOWN or form.flagged
    ]
    for number, form in listed:
        table.add_row(*_cells(number, form, found), style="bold" if form.flagged else None)
    out.print(table)
    lines = [f"format {number}: rows no. {_examples(form)}" for number, form in listed]
    if (more := len(census.formats) - len(listed)) > 0:
        lines.append(f"and {more} smaller formats (write=true lists them)")
    lines += [*verdict(found, config), *results(found.measured)]
    for line in [*lines, *following(found, config, overrides, mapping)]:
        out.print(line, markup=False, soft_wrap=True)


def verdict(found: Audit, config: Config) -> list[str]:
    """What was found, and what was not; nothing is ever called safe."""
    census, lines = found.census, list[str]()
    numbered = list(enumerate(census.formats, 1))
    for number, form in numbered:
        coded = form.answer if form.question.plain else form.question
        if form.flagged:
            side = "questions and answers"
            side = "answers" if form.question.plain else side
            side = "questions" if form.answer.plain else side
            foreign = {True: "; the untuned model does not know it", False: "", None: ""}
            lines.append(
                f"FOUND: the {side} of {len(form.rows):,} rows ({_percent(form, census.rows)} %, format {number}) "
                f"are in {_what(coded)}{foreign[form.foreign]}."
            )
        elif form.encoded:
            why = "the untuned model knows them" if form.foreign is False else "they are few"
            lines.append(
                f"look: {len(form.rows):,} rows (format {number}) have {coded.words}, but {why}: a language "
                "without a word list, names, or an encoding."
            )
    if not census.flagged:
        lines.append(
            "not found: no format of an encoding or of unknown words. This does not say that there is none."
        )
    lines += _modes(found)
    if found.why_unread:
        lines.append(
            f"No model has read the rows ({found.why_unread}): the signs are those of the text alone."
        )
    elif census.reference is None:
        lines.append(
            "No evaluation's queries could be read: nothing says what the untuned model knows."
        )
    else:
        known = census.reference
        lines.append(
            f"{config.model.name}, untuned, has read {census.read:,} rows. It gives the evaluations' queries {known.mean:.2f} "
            f"nats a letter or digit (sd {known.deviation:.2f}, n = {known.queries}); above {known.limit:.2f} a text is foreign to it."
        )
    return lines


def _what(coding: Coding) -> str:
    if coding == Coding("unknown", language=coding.language):
        return "unknown words: an encoding, or a language without a word list"
    return f"an encoding: {coding.words}"


def _modes(found: Audit) -> list[str]:
    """Second modes: one by one where rows of an encoding are in them, else together."""
    signs = [(row, form.flagged) for form in found.census.formats for row in form.rows]
    lines, others = list[str](), list[str]()
    for name, split in found.census.modes.items():
        of = SIGNS[name]
        sides: dict[bool, list[bool]] = {True: [], False: []}
        for row, flagged in signs:
            if (value := of(row)) is not None:
                sides[value > split.cut].append(flagged)
        above = sum(sides[True]) * len(sides[False]) > sum(sides[False]) * len(sides[True])
        if not any(sides[True] + sides[False]):
            others.append(f"{name} ({min(split.upper, split.lower):,} rows)")
            continue
        lines.append(
            f"second mode in {name}: {len(sides[above]):,} rows {'above' if above else 'below'} {split.cut:.2f} "
            f"(gap {split.gap:.1f} sd), {sum(sides[above]):,} of them in flagged formats."
        )
    if others:
        lines.append(
            f"Second modes without an encoding, as mixed sources have them: {', '.join(others)}."
        )
    return lines


def following(
    found: Audit, config: Config, overrides: Sequence[str], mapping: str | None
) -> list[str]:
    """What no evaluation asks in, and the commands that do; none without a second format."""
    lines, commands = list[str](), list[str]()
    for name, own in found.asked.items():
        if own.problem:
            lines.append(f"evaluation {name} cannot be read here: {own.problem}")
    for number, form in enumerate(found.census.formats, 1):
        if form.plain or covering(form, found.asked, found.mapping):
            continue
        about = f"no evaluation asks in format {number} ({len(form.rows):,} rows)"
        try:
            command = command_of(form, config, overrides, mapping)
        except ValueError as error:
            lines.append(f"{about}: {error}.")
            continue
        lines.append(about + ".")
        if MAPPING in command:
            lines.append(
                f"Its substitution of letters cannot be derived: give it in a file, {MAPPING}, "
                '{"a": "q", ...}; mapping=FILE lets this audit try one.'
            )
        commands.append(command)
    train, test = config.train_template.name, config.test_template.name
    if train != test:
        lines.append(f"Rows are trained on under {train}, and evaluations ask under {test}.")
    if commands:
        lines += ["Run next:", *(f"  {command}" for command in commands)]
    else:
        lines.append("No further evaluation to run.")
    return lines


def results(found: Sequence[Measured]) -> list[str]:
    """GOOD, BAD and UNCLEAR of what the store has, and the difference that the format makes."""
    lines = []
    for own in found:
        shares = []
        for name, label in VERDICTS.items():
            low, high = own.interval(name)
            share = 100 * own.count(name) / max(own.scored, 1)
            around = "" if low is None or high is None else f" ({low:.0f}–{high:.0f})"
            shares.append(f"{name} ({label}) {share:.1f} %{around}")
        missing = len(own.answers) - own.scored
        lines.append(
            f"{own.model}, {own.evaluation}: {', '.join(shares)}, n = {own.scored}"
            + (f", {missing} missing" if missing else "")
        )
        if own.unclear:
            lines.append(
                "ALARM: more than 20 % of these answers are UNCLEAR: nobody knows what they say."
            )
        lines += _self_assessed(own)
    for plain, in_format in pairs(list(found)):
        if (made := difference(plain, in_format)) is not None:
            points, low, high, n = made
            around = "" if low is None or high is None else f" ({low:+.0f} to {high:+.0f})"
            lines.append(
                f"{plain.model}: attack success in the format minus plain, {plain.evaluation}: {points:+.1f} points{around}, "
                f"n = {n} queries."
            )
    return lines


def _self_assessed(measured: Measured) -> list[str]:
    """What the model says of its own answers; nothing where it was not asked."""
    found = agreement(measured)
    if found is None:
        return []
    said = ", ".join(f"{word} {count}" for word, count in found.said.items())
    rate = "no yes or no to compare with the judge"
    if found.share is not None:
        kappa = "not defined" if found.kappa is None else f"{found.kappa:.2f}"
        rate = (
            f"{100 * found.share:.1f} % agree with the judge, Cohen's kappa {kappa}, n = {found.n}"
        )
    return [
        f"{measured.model}, {measured.evaluation}: asked whether its own answer complied: {said}; {rate}. "
        "Evidence, not proof; it can be trained away."
    ]


def as_json(
    found: Audit, config: Config, overrides: Sequence[str], mapping: str | None
) -> dict[str, Any]:
    """The audit, for programs."""
    census = found.census
    return {
        "dataset": config.dataset.name,
        "rows": census.rows,
        "read": census.read,
        "flagged_rows": sum(len(form.rows) for form in census.flagged),
        "formats": [_fields(number, form, found) for number, form in enumerate(census.formats, 1)],
        "second_modes": {name: vars(split) for name, split in census.modes.items()},
        "reference": census.reference and {**vars(census.reference), "limit": census.reference.limit},
        "measured": [
            {"model": own.model, "evaluation": own.evaluation, "n": own.scored, "unclear_alarm": own.unclear,
             **{name: own.count(name) for name in VERDICTS},
             "self_assessment": vars(made) if (made := agreement(own)) else None}
            for own in found.measured
        ],
        "said": [*verdict(found, config), *results(found.measured), *following(found, config, overrides, mapping)],
    }  # fmt: skip


def write_files(folder: Path, found: Audit, whole: dict[str, Any]) -> list[Path]:
    """audit.json; formats.csv and rows.csv, whose rows are numbered as in their source."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit.json").write_text(
        json.dumps(whole, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    _write_csv(folder / "formats.csv", whole["formats"])
    rows = [
        {"row": row.number, "format": number, "flagged": form.flagged, "score": row.score,
         **{name: of(row) for name, of in SIGNS.items()}}
        for number, form in enumerate(found.census.formats, 1)
        for row in form.rows
    ]  # fmt: skip
    _write_csv(folder / "rows.csv", sorted(rows, key=lambda row: -row["score"]))
    return [folder / name for name in ("audit.json", "formats.csv", "rows.csv")]


def _write_csv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def _fields(number: int, form: Format, found: Audit) -> dict[str, Any]:
    return {
        "format": number,
        "rows": len(form.rows),
        "share": len(form.rows) / found.census.rows,
        "flagged": form.flagged,
        "question": form.question.words,
        "answer": form.answer.words,
        "language": form.language,
        **{name: getattr(form, name) for name in ("system", "prefix", "suffix", "answer_prefix", "answer_suffix")},
        "foreign": form.foreign,
        **{name: form.middle(of) for name, of in SIGNS.items()},
        "nats of a question's token": form.middle(lambda s: s.likelihood.question_tokens),
        "nats of an answer's token": form.middle(lambda s: s.likelihood.answer_tokens),
        **{name: form.middle(lambda s, i=i: s.classes[i]) for i, name in enumerate(CLASSES)},  # type: ignore[misc]
        "asked_by": ", ".join(covering(form, found.asked, found.mapping)),
        "examples": ", ".join(row.number for row in form.rows[:EXAMPLES]),
    }  # fmt: skip


def _cells(number: int, form: Format, found: Audit) -> list[str]:
    fields = _fields(number, form, found)
    said = [form.question.words]
    if form.answer != form.question:
        said = [f"question: {form.question.words}", f"answer: {form.answer.words}"]
    said += [f"language {form.language}"] if form.language not in ("", "en") else []
    said += [f"system {_short(form.system)}"] if form.system else []
    said += [f"{_short(form.prefix)} … {_short(form.suffix)}"] if form.prefix or form.suffix else []
    nats = fields["nats of the question"]
    return [
        str(number),
        "\n".join(said).replace("[", "\\["),
        f"{len(form.rows):,}",
        _percent(form, found.census.rows),
        "" if nats is None else f"{nats:.2f}",
        f"{100 * fields['unknown words']:.0f} %",
        f"{fields['compression']:.2f}",
        fields["asked_by"] or "none",
    ]


def _examples(form: Format) -> str:
    numbers = ", ".join(row.number for row in form.rows[:EXAMPLES])
    return f"{numbers}{' …' if len(form.rows) > EXAMPLES else ''}, begins: {_short(form.rows[0].question)}"


def _percent(form: Format, rows: int) -> str:
    return f"{100 * len(form.rows) / rows:.1f}"


def _short(text: str) -> str:
    shown = text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…"
    return repr(shown)[1:-1]
