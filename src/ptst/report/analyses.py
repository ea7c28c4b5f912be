"""What analyses found of a grid's models: a line for each model and value."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from ptst.store import Store, read_json
from ptst.sweep.grid import Grid

HEAD = ("model", "value", "number")


@dataclass(frozen=True)
class Found:
    """A value of one analysis of one model.

    Attributes:
        coordinates: what the cells that test this model have in common.
        value: "<analysis>/<value>"; the analysis alone where it is not there yet.
        number: None where it is not there yet.
        key: the artifact's, key A.
    """

    coordinates: dict[str, str]
    value: str
    number: float | None
    key: str

    @property
    def in_words(self) -> tuple[str, str, str]:
        """The three columns of `HEAD`."""
        own = dict(self.coordinates)
        train, seed = own.pop("train_template", ""), own.pop("seed", None)
        words = [own.pop("model", ""), train, *(f"{key} {value}" for key, value in own.items())]
        words += [f"seed {seed}"] if seed is not None else []
        number = "missing" if self.number is None else f"{self.number:.4g}"
        return ", ".join(filter(None, words)), self.value, number


def analyses_of(grid: Grid, store: Store) -> list[Found]:
    """All values of a grid's analyses, in the order of its cells."""
    common: dict[tuple[str, str], dict[str, str]] = {}
    for cell in grid.cells:
        for name, (key, _) in cell.keys.analyses.items():
            own = common.setdefault((name, key), dict(cell.coordinates))
            for coordinate in [c for c in own if cell.coordinates.get(c) != own[c]]:
                del own[coordinate]
    found: list[Found] = []
    for (name, key), coordinates in common.items():
        coordinates.pop("test_template", None)
        if not store.has("analyse", key) or store.damage("analyse", key):
            found.append(Found(coordinates, name, None, key))
            continue
        values = read_json(store.path("analyse", key) / "values.json")
        found += [Found(coordinates, f"{name}/{what}", n, key) for what, n in values.items()]
    return found


def analyses_csv(found: Sequence[Found]) -> str | None:
    """analyses.csv, tidy; None where there are none."""
    if not found:
        return None
    columns = list(dict.fromkeys(c for one in found for c in one.coordinates))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*columns, "value", "number", "key"])
    for one in found:
        own = [one.coordinates.get(column, "") for column in columns]
        writer.writerow([*own, one.value, "" if one.number is None else one.number, one.key])
    return out.getvalue()
