"""Pictures along any coordinate that is a number: lines, intervals and what has no such number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_page import read, section

from ptst.report.page import page
from ptst.report.pictures import draw_all
from ptst.report.pictures.strength import numeric_axes, strength_names, strengths
from ptst.report.results import Entry, Results, load_results
from ptst.status.states import CellState
from ptst.store import Store
from ptst.sweep.grid import expand

RATES = ["finetune.learning_rate=1e-5,1e-4,1e-3"]


def measured(root: Path, *words: str, fewer: bool = False) -> Results:
    """A grid over a number whose cells are measured: 10 for every step, 5 of the untouched."""
    grid = expand(["+sweeps=quick", "evaluation=[hazards]", "tracking=none", *words])
    states = {cell.keys.cell: CellState("waiting") for cell in grid.cells}
    results = load_results(grid, Store(root), states)
    steps = {1e-5: 10.0, 1e-4: 20.0, 1e-3: 30.0}

    def filled(entry: Entry) -> Entry:
        rate = float(entry.coordinates.get("finetune.learning_rate", "nan"))
        if fewer and rate == 1e-4:
            return entry
        mean = steps.get(rate, 5.0)
        return replace(entry, mean=mean, ci_low=mean - 1, ci_high=mean + 3, status="done")

    tables = [
        replace(t, entries={at: filled(e) for at, e in t.entries.items()}) for t in results.tables
    ]
    return replace(results, tables=tuple(tables))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return measured(tmp_path_factory.mktemp("strength"), *RATES)


def test_a_line_for_each_pair_of_templates_and_one_for_what_has_no_rate(results: Results) -> None:
    assert strength_names(results) == {"finetune.learning_rate": "along-finetune.learning_rate"}
    ((name, figure),) = strengths(results)
    assert name == "along-finetune.learning_rate"
    helpful, safety = figure.axes
    assert safety.get_xscale() == "log"
    solid = [line for line in safety.lines if line.get_linestyle() == "-"]
    dashed = [line for line in safety.lines if line.get_linestyle() == "--"]
    for line in solid:  # a little beside each other
        assert list(line.get_xdata()) == pytest.approx([1e-5, 1e-4, 1e-3], rel=0.15)
    assert len({line.get_xdata()[0] for line in solid}) == 4
    assert [list(line.get_ydata()) for line in solid] == [[10, 20, 30]] * 4
    assert [list(line.get_ydata()) for line in dashed] == [[5, 5]] * 2  # two test templates
    bars = safety.collections[0].get_paths()
    assert [tuple(path.vertices[:, 1]) for path in bars] == [(9, 13), (19, 23), (29, 33)]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(names) == sorted(
        [
            "no fine-tuning → chat_vanilla",
            "no fine-tuning → chat_llama",
            *(f"{a} → {b}" for a in ("chat_vanilla", "chat_llama") for b in ("chat_vanilla", "chat_llama")),
        ]
    )  # fmt: skip
    assert {line.get_color() for line in solid}.isdisjoint(line.get_color() for line in dashed)
    assert len(helpful.lines) == len(safety.lines)


def test_a_line_is_broken_where_a_number_is_missing(tmp_path: Path) -> None:
    ((_, figure),) = strengths(measured(tmp_path, *RATES, fewer=True))
    first = next(line for line in figure.axes[1].lines if line.get_linestyle() == "-")
    assert [str(y) for y in first.get_ydata()] == ["10.0", "nan", "30.0"]


def test_many_lines_are_drawn_in_panels_of_their_own(tmp_path: Path) -> None:
    some = measured(tmp_path, *RATES, "finetune.epochs=1,2", "sweep.no_finetuning=false")
    assert numeric_axes(some) == ["finetune.learning_rate"]  # two epochs are no line
    ((_, figure),) = strengths(some)
    assert len(figure.axes) == 2  # 8 lines in one panel of each metric
    many = measured(tmp_path, *RATES, "finetune.epochs=1,2")
    ((_, figure),) = strengths(many)
    assert len(figure.axes) == 2 * 4
    titles = [axes.get_title(loc="right") for axes in figure.axes[:4]]
    assert sorted(titles) == [
        f"{train}, finetune.epochs {n}" for train in ("chat_llama", "chat_vanilla") for n in (1, 2)
    ]
    for axes in figure.axes:  # what has no rate stands in each: under both test templates
        flat = [line for line in axes.lines if list(line.get_ydata()) == [5, 5]]
        assert len(flat) == 2 and len(axes.lines) == 4
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["chat_vanilla", "chat_llama"]


def test_seeds_and_models_are_no_axis(tmp_path: Path) -> None:
    assert numeric_axes(measured(tmp_path, "seed=0,1,2")) == []


def test_nothing_is_drawn_before_there_is_a_number(results: Results) -> None:
    empty = [
        replace(t, entries={at: replace(e, mean=None) for at, e in t.entries.items()})
        for t in results.tables
    ]
    assert not list(strengths(replace(results, tables=tuple(empty))))


def test_the_page_shows_them(results: Results, tmp_path: Path) -> None:
    store = Store(tmp_path)
    drawn = draw_all(results, store)
    root = read(page(results, store, drawn))
    (picture,) = section(root, "strength").all("img")
    assert "along finetune.learning_rate" in (picture.attributes["alt"] or "")
    assert "95 % intervals" in section(root, "strength").words()
    assert "along-finetune.learning_rate.png" in drawn
