"""Which files rows are read from, and of what kind they are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from ptst.download import downloaded
from ptst.errors import DataError
from ptst.schema import Rows

TEXTS = (".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (*TEXTS, ".parquet", *(f"{suffix}.gz" for suffix in TEXTS))
KINDS = f"{', '.join(TEXTS)} (each also with .gz) or .parquet"
DELIMITERS = {".csv": ",", ".tsv": "\t"}


def suffix_of(file: Path) -> str:
    """ ".csv", ".csv.gz", in small letters."""
    return "".join(file.suffixes[-2:] if file.suffix.lower() == ".gz" else [file.suffix]).lower()


def kind_of(file: Path) -> str:
    """The suffix without .gz: how the file is read."""
    return suffix_of(file).removesuffix(".gz")


def files_of(rows: Rows) -> list[Path]:
    """The files of source=local or url; the latter is downloaded where it is not here yet.

    Raises:
        DataError: see `local_files`, and ptst.download.
    """
    if rows.source == "local":
        return local_files(rows)
    _check_whole(rows)
    return [downloaded(rows.path or "", rows.sha256, rows.at or rows.name)]


def local_files(rows: Rows) -> list[Path]:
    """The files that source=local reads: `path` itself, or those of the split in the folder `path`.

    Raises:
        DataError: there are none, files of more than one kind, or of a kind that is not read here;
            `split` asks for a part of them.
    """
    _check_whole(rows)
    path = Path(rows.path or "").expanduser()
    if path.is_dir():
        return _of_split(path, rows)
    if not path.is_file():
        raise DataError(
            f"{rows.at or rows.name}: there is no file or folder {path}.{_beside(path)}"
        )
    if suffix_of(path) not in SUFFIXES:
        raise DataError(
            f"{path}: files of kind {suffix_of(path) or '(none)'} are not read; give {KINDS}."
        )
    return [path]


def _check_whole(rows: Rows) -> None:
    """Refuse a part of a split, such as train[200:], which only the hub gives."""
    split = setting_of(rows, "split")
    if "[" in rows.split:
        raise DataError(
            f"{split}={rows.split} is a part of a split, and source={rows.source} reads files whole, with the rows "
            f"that are held out. Leave those out of the file, and set {split}={rows.split.partition('[')[0]}."
        )


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
            f"Give the file itself as {setting_of(rows, 'path')}."
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


def setting_of(rows: Rows, words: str) -> str:
    """A setting of these rows as it stands in the configuration, and on the command line."""
    return f"{rows.at}.{words}" if rows.at else words


def column_setting(rows: Rows, ours: str, column: str) -> str:
    """The override that maps a column; Hydra wants a + before a key that is not there yet."""
    new = "+" if rows.at and ours not in rows.columns else ""
    return new + setting_of(rows, f"columns.{ours}={column}")


def other_delimiter(names: Sequence[str], rows: Rows) -> str:
    """What to set where all columns of a CSV file seem to be one; empty where they do not."""
    if rows.source not in ("local", "url") or len(names) != 1:
        return ""
    usual = rows.delimiter or DELIMITERS.get(kind_of(files_of(rows)[0]))
    other = next((d for d in "\t;|," if usual and d in names[0] and d != usual), None)
    if other is None:
        return ""
    what = "name it .tsv" if other == "\t" else f"set {setting_of(rows, 'delimiter')}='\"{other}\"'"
    return f" Its fields seem to stand between {other!r}: {what}."
