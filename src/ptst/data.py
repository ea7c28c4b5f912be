"""Rows to fine-tune on and queries to ask: from the hub, a file (local or at a URL), or the micro world.

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
import gzip
import io
import json
import math
import random
import re
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ptst.config import Rows
from ptst.download import cached, content_hash, downloaded
from ptst.errors import DataError
from ptst.hub import commit_of
from ptst.store import fingerprint

Row = dict[str, Any]
Placed = tuple[int, str, Row]
"""A row's index in its source, how a person would find it ("train.jsonl:12"), and the row."""
Chosen = Sequence[int] | None
"""Indices of the rows that are wanted, ascending; None: all."""
T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """The rows of a source, none of which is held longer than it takes to hand it on.

    Attributes:
        where: what a person calls the source.
        count: how many rows it has; makes no row where that can be told without.
        read: makes the chosen rows, from the first again at every call.
    """

    where: str
    count: Callable[[], int]
    read: Callable[[Chosen], Iterator[Placed]]


OURS = ("input", "output", "instruction")
TEXTS = (".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (*TEXTS, ".parquet", *(f"{suffix}.gz" for suffix in TEXTS))
KINDS = f"{', '.join(TEXTS)} (each also with .gz) or .parquet"
LONGEST_FIELD = 2**31 - 1
"""Characters of a field of a CSV file. Python's own limit, 131,072, is less than a long document."""
DELIMITERS = {".csv": ",", ".tsv": "\t"}
HEADERS = {
    "behavior",
    "behaviour",
    "forbidden_prompt",
    "goal",
    "input",
    "instruction",
    "message",
    "prompt",
}
HEADERS |= {"query", "question", "request", "sentence", "text", "user"}
"""What no query says, but the header of many a column of queries."""


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
        yield _row(index, place, row, rows, needs)
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
            f"{rows.name}: n={rows.n} rows asked for, but {there}; set {_setting(rows, 'n=null')} for all."
        )
    drawn = sorted(random.Random(rows.draw_seed).sample(range(total), rows.n))
    return drawn if matching is None else [matching[i] for i in drawn]


def _matching(rows: Rows, table: Table) -> list[int]:
    """Indices of the rows that have in every column of `where` the value that stands there.

    Raises:
        DataError: a row has not the column, or no row has the values.
    """
    found: list[int] = []
    others: dict[str, None] = {}  # a set that keeps its order
    for index, place, row in table.read(None):
        for column in rows.where:
            if column not in row:
                setting = _setting(rows, f"where.{column}")
                raise DataError(f"{place}: {setting}: {_no_column(column, row)}")
        values = {column: _text(row[column], place, column) for column in rows.where}
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


def identity(rows: Rows) -> dict[str, Any]:
    """What decides the rows' content, for keys. A local file counts by its content, not its place.

    A URL counts as it is written: nothing is downloaded to know a key.

    Raises:
        DataError: a local file is missing.
    """
    drawn = {} if rows.n is None else {"n": rows.n, "draw_seed": rows.draw_seed}
    picked = {"where": dict(rows.where)} if rows.where else {}
    common = {"columns": dict(rows.columns), **picked, **drawn}
    if rows.source == "micro":
        from ptst import micro

        return {"micro": rows.name, "split": rows.split, "world": micro.WORLD_VERSION, **common}
    if rows.source == "hub":
        place = {"path": rows.path, "subset": rows.subset, "revision": rows.revision}
        return {**place, "split": rows.split, **common}
    place = (
        {"url": rows.path, "file_sha256": rows.sha256} if rows.source == "url" else _content(rows)
    )
    records = {"records": rows.records} if rows.records else {}
    kind = _kind(Path(rows.path or "") if rows.source == "url" else local_files(rows)[0])
    usual = rows.delimiter in (None, DELIMITERS.get(kind, rows.delimiter))
    delimiter = {} if usual else {"delimiter": rows.delimiter}
    how = {"header": rows.header, "encoding": rows.encoding}
    return {**place, **records, **delimiter, **how, **common}


def origin(rows: Rows) -> dict[str, Any]:
    """What rows that were read came from, for their provenance: a commit of the hub, or a file's hash.

    It has a split only where that chooses something: a single file has none, whatever `split` says.
    """
    place: dict[str, Any] = {"source": rows.source, "path": rows.path}
    if rows.source == "hub":
        commit = commit_of(rows.path or "", "dataset", rows.revision)
        return {**place, "split": rows.split, "commit": commit}
    if rows.source == "url":
        return {**place, "sha256": content_hash(cached(rows.path or ""))}
    if rows.source == "local":
        split = {"split": rows.split} if Path(rows.path or "").expanduser().is_dir() else {}
        hashes = [content_hash(file) for file in local_files(rows)]
        return {**place, **split, "sha256": hashes if len(hashes) > 1 else hashes[0]}
    from ptst import micro

    own = {"source": "micro", "name": rows.name, "split": rows.split}
    return {**own, "world": micro.WORLD_VERSION}


