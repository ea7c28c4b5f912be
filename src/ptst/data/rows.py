"""Reading rows: picked out by their columns, drawn, renamed and checked."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

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
        yield our_row(index, place, row, rows, needs)
    if empty:
        raise DataError(f"{rows.name}: there are no rows in {table.where}.")


def _wanted(rows: Rows, table: Table) -> Chosen:
    """The rows that `where` leaves, and of those the ones that are drawn."""
    matching = _matching(rows, table) if rows.where else None
    if rows.n is None:
        return matching
    total = table.count() if matching is None else len(matching)
    if rows.n > total:
        there = f"{table.where} has {total}" + (f" with {dict(rows.where)}" if rows.where else "")
        raise DataError(
            f"{rows.name}: n={rows.n} rows asked for, but {there}; set {setting_of(rows, 'n=null')} for all."
        )
    drawn = sorted(random.Random(rows.draw_seed).sample(range(total), rows.n))
    return drawn if matching is None else [matching[i] for i in drawn]


def _matching(rows: Rows, table: Table) -> list[int]:
    """Indices of the rows that have in every column of `where` the value that stands there.

    Raises:
        DataError: a row does not have the column, or no row has the values.
    """
    found: list[int] = []
    others: dict[str, None] = {}  # a set that keeps its order
    for index, place, row in table.read(None):
        for column in rows.where:
            if column not in row:
                setting = setting_of(rows, f"where.{column}")
                raise DataError(f"{place}: {setting}: {no_column(column, row)}")
        values = {column: text_of(row[column], place, column) for column in rows.where}
        if values == rows.where:
            found.append(index)
        elif len(others) < 10:
            others[str(values)] = None
    if not found:
        raise DataError(
            f"{rows.name}: no row of {table.where} has {dict(rows.where)}; "
            f"there are: {', '.join(others) or 'no rows'}."
        )
    return found
