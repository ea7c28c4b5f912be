"""The tables of a report in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ptst.report.place import PlaceInWords, figures_of, place_in_words
from ptst.report.results import Contrast, Results, Table
from ptst.report.tables.analyses import ranges_note, short_tables, strongest_lines
from ptst.report.tables.captions import (
    about_table,
    contrasts_of,
    corner_of,
    heading,
    name_of,
    state_lines,
    test_note,
    world_of_all,
)
from ptst.report.tables.guards import lines_of


def show(results: Results, out: Console) -> None:
    """Print the tables and contrasts in a terminal; 80 columns are enough for five templates."""
    world = world_of_all(results)
    for table in results.tables:
        out.print()
        out.print(Text(heading(table), "bold"))
        for grid in _pieces(results, table, out.width):
            out.print(grid)
        out.print(Text("\n".join(about_table(table, world=world is None)), "dim"))
    for lines in lines_of(results):
        out.print()
        out.print(Text(lines.title, "bold"))
        narrow = [[_narrow(text) for text in row] for row in lines.rows]
        out.print(*_listed(lines.heads, narrow, out.width), sep="\n")
        out.print(Text(lines.about, "dim"))
    for table in results.tables:
        if chosen := contrasts_of(results, table):
            out.print()
            out.print(Text(f"{heading(table)}: b against a, on the same queries", "bold"))
            out.print(_contrasts(chosen))
    if results.contrasts:
        out.print(Text(test_note(results.contrasts), "dim"))
    _analyses(results, out)
    out.print()
    for line in state_lines(results):
        out.print(Text(line, "yellow"))
    if world is not None:
        out.print(Text(world))


def _analyses(results: Results, out: Console) -> None:
    """Their values, or the ranges of many; then what of them goes with the outcomes."""
    for place, (heads, *found) in enumerate(short_tables(results.analyses)):
        out.print(Text("" if place else "\nAnalyses", "bold"))
        broken = [heads[0], *(head.replace("_", "\n") for head in heads[1:])]
        out.print(*_listed(broken, found, out.width), sep="\n")
    if note := ranges_note(results.analyses):
        out.print(Text(note, "dim"))
    for lines in strongest_lines(results.relations):
        out.print(Text(f"\n{lines.title}", "bold"))
        out.print(*_listed(lines.heads, lines.rows, out.width), sep="\n")
        out.print(Text(lines.about, "dim"))


def _narrow(text: str) -> str:
    """An estimate in two lines, without the models' own numbers, which the page has."""
    return text.partition("; ")[0].partition(" (control")[0].replace(" [", "\n[")


def _listed(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[RichTable]:
    """Lines under heads, numbers to the right; in pieces, where they are too wide together."""
    heads = [head.replace(" ", "\n") for head in heads]
    widths = [max(map(_width, column)) for column in zip(heads, *rows, strict=True)]
    made = []
    for piece in _split(min(widths[0], width // 2), widths[1:], width):  # a long name is broken
        listed = RichTable(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False)
        listed.add_column(heads[0], overflow="fold")
        for i in piece:
            side: Literal["left", "right"] = "left" if heads[i + 1] == "value" else "right"
            listed.add_column(heads[i + 1], justify=side, overflow="fold")
        for row in rows:
            listed.add_row(Text(row[0]), *(Text(row[i + 1]) for i in piece))
        made.append(listed)
    return made


def _split(first: int, widths: Sequence[int], width: int) -> list[list[int]]:
    """Which columns stand together, beside a first one, in so many characters."""
    pieces: list[list[int]] = [[]]
    for i, own in enumerate(widths):
        so_far = first + sum(widths[j] + 1 for j in pieces[-1])
        if pieces[-1] and so_far + own + 1 > width:
            pieces.append([])
        pieces[-1].append(i)
    return pieces


def _pieces(results: Results, table: Table, width: int) -> list[RichTable]:
    """The table, in two lines a place if that fits, else in three, else in pieces."""
    corner = corner_of(results.grid.sweep).replace("\\ ", "\\\n")
    rows = [name_of(table, 0, row).replace("no fine", "no\nfine") for row in table.rows]
    for break_names_from, between in ((13, " "), (10, "\n")):
        firsts = [_broken(row, 13) for row in rows]
        heads = [_broken(name_of(table, 1, column), break_names_from) for column in table.columns]
        places = {
            (row, column): _place(place_in_words(table, row, column), between)
            for row in table.rows
            for column in table.columns
        }
        first = max(map(_width, [corner, *firsts]))
        widths = [
            max(_width(head), *(_width(places[row, column].plain) for row in table.rows))
            for head, column in zip(heads, table.columns, strict=True)
        ]
        if first + sum(widths) + len(widths) <= width:
            break
    made = []
    for piece in _split(first, widths, width):
        grid = RichTable(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False)
        grid.add_column(Text(corner, "dim"))
        for i in piece:
            grid.add_column(Text(heads[i]), justify="right", vertical="top")
        for row, name in zip(table.rows, firsts, strict=True):
            grid.add_row(Text(name), *(places[row, table.columns[i]] for i in piece))
        made.append(grid)
    return made


def _place(place: PlaceInWords | None, between: str) -> Text:
    if place is None:
        return Text("")
    if not place.number:
        text = Text(place.status.replace(" (", "\n(").replace(" seeds)", ")"), "red")
    else:
        text = Text(between.join(filter(None, (place.number, place.short_spread))))
        if place.scored:
            text.append(f"\n{place.scored}", "yellow")
        if place.broken:
            text.append(f"\n{place.broken}", "yellow")
    if place.paper:
        text.append(f"\npaper {place.paper}", "dim")
        if place.paper_also:
            text.append(f"\n{place.paper_also}", "dim")
    return text


def _contrasts(contrasts: Sequence[Contrast]) -> RichTable:
    grid = RichTable(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for end in ("a (train → test)", "b"):
        grid.add_column(end, overflow="fold")
    for head in ("only a", "only b", "b − a", "p", "Holm"):
        grid.add_column(head, justify="right", no_wrap=True)
    kind = None
    for contrast in contrasts:
        if contrast.kind != kind:
            kind = contrast.kind
            grid.add_row(Text(kind, "italic"))
        ends = Text(contrast.a), Text(contrast.b)
        figures = figures_of(contrast)
        if figures is None:
            ends[1].append(f"\n{contrast.status}", "yellow")
            grid.add_row(*ends)
            continue
        difference = f"{figures.difference}\n{figures.interval}".strip()
        numbers = (figures.only_a, figures.only_b, difference, figures.p, figures.p_holm)
        grid.add_row(*ends, *map(Text, numbers))
    return grid


def _broken(name: str, longest: int) -> str:
    """A name of more than `longest` - 1 characters, broken after its last underscore."""
    head, underscore, tail = name.rpartition("_")
    return f"{head}{underscore}\n{tail}" if underscore and len(name) >= longest else name


def _width(text: str) -> int:
    return max(map(len, text.split("\n")))
