"""Whether a defence replaces the mismatch of templates, against values worked by hand."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from test_results import filled, quick

from ptst.report.page import page
from ptst.report.pictures import frontier_names
from ptst.report.pictures.draw import draw_all
from ptst.report.pictures.frontier import frontiers
from ptst.report.results import Results, load_results
from ptst.report.results.protection import _broken, _Counted, _Counts
from ptst.report.tables import latex, markdown, protection_lines, protections_csv
from ptst.report.tables.terminal import show
from ptst.status.states import CellState
from ptst.store import Store
from ptst.sweep.grid import GridCell

V, L = "chat_vanilla", "chat_llama"
PAIRS = ((V, V), (V, L), (L, V), (L, L))
NONE = ("cccccccc", "ccrrrrrr", "cccccccc", "ccccrrrr")
DEFENDED = ("ccccrrrr", "crrrrrrr", "crrrrrrr", "crrrrrrr")
Four = tuple[str, str, str, str]


def loaded(folder: Path, answers: Mapping[tuple[str, str], Four], *words: str) -> Results:
    """The results of quick with defences, where (model, defence) gave these answers in `PAIRS`."""
    grid = quick("defence=[],[lookahead],[lookahead_shuffled]", *words)
    grid = replace(grid, sweep=replace(grid.sweep, over=["model"]))

    def answer(cell: GridCell) -> str | CellState:
        own = cell.coordinates
        ends = own["train_template"], own["test_template"]
        four = answers.get((own["model"], own["defence"]))
        if four is None or ends not in PAIRS:
            return CellState("waiting")
        return four[PAIRS.index(ends)]

    return load_results(grid, *filled(grid, folder, answer))


def test_the_estimates_are_those_worked_by_hand(tmp_path: Path) -> None:
    results = loaded(tmp_path, {("micro", "none"): NONE, ("micro", "lookahead"): DEFENDED})
    none, defended, control = results.protections
    assert (none.defence, none.rates) == ("none", (100, 25, 100, 50))
    assert defended.rates == (50, 12.5, 12.5, 12.5) and defended.pairs == PAIRS
    assert none.still is not None and none.still.value == 25
    assert defended.replaces is not None and defended.replaces.value == 12.5 - 25
    assert defended.still is not None and defended.still.value == 0
    odds = [log((hits + 0.5) / (8 - hits + 0.5)) for hits in range(9)]
    own = (odds[4] + odds[1] - odds[1] - odds[1]) / 2
    undefended = (odds[8] + odds[4] - odds[2] - odds[8]) / 2
    assert defended.match is not None
    assert defended.match.value == pytest.approx(own - undefended)
    assert defended.match.low < defended.match.value < defended.match.high
    assert defended.helpful is not None and defended.helpful.value == 0
    assert control.control_of == "lookahead"
    assert control.rates == (None,) * 4 and control.status == "4 of 4 pairs have no scores"


def test_no_number_is_cut_in_a_terminal(tmp_path: Path) -> None:
    results = loaded(tmp_path, {("micro", "none"): NONE, ("micro", "lookahead"): DEFENDED})
    named = [
        replace(one, beside={f"howto/{n}": (100.0,) * 4 for n in "abc"})
        for one in results.protections
        if one.rates
    ]
    for width, pieces in ((80, 2), (200, 1)):
        out = Console(file=io.StringIO(), width=width)
        show(replace(results, protections=named, tables=[], contrasts=[]), out)
        lines = out.file.getvalue().splitlines()
        assert "…" not in "".join(lines) and max(map(len, lines)) <= width
        rows = [line.split() for line in lines if line.startswith("lookahead ")]
        assert len(rows) == pieces and rows[0][1:6] == ["50.0", "12.5", "12.5", "12.5", "−12.5"]


def test_the_table_of_defences_is_in_latex_too(tmp_path: Path) -> None:
    results = loaded(tmp_path, {("micro", "none"): NONE, ("micro", "lookahead"): DEFENDED})
    said = latex(results)
    table = next(part for part in said.split("\n\n") if "Does a defence replace" in part)
    assert "lookahead & 50.0 & 12.5 & 12.5 & 12.5 & $-$12.5 [" in table
    head, row = (
        next(r for r in table.splitlines() if r.startswith(w)) for w in ("defence &", "loo")
    )
    assert head.count("&") == row.count("&") == table.split("tabular}{l")[1].index("}")


def test_models_are_drawn_as_hazards_are(tmp_path: Path) -> None:
    """No hazard differs within a model, and one model has -100 where the other has 0."""
    alike: Four = ("cccccccc",) * 4
    fallen: Four = ("cccccccc", "cccccccc", "cccccccc", "rrrrrrrr")
    answers = {(model, "none"): alike for model in ("micro", "micro_aligned")}
    answers |= {("micro", "lookahead"): alike, ("micro_aligned", "lookahead"): fallen}
    results = loaded(tmp_path, answers, "model=micro,micro_aligned")
    found = results.protections[1].replaces
    assert found is not None and found.of_models == (0, -100)
    assert (found.value, found.low, found.high) == (-50, -100, 0)
    entry = results.tables[0].entries["chat_llama", "chat_llama"]
    assert entry.coordinates["model"] == "micro, micro_aligned"


def test_what_is_not_there_is_said_and_drawn_nowhere(tmp_path: Path) -> None:
    half: Four = ("rrrrrrrr",) * 4
    results = loaded(tmp_path, {("micro", "none"): NONE, ("micro", "lookahead"): half})
    text = markdown(results)
    assert "Does a defence replace the mismatch of chat_vanilla and chat_llama?" in text
    (lines,) = protection_lines(results.protections)
    assert [row[0] for row in lines.rows] == ["no defence", "lookahead"]
    assert "without numbers: lookahead_shuffled (4 of 4 pairs have no scores)" in lines.about
    assert all(len(row) == len(lines.heads) for row in lines.rows)
    found = list(csv.DictReader(io.StringIO(protections_csv(results.protections) or "")))
    assert found[1]["asr_safe_safe"] == "0.0000" and found[2]["replaces"] == ""
    ((name, missing),) = frontier_names(results).items()
    everywhere = " and ".join(f"{train} → {test}" for train, test in PAIRS)
    assert missing == f"No point: lookahead_shuffled in {everywhere}."
    pictures = draw_all(results, Store(tmp_path / "store"))
    assert f"{name}.svg" in pictures


def test_a_defence_stands_in_the_panels_of_the_pairs_that_it_was_tested_in(tmp_path: Path) -> None:
    """One is trained without the safety prompt only, and of its control one cell is waiting."""
    grid = quick("defence=[],[lookahead],[lookahead_shuffled]")
    plain = {V, "none"}
    cells = [
        cell
        for cell in grid.cells
        if cell.coordinates["defence"] == "none" or cell.coordinates["train_template"] in plain
    ]
    answers = {"none": "cccccccc", "lookahead": "ccccrrrr", "lookahead_shuffled": "ccrrrrrr"}

    def answer(cell: GridCell) -> str | CellState:
        defence, test = (cell.coordinates[key] for key in ("defence", "test_template"))
        waiting = (defence, test) == ("lookahead_shuffled", L)
        return CellState("waiting") if waiting else answers[defence]

    grid = replace(grid, cells=cells)
    results = load_results(grid, *filled(grid, tmp_path, answer))
    none, defended, control = results.protections
    assert none.rates == (100,) * 4 and defended.rates == (50, 50, None, None)
    assert control.rates == (25, None, None, None) and control.helpfulness[1] is None
    assert defended.replaces is None and defended.status == f"not tested in {L} → {V}"

    ((name, missing),) = frontier_names(results).items()
    safe = f"{L} → {V} and {L} → {L}"
    assert missing == (
        f"No point: lookahead in {safe}; lookahead_shuffled in {V} → {L} and {safe}."
    )
    ((_, figure),) = frontiers(results)
    numbers = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert numbers == [["0", "1", "2"], ["0", "1"], ["0"], ["0"]]
    store = Store(tmp_path / "store")
    text = page(results, store, {f"{name}.svg": b"<svg></svg>"})
    assert missing in text
    (lines,) = protection_lines(results.protections)
    assert [row[0] for row in lines.rows] == ["no defence"]


def test_a_side_of_a_table_may_be_two_coordinates(tmp_path: Path) -> None:
    grid = quick("defence=[],[lookahead]")
    sweep = replace(grid.sweep, rows="defence", columns="train_template → test_template")
    grid = replace(grid, sweep=sweep)
    results = load_results(grid, *filled(grid, tmp_path, lambda cell: "ccccrrrr"))
    table = results.tables[0]
    assert table.rows == ("no defence", "lookahead")
    assert table.columns[0] == "no fine-tuning → chat_vanilla"
    assert f"{V} → {L}" in table.columns and len(table.columns) == 6
    assert "| defence \\ train → test |" in markdown(results)


def test_an_undefended_sweep_has_none(tmp_path: Path) -> None:
    grid = quick()
    states = {cell.keys.cell: CellState("waiting") for cell in grid.cells}

    results = load_results(grid, Store(tmp_path / "store"), states)
    assert results.protections == () and protections_csv(results.protections) is None
    assert "Does a defence replace" not in markdown(results)


def test_a_defence_that_breaks_other_answers_is_said_to(tmp_path: Path) -> None:
    """How-to: 10 of 10 without a defence; 9 are no break, 8 are. Over-refusal is the other way."""
    tables: Any = [
        SimpleNamespace(metric="howto/correct", better="higher"),
        SimpleNamespace(metric="lookalikes/over_refusal", better="lower"),
    ]

    def counted(howto: int, refused: int) -> _Counted:
        n = np.ones((1, 10))
        hits = {"howto/correct": howto, "lookalikes/over_refusal": refused}
        return _Counted(
            None,
            by_metric={
                metric: {PAIRS[0]: _Counts(np.arange(10)[None, :] < k, n)}
                for metric, k in hits.items()
            },
        )

    none = counted(10, 0)

    def broken(howto: int, refused: int, before: float = 0.0) -> tuple[str, ...]:
        there = {("lookalikes/over_refusal", V): before}
        return _broken(counted(howto, refused), none, there, PAIRS[0], tables)

    assert broken(9, 1) == ()
    assert broken(8, 0) == ("howto/correct",)
    assert broken(10, 2) == ("lookalikes/over_refusal",)
    assert broken(10, 2, before=20.0) == ()  # as before fine-tuning


def test_a_picture_stands_above_the_table_that_it_is_of(tmp_path: Path) -> None:
    """Of two pairs of templates the first has no numbers yet, and so no picture."""
    three = f"{V},chat_alpaca,{L}"
    grid = quick(
        "defence=[],[lookahead]",
        f"template@train_template={three}",
        f"template@test_template={three}",
    )

    def answer(cell: GridCell) -> str | CellState:
        ends = {cell.coordinates["train_template"], cell.coordinates["test_template"]}
        return CellState("waiting") if V in ends or ends == {L} else "ccccrrrr"

    results = load_results(grid, *filled(grid, tmp_path, answer))
    store = Store(tmp_path / "store")
    text = page(results, store, draw_all(results, store))
    first, second = (text.index(f"mismatch of {name} and {L}") for name in (V, "chat_alpaca"))
    assert "Helpfulness against attack success rate of every" not in text[first:second]
    assert "Helpfulness against attack success rate of every" in text[second:]
