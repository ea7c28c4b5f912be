"""Pictures along a coordinate that is a number: lines, intervals, what stands at 0 or apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from test_page import read, section

from ptst.report.page import page
from ptst.report.pictures import draw_all
from ptst.report.pictures.along import along_figures, along_names
from ptst.report.results import Entry, Results, load_results
from ptst.status.states import CellState
from ptst.store import Store
from ptst.sweep.grid import expand

RATES = ["finetune.learning_rate=1e-5,1e-4,1e-3"]


def made(root: Path, words: Sequence[str], mean_of: Callable[[Entry], float | None]) -> Results:
    """A grid of which these means are there, from 1 below to 3 above."""
    grid = expand([*words, "evaluation=[hazards]", "tracking=none"])
    states = {cell.keys.cell: CellState("waiting") for cell in grid.cells}
    results = load_results(grid, Store(root), states)

    def filled(entry: Entry) -> Entry:
        mean = mean_of(entry)
        if mean is None:
            return entry
        return replace(entry, mean=mean, ci_low=mean - 1, ci_high=mean + 3, status="done")

    tables = [
        replace(t, entries={at: filled(e) for at, e in t.entries.items()}) for t in results.tables
    ]
    return replace(results, tables=tuple(tables))


def measured(root: Path, *words: str, fewer: bool = False) -> Results:
    """10 more for every step of the learning rate, 5 of the untouched model."""
    steps = {1e-5: 10.0, 1e-4: None if fewer else 20.0, 1e-3: 30.0}

    def mean_of(entry: Entry) -> float | None:
        return steps.get(float(entry.coordinates.get("finetune.learning_rate", "nan")), 5.0)

    return made(root, ["+sweeps=quick", *words], mean_of)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return measured(tmp_path_factory.mktemp("along"), *RATES)


def test_a_line_for_each_pair_of_templates_and_one_for_what_has_no_rate(results: Results) -> None:
    assert along_names(results) == {"finetune.learning_rate": "along-finetune.learning_rate"}
    ((name, figure),) = along_figures(results)
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
    ((_, figure),) = along_figures(measured(tmp_path, *RATES, fewer=True))
    first = next(line for line in figure.axes[1].lines if line.get_linestyle() == "-")
    assert [str(y) for y in first.get_ydata()] == ["10.0", "nan", "30.0"]


def trained(root: Path, *words: str) -> Results:
    """Figure 2, but for the fourth epoch: 10 times the epoch, and what it starts from."""

    def mean_of(entry: Entry) -> float | None:
        epoch = float(entry.coordinates.get("finetune.epoch", 0))
        start = {"micro": 5, "micro_aligned": 55}[entry.coordinates["model"]]
        return None if epoch == 4 else 10 * epoch + start

    return made(root, ["+sweeps=figure2", *words], mean_of)


def test_epochs_start_at_the_untouched_model_and_stand_beside_the_papers(tmp_path: Path) -> None:
    ((name, figure),) = along_figures(trained(tmp_path))
    assert name == "along"
    _, safety = figure.axes
    ours = [line for line in safety.lines if line.get_linestyle() == "-"]
    dotted = [line for line in safety.lines if line.get_linestyle() == ":"]
    assert len(ours) == len(dotted) == 3  # CV→CV, CV→CL, CL→CL
    for line in ours:
        assert list(line.get_xdata()) == pytest.approx(range(7), abs=0.1)
        assert [str(y) for y in line.get_ydata()] == [
            "5.0",
            "15.0",
            "25.0",
            "35.0",
            "nan",
            "55.0",
            "65.0",
        ]
    # Figure 2a of the paper: of chat_llama at both ends every epoch is known, of the others not
    drawn = sorted(list(zip(*line.get_data(), strict=True)) for line in dotted)
    assert drawn[0] == [(0, 0.0), (1, 0.5), (2, 0.0), (6, 1.0)]
    assert drawn[1] == [(0, 0.0), *enumerate((12.75, 18.75, 22.25, 22.75, 29.75, 21.5), start=1)]
    assert drawn[2] == [(0, 2.75), (1, 8.25), (2, 8.5), (3, 8.75), (6, 9.5)]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "chat_vanilla → chat_vanilla",
        "chat_vanilla → chat_llama",
        "chat_llama → chat_llama",
        "paper",
    ]
    assert "epoch" in [text.get_text() for text in figure.texts]


def test_each_model_starts_at_itself(tmp_path: Path) -> None:
    ((_, figure),) = along_figures(trained(tmp_path, "model=micro,micro_aligned"))
    ours = [line for line in figure.axes[1].lines if line.get_linestyle() == "-"]
    assert [line.get_ydata()[0] for line in ours] == [5, 5, 55, 55, 5, 55]


def test_templates_are_no_axis(tmp_path: Path) -> None:
    assert not along_names(measured(tmp_path))


def test_many_lines_are_drawn_in_panels_of_their_own(tmp_path: Path) -> None:
    some = measured(tmp_path, *RATES, "finetune.epochs=1,2", "sweep.no_finetuning=false")
    assert list(along_names(some)) == ["finetune.learning_rate"]  # two epochs are no line
    ((_, figure),) = along_figures(some)
    assert len(figure.axes) == 2  # 8 lines in one panel of each metric
    many = measured(tmp_path, *RATES, "finetune.epochs=1,2")
    ((_, figure),) = along_figures(many)
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
    assert not along_names(measured(tmp_path, "seed=0,1,2"))


def test_nothing_is_drawn_before_there_is_a_number(tmp_path: Path) -> None:
    for words in (["+sweeps=quick", *RATES], ["+sweeps=figure2"]):
        assert not list(along_figures(made(tmp_path, words, lambda entry: None)))


def test_an_interval_may_end_at_the_mean_but_for_rounding(tmp_path: Path) -> None:
    def rounded(entry: Entry) -> Entry:
        return entry if entry.mean is None else replace(entry, ci_low=entry.mean + 1e-15)

    results = trained(tmp_path)
    tables = [
        replace(t, entries={at: rounded(e) for at, e in t.entries.items()}) for t in results.tables
    ]
    ((_, figure),) = along_figures(replace(results, tables=tuple(tables)))
    bars = figure.axes[1].collections[0].get_paths()
    assert tuple(bars[0].vertices[:, 1]) == (5, 8)


def test_the_page_shows_them(results: Results, tmp_path: Path) -> None:
    store = Store(tmp_path)
    drawn = draw_all(results, store)
    root = read(page(results, store, drawn))
    (picture,) = section(root, "along").all("img")
    assert "along finetune.learning_rate" in (picture.attributes["alt"] or "")
    assert "95 % intervals" in section(root, "along").words()
    assert "along-finetune.learning_rate.png" in drawn
