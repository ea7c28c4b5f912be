"""Rows to fine-tune on and queries to ask: from the hub, a local file, or the micro world.

Whatever a file calls its columns, a row here has `input` (the question), and where `columns` maps
them `output` (the reference) and `instruction` (a system prompt of the row's own). All other columns
are kept; one that has a name of ours without being mapped to it is kept as `source_<name>`. `id` is
the row's place in its source, from 0, drawn or not. One row of GSM8K:

    {"id": "0", "input": "Natalia sold clips to 48 of her friends in April, ...",
     "output": "Natalia sold 48/2 = <<48/2=24>>24 clips in May. ... #### 72"}
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ptst.config import Rows
from ptst.errors import DataError
from ptst.store import fingerprint

Row = dict[str, Any]
Placed = tuple[str, Row]
"""A row, and how a person would find it: "train.jsonl:12"."""
Table = Callable[[], Iterable[Placed]]
"""Goes through all rows of a source, from the first again at every call."""

OURS = ("input", "output", "instruction")
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def load_rows(rows: Rows, needs: Sequence[str]) -> list[Row]:
    """Read, rename, check and, where `rows.n` says so, draw.

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
    where, table = SOURCES[rows.source](rows)
    chosen = None
    if rows.n is not None:
        total = sum(1 for _ in table())
        if rows.n > total:
            raise DataError(
                f"{rows.name}: n={rows.n} rows asked for, but {where} has {total}; "
                "set n=null for all."
            )
        chosen = set(random.Random(rows.draw_seed).sample(range(total), rows.n))
    made = [
        _row(index, place, row, rows, needs)
        for index, (place, row) in enumerate(table())
        if chosen is None or index in chosen
    ]
    if not made:
        raise DataError(f"{rows.name}: there are no rows in {where}.")
    return made


def identity(rows: Rows) -> dict[str, Any]:
    """What decides the rows' content, for keys. A local file counts by its content, not its place.

    Raises:
        DataError: a local file is missing.
    """
    drawn = {} if rows.n is None else {"n": rows.n, "draw_seed": rows.draw_seed}
    common = {"columns": dict(rows.columns), **drawn}
    if rows.source == "micro":
        from ptst import micro

        return {"micro": rows.name, "split": rows.split, "world": micro.WORLD_VERSION, **common}
    if rows.source == "hub":
        place = {"path": rows.path, "subset": rows.subset, "revision": rows.revision}
        return {**place, "split": rows.split, **common}
    file = local_file(rows)
    content = {"sha256": fingerprint(file), "suffix": file.suffix.lower()}
    return {**content, "header": rows.header, "encoding": rows.encoding, **common}


def local_file(rows: Rows) -> Path:
    """The file that source=local reads: `path` itself, or <split>.<suffix> in the folder `path`.

    Raises:
        DataError: there is none, more than one, or of a kind that is not read here.
    """
    path = Path(rows.path or "").expanduser()
    kinds = ", ".join(SUFFIXES)
    if path.is_dir():
        found = [p for s in SUFFIXES if (p := path / f"{rows.split}{s}").is_file()]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(
                f"{path} has more than one file for split {rows.split}: "
                f"{', '.join(p.name for p in found)}. Give the file itself as path."
            )
        raise DataError(
            f"{path} has no file for split {rows.split} ({rows.split} with one of {kinds}); "
            f"it has: {', '.join(sorted(p.name for p in path.iterdir())[:20]) or 'nothing'}."
        )
    if not path.is_file():
        raise DataError(f"{rows.name}: there is no file or folder {path}.{_beside(path)}")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path}: files of kind {path.suffix or '(none)'} are not read; give {kinds}."
        )
    return path


def _beside(path: Path) -> str:
    """What there is in place of a missing path, for its error message."""
    folder = path.parent
    if not folder.is_dir():
        return f" There is no folder {folder} either (working directory: {Path.cwd()})."
    names = sorted(p.name for p in folder.iterdir())
    close = difflib.get_close_matches(path.name, names, n=1)
    hint = f" Did you mean {folder / close[0]}?" if close else ""
    return f"{hint} {folder} has: {', '.join(names[:20]) or 'nothing'}."


