"""The tables of a report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from ptst.report.place import PlaceInWords, figures_of, place_in_words
from ptst.report.results import Contrast, Results, Table
from ptst.report.tables.analyses import outcome_lines, wide_tables
from ptst.report.tables.captions import (
    about_contrasts,
    about_table,
    contrasts_of,
    corner_of,
    heading,
    name_of,
    state_lines,
    test_note,
    title,
)
from ptst.report.tables.guards import lines_of


def markdown(results: Results) -> str:
    """table.md: a section for every table, then the contrasts with their tests."""
    parts = [f"# {title(results)}", *state_lines(results)]
    for one in lines_of(results):
        parts += [f"## {one.title}", _table(one.heads, one.rows), one.about]
    for table in results.tables:
        parts += _section(table, f"## {heading(table)}", corner_of(results.grid.sweep))
        if table.by_category:
            parts += _section(table.by_category, f"### {heading(table.by_category)}", "")
    if results.contrasts:
        parts += ["## Contrasts: b against a, on the same queries"]
        for table in results.tables:
            if chosen := contrasts_of(results, table):
                parts += _contrasts(table, chosen)
    parts += ["## Analyses"] if results.analyses else []
    for head, *lines in wide_tables(results.analyses):
        parts.append(_table(head, lines))
    for one in outcome_lines(results.relations):
        parts += [f"## {one.title}", _table(one.heads, one.rows), one.about]
    return "\n\n".join(parts) + "\n"


def _section(table: Table, title: str, corner: str) -> list[str]:
    head = [corner, *(name_of(table, 1, column) for column in table.columns)]
    lines = []
    for row in table.rows:
        places = [_place(place_in_words(table, row, column)) for column in table.columns]
        lines.append([name_of(table, 0, row), *places])
    return [title, _table(head, lines), " ".join(about_table(table))]


def _place(place: PlaceInWords | None) -> str:
    if place is None:
        return ""
    paper = f"; paper {place.paper_in_full}" if place.paper else ""
    if not place.number:
        return f"*{place.status}*{paper}"
    number = " ".join(filter(None, (place.number, place.spread)))
    return f"{', '.join(filter(None, (number, place.note, place.broken)))}{paper}"


def _contrasts(table: Table, contrasts: Sequence[Contrast]) -> list[str]:
    points = ", points" if table.scale is None else ""
    head = ["", "a (train → test)", "b (train → test)", "n", "units", "only a", "only b"]
    head += [f"b − a{points}", "95 % interval", "p", "p (Holm)"]
    lines = []
    for contrast in contrasts:
        figures = figures_of(contrast)
        said = astuple(figures) if figures else [*[""] * 4, contrast.status, *[""] * 3]
        lines.append([contrast.kind, contrast.a, contrast.b, *said])
    about = " ".join([*about_contrasts(table, contrasts), test_note(contrasts)])
    return [f"### {heading(table)}", _table(head, lines, words=3), about]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], words: int = 1) -> str:
    """The first columns, as many as `words`, hold text; the others numbers."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    escaped = [[text.replace("|", "\\|") for text in line] for line in (head, rule, *lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
