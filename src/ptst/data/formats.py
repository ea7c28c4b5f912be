"""Readers of files: JSON, JSON Lines, CSV and Parquet, each also packed where that is usual."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptst.data.files import DELIMITERS, column_setting, kind_of, other_delimiter, setting_of
from ptst.data.table import Chosen, Placed, Row, Table, listed, pick
from ptst.errors import DataError
from ptst.schema import Rows

LONGEST_FIELD = 2**31 - 1
"""Characters of a CSV field. Python's own limit, 131,072, is less than a long document."""

HEADERS = frozenset(
    [
        "behavior",
        "behaviour",
        "forbidden_prompt",
        "goal",
        "input",
        "instruction",
        "message",
        "prompt",
        "query",
        "question",
        "request",
        "sentence",
        "text",
        "user",
    ]
)
"""What no query says, but the header of many a column of queries."""


def read_file(file: Path, rows: Rows) -> Table:
    """The table in a file, as its kind is read."""
    suffix = kind_of(file)
    if suffix == ".parquet":
        return _parquet(file)
    if suffix == ".json":
        return listed(str(file), lambda: _json(file, rows))
    if suffix == ".jsonl":
        return Table(
            str(file),
            lambda: sum(1 for _ in _json_lines(file, rows)),
            lambda chosen: _jsonl(file, rows, chosen),
        )
    return Table(
        str(file),
        lambda: sum(1 for _ in _csv(file, rows)),
        lambda chosen: ((i, *placed) for i, placed in pick(_csv(file, rows), chosen)),
    )


def _jsonl(file: Path, rows: Rows, chosen: Chosen) -> Iterator[Placed]:
    # One decoder for all lines: json.loads would make one for each.
    decode = json.JSONDecoder(object_pairs_hook=_pairs).decode
    for index, (place, line) in pick(_json_lines(file, rows), chosen):
        try:
            row = decode(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{place}: not valid JSON ({error.msg} at character {error.pos + 1})."
            ) from error
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
        yield index, place, _object(row, place)


def _json_lines(file: Path, rows: Rows) -> Iterator[tuple[str, str]]:
    """Place and text of every line, but of empty ones at the end."""
    empty = None
    for number, line in _lines(file, rows):
        place = f"{file}:{number}"
        if not line.strip():
            empty = empty or place
            continue
        if empty:
            raise DataError(f"{empty}: an empty line; every line must be one JSON object.")
        yield place, line


def _json(file: Path, rows: Rows) -> list[Row]:
    text = _text_of(file, rows)
    if not text.strip():
        return []
    try:
        found = json.loads(text, object_pairs_hook=_pairs)
    except json.JSONDecodeError as error:
        hint = " It looks like JSON Lines: name it .jsonl." if error.msg == "Extra data" else ""
        raise DataError(f"{file}:{error.lineno}: not valid JSON ({error.msg}).{hint}") from error
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    for key in rows.records.split(".") if rows.records else ():
        if not isinstance(found, dict) or key not in found:
            keys = (
                ", ".join(found) if isinstance(found, dict) else f"none: a {type(found).__name__}"
            )
            setting = setting_of(rows, f"records={rows.records}")
            raise DataError(f"{file}: {setting}: no key {key!r} (there: {keys}).")
        found = found[key]
    if not isinstance(found, list):
        lists = (
            [k for k, v in found.items() if isinstance(v, list)] if isinstance(found, dict) else []
        )
        hint = ""
        if lists:
            hint = f" Set {setting_of(rows, f'records={lists[0]}')} if the rows are there."
        raise DataError(
            f"{file}: must be a list of objects, [{{...}}, ...]; it is a {type(found).__name__}.{hint}"
        )
    return [_object(row, f"{file}, row {number}") for number, row in enumerate(found, start=1)]