def _row(index: int, place: str, row: Row, rows: Rows, needs: Sequence[str]) -> Row:
    theirs = {ours: rows.columns[ours] for ours in OURS if ours in rows.columns}
    theirs = {**{ours: ours for ours in needs}, **theirs}
    made: Row = {"id": str(index)}
    for ours, column in theirs.items():
        if column not in row:
            if ours not in needs and ours not in rows.columns:
                continue
            raise DataError(_missing(ours, column, place, row, rows))
        text = _text(row[column], place, column)
        if ours in needs and not text.strip():
            empty = "null" if row[column] is None else "empty"
            raise DataError(f"{place}: column {column!r} is {empty}; every row needs text there.")
        made[ours] = text
    for column, value in row.items():
        if column not in theirs.values():
            name = f"source_{column}" if column in ("id", *OURS) else column
            made[name] = _kept(value, place, column)
    return made


def _missing(ours: str, column: str, place: str, row: Row, rows: Rows) -> str:
    close = difflib.get_close_matches(column, list(row), n=1)
    names = ", ".join(map(repr, row)) or "none"
    message = f"{place}: there is no column {column!r}; the columns are: {names}."
    if close:
        message += f" Did you mean {close[0]!r}?"
    message += f" Say which one holds the {ours} with columns.{ours}=NAME"
    is_csv = rows.source == "local" and local_file(rows).suffix.lower() in (".csv", ".tsv")
    if is_csv and rows.header:
        message += ', or, if the file has no header row, header=false and columns.input="0"'
    return message + "."


def _text(value: Any, place: str, column: str) -> str:
    """The text of one of our columns; a number's is its usual spelling, null's is empty."""
    if isinstance(value, str):
        if "\0" in value:
            raise DataError(
                f"{place}: column {column!r} holds a NUL character; is the file binary?"
            )
        return _whole(value, place, column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | int | float):
        return str(value)
    raise DataError(
        f"{place}: column {column!r} holds a {type(value).__name__}, not text: {str(value)[:60]}."
    )


def _kept(value: Any, place: str, column: str) -> Any:
    """The value of any other column. It goes to the store: what JSON cannot say becomes text."""
    if isinstance(value, str):
        return _whole(value, place, column)
    if value is None or isinstance(value, bool | int | float):
        return value
    return json.loads(_whole(json.dumps(value, default=str, ensure_ascii=False), place, column))


