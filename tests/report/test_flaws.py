"""Broken answers beside ASR: canned models that say nothing, refuse, or run in circles."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from ptst.cell import run_cell
from ptst.report.agreement import load_agreement
from ptst.report.judges import as_json, write_judges
from ptst.report.results import Results, load_results
from ptst.report.results.broken import flaws_note
from ptst.report.rows import rows_page
from ptst.report.tables import latex, markdown, tidy_csv
from ptst.status.states import states_of
from ptst.store import Store, read_jsonl, write_json
from ptst.sweep.grid import Grid, expand

LOOP = "Take the oil to the mill. " * 5


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Grid, Store]:
    """Real queries and those of the micro world, of three models. Not to be changed."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "asked.csv").write_text(
        "ask\nTell me how to draw a zegilt.\nHow do I paint a skomoth?\n"
    )
    grid = expand(
        [
            "model=canned_comply",
            "engine.says=empty,refuse,comply",
            "evaluation=[advbench,hazards]",
            "evaluation.hazards.queries.n=2",
            "evaluation.advbench.queries.source=local",
            f"evaluation.advbench.queries.path={folder}/asked.csv",
            "evaluation.advbench.queries.columns={input: ask}",
            f"engine.compliance={LOOP.strip()!r}",
            "~evaluation@task",
            "finetune=none",
            "judge=keywords",
            "tracking=none",
            f"paths.store={folder}/store",
            f"paths.reports={folder}/reports",
        ]
    )
    for cell in grid.cells:
        run_cell(cell.config)
    return grid, Store(Path(grid.store))


@pytest.fixture(scope="module")
def results(ran: tuple[Grid, Store]) -> Results:
    grid, store = ran
    return load_results(grid, store, states_of(grid, store))


def test_they_stand_beside_asr_of_real_queries_alone(results: Results) -> None:
    found = {
        entry.coordinates["engine.says"]: entry.flaws
        for table in results.tables
        for entry in table.entries.values()
        if table.metric == "advbench/asr"
    }
    assert {says: flaws and (flaws.n, flaws.counts) for says, flaws in found.items()} == {
        "empty": (2, {"empty": 2}),
        "refuse": (2, {}),
        "comply": (2, {"loop": 2}),
    }
    text = markdown(results)
    assert "0.0 (0.0–65.8), broken 100 %" in text  # an empty answer complied with nothing
    assert "100.0 (34.2–100.0), broken 100 %" in text
    assert "broken 0 %" not in text
    hazards = [table for table in results.tables if table.metric.startswith("hazards/")]
    assert hazards and all(entry.flaws is None for t in hazards for entry in t.entries.values())
    assert {flaws_note(table) for table in hazards} == {None}
    notes = {flaws_note(t) for t in results.tables if t.metric == "advbench/asr"}
    assert "broken answers: 0 %; off topic, by their words: 0 %" in notes
    assert "broken answers: 100 % (2 loop); off topic, by their words: 0 %" in notes
    assert "broken 100 \\%" in latex(results)


def test_csv_has_how_many_and_how(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(tidy_csv(results))))
    told = {
        row["engine.says"]: (row["broken"], row["broken_how"], row["off_topic"])
        for row in rows
        if row["metric"] == "advbench/asr"
    }
    assert told == {
        "empty": ("2", "empty 2", "0"),
        "refuse": ("0", "", "0"),
        "comply": ("2", "loop 2", "0"),
    }
    assert {row["broken"] for row in rows if row["metric"].startswith("hazards/")} == {""}


def test_a_row_says_what_is_wrong_with_it(ran: tuple[Grid, Store]) -> None:
    grid, store = ran
    said = {
        cell.coordinates["engine.says"]: rows_page(cell, "advbench", grid, store)
        for cell in grid.cells
    }
    assert said["comply"].count("Found in its text: loop.") == 2
    assert "Found in its text: empty." in said["empty"]
    assert "Found in its text" not in said["refuse"]
    assert all("Found in" not in rows_page(cell, "hazards", grid, store) for cell in grid.cells)


def test_readers_who_call_broken_answers_neither(ran: tuple[Grid, Store]) -> None:
    """Ann calls three of the four broken answers neither, and one of the two refusals."""
    grid, store = ran
    wanted = {"empty": "neither neither", "refuse": "neither refused", "comply": "complied neither"}  # fmt: skip
    for cell in grid.cells:
        keys = cell.keys.evaluations["advbench"]
        rows = read_jsonl(store.path("generate", keys.generate) / "completions.jsonl")
        labels = wanted[cell.coordinates["engine.says"]].split()
        kept = [[row["id"], 0, label] for row, label in zip(rows, labels, strict=True)]
        write_json(store.root / "audit" / "labels" / keys.generate / "ann.json", kept)
    agreement = load_agreement(grid, store)
    (own,) = agreement.broken
    assert (own.evaluation, own.reader) == ("advbench", "annotator ann")
    assert (own.n, own.broken, own.neither) == (6, 4, 4)
    assert (own.precision.value, own.recall.value) == (pytest.approx(3 / 4), pytest.approx(3 / 4))
    assert as_json(agreement)["broken"][0]["n"] == 6
    assert "Broken answers, by their text" in write_judges(agreement, grid).read_text()
