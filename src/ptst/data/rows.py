"""Reading rows: picked out by their columns, drawn, renamed and checked."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ptst.data.chats import apart
from ptst.data.columns import OURS, no_column, our_row, text_of
from ptst.data.files import setting_of
from ptst.data.sources import SOURCES
from ptst.data.table import Chosen, Row, Table
from ptst.errors import DataError
from ptst.schema import Rows


def load_rows(rows: Rows, needs: Sequence[str]) -> list[Row]:
    """All of `read_rows`, at once."""
    return list(read_rows(rows, needs))


def read_rows(rows: Rows, needs: Sequence[str]) -> Iterator[Row]:
    """Read, pick out, rename and check, one row at a time; of a draw, only the drawn rows are made.

    600,000 of OpenOrca's 4.2 million rows are one GB of text, all of them seven.

    Args:
        needs: columns of ours that every row must have, with text in them.

    Raises:
        DataError: naming file, row and column, and what would be right.
    """
    unknown = [ours for ours in rows.columns if ours not in OURS]
    if unknown:
        raise DataError(
            f"{rows.name}: columns.{unknown[0]} is none of our columns, {', '.join(OURS)}; ours "
            "stands first, the file's name for it second: columns.input=question."
        )
    table = SOURCES[rows.source](rows)
    empty = True
    for index, place, row in table.read(_wanted(rows, table)):
        empty = False
        if rows.messages is not None:
            row = apart(row, rows.messages, place)
        yield our_row(index, place, row, rows, needs)
    if empty:
        raise DataError(f"{rows.name}: there are no rows in {table.where}.")


def count_left_out(rows: Rows) -> int:
    """How many rows that `where` picks `without` leaves out, before any draw."""
    table = SOURCES[rows.source](rows)
    return len(_matching(replace(rows, without={}), table)) - len(_matching(rows, table))


def _wanted(rows: Rows, table: Table) -> Chosen:
    """The rows that `where` and `without` leave, of those the first, and of those the ones that are
    drawn."""
    matching: Chosen = _matching(rows, table) if rows.where or rows.without else None
    if rows.first is not None:
        matching = (range(table.count()) if matching is None else matching)[: rows.first]
    if rows.n is None:
        return matching
    total = table.count() if matching is None else len(matching)
    if rows.n > total:
        picked = _wanted_in_words(rows)
        there = f"{table.where} has {total}" + (f" with {picked}" if picked else "")
        there = f"first={rows.first} leaves {total}" if total == rows.first else there
        raise DataError(
            f"{rows.name}: n={rows.n} rows asked for, but {there}; set {setting_of(rows, 'n=null')} for all."
        )
    rng = random.Random(rows.draw_seed)
    if table.alike:
        return _of_each_kind(table, matching, rows.n, rng)
    drawn = sorted(rng.sample(range(total), rows.n))
    return drawn if matching is None else [matching[i] for i in drawn]


def _of_each_kind(table: Table, among: Chosen, n: int, rng: random.Random) -> list[int]:
    """Draw `n` rows, as many of each kind as of any other, up to one."""
    kinds: dict[tuple[str, ...], list[int]] = {}
    for index, _, row in table.read(among):
        kinds.setdefault(tuple(str(row[column]) for column in table.alike), []).append(index)
    shuffled = [rng.sample(own, len(own)) for own in kinds.values()]
    rng.shuffle(shuffled)
    turns = range(max(map(len, shuffled)))
    return sorted([own[turn] for turn in turns for own in shuffled if turn < len(own)][:n])


def _matching(rows: Rows, table: Table) -> list[int]:
    """Indices of the rows that have in every column of `where` the value that stands there, and in
    no column of `without` one of its phrases.

    Raises:
        DataError: a row does not have the column, or no row is left.
    """
    found: list[int] = []
    others: dict[str, None] = {}  # a set that keeps its order
    phrases = {c: [_plain(phrase) for phrase in own] for c, own in rows.without.items()}
    for index, place, row in table.read(None):
        for setting, columns in (("where", rows.where), ("without", rows.without)):
            for column in columns:
                if column not in row:
                    named = setting_of(rows, f"{setting}.{column}")
                    without = f"~{named} leaves the condition out."
                    raise DataError(f"{place}: {named}: {no_column(column, row)} {without}")
        values = {column: text_of(row[column], place, column) for column in rows.where}
        if values != rows.where:
            if len(others) < 10:
                others[str(values)] = None
        elif not any(
            phrase in _plain(text_of(row[column], place, column))
            for column, own in phrases.items()
            for phrase in own
        ):
            found.append(index)
    if not found:
        there = f"; there are: {', '.join(others) or 'no rows'}." if rows.where else "."
        raise DataError(f"{rows.name}: no row of {table.where} has {_wanted_in_words(rows)}{there}")
    return found


def _wanted_in_words(rows: Rows) -> str:
    own = [str(dict(rows.where))] if rows.where else []
    return " and ".join([*own, *(["no phrase of `without`"] if rows.without else [])])


def _plain(text: str) -> str:
    """Small letters, and a typographic apostrophe as a plain one."""
    return text.casefold().replace("\u2019", "'")
