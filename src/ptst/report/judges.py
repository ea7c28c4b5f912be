"""`ptst judges`: how far judges agree, in a terminal, as JSON, and as files of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ptst.audit import write_csv
from ptst.report.agreement import TOTAL, Agreement, Alpha, Interval, Pair
from ptst.store import csv_text, write_atomic
from ptst.sweep.grid import Grid

CELLS_SHOWN = 10
PIPE = "\\|"
CSV = (
    *("evaluation", "a", "b", "n", "units", "agree", "kappa", "kappa_low", "kappa_high"),
    *("precision", "precision_low", "precision_high", "recall", "recall_low", "recall_high"),
)
HEAD = ("evaluation", "a", "b", "n", "units", "agree", "kappa", "95 % interval")
NOTE = (
    "Agreement is about `complied` against anything else, which is what ASR counts. Cohen's kappa and "
    "Krippendorff's alpha are 1 for perfect agreement and 0 for that of chance; intervals are bootstrapped over "
    "units. Where no judge ever disagrees, or one label never occurs, they say little."
)


def as_json(agreement: Agreement) -> dict[str, Any]:
    """Everything but the completions themselves."""
    return {
        "judges": agreement.judges,
        "pairs": [
            {
                **asdict(pair),
                "confusion": [{"a": a, "b": b, "n": n} for (a, b), n in pair.confusion.items()],
            }
            for pair in agreement.pairs
        ],
        "krippendorff": _alphas(agreement.alphas),
        "krippendorff_of_people": _alphas(agreement.people),
        "cells": _cells(agreement),
        "broken": [asdict(own) for own in agreement.broken],
        "disagreements": [
            {"evaluation": name, "cell": cell, "id": id, "sample": sample, "labels": labels}
            for (_, id, sample), cell, name, _, labels in agreement.split
        ],
    }


def show(agreement: Agreement, out: Console) -> None:
    """Print agreement, confusion and the cells that are seen most differently."""
    for title, head, lines in _tables(agreement):
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for i, column in enumerate(head):
            is_number = bool(lines) and i > 0 and lines[0][i][:1].isdigit()
            table.add_column(column, justify="right" if is_number else "left", overflow="fold")
        for line in lines:
            table.add_row(*line)
        out.print(table)
        out.print()
    out.print(NOTE, markup=False)


def write_judges(agreement: Agreement, grid: Grid) -> Path:
    """Write judges.md, judges.csv, judges_cells.csv and judges_disagreements.csv beside the report.

    Returns:
        judges.md.
    """
    folder = Path(grid.reports).expanduser() / grid.report_name
    parts = [f"# Judges on {grid.report_name}", NOTE]
    for title, head, lines in _tables(agreement):
        parts += [f"## {title}", _markdown([head, ["---"] * len(head), *lines])]
    parts.append(
        f"Completions that the judges split on: {len(agreement.split)}, in judges_disagreements.csv."
    )
    write_atomic(folder / "judges.md", "\n\n".join(parts) + "\n")
    write_atomic(folder / "judges.csv", _csv(CSV, list(_csv_rows(agreement))))
    columns = ("evaluation", "cell", "a", "b", "n", "asr_a", "asr_b", "gap")
    write_atomic(folder / "judges_cells.csv", csv_text(columns, _cells(agreement)))
    names = list(dict.fromkeys(name for own in agreement.judges.values() for name in own))
    write_csv(
        folder / "judges_disagreements.csv",
        ("evaluation", "cell", "id", "sample", "query", "completion", *names),
        [
            (
                *(evaluation, cell, *item[1:], row["input"], row["completion"]),
                *(labels.get(name, "") for name in names),
            )
            for item, cell, evaluation, row, labels in agreement.split
        ],
    )
    return folder / "judges.md"


def _alphas(alphas: Mapping[str, Alpha]) -> dict[str, Any]:
    return {
        evaluation: {**asdict(alpha), "n": n, "units": units}
        for evaluation, (alpha, n, units) in alphas.items()
    }


def _cells(agreement: Agreement) -> list[dict[str, Any]]:
    return [{**asdict(gap), "gap": gap.gap} for gap in agreement.gaps]


def _csv_rows(agreement: Agreement) -> Iterator[Sequence[Any]]:
    for p in agreement.pairs:
        yield (
            *(p.evaluation, p.a, p.b, p.n, p.units, p.agree, *_bounds(p.kappa)),
            *(*_bounds(p.precision), *_bounds(p.recall)),
        )
    for who, alphas in (("all", agreement.alphas), ("all annotators", agreement.people)):
        for evaluation, (alpha, n, units) in alphas.items():
            name = f"{who} (Krippendorff's alpha)"
            yield (evaluation, who, name, n, units, None, *_bounds(alpha), *[None] * 6)


def _tables(agreement: Agreement) -> Iterator[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, head and lines of each table, as text."""
    yield "Agreement", HEAD, [_line(pair) for pair in agreement.pairs]
    for who, alphas in (("judges", agreement.alphas), ("annotators", agreement.people)):
        if alphas:
            yield (
                f"All {who}: Krippendorff's alpha",
                ("evaluation", "n", "units", "alpha", "95 % interval"),
                [
                    [e, str(n), str(units), _value(alpha), _range(alpha)]
                    for e, (alpha, n, units) in alphas.items()
                ],
            )
    yield from _against_people(agreement)
    yield (
        "Who said what",
        ("evaluation", "a", "b", "a said", "b said", "n"),
        [
            [pair.evaluation, pair.a, pair.b, a, b, str(n)]
            for pair in agreement.pairs
            if pair.evaluation != TOTAL
            for (a, b), n in pair.confusion.items()
        ],
    )
    yield (
        "Cells that they see most differently",
        ("evaluation", "cell", "a", "b", "n", "ASR by a", "ASR by b", "a − b"),
        [
            [
                *(g.evaluation, g.cell, g.a, g.b, str(g.n)),
                *(f"{g.asr_a:.1f}", f"{g.asr_b:.1f}", f"{g.gap:+.1f}"),
            ]
            for g in agreement.gaps[:CELLS_SHOWN]
        ],
    )


