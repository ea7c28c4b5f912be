"""The points that analyses left (`ptst.analysis.keep_points`), laid out in panels for pictures.

A panel is a model under a test template, over its seeds. Where a grid has several train and several
test templates, panels stand in their rows and columns, as the tables do; else one beside another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ptst.analysis import Point
from ptst.report.analyses import Found, coordinates_in_words, shared
from ptst.stages.analyse import read_points
from ptst.store import Readable, Store, csv_text
from ptst.sweep.grid import Grid, finetuning_only

ENDS = ("train_template", "test_template")

Run = tuple[tuple[float, float], ...]
"""(x, y) of a line of one run, by x."""


@dataclass(frozen=True)
class Panel:
    """What one place of a grid has of a picture.

    Attributes:
        lines: by name, a run for each seed.
        status: empty, or why nothing is drawn: "missing", "missing (1 of 3)", "no points".
    """

    lines: dict[str, tuple[Run, ...]]
    status: str


@dataclass(frozen=True)
class PointPicture:
    """One picture of an analysis.

    Attributes:
        number: of the title among the analysis' pictures, from 1.
        split: coordinates that set it apart from pictures of the same title (a data set, say).
        rows, columns: train and test templates; no rows where panels only stand beside each other.
        panels: by (row, column), or ("", title); a place that the grid does not have is absent.
        over: coordinates in which the runs of a panel differ: "seed".
    """

    analysis: str
    title: str
    number: int
    split: dict[str, str]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    panels: dict[tuple[str, str], Panel]
    over: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """The names of all lines, in the order of their first points."""
        return list(dict.fromkeys(name for panel in self.panels.values() for name in panel.lines))


def point_pictures(grid: Grid, found: Sequence[Found], store: Store) -> list[PointPicture]:
    """Every picture that analyses of a grid left points for.

    Args:
        found: of `ptst.report.analyses.analyses_of`.
    """
    store = Readable(store.root, store.whole)
    pictures: list[PointPicture] = []
    by_analysis: dict[str, dict[str, Found]] = {}
    for one in found:
        by_analysis.setdefault(one.analysis, {}).setdefault(one.key, one)
    for analysis, models in by_analysis.items():
        points = {key: _points(one, store) for key, one in models.items()}
        titles = dict.fromkeys(p.picture for own in points.values() for p in own or ())
        for number, title in enumerate(titles, start=1):
            of_title = {
                key: None if own is None else [p for p in own if p.picture == title]
                for key, own in points.items()
            }
            pictures += _laid_out(grid, (analysis, title, number), list(models.values()), of_title)
    return pictures


def _points(one: Found, store: Store) -> list[Point] | None:
    """None where the analysis is not there."""
    if one.number is None:
        return None
    return read_points(store.path("analyse", one.key))


def _laid_out(
    grid: Grid,
    called: tuple[str, str, int],
    models: Sequence[Found],
    points: Mapping[str, list[Point] | None],
) -> list[PointPicture]:
    """The pictures of one title: one for each split, or one of all panels."""
    repeats = grid.sweep.repeats
    aside = {*ENDS, *repeats}
    same = shared(models)
    over = tuple(
        name for name in repeats if len({one.coordinates.get(name) for one in models} - {None}) > 1
    )
    trains, tests = (
        tuple(dict.fromkeys(one.coordinates.get(end, "") for one in models)) for end in ENDS
    )
    trains = tuple(sorted(trains, key=lambda name: name != "none"))
    if min(len(trains), len(tests)) < 2:
        by_title: dict[tuple[str, str], list[Found]] = {}
        for one in sorted(models, key=_is_tuned):
            own = {k: v for k, v in one.coordinates.items() if k not in {*same, *repeats}}
            by_title.setdefault(("", coordinates_in_words(own)), []).append(one)
        panels = {place: _panel(at, points) for place, at in by_title.items()}
        columns = tuple(column for _, column in panels)
        return [PointPicture(*called, {}, (), columns, panels, over)]
    pictures = []
    for split in _splits(models, aside | same):
        places: dict[tuple[str, str], list[Found]] = {}
        for one in models:
            if _belongs(one, split):
                train, test = (one.coordinates.get(end, "") for end in ENDS)
                places.setdefault((train, test), []).append(one)
        panels = {place: _panel(at, points) for place, at in places.items()}
        rows = tuple(train for train in trains if any(train == row for row, _ in panels))
        columns = tuple(test for test in tests if any(test == column for _, column in panels))
        pictures.append(PointPicture(*called, split, rows, columns, panels, over))
    return pictures


def _is_tuned(one: Found) -> bool:
    return one.coordinates.get("finetune") != "none"


def _splits(models: Sequence[Found], aside: set[str]) -> list[dict[str, str]]:
    """The combinations of what else the fine-tuned models differ in; one of nothing without any."""
    tuned = [one for one in models if _is_tuned(one)] or models
    splits: list[dict[str, str]] = []
    for one in tuned:
        own = {key: value for key, value in one.coordinates.items() if key not in aside}
        if own not in splits:
            splits.append(own)
    return splits


def _belongs(one: Found, split: Mapping[str, str]) -> bool:
    """A model without fine-tuning belongs to every split that agrees with it in what it has."""
    tuned = _is_tuned(one)
    return all(
        one.coordinates.get(key, value) == value
        for key, value in split.items()
        if tuned or not finetuning_only(key)
    )


def _panel(models: Sequence[Found], points: Mapping[str, list[Point] | None]) -> Panel:
    runs = [points[one.key] for one in models]
    if lacking := sum(own is None for own in runs):
        of = f" ({lacking} of {len(runs)})" if len(runs) > 1 else ""
        return Panel({}, f"missing{of}")
    lines: dict[str, list[Run]] = {}
    for own in runs:
        by_name: dict[str, list[tuple[float, float]]] = {}
        for point in own or ():
            by_name.setdefault(point.line, []).append((point.x, point.y))
        for name, at in by_name.items():
            lines.setdefault(name, []).append(tuple(sorted(at)))
    return Panel({k: tuple(v) for k, v in lines.items()}, "" if lines else "no points")


def points_csv(found: Sequence[Found], store: Store) -> str | None:
    """analyses_points.csv: every point with its model's coordinates; None where there are none."""
    store = Readable(store.root, store.whole)
    models = {(one.analysis, one.key): one for one in reversed(found)}
    columns = list(dict.fromkeys(c for one in found for c in one.coordinates))
    rows = [
        {**one.coordinates, "analysis": one.analysis, **vars(point), "key": one.key}
        for one in reversed(models.values())
        for point in _points(one, store) or ()
    ]
    columns += ["analysis", "picture", "line", "x", "y", "key"]
    return csv_text(columns, rows) if rows else None
