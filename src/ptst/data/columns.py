"""A file's row as a row here: columns of ours under our names, all others as they are."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from typing import Any

from ptst.data.files import (
    DELIMITERS,
    column_setting,
    files_of,
    kind_of,
    other_delimiter,
    setting_of,
)
from ptst.data.table import Row
from ptst.errors import DataError
from ptst.schema import Rows

OURS = ("input", "output", "instruction")


def our_row(index: int, place: str, row: Row, rows: Rows, needs: Sequence[str]) -> Row:
    theirs = {ours: rows.columns[ours] for ours in OURS if ours in rows.columns}
    theirs = {**{ours: ours for ours in needs}, **theirs}
    made: Row = {"id": str(index)}
    for ours, column in theirs.items():
        if column not in row:
            if ours not in needs and ours not in rows.columns:
                continue
            raise DataError(_missing(ours, column, place, row, rows))
        text = text_of(row[column], place, column)
        if ours in needs and not text.strip():
            empty = "null" if row[column] is None else "empty"
            raise DataError(f"{place}: column {column!r} is {empty}; every row needs text there.")
        made[ours] = text
    if rows.context is not None:
        if rows.context not in row:
            setting = setting_of(rows, f"context={rows.context}")
            raise DataError(f"{place}: {setting}: {no_column(rows.context, row)}")
        further = text_of(row[rows.context], place, rows.context)
        made["input"] += f"\n\n{further}" if further.strip() else ""
    for column, value in row.items():
        if column not in theirs.values():
            name = f"source_{column}" if column in ("id", *OURS) else column
            if name != column and name in row:
                raise DataError(
                    f"{place}: there is a column {name!r}, which is what the file's {column!r} is called "
                    f"here, for {column!r} is ptst's own; give one of them another name."
                )
            made[name] = _kept(value, place, column)
    return made


def _missing(ours: str, column: str, place: str, row: Row, rows: Rows) -> str:
    message = f"{place}: {no_column(column, row)}"
    if hint := other_delimiter(list(row), rows):
        return message + hint
    message += f" Say which one holds the {ours} with {column_setting(rows, ours, 'NAME')}"
    if rows.source in ("local", "url") and rows.header and kind_of(files_of(rows)[0]) in DELIMITERS:
        message += (
            f", or, if the file has no header row, {setting_of(rows, 'header=false')} and "
            f"{column_setting(rows, ours, '0')}"
        )
    return message + "."


def no_column(column: str, row: Row) -> str:
    close = difflib.get_close_matches(column, list(row), n=1)
    names = ", ".join(map(repr, row)) or "none"
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"there is no column {column!r}; the columns are: {names}.{hint}"


def text_of(value: Any, place: str, column: str) -> str:
    """The text of one of our columns; a number's is its usual spelling, null's is empty."""
    if isinstance(value, str):
        if "\0" in value:
            raise DataError(
                f"{place}: column {column!r} holds a NUL character; is the file binary?"
            )
        return _whole(value, place, column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and math.isinf(value):
        raise DataError(_infinite(place, column))
    if isinstance(value, bool | int | float):
        return str(value)
    raise DataError(
        f"{place}: column {column!r} holds a {type(value).__name__}, not text: {str(value)[:60]}."
    )


def _kept(value: Any, place: str, column: str) -> Any:
    """The value of any other column, as the store keeps it.

    What JSON cannot say becomes text, and NaN null.
    """
    if isinstance(value, str):
        return _whole(value, place, column)
    if value is None or isinstance(value, bool | int):
        return value

    def constant(name: str) -> None:
        if name != "NaN":  # which is how data frames say that there is none
            raise DataError(_infinite(place, column))

    text = _whole(json.dumps(value, default=str, ensure_ascii=False), place, column)
    return json.loads(text, parse_constant=constant)


def _infinite(place: str, column: str) -> str:
    return f"{place}: column {column!r} holds an infinite number, which no JSON file can say."


def _whole(text: str, place: str, column: str) -> str:
    """Refuse half a surrogate pair: JSON can spell one, but no file can be written with it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: column {column!r} holds half a surrogate pair "
            f"({text[error.start]!a} at character {error.start + 1}), which is not a character."
        ) from error
    return text