def _pairs(pairs: list[tuple[str, Any]]) -> Row:
    """An object from its pairs; Python's own would drop all but the last of a key."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise DataError(f"{_twice([key for key, _ in pairs])} in one object: {str(made)[:60]}")
    return made


def _twice(names: list[str]) -> str:
    return f"the column {next(n for n in names if names.count(n) > 1)!r} stands there twice"


def _object(row: Any, place: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{place}: must be an object, {{...}}; it is a {type(row).__name__}.")
    return row


def _csv(file: Path, rows: Rows) -> Iterator[tuple[str, Row]]:
    # A line of a CSV file may also end with a lone carriage return.
    lines = (part for _, line in _lines(file, rows) for part in io.StringIO(line, newline=""))
    delimiter = rows.delimiter or DELIMITERS[kind_of(file)]
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    empty = None
    while True:
        place = f"{file}:{reader.line_num + 1}"  # a row may go over several lines: its first
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{place}: not valid CSV ({error}); is a quote left open or not doubled?"
            ) from error
        if not cells:
            empty = empty or place
            continue
        if empty:
            raise DataError(f"{empty}: an empty line; every line must be one row.")
        if names is None:
            names = cells if rows.header else [str(i) for i in range(len(cells))]
            if len(set(names)) < len(names):
                raise DataError(f"{place}: {_twice(names)}, in the header.")
            if rows.header:
                continue
            _check_first(dict(zip(names, cells, strict=True)), place, rows)
        if len(cells) != len(names):
            raise DataError(
                f"{place}: {len(cells)} fields, but {len(names)} column{'s' * (len(names) != 1)} "
                f"({', '.join(names)}); is a {'comma' if delimiter == ',' else 'delimiter'} or a quote "
                f"missing?{other_delimiter(names, rows)}"
            )
        yield place, dict(zip(names, cells, strict=True))


def _check_first(row: Row, place: str, rows: Rows) -> None:
    """Refuse a first row that looks like a header, or like one with another delimiter."""
    column = rows.columns.get("input", "input")
    name = str(row.get(column, "")).strip()
    if name.casefold() in HEADERS:
        raise DataError(
            f"{place}: the first row looks like a header ({', '.join(row.values())}), and header=false "
            f"takes it for a row; set {setting_of(rows, 'header=true')} and "
            f"{column_setting(rows, 'input', name)}."
        )
    first = re.split(r"[;|\t]", name)[0]
    if len(row) == 1 and first != name and first.strip().casefold() in HEADERS:
        raise DataError(f"{place}: {name!r} looks like a header.{other_delimiter([name], rows)}")


def _parquet(file: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    @contextmanager
    def opened() -> Iterator[Any]:
        try:
            # Read in pieces of a megabyte: the columns of a row group at once can be a gigabyte.
            with pyarrow.parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as table:
                names = table.schema_arrow.names
                if len(set(names)) < len(names):
                    raise DataError(f"{file}: {_twice(names)}.")
                yield table
        except pyarrow.ArrowException as error:
            raise DataError(f"{file}: not a Parquet file that can be read ({error}).") from error

    def count() -> int:
        with opened() as table:
            return int(table.metadata.num_rows)

    def read(chosen: Chosen) -> Iterator[Placed]:
        first = 0
        with opened() as table:
            for batch in table.iter_batches(batch_size=1024):
                end = first + len(batch)
                wanted: Sequence[int] = range(first, end)
                if chosen is not None:
                    wanted = chosen[bisect_left(chosen, first) : bisect_left(chosen, end)]
                    batch = batch.take(pyarrow.array([i - first for i in wanted], pyarrow.int64()))
                for index, row in zip(wanted, batch.to_pylist(), strict=True):
                    yield index, f"{file}, row {index + 1}", row
                first = end

    return Table(str(file), count, read)


def _lines(file: Path, rows: Rows) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends, one at a time where every byte 0x0a is a newline."""
    codec = rows.encoding.lower().replace("-", "").replace("_", "")
    if codec.startswith(("utf16", "utf32")):
        yield from enumerate(io.StringIO(_text_of(file, rows), newline="\n"), start=1)
        return
    start = 0
    with _opened(file) as stream:
        for number, raw in enumerate(stream, start=1):
            yield number, _decode(raw, file, rows, number, start)
            start += len(raw)


def _text_of(file: Path, rows: Rows) -> str:
    with _opened(file) as stream:
        return _decode(stream.read(), file, rows)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A file's bytes, those of a .gz unpacked."""
    try:
        packed = file.suffix.lower() == ".gz"
        with gzip.open(file) if packed else file.open("rb") as stream:
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file}: not a gzip file that can be read ({error}).") from error


def _decode(raw: bytes, file: Path, rows: Rows, line: int = 1, start: int = 0) -> str:
    """The text of a file, or of the part that begins at this line and byte."""
    encoding = rows.encoding
    try:
        text = raw.decode(encoding)
    except LookupError as error:
        setting = setting_of(rows, f"encoding={encoding}")
        raise DataError(f"{file}: {setting} is not a known encoding.") from error
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        raise DataError(
            f"{file}:{line}: not {encoding} text (0x{raw[error.start]:02x} at byte "
            f"{start + error.start} of the file); set {setting_of(rows, 'encoding')}=, for example latin-1 or utf-16."
        ) from error
    if "\0" in text:
        line += text.count("\n", 0, text.index("\0"))
        raise DataError(
            f"{file}:{line}: holds a NUL character; is it a text file, and is its encoding {encoding}?"
        )
    return text.removeprefix("\ufeff") if start == 0 else text