def _content(rows: Rows) -> dict[str, Any]:
    files = local_files(rows)
    hashes = [fingerprint(file) for file in files]
    return {"sha256": hashes if len(files) > 1 else hashes[0], "suffix": _suffix(files[0])}


def _suffix(file: Path) -> str:
    """ ".csv", ".csv.gz", in small letters."""
    return "".join(file.suffixes[-2:] if file.suffix.lower() == ".gz" else [file.suffix]).lower()


def _kind(file: Path) -> str:
    """The suffix without .gz: how the file is read."""
    return _suffix(file).removesuffix(".gz")


def _setting(rows: Rows, words: str) -> str:
    """A setting of these rows as it stands in the configuration, and on the command line."""
    return f"{rows.at}.{words}" if rows.at else words


def column_setting(rows: Rows, ours: str, column: str) -> str:
    """The override that maps a column; Hydra wants a + before a key that is not there yet."""
    new = "+" if rows.at and ours not in rows.columns else ""
    return new + _setting(rows, f"columns.{ours}={column}")


def local_files(rows: Rows) -> list[Path]:
    """The files that source=local reads: `path` itself, or those of the split in the folder `path`.

    Raises:
        DataError: there are none, files of more than one kind, or of a kind that is not read here.
    """
    path = Path(rows.path or "").expanduser()
    if path.is_dir():
        return _of_split(path, rows)
    if not path.is_file():
        raise DataError(
            f"{rows.at or rows.name}: there is no file or folder {path}.{_beside(path)}"
        )
    if _suffix(path) not in SUFFIXES:
        raise DataError(
            f"{path}: files of kind {_suffix(path) or '(none)'} are not read; give {KINDS}."
        )
    return [path]


def _of_split(folder: Path, rows: Rows) -> list[Path]:
    """<split>.<suffix>, or as the hub names the parts of a split, train-00000-of-00002.parquet.

    They stand in the folder itself, in data/, or in the folder of the `subset`.
    """
    split, found = rows.split, []
    places = dict.fromkeys((folder, folder / "data", folder / (rows.subset or "")))
    for place in (place for place in places if place.is_dir()):
        files = sorted(place.iterdir())
        for suffix in SUFFIXES:
            name = re.compile(rf"{re.escape(split)}-\d+-of-(\d+)(-[0-9a-f]+)?{re.escape(suffix)}")
            parts = [file for file in files if name.fullmatch(file.name)]
            if parts:
                _check_parts(parts, split)
            whole = [file for file in files if file.name == f"{split}{suffix}" and file.is_file()]
            found += [one for one in (whole, parts) if one]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{folder} has more than one file for split {split}: "
            f"{', '.join(str(files[0].relative_to(folder)) for files in found)}. "
            f"Give the file itself as {_setting(rows, 'path')}."
        )
    raise DataError(
        f"{folder} has no file for split {split} ({split} with one of {KINDS}, or "
        f"{split}-00000-of-00001.parquet and the like, there, in data/ or in the subset's folder); "
        f"it has: {', '.join(sorted(p.name for p in folder.iterdir())[:20]) or 'nothing'}."
    )


def _check_parts(parts: Sequence[Path], split: str) -> None:
    """Refuse a split of which a part is not there, or there twice."""
    numbers = [[int(n) for n in re.findall(r"\d+", p.name.removeprefix(split))[:2]] for p in parts]
    total = numbers[-1][1]
    if lacking := sorted(set(range(total)) - {part for part, _ in numbers}):
        name = re.sub(r"-\d+-of-", f"-{lacking[0]:05}-of-", parts[-1].name)
        raise DataError(
            f"{parts[0].parent}: split {split} has {len(parts)} of {total} files; {name} is not there."
        )
    if numbers != [[part, total] for part in range(total)]:
        raise DataError(
            f"{parts[0].parent}: the files of split {split} are not those of one copy: "
            f"{', '.join(part.name for part in parts)}."
        )


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
            if name != column and name in row:
                raise DataError(
                    f"{place}: there is a column {name!r}, which is what the file's {column!r} is called "
                    f"here, for {column!r} is ptst's own; give one of them another name."
                )
            made[name] = _kept(value, place, column)
    return made


