"""Points that analyses left, in panels: what stands where, read back from the drawn figures."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_page import read, section

from ptst.analysis import Point, keep_points
from ptst.report.analyses import analyses_of
from ptst.report.outcomes import Relation
from ptst.report.page import page
from ptst.report.pictures import draw_all, point_names
from ptst.report.pictures.points import point_figures
from ptst.report.points import PointPicture, point_pictures, points_csv
from ptst.report.reliability import Interval
from ptst.report.results import Results
from ptst.status.states import CellState
from ptst.store import Store, write_json
from ptst.sweep.grid import Grid, GridCell, expand

TITLE = "Distance, by layer"


@cache
def grid_of(*words: str, analysis: str = "probe_drift") -> Grid:
    own = ["evaluation=[hazards]", "tracking=none", f"analysis=[{analysis}]"]
    return expand(["+sweeps=quick", *own, *words])


def filled(
    grid: Grid, root: Path, points: Callable[[GridCell], Iterable[Point] | None]
) -> tuple[Results, Store]:
    """A store with the analyses of a grid, made by hand; none of a cell whose points are None."""
    store = Store(root)
    for cell in grid.cells:
        own = points(cell)
        for key, _ in cell.keys.analyses.values() if own is not None else ():
            with store.make("analyse", key, {}) as work:
                if work is None:
                    continue
                write_json(work.result / "values.json", {"auc": 0.5})
                context: Any = SimpleNamespace(scratch=work.result)
                if own:
                    keep_points(context, own)
    states = {cell.keys.cell: CellState("waiting") for cell in grid.cells}
    return Results(grid, states, (), (), tuple(analyses_of(grid, store))), store


def at(cell: GridCell) -> tuple[str, str]:
    return cell.coordinates["train_template"], cell.coordinates["test_template"]


def two_lines(cell: GridCell) -> list[Point] | None:
    """Seed 0 lies 1 below seed 1; of chat_llama -> chat_llama seed 1 is not there yet."""
    seed = int(cell.coordinates.get("seed", 0))
    if at(cell) == ("chat_llama", "chat_llama") and seed:
        return None
    if at(cell) == ("none", "chat_llama"):
        return []
    own = [Point(TITLE, "safe", layer, 10.0 * layer + seed) for layer in (2, 1, 0)]
    other = [Point(TITLE, "harmful", layer, -layer) for layer in (0, 1)]
    return [*own, *(other if at(cell) == ("chat_vanilla", "chat_llama") else [])]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Store]:
    root = tmp_path_factory.mktemp("points") / "store"
    return filled(grid_of("seed=0,1"), root, two_lines)


def only(pictures: list[PointPicture]) -> PointPicture:
    (picture,) = pictures
    return picture


def test_panels_stand_where_the_tables_places_do(seeds: tuple[Results, Store]) -> None:
    results, store = seeds
    picture = only(point_pictures(results.grid, results.analyses, store))
    assert (picture.rows, picture.columns) == (
        ("none", "chat_vanilla", "chat_llama"),
        ("chat_vanilla", "chat_llama"),
    )
    assert (picture.title, picture.over, picture.lines) == (TITLE, ("seed",), ["safe", "harmful"])
    panel = picture.panels["chat_vanilla", "chat_llama"]
    assert panel.lines["safe"] == (
        ((0.0, 0.0), (1.0, 10.0), (2.0, 20.0)),
        ((0.0, 1.0), (1.0, 11.0), (2.0, 21.0)),
    )
    assert {place: panel.status for place, panel in picture.panels.items() if panel.status} == {
        ("none", "chat_llama"): "no points",
        ("chat_llama", "chat_llama"): "missing (1 of 2)",
    }


def test_a_line_is_the_mean_over_seeds_in_a_band_and_has_one_colour(
    seeds: tuple[Results, Store],
) -> None:
    results, store = seeds
    ((name, figure),) = point_figures(results, store)
    assert name == "analysis-probe_drift-1"
    panels = dict(zip(["nv", "nl", "vv", "vl", "lv", "ll"], figure.axes, strict=True))
    mean, other = panels["vl"].lines
    assert (list(mean.get_xdata()), list(mean.get_ydata())) == ([0, 1, 2], [0.5, 10.5, 20.5])
    band = panels["vl"].collections[0].get_paths()[0].vertices
    assert {(0.0, 0.0), (0.0, 1.0), (2.0, 20.0), (2.0, 21.0)} <= {tuple(v) for v in band.tolist()}
    assert mean.get_color() == panels["vv"].lines[0].get_color() != other.get_color()
    assert not panels["nv"].collections  # one model, no band
    assert len({axes.get_xlim() + axes.get_ylim() for axes in figure.axes}) == 1
    said = {k: [text.get_text() for text in axes.texts] for k, axes in panels.items()}
    assert said == {k: [] for k in ("nv", "vv", "vl", "lv")} | {
        "nl": ["no points"],
        "ll": ["missing (1 of 2)"],
    }
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["safe", "harmful"]


def test_runs_at_other_x_are_drawn_one_by_one(tmp_path: Path) -> None:
    def points(cell: GridCell) -> list[Point]:
        seed = float(cell.coordinates.get("seed", 0))
        return [Point(TITLE, "a", x + seed / 2, x) for x in (0, 1)]

    results, store = filled(grid_of("seed=0,1"), tmp_path, points)
    ((_, figure),) = point_figures(results, store)
    untuned, *_, tuned = figure.axes
    assert len(untuned.lines) == 1
    assert [list(line.get_xdata()) for line in tuned.lines] == [[0, 1], [0.5, 1.5]]
    assert not tuned.collections and not figure.legends


def test_numbers_that_are_nearly_equal_look_so(tmp_path: Path) -> None:
    grid = grid_of(analysis="norm_of_change")
    nearly = [Point(TITLE, "a", 0, 6.0021e-4), Point(TITLE, "a", 1, 6.0023e-4)]
    results, store = filled(grid, tmp_path, lambda cell: nearly)
    ((_, figure),) = point_figures(results, store)
    figure.canvas.draw()
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    assert high - low == pytest.approx(1.12 * 0.02 * 6.0023e-4, rel=0.01)
    assert not axes.yaxis.get_offset_text().get_text()
    assert "0.0006" in [label.get_text() for label in axes.get_yticklabels()]


def test_an_analysis_of_the_weights_alone_has_a_panel_for_each_model(tmp_path: Path) -> None:
    grid = grid_of(analysis="norm_of_change")
    results, store = filled(grid, tmp_path, lambda cell: [Point(TITLE, "a", 0, 1)])
    picture = only(point_pictures(grid, results.analyses, store))
    assert picture.rows == ()
    assert picture.columns == ("none", "chat_vanilla", "chat_llama")
    ((_, figure),) = point_figures(results, store)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["no fine-tuning", "chat_vanilla", "chat_llama"]


def test_another_coordinate_has_pictures_of_its_own_on_the_same_axes(tmp_path: Path) -> None:
    grid = grid_of("finetune.epochs=1,2")
    results, store = filled(
        grid,
        tmp_path,
        lambda cell: [Point(TITLE, "a", 0, float(cell.coordinates.get("finetune.epochs", 0)))],
    )
    found = dict(point_names(results, store))
    assert list(found) == ["analysis-probe_drift-1-1", "analysis-probe_drift-1-2"]
    first, second = found.values()
    assert (first.split, second.split) == ({"finetune.epochs": "1"}, {"finetune.epochs": "2"})
    place = "chat_llama", "chat_llama"
    assert [one.panels[place].lines["a"] for one in found.values()] == [
        (((0, 1),),),
        (((0, 2),),),
    ]
    assert first.panels["none", "chat_llama"] == second.panels["none", "chat_llama"]
    (_, one), (_, other) = point_figures(results, store)
    assert one.axes[0].get_ylim() == other.axes[0].get_ylim()


def test_the_page_shows_them_below_the_values_in_words_for_who_does_not_see_them(
    seeds: tuple[Results, Store],
) -> None:
    results, store = seeds
    related = Relation("probe_drift/auc", "hazards/asr", "ASR", Interval(0.5, -0.25, 0.75), 12, 5)
    results = replace(results, relations=(related,))
    root = read(page(results, store, draw_all(results, store)))
    found = section(root, "analyses")
    (picture,) = found.all("img")
    assert picture.attributes["alt"] == (
        "probe_drift: Distance, by layer. 6 panels, a line for each of safe and harmful; "
        "its numbers are in analyses_points.csv."
    )
    (caption,) = found.all("figcaption")
    assert "A row for each train template, a column for each test template." in caption.words()
    assert "means over 1 or 2 runs (seed); bands reach from the lowest to the highest." in (
        caption.words()
    )
    assert "missing" in found.words()  # in the table, of the seed that is not there
    assert "0.50 [−0.25, 0.75]" in found.words() and "not corrected" in found.words()
    assert [link.words() for link in root.all("a", href="#analyses")] == ["Analyses"]


def test_a_table_that_is_long_and_wide_is_folded(seeds: tuple[Results, Store]) -> None:
    results, store = seeds

    def folded(values: int) -> list[str]:
        own = [
            replace(one, value=f"probe_drift/v{v}", number=0.5)
            for one in results.analyses
            for v in range(values)
        ]
        root = read(page(replace(results, analyses=tuple(own)), store, {}))
        (found,) = root.all("section", id="analyses")
        return [summary.words() for summary in found.all("summary")]

    assert folded(6) == []
    assert folded(20) == ["All values of probe_drift"]


def test_the_report_has_the_pictures_and_every_point(
    seeds: tuple[Results, Store], tmp_path: Path
) -> None:
    results, store = seeds
    assert {"analysis-probe_drift-1.svg", "analysis-probe_drift-1.png"} <= set(
        draw_all(results, store)
    )
    text = points_csv(results.analyses, store)
    assert text is not None
    rows = list(csv.DictReader(text.splitlines()))
    # Safe: 3 points of 8 models; harmful: 2 of two
    assert len(rows) == 3 * 8 + 2 * 2
    found = [
        (row["line"], row["x"], row["y"])
        for row in rows
        if (row["train_template"], row["test_template"], row["seed"])
        == ("chat_vanilla", "chat_llama", "1")
    ]
    assert found == [("safe", "2.0", "21.0"), ("safe", "1.0", "11.0"), ("safe", "0.0", "1.0"), ("harmful", "0.0", "0.0"), ("harmful", "1.0", "-1.0")]  # fmt: skip
