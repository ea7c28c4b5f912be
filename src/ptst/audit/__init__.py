"""The human audit: people label completions in a CSV.

The sheet is blind: it names neither the cell nor the judge's label, and its order says nothing. A
query and its completion stand in it once, from however many cells they come. An id leads each row
back to them all, by a list that is kept in the store:

    store/audit/sheets/<sheet>.json         {"number": [[generate key, query id, sample], ...]}
    store/audit/labels/<generate key>/<annotator>.json    [[query id, sample, label], ...]
"""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptst.errors import ConfigError, DataError
from ptst.judge.reading import LABELS, NAME
from ptst.store import (
    Readable,
    Store,
    key_of,
    read_json,
    read_jsonl,
    write_bytes,
    write_json,
)
from ptst.sweep.grid import Grid

COLUMNS = ("id", "query", "completion", "label", "note")
Item = tuple[str, str, int]
"""Generate key, query id, which of several samples."""
Pair = tuple[Item, ...]
"""All completions with the same query and the same text: what a row of a sheet stands for."""


@dataclass(frozen=True)
class Imported:
    """What came of a sheet. `changed` are labels that differ from earlier ones."""

    labelled: int
    blank: int
    changed: int


def export(
    grid: Grid,
    store: Store,
    n: int | None,
    seed: int,
    file: Path | None = None,
    parts: int = 1,
    measures: str = "safety",
) -> list[Path]:
    """Draw answers and write their sheet, or its parts.

    An answer is a pair of a query and a completion, and stands for all completions that are equal.
    The draw is systematic (Cochran 1977, chapter 8): all pairs in the order of evaluation, cell and
    judge's label, by chance within, and every (N / n)-th from a random start. So every stratum has
    its share. Every pair is equally likely, and with it each completion, so that figures over the
    sample need no weights.

    Args:
        n: rows; no more than there are pairs. None: all of them.
        file: where to; None: audit-<sheet>.csv in the sweep's report. Several parts are numbered.
        parts: sheets that the rows are dealt to, each to be labelled and imported by itself.
        measures: of the evaluations whose completions are drawn, safety or over_refusal.

    Raises:
        ConfigError: there is nothing to draw from, or the file is there.
    """
    for name, value in (("n", n), ("parts", parts)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value} must be at least 1.")
    store = Readable(store.root, store.whole)
    strata, texts = _pairs(grid, store, measures)
    if not strata:
        raise ConfigError(
            f"{grid.name} has no {measures} completions in {store.root} yet: run it first, with ptst -m."
        )
    chance = random.Random(seed)
    pairs = [pair for _, own in sorted(strata.items()) for pair in chance.sample(own, len(own))]
    n = len(pairs) if n is None else min(n, len(pairs))
    if parts > n:
        raise ConfigError(f"parts={parts} is more than the {n} rows that there are.")
    start = chance.random()
    drawn = [pairs[int((start + i) * len(pairs) / n)] for i in range(n)]
    chance.shuffle(drawn)
    whole = _sheet_name(drawn)
    file = file or Path(grid.reports).expanduser() / grid.report_name / f"audit-{whole}.csv"
    dealt = [drawn[i * n // parts : (i + 1) * n // parts] for i in range(parts)]
    width = len(str(parts))
    files = [file.with_stem(f"{file.stem}-{i:0{width}}") for i in range(1, parts + 1)]
    files = files if parts > 1 else [file]
    for path in files:
        if path.exists():
            raise ConfigError(
                f"{path} is there already, perhaps with labels in it; move it away first."
            )
    for path, part in zip(files, dealt, strict=True):
        _write_sheet(store, path, part, texts)
    return files


def _sheet_name(drawn: Sequence[Pair]) -> str:
    return key_of({"items": [[list(item) for item in pair] for pair in drawn]})[:8]


def _write_sheet(
    store: Store, file: Path, drawn: Sequence[Pair], texts: Mapping[Pair, tuple[str, str]]
) -> None:
    sheet, width = _sheet_name(drawn), len(str(len(drawn)))
    numbered = {f"{i:0{width}}": pair for i, pair in enumerate(drawn, 1)}
    items = {number: [list(item) for item in pair] for number, pair in numbered.items()}
    write_json(_sheet(store, sheet), items)
    rows = [(f"{sheet}-{number}", *texts[pair], "", "") for number, pair in numbered.items()]
    write_csv(file, COLUMNS, rows)


def import_labels(grid: Grid, store: Store, file: Path, annotator: str) -> Imported:
    """Check a labelled sheet and keep its labels.

    A label is that of all completions that its row stands for. A sheet may come again: the last
    label of a row counts.

    Raises:
        DataError: the file is not a sheet of this sweep, or a row is wrong (with its line). Nothing
            is kept.
    """
    if not re.fullmatch(NAME, annotator):
        raise ConfigError(
            f"annotator={annotator!r} must be a name of letters, digits, '.', '_', '-'."
        )
    labels, blank = _read(grid, store, file)
    by_item = {item: label for pair, label in labels.items() for item in pair}
    return Imported(len(labels), blank, keep(store, annotator, by_item))


def keep(store: Store, annotator: str, labels: Mapping[Item, str]) -> int:
    """Keep labels over earlier ones; how many of those they change."""
    by_generate: dict[str, dict[tuple[str, int], str]] = {}
    for (generate, query, sample), label in labels.items():
        by_generate.setdefault(generate, {})[query, sample] = label
    changed = 0
    for generate, own in by_generate.items():
        path = _labels(store, generate) / f"{annotator}.json"
        kept = {(q, s): label for q, s, label in read_json(path)} if path.is_file() else {}
        changed += sum(kept.get(place, label) != label for place, label in own.items())
        write_json(path, [[q, s, label] for (q, s), label in sorted((kept | own).items())])
    return changed


def read_labels(store: Store, generate: str) -> dict[str, dict[Item, str]]:
    """People's labels of the completions of one generate key, by annotator."""
    return {
        path.stem: {(generate, query, sample): label for query, sample, label in read_json(path)}
        for path in sorted(_labels(store, generate).glob("*.json"))
    }


def write_csv(file: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV that spreadsheets open as it is meant.

    It is UTF-8 with a mark, and no cell is taken for a formula.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([escaped(str(value)) for value in row] for row in rows)
    write_bytes(file, text.getvalue().encode("utf-8-sig", errors="backslashreplace"))


FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""What a spreadsheet would run, or what `escaped` made of it."""


def escaped(text: str) -> str:
    """An apostrophe in front of what a spreadsheet would run: "=1+1" becomes "'=1+1"."""
    return f"'{text}" if FORMULA.match(text) else text


def unescaped(text: str) -> str:
    """What `escaped` was given."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def generates_of(grid: Grid) -> list[str]:
    """The keys of a grid's completions."""
    return sorted({keys.generate for cell in grid.cells for keys in cell.keys.evaluations.values()})


def _pairs(
    grid: Grid, store: Store, measures: str
) -> tuple[dict[tuple[str, str, str], list[Pair]], dict[Pair, tuple[str, str]]]:
    """The pairs by the stratum of their first completion, and each one's query and completion."""
    equal: dict[tuple[str, str], list[Item]] = {}
    first: dict[tuple[str, str], tuple[str, str, str]] = {}
    rows: dict[str, dict[Item, dict[str, Any]]] = {}
    for stratum, items in _strata(grid, store, measures).items():
        for item in items:
            if item[0] not in rows:
                rows[item[0]] = completions_of(store, item[0])
            row = rows[item[0]][item]
            text = str(row["input"]), row["completion"]
            equal.setdefault(text, []).append(item)
            first.setdefault(text, stratum)
    strata: dict[tuple[str, str, str], list[Pair]] = {}
    for text, items in equal.items():
        strata.setdefault(first[text], []).append(tuple(items))
    return strata, {tuple(items): text for text, items in equal.items()}


def _strata(grid: Grid, store: Store, measures: str) -> dict[tuple[str, str, str], list[Item]]:
    """Completions by (evaluation, generate key, label of the cell's own judge or "")."""
    strata: dict[tuple[str, str, str], list[Item]] = {}
    seen = set()
    for cell in grid.distinct:
        for name, keys in cell.keys.evaluations.items():
            if cell.config.evaluations[name].measures != measures or keys.generate in seen:
                continue
            seen.add(keys.generate)
            label = labels_by(store, keys.judge, keys.generate)
            for item, row in completions_of(store, keys.generate).items():
                if "withheld" not in row:
                    strata.setdefault((name, keys.generate, label.get(item) or ""), []).append(item)
    return strata


def completions_of(store: Store, generate: str) -> dict[Item, dict[str, Any]]:
    """The rows of one generate key, in their order; none where they are not in the store."""
    file = store.path("generate", generate) / "completions.jsonl"
    rows = read_jsonl(file) if file.is_file() else []
    return {(generate, str(row["id"]), int(row.get("sample", 0))): row for row in rows}


def labels_by(store: Store, judge: str, generate: str) -> dict[Item, str | None]:
    """A judge's label of each completion, None where it has none.

    It is empty if the store does not have the completions, or the scores. Scores stand line by line
    beside their completions.
    """
    file = store.path("judge", judge) / "scores.jsonl"
    items = completions_of(store, generate)
    if not items or not file.is_file():
        return {}
    scores = read_jsonl(file)
    return {item: score["label"] for item, score in zip(items, scores, strict=True)}


def _sheet(store: Store, sheet: str) -> Path:
    return store.root / "audit" / "sheets" / f"{sheet}.json"


def _labels(store: Store, generate: str) -> Path:
    return store.root / "audit" / "labels" / generate


def _read(grid: Grid, store: Store, file: Path) -> tuple[dict[Pair, str], int]:
    """The labels of a sheet by what its rows stand for, and how many rows have none."""
    lines = _parsed(file)
    header = [name.strip().lower() for name in lines[0][1]] if lines else []
    for column in ("id", "label"):
        if header.count(column) != 1:
            raise DataError(
                f"{file}, line 1: a sheet has one column {column!r}; these are: {', '.join(header) or 'none'}."
            )
    own = set(generates_of(grid))
    sheets: dict[str, dict[str, Pair]] = {}
    first: dict[str, int] = {}
    labels: dict[Pair, str] = {}
    blank = 0
    for line, cells in lines[1:]:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{file}, line {line}"
        if len(cells) < len(header):
            raise DataError(f"{where}: {len(cells)} cells under {len(header)} columns.")
        name, label = cells[header.index("id")].strip(), cells[header.index("label")]
        sheet, _, number = name.partition("-")
        if sheet not in sheets:
            sheets[sheet] = _items(store, sheet)
        pair = sheets[sheet].get(number)
        if pair is None:
            raise DataError(f"{where}: there is no row {name!r} in a sheet of {store.root}.")
        if any(item[0] not in own for item in pair):
            raise DataError(f"{where}: row {name} is of another sweep than {grid.name}.")
        if name in first:
            raise DataError(f"{where}: row {name} is there twice, first in line {first[name]}.")
        first[name] = line
        label = unescaped(label.strip()).lower()
        if not label:
            blank += 1
        elif label not in LABELS:
            raise DataError(
                f"{where}: {label!r} is not a label; they are: {', '.join(LABELS)}, or nothing."
            )
        else:
            labels[pair] = label
    missing = [
        f"{sheet}-{number}"
        for sheet, items in sheets.items()
        for number in items
        if f"{sheet}-{number}" not in first
    ]
    if missing:
        raise DataError(
            f"{file}: {len(missing)} rows of the sheet are gone, {missing[0]} the first; leave the label "
            "empty where there is none."
        )
    if not first:
        raise DataError(f"{file} has no rows.")
    return labels, blank


def _items(store: Store, sheet: str) -> dict[str, Pair]:
    path = _sheet(store, sheet)
    if not re.fullmatch(r"[0-9a-f]{8}", sheet) or not path.is_file():
        return {}
    # a row of an older version's sheet stands for one completion, which is not in a list
    return {
        number: tuple(
            (generate, query, sample)
            for generate, query, sample in ([items] if isinstance(items[0], str) else items)
        )
        for number, items in read_json(path).items()
    }


def _parsed(file: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV with the line that each ends in, however a spreadsheet saved it.

    UTF-8 with a mark or without, UTF-16, Windows-1252; comma, semicolon or tab.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = content.decode("utf-16", errors="replace")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:  # only ids and labels are read, which are ASCII
            text = content.decode("cp1252", errors="replace")
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}.") from error