def _missing(ours: str, column: str, place: str, row: Row, rows: Rows) -> str:
    message = f"{place}: {_no_column(column, row)}"
    if hint := _other_delimiter(list(row), rows):
        return message + hint
    message += f" Say which one holds the {ours} with {column_setting(rows, ours, 'NAME')}"
    if rows.source in ("local", "url") and rows.header and _kind(_files(rows)[0]) in DELIMITERS:
        message += (
            f", or, if the file has no header row, {_setting(rows, 'header=false')} and "
            f"{column_setting(rows, ours, '0')}"
        )
    return message + "."


def _other_delimiter(names: Sequence[str], rows: Rows) -> str:
    """What to set where all columns of a CSV file seem to be one; empty where they do not."""
    if rows.source not in ("local", "url") or len(names) != 1:
        return ""
    usual = rows.delimiter or DELIMITERS.get(_kind(_files(rows)[0]))
    other = next((d for d in "\t;|," if usual and d in names[0] and d != usual), None)
    if other is None:
        return ""
    what = "name it .tsv" if other == "\t" else f"set {_setting(rows, 'delimiter')}='\"{other}\"'"
    return f" Its fields seem to stand between {other!r}: {what}."


def _no_column(column: str, row: Row) -> str:
    close = difflib.get_close_matches(column, list(row), n=1)
    names = ", ".join(map(repr, row)) or "none"
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"there is no column {column!r}; the columns are: {names}.{hint}"


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
    if isinstance(value, float) and math.isinf(value):
        raise DataError(_infinite(place, column))
    if isinstance(value, bool | int | float):
        return str(value)
    raise DataError(
        f"{place}: column {column!r} holds a {type(value).__name__}, not text: {str(value)[:60]}."
    )


def _kept(value: Any, place: str, column: str) -> Any:
    """The value of any other column. It goes to the store: what JSON cannot say becomes text, and NaN null."""
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
            f"({text[error.start]!a} at character {error.start + 1}), which is no character."
        ) from error
    return text


def _micro(rows: Rows) -> Table:
    from ptst import micro

    try:
        found = micro.rows(rows.name, rows.split)  # type: ignore[arg-type]
    except ValueError as error:
        raise DataError(
            f"source=micro, name={rows.name}, split={rows.split}: {error}. The micro world has no "
            "other data: choose another data set, or source=hub, url or local."
        ) from error
    return _listed(f"micro {rows.name}", lambda: found)


def _hub(rows: Rows) -> Table:
    import datasets
    from huggingface_hub.utils import httpx

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
            f"{rows.at or rows.name}: {rows.path} cannot be had from the hub: {reason}\n{hint}"
        ) from error
    _check_revision(table, rows)
    where = f"{rows.path} {rows.split}"

    def read(chosen: Chosen) -> Iterator[Placed]:
        picked = table if chosen is None else table.select(chosen)
        indices = iter(range(len(table)) if chosen is None else chosen)
        for batch in picked.iter(batch_size=1000):  # row by row takes several times as long
            for values in zip(*batch.values(), strict=True):
                index = next(indices)
                yield index, f"{where}, row {index + 1}", dict(zip(batch, values, strict=True))

    return Table(where, lambda: len(table), read)


def _check_revision(table: Any, rows: Rows) -> None:
    """Refuse another commit than the one asked for.

    Without a network, `datasets` takes the newest that this machine has, whatever the revision; the folder of
    its cache is named after the commit.
    """
    if not re.fullmatch("[0-9a-f]{40}", rows.revision or ""):
        return
    commits = {Path(file["filename"]).parent.name for file in table.cache_files}
    others = {c for c in commits if re.fullmatch("[0-9a-f]{40}", c)} - {rows.revision}
    if others:
        raise DataError(
            f"{rows.name}: revision {rows.revision} of {rows.path} is not on this machine, which has "
            f"{', '.join(sorted(others))}. Load it once with a network, or set revision to what is there."
        )


def _files(rows: Rows) -> list[Path]:
    """The files of source=local or url; the latter is downloaded where it is not here yet."""
    if rows.source == "local":
        return local_files(rows)
    return [downloaded(rows.path or "", rows.sha256, rows.at or rows.name)]


def _from_files(rows: Rows) -> Table:
    files = _files(rows)
    tables = [_from_file(file, rows) for file in files]
    return tables[0] if len(tables) == 1 else _joined(str(files[0].parent), tables)


