"""What analyses found of a grid's models: a line for each model and value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ptst.store import Store, csv_text, read_json
from ptst.sweep.grid import Grid


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
    def analysis(self) -> str:
        """Its name."""
        return self.value.partition("/")[0]


def analysis_tables(found: Sequence[Found]) -> list[list[tuple[str, ...]]]:
    """A table for each analysis: its heads, and a line for each model, or for each pair of
    templates."""
    same = shared(found)
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for one in found:
        analysis, _, value = one.value.partition("/")
        lines = tables.setdefault(analysis, {})
        own = {c: v for c, v in one.coordinates.items() if c not in same}
        line = lines.setdefault(
            f"{coordinates_in_words(own)} {one.key}", {"": coordinates_in_words(own)}
        )
        line[value] = "missing" if one.number is None else f"{one.number:.4g}"
    return [_table(analysis, list(lines.values())) for analysis, lines in tables.items()]


def _table(analysis: str, lines: Sequence[dict[str, str]]) -> list[tuple[str, ...]]:
    """Heads and lines; a value that a line does not have is missing there."""
    values = list(dict.fromkeys(value for line in lines for value in line if value))
    head = [(analysis, *values)] if values else [(analysis, "values")]
    rows = [(line[""], *(line.get(value, "missing") for value in values)) for line in lines]
    return head + (rows if values else [(line[""], "missing") for line in lines])


def shared(found: Sequence[Found]) -> set[str]:
    """Coordinates, but for the templates, that are the same wherever something was trained."""
    places = [one.coordinates for one in found]
    trained = [place for place in places if place.get("finetune") != "none"] or places
    names = {name for place in places for name in place} - {"train_template", "test_template"}
    return {name for name in names if len({place.get(name) for place in trained}) == 1}


def coordinates_in_words(own: Mapping[str, str]) -> str:
    """Coordinates in words: "chat_vanilla → chat_llama, seed 0"."""
    rest = dict(own)
    ends = [rest.pop(name) for name in ("train_template", "test_template") if name in rest]
    words = [rest.pop("model", ""), " → ".join(ends)]
    words += [f"{name} {value}" for name, value in rest.items()]
    return ", ".join(filter(None, words)) or "the model"


def analyses_of(grid: Grid, store: Store) -> list[Found]:
    """All values of a grid's analyses, in the order of its cells."""
    common: dict[tuple[str, str], dict[str, str]] = {}
    for cell in grid.cells:
        for name, (key, parts) in cell.keys.analyses.items():
            place = dict(cell.coordinates)
            if "test_template" not in parts.get("cell", {}):
                place.pop("test_template", None)
            own = common.setdefault((name, key), place)
            for coordinate in [c for c in own if cell.coordinates.get(c) != own[c]]:
                del own[coordinate]
    found: list[Found] = []
    for (name, key), coordinates in common.items():
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
    rows = (
        {**one.coordinates, "value": one.value, "number": one.number, "key": one.key}
        for one in found
    )
    return csv_text([*columns, "value", "number", "key"], rows)
