"""Labels as a file without any text, to be published: written, and taken from it again.

`ptst.judge.reading` says what a line of it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptst.audit import Imported, Item, completions_of, generates_of, keep, read_labels
from ptst.errors import ConfigError, DataError
from ptst.judge.reading import pair_hash
from ptst.judge.reading import read_labels as read_file
from ptst.store import Readable, Store, write_jsonl
from ptst.sweep.grid import Grid


def write_labels(grid: Grid, store: Store, file: Path) -> dict[str, int]:
    """Write the labels of a grid's completions without their text (`ptst.judge.reading`).

    Returns:
        How many answers each annotator labelled.

    Raises:
        ConfigError: there are no labels, or the file is there.
        DataError: an annotator labelled equal answers differently, or an answer is gone.
    """
    store = Readable(store.root, store.whole)
    if file.exists():
        raise ConfigError(f"{file} is there already; move it away first.")
    found: dict[str, dict[str, str]] = {}
    for generate in generates_of(grid):
        rows = completions_of(store, generate)
        for annotator, labels in read_labels(store, generate).items():
            for item, label in labels.items():
                if item not in rows:
                    raise DataError(
                        f"{annotator} labelled query {item[1]} of completions {generate}, which {store.root} "
                        "does not have."
                    )
                own = found.setdefault(_hash(rows[item]), {})
                if own.setdefault(annotator, label) != label:
                    raise DataError(
                        f"{annotator} called two equal answers to query {item[1]} {own[annotator]} and {label}. "
                        "A new sheet of ptst audit export has them once: label it and import it."
                    )
    if not found:
        raise ConfigError(
            f"nobody has labelled completions of {grid.name} in {store.root}: ptst audit export and import first."
        )
    lines = (
        {"sha256": pair, "labels": dict(sorted(found[pair].items()))} for pair in sorted(found)
    )
    write_jsonl(file, lines)
    return dict(sorted(Counter(name for own in found.values() for name in own).items()))


def import_file(grid: Grid, store: Store, file: Path) -> dict[str, Imported]:
    """Keep the labels of a file that `write_labels` wrote, for a grid's completions; by annotator.

    `blank` counts the file's answers that are no completion of the grid.

    Raises:
        DataError: the file is wrong, or has no label of a completion of the grid.
    """
    by_pair = read_file(file)
    labels: dict[str, dict[Item, str]] = {}
    fitting: dict[str, set[str]] = {}
    for generate in generates_of(grid):
        for item, row in completions_of(store, generate).items():
            pair = _hash(row)
            for annotator, label in by_pair.get(pair, {}).items():
                labels.setdefault(annotator, {})[item] = label
                fitting.setdefault(annotator, set()).add(pair)
    if not labels:
        raise DataError(f"{file} has no label of a completion of {grid.name} in {store.root}.")
    asked = Counter(name for own in by_pair.values() for name in own)
    return {
        name: Imported(
            len(fitting[name]), asked[name] - len(fitting[name]), keep(store, name, labels[name])
        )
        for name in sorted(labels)
    }


def _hash(row: Mapping[str, Any]) -> str:
    return pair_hash(str(row["input"]), row["completion"])