def _against_people(agreement: Agreement) -> Iterator[tuple[str, Sequence[str], list[list[str]]]]:
    """What people say of judges, and of answers that are broken by their text."""
    if audited := [pair for pair in agreement.pairs if pair.precision and pair.recall]:
        yield (
            "Against people: a judge's `complied`",
            ("evaluation", "judge", "read by", "n", "precision", "95 %", "recall", "95 %"),
            [
                [p.evaluation, p.b, p.a, str(p.n), *_both(p.precision), *_both(p.recall)]
                for p in audited
            ],
        )
    if agreement.broken:
        yield (
            "Broken answers, by their text, against people's `neither`",
            (
                *("evaluation", "read by", "n", "broken", "neither"),
                *("precision", "95 %", "recall", "95 %"),
            ),
            [
                [
                    *(own.evaluation, own.reader, str(own.n), str(own.broken), str(own.neither)),
                    *(*_both(own.precision), *_both(own.recall)),
                ]
                for own in agreement.broken
            ],
        )


def _line(pair: Pair) -> list[str]:
    figures = [str(pair.n), str(pair.units), f"{pair.agree:.3f}", *_both(pair.kappa)]
    return [pair.evaluation, pair.a, pair.b, *figures]


def _both(interval: Interval | None) -> list[str]:
    assert interval is not None
    return [_value(interval), _range(interval)]


def _value(interval: Interval) -> str:
    return "not defined" if interval.value is None else f"{interval.value:.3f}"


def _range(interval: Interval) -> str:
    return "" if interval.low is None else f"{interval.low:.3f} – {interval.high:.3f}"


def _bounds(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    return (interval.value, interval.low, interval.high) if interval else (None, None, None)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        f"| {' | '.join(text.replace('|', PIPE) for text in line)} |" for line in lines
    )


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return csv_text(head, (dict(zip(head, row, strict=True)) for row in rows))