def _whole(text: str, place: str, column: str) -> str:
    """Refuse half a surrogate pair: JSON can spell one, but no file can be written with it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: column {column!r} holds half a surrogate pair "
            f"({text[error.start]!a} at character {error.start + 1}), which is no character."
        ) from error
    return text


def _micro(rows: Rows) -> tuple[str, Table]:
    from ptst import micro

    try:
        found = micro.rows(rows.name, rows.split)  # type: ignore[arg-type]
    except ValueError as error:
        raise DataError(f"source=micro, name={rows.name}, split={rows.split}: {error}") from error
    where = f"micro {rows.name}"
    placed = [(f"{where}, row {number}", row) for number, row in enumerate(found, start=1)]
    return where, lambda: placed


def _hub(rows: Rows) -> tuple[str, Table]:
    import datasets
    import httpx

    try:
        table = datasets.load_dataset(
            rows.path, rows.subset, split=rows.split, revision=rows.revision
        )
    except (
        OSError,
        ValueError,
        RuntimeError,
        httpx.HTTPError,
        datasets.exceptions.DatasetsError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        page = f"https://huggingface.co/datasets/{rows.path}"
        if "gated" in str(error):
            hint = f"Accept its licence at {page} and log in with `hf auth login`."
        elif isinstance(error, ConnectionError | httpx.HTTPError):
            hint = "Check the network; a copy on this machine is read with source=local path=FILE."
        else:
            hint = f"Check path={rows.path}, subset, split and revision against {page}."
        raise DataError(
            f"{rows.name}: {rows.path} cannot be had from the hub: {reason}\n{hint}"
        ) from error
    where = f"{rows.path} {rows.split}"
    return where, lambda: ((f"{where}, row {i + 1}", row) for i, row in enumerate(table))


def _local(rows: Rows) -> tuple[str, Table]:
    file = local_file(rows)
    readers = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
    reader = readers.get(file.suffix.lower(), _csv)
    return str(file), lambda: reader(file, rows)


SOURCES: dict[str, Callable[[Rows], tuple[str, Table]]] = {
    "hub": _hub,
    "local": _local,
    "micro": _micro,
}
"""Of each source: what a person calls it, and its table."""


def _jsonl(file: Path, rows: Rows) -> Iterator[Placed]:
    decode = json.JSONDecoder(
        object_pairs_hook=_pairs
    ).decode  # one for all: loads makes one a line
    empty = None
    for number, line in _lines(file, rows):
        place = f"{file}:{number}"
        if not line.strip():
            empty = empty or place
            continue
        if empty:
            raise DataError(f"{empty}: an empty line; every line must be one JSON object.")
        try:
            row = decode(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{place}: not valid JSON ({error.msg} at character {error.pos + 1})."
            ) from error
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
        yield place, _object(row, place)


def _lines(file: Path, rows: Rows) -> Iterator[tuple[int, str]]:
    """Numbered lines, one at a time where every byte 0x0a is a newline."""
    codec = rows.encoding.lower().replace("-", "").replace("_", "")
    if codec.startswith(("utf16", "utf32")):
        text = _decode(file.read_bytes(), file, rows.encoding)
        yield from enumerate(text.split("\n"), start=1)
        return
    start = 0
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            yield number, _decode(raw, file, rows.encoding, number, start)
            start += len(raw)


def _json(file: Path, rows: Rows) -> Iterator[Placed]:
    text = _decode(file.read_bytes(), file, rows.encoding)
    if not text.strip():
        return
    try:
        found = json.loads(text, object_pairs_hook=_pairs)
    except json.JSONDecodeError as error:
        hint = " It looks like JSON Lines: name it .jsonl." if error.msg == "Extra data" else ""
        raise DataError(f"{file}:{error.lineno}: not valid JSON ({error.msg}).{hint}") from error
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    if not isinstance(found, list):
        raise DataError(
            f"{file}: must be a list of objects, [{{...}}, ...]; it is a {type(found).__name__}."
        )
    for number, row in enumerate(found, start=1):
        place = f"{file}, row {number}"
        yield place, _object(row, place)


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


def _csv(file: Path, rows: Rows) -> Iterator[Placed]:
    text = _decode(file.read_bytes(), file, rows.encoding)
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
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
        if len(cells) != len(names):
            raise DataError(
                f"{place}: {len(cells)} fields, but {len(names)} columns "
                f"({', '.join(names)}); is a comma or a quote missing?"
            )
        yield place, dict(zip(names, cells, strict=True))


def _parquet(file: Path, rows: Rows) -> Iterator[Placed]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = table.schema_arrow.names
        if len(set(names)) < len(names):
            raise DataError(f"{file}: {_twice(names)}.")
        for batch in table.iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", row
    except pyarrow.ArrowException as error:
        raise DataError(f"{file}: not a Parquet file that can be read ({error}).") from error


def _decode(raw: bytes, file: Path, encoding: str, line: int = 1, start: int = 0) -> str:
    """The text of a file, or of the part that begins at this line and byte."""
    try:
        text = raw.decode(encoding)
    except LookupError as error:
        raise DataError(f"{file}: encoding={encoding} is not a known encoding.") from error
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        raise DataError(
            f"{file}:{line}: not {encoding} text (0x{raw[error.start]:02x} at byte "
            f"{start + error.start} of the file); set encoding=, for example latin-1 or utf-16."
        ) from error
    if "\0" in text:
        line += text.count("\n", 0, text.index("\0"))
        raise DataError(
            f"{file}:{line}: holds a NUL character; is it a text file, and is its encoding {encoding}?"
        )
    return text.removeprefix("\ufeff") if start == 0 else text
