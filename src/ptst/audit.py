"""The human audit: people label a sample of safety completions in a CSV.

The sheet is blind: it names neither the cell nor the judge's label, and its order says nothing. An
id leads each row back, by a list that is kept in the store:

    store/audit/sheets/<sheet>.json          {"number": [generate key, query id, sample], ...}
    store/audit/labels/<generate key>/<annotator>.json    [[query id, sample, label], ...]
"""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptst.errors import ConfigError, DataError
from ptst.store import Readable, Store, key_of, read_json, read_jsonl, write_bytes, write_json
from ptst.sweep.grid import Grid

LABELS = ("complied", "refused", "neither")
COLUMNS = ("id", "query", "completion", "label", "note")
Item = tuple[str, str, int]
"""Generate key, query id, which of several samples."""


@dataclass(frozen=True)
class Imported:
    """What came of a sheet. `changed` are labels that differ from earlier ones."""

    labelled: int
    blank: int
    changed: int


def export(grid: Grid, store: Store, n: int, seed: int, file: Path | None = None) -> Path:
    """Draw a sample and write its sheet.

    The draw is systematic (Cochran 1977, chapter 8): all completions in the order of evaluation,
    cell and judge's label, by chance within, and every (N / n)-th from a random start. So every
    stratum has its share. Every completion is equally likely, so that figures over the sample need
    no weights.

    Args:
        n: rows; no more than there are completions.
        file: where to; None: audit-<sheet>.csv in the sweep's report.

    Raises:
        ConfigError: there is nothing to draw from, or the file is there.
    """
    if n < 1:
        raise ConfigError(f"n={n} must be at least 1.")
    store = Readable(store.root, store.whole)
    strata = _strata(grid, store)
    if not strata:
        raise ConfigError(
            f"{grid.name} has no safety completions in {store.root} yet: run it first, with ptst -m."
        )
    chance = random.Random(seed)
    items = [item for _, own in sorted(strata.items()) for item in chance.sample(own, len(own))]
    n = min(n, len(items))
    start = chance.random()
    drawn = [items[int((start + i) * len(items) / n)] for i in range(n)]
    chance.shuffle(drawn)
    numbered = {f"{i:0{len(str(n))}}": item for i, item in enumerate(drawn, 1)}
    sheet = key_of({"items": [list(item) for item in drawn]})[:8]
    file = file or Path(grid.reports).expanduser() / grid.report_name / f"audit-{sheet}.csv"
    if file.exists():
        raise ConfigError(
            f"{file} is there already, perhaps with labels in it; move it away first."
        )
    write_json(_sheet(store, sheet), {number: list(item) for number, item in numbered.items()})
    rows: dict[Item, dict[str, Any]] = {}
    for generate in {item[0] for item in drawn}:
        rows |= completions_of(store, generate)
    write_csv(
        file,
        COLUMNS,
        [
            (f"{sheet}-{number}", rows[item]["input"], rows[item]["completion"], "", "")
            for number, item in numbered.items()
        ],
    )
    return file


def import_labels(grid: Grid, store: Store, file: Path, annotator: str) -> Imported:
    """Check a labelled sheet and keep its labels.

    A sheet may come in parts, or again: the last label of a row counts.

    Raises:
        DataError: the file is not a sheet of this sweep, or a row is wrong (with its line). Nothing
            is kept.
    """
    if not re.fullmatch(r"[\w.-]+", annotator):
        raise ConfigError(
            f"annotator={annotator!r} must be a name of letters, digits, '.', '_', '-'."
        )
    labels, blank = _read(grid, store, file)
    by_generate: dict[str, dict[tuple[str, int], str]] = {}
    for (generate, query, sample), label in labels.items():
        by_generate.setdefault(generate, {})[query, sample] = label
    changed = 0
    for generate, own in by_generate.items():
        path = _labels(store, generate) / f"{annotator}.json"
        kept = {(q, s): label for q, s, label in read_json(path)} if path.is_file() else {}
        changed += sum(kept.get(place, label) != label for place, label in own.items())
        write_json(path, [[q, s, label] for (q, s), label in sorted((kept | own).items())])
    return Imported(len(labels), blank, changed)


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


def _strata(grid: Grid, store: Store) -> dict[tuple[str, str, str], list[Item]]:
    """Completions by (evaluation, generate key, label of the cell's own judge or "")."""
    strata: dict[tuple[str, str, str], list[Item]] = {}
    seen = set()
    for cell in grid.distinct:
        for name, keys in cell.keys.evaluations.items():
            if cell.config.evaluations[name].measures != "safety" or keys.generate in seen:
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


def _read(grid: Grid, store: Store, file: Path) -> tuple[dict[Item, str], int]:
    """The labels of a sheet by item, and how many rows have none."""
    lines = _parsed(file)
    header = [name.strip().lower() for name in lines[0][1]] if lines else []
    for column in ("id", "label"):
        if header.count(column) != 1:
            raise DataError(
                f"{file}, line 1: a sheet has one column {column!r}; these are: {', '.join(header) or 'none'}."
            )
    own = {keys.generate for cell in grid.cells for keys in cell.keys.evaluations.values()}
    sheets: dict[str, dict[str, Item]] = {}
    first: dict[str, int] = {}
    labels: dict[Item, str] = {}
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
        item = sheets[sheet].get(number)
        if item is None:
            raise DataError(f"{where}: there is no row {name!r} in a sheet of {store.root}.")
        if item[0] not in own:
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
            labels[item] = label
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


def _items(store: Store, sheet: str) -> dict[str, Item]:
    path = _sheet(store, sheet)
    if not re.fullmatch(r"[0-9a-f]{8}", sheet) or not path.is_file():
        return {}
    return {
        number: (generate, query, sample)
        for number, (generate, query, sample) in read_json(path).items()
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