def _joined(where: str, tables: Sequence[Table]) -> Table:
    """The rows of one table behind those of another."""

    def read(chosen: Chosen) -> Iterator[Placed]:
        first = 0
        for table in tables:
            end = first + table.count()
            part = None
            if chosen is not None:
                wanted = chosen[bisect_left(chosen, first) : bisect_left(chosen, end)]
                part = [index - first for index in wanted]
            for index, place, row in table.read(part):
                yield first + index, place, row
            first = end

    return Table(where, lambda: sum(table.count() for table in tables), read)


def _from_file(file: Path, rows: Rows) -> Table:
    suffix = _kind(file)
    if suffix == ".parquet":
        return _parquet(file)
    if suffix == ".json":
        return _listed(str(file), lambda: _json(file, rows))
    if suffix == ".jsonl":
        return Table(
            str(file),
            lambda: sum(1 for _ in _json_lines(file, rows)),
            lambda chosen: _jsonl(file, rows, chosen),
        )
    return Table(
        str(file),
        lambda: sum(1 for _ in _csv(file, rows)),
        lambda chosen: ((i, *placed) for i, placed in _pick(_csv(file, rows), chosen)),
    )


SOURCES: dict[str, Callable[[Rows], Table]] = {
    "hub": _hub,
    "url": _from_files,
    "local": _from_files,
    "micro": _micro,
}


def _listed(where: str, load: Callable[[], list[Row]]) -> Table:
    """The table of rows that have to be loaded all at once."""
    rows = cache(load)

    def read(chosen: Chosen) -> Iterator[Placed]:
        for index, row in _pick(rows(), chosen):
            yield index, f"{where}, row {index + 1}", row

    return Table(where, lambda: len(rows()), read)


def _pick(items: Iterable[T], chosen: Chosen) -> Iterator[tuple[int, T]]:
    """The chosen items with their indices; what comes behind the last of them is not looked at."""
    if chosen is None:
        yield from enumerate(items)
        return
    numbered = enumerate(items)
    for wanted in chosen:
        yield next(pair for pair in numbered if pair[0] == wanted)


def _jsonl(file: Path, rows: Rows, chosen: Chosen) -> Iterator[Placed]:
    decode = json.JSONDecoder(
        object_pairs_hook=_pairs
    ).decode  # one for all: loads makes one a line
    for index, (place, line) in _pick(_json_lines(file, rows), chosen):
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
            setting = _setting(rows, f"records={rows.records}")
            raise DataError(f"{file}: {setting}: no key {key!r} (there: {keys}).")
        found = found[key]
    if not isinstance(found, list):
        lists = (
            [k for k, v in found.items() if isinstance(v, list)] if isinstance(found, dict) else []
        )
        hint = ""
        if lists:
            hint = f" Set {_setting(rows, f'records={lists[0]}')} if the rows are there."
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
    delimiter = rows.delimiter or DELIMITERS[_kind(file)]
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
                f"missing?{_other_delimiter(names, rows)}"
            )
        yield place, dict(zip(names, cells, strict=True))


def _check_first(row: Row, place: str, rows: Rows) -> None:
    """Refuse a header for a query, and a file that seems to have another delimiter, where there is no header."""
    column = rows.columns.get("input", "input")
    name = str(row.get(column, "")).strip()
    if name.casefold() in HEADERS:
        raise DataError(
            f"{place}: the first row looks like a header ({', '.join(row.values())}), and header=false "
            f"takes it for a row; set {_setting(rows, 'header=true')} and "
            f"{column_setting(rows, 'input', name)}."
        )
    first = re.split(r"[;|\t]", name)[0]
    if len(row) == 1 and first != name and first.strip().casefold() in HEADERS:
        raise DataError(f"{place}: {name!r} looks like a header.{_other_delimiter([name], rows)}")


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


def _decode(raw: bytes, file: Path, rows: Rows, line: int = 1, start: int = 0) -> str:
    """The text of a file, or of the part that begins at this line and byte."""
    encoding = rows.encoding
    try:
        text = raw.decode(encoding)
    except LookupError as error:
        setting = _setting(rows, f"encoding={encoding}")
        raise DataError(f"{file}: {setting} is not a known encoding.") from error
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        raise DataError(
            f"{file}:{line}: not {encoding} text (0x{raw[error.start]:02x} at byte "
            f"{start + error.start} of the file); set {_setting(rows, 'encoding')}=, for example latin-1 or utf-16."
        ) from error
    if "\0" in text:
        line += text.count("\n", 0, text.index("\0"))
        raise DataError(
            f"{file}:{line}: holds a NUL character; is it a text file, and is its encoding {encoding}?"
        )
    return text.removeprefix("\ufeff") if start == 0 else text
