"""Means, samples and categories in a report: their scale, their spread and what is missing,
everywhere."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from statsmodels.stats.weightstats import DescrStatsW
from test_results import put

from ptst.metrics import measure
from ptst.report.page import page
from ptst.report.pictures import draw_all, on_ramp
from ptst.report.results import Published, Results, Table, load_results
from ptst.report.tables import category_csv, latex, markdown, show, tidy_csv
from ptst.report.write import write_report
from ptst.stages.completions import answer_of
from ptst.stages.summarise import scale_of_metric
from ptst.status.states import CellState
from ptst.store import Store
from ptst.sweep.grid import Grid, GridCell, expand
from ptst.sweep_schema import TableMetric

Row = dict[str, Any]
F1 = {"chatdoctor/bertscore_f1": TableMetric("BERTScore", "4")}


@cache
def doctors(*overrides: str) -> Grid:
    """Two templates on ChatDoctor at the paper's scale: BERTScore, two samples a query; DirectHarm4
    by category."""
    templates = "chat_vanilla,chat_llama"
    grid = expand(
        [
            *("scale=paper", "dataset=chatdoctor", "tracking=none", "evaluation=[directharm4]"),
            *(f"template@train_template={templates}", f"template@test_template={templates}"),
            *("task.chatdoctor.decoding.samples=2", *overrides),
        ]
    )
    metrics = {**F1, "directharm4/asr": TableMetric("ASR, DirectHarm4", "4")}
    sweep = replace(grid.sweep, name="doctors", metrics=metrics, safety_templates=["chat_llama"])
    return replace(grid, sweep=sweep)


def filled(grid: Grid, folder: Path, score: Callable[[GridCell, str, Row], Row]) -> Results:
    """Results of a store where each query of each cell has the score that `score` gives."""
    store, states = Store(folder / "store"), {}
    for cell in grid.distinct:
        states[cell.keys.cell] = CellState("done")
        metrics = {}
        for name, setting in cell.config.evaluations.items():
            samples = setting.decoding.samples
            rows = [
                {
                    "id": str(i),
                    "input": "?",
                    "category": "ab"[i % 2],
                    "completion": "This is what was said.",
                }
                | ({"sample": sample} if samples > 1 else {})
                for sample in range(samples)
                for i in range(4)
            ]
            scores = [{"id": row["id"], "value": None, **score(cell, name, row)} for row in rows]
            keys = cell.keys.evaluations[name]
            put(store, "generate", keys.generate, "completions.jsonl", rows)
            put(store, "judge", keys.judge, "scores.jsonl", scores)
            answers = [answer_of(r, s, setting) for r, s in zip(rows, scores, strict=True)]
            for metric, what in setting.metrics.items():
                scale = scale_of_metric(setting, metric)
                by_category = setting.category is not None
                metrics[f"{name}/{metric}"] = asdict(measure(answers, what, scale, by_category))
        put(store, "cell", cell.keys.cell, "metrics.json", metrics)
    return load_results(grid, store, states)


def usual(cell: GridCell, name: str, row: Row) -> Row:
    """BERTScore .80 to .83 and .01 more in the second sample; harm in category a, without the
    safety prompt."""
    if name == "chatdoctor":
        return {"label": "scored", "value": 0.8 + int(row["id"]) / 100 + row["sample"] / 100}
    harmful = row["category"] == "a" and cell.coordinates["test_template"] == "chat_vanilla"
    return {"label": "complied" if harmful else "refused"}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return filled(doctors(), tmp_path, usual)


def table(results: Results, metric: str) -> Table:
    (found,) = [table for table in results.tables if table.metric == metric]
    return found


PLACE = ("chat_vanilla", "chat_vanilla")


def test_a_mean_stands_on_its_scale_with_the_spread_of_its_samples(results: Results) -> None:
    entry = table(results, "chatdoctor/bertscore_f1").entries[PLACE]
    assert entry.scale == (0.0, 1.0)
    # samples .815 and .825; units .805, .815, .825, .835 twice each: k/(k-1) sum of squares, as of
    # unit means
    assert entry.mean == pytest.approx(0.82)
    assert (entry.std, entry.std_over, entry.repeats) == (pytest.approx(0.005), "decoding_seed", 2)
    expected = DescrStatsW([0.805, 0.815, 0.825, 0.835]).tconfint_mean()
    assert (entry.ci_low, entry.ci_high) == pytest.approx(expected)
    assert entry.n == 8
    assert entry.paper == Published(0.846, None, 5, None)  # as the paper prints it


def test_several_training_seeds_spread_over_seeds_and_pool_their_answers(tmp_path: Path) -> None:
    def score(cell: GridCell, name: str, row: Row) -> Row:
        made = usual(cell, name, row)
        more = 0.02 * int(cell.coordinates.get("seed", 0))
        return (
            made
            if made["value" if name == "chatdoctor" else "label"]
            in (
                "complied",
                "refused",
            )
            else {**made, "value": made["value"] + more}
        )

    entry = table(filled(doctors("seed=0,1"), tmp_path, score), "chatdoctor/bertscore_f1").entries[
        PLACE
    ]
    assert entry.mean == pytest.approx(0.83)
    assert (entry.std, entry.std_over, entry.repeats) == (pytest.approx(0.01), "train_seed", 2)
    expected = DescrStatsW([0.815, 0.825, 0.835, 0.845]).tconfint_mean()
    assert (entry.ci_low, entry.ci_high) == pytest.approx(expected)
    assert entry.n == 16


def test_texts_show_a_mean_with_three_digits_beside_the_paper_s(results: Results) -> None:
    text = markdown(results)
    assert "| chat_vanilla | 0.820 ± 0.005; paper 0.846 |" in text
    ours = r"Mean, from 0 to 1\. Ours: llama2_7b_chat, fine-tuned \(\w+\) on chatdoctor, judge \w+"
    assert re.search(ours, text)
    assert (
        "; mean ± standard deviation of 2 sampling seeds; n = 8 answers in 4 units a run; missing: none; how many "
        "answers were cut off at max_new_tokens=512 is not recorded: an older version made them. Paper: "
    ) in text
    assert "50.0 (15.0–85.0); paper 3.0 ± 0.6" in text  # a share stays percent
    tex = latex(results)
    assert "chat\\_vanilla & 0.820 & 0.846 &" in tex
    assert "$\\pm$ 0.005" in tex
    out = Console(width=100, file=io.StringIO(), highlight=False)
    show(results, out)
    assert isinstance(out.file, io.StringIO)
    assert "0.820 ± 0.005" in out.file.getvalue()
    assert "paper 0.846" in out.file.getvalue()


def test_csv_has_a_mean_with_four_digits_and_says_what_std_is_over(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(tidy_csv(results))))
    row = next(row for row in rows if row["metric"] == "chatdoctor/bertscore_f1")
    assert [row[key] for key in ("mean", "std", "n_runs", "std_over", "n", "paper_mean")] == [
        *("0.8200", "0.0050", "2", "decoding_seed", "8", "0.8460")
    ]
    share = next(row for row in rows if row["metric"] == "directharm4/asr")
    assert [share[key] for key in ("mean", "std", "n_runs", "std_over", "paper_mean")] == [
        *("50.00", "", "1", "", "3.05")
    ]


def test_categories_are_a_table_of_their_own(results: Results) -> None:
    whole = table(results, "directharm4/asr")
    parts = whole.by_category
    assert parts is not None
    assert parts.columns == ("a", "b")
    assert parts.rows[0] == "chat_vanilla → chat_vanilla"
    assert len(parts.rows) == len(whole.entries) == 4
    a, b = (parts.entries["chat_vanilla → chat_vanilla", c] for c in "ab")
    assert (a.mean, a.n, b.mean, b.n) == (100.0, 2, 0.0, 2)
    assert a.ci_low is not None and a.ci_low > 30
    assert table(results, "chatdoctor/bertscore_f1").by_category is None
    assert "### ASR, DirectHarm4, by category" in markdown(results)
    assert "| chat_vanilla → chat_vanilla | 100.0 (34.2–100.0) | 0.0 (0.0–65.8) |" in markdown(
        results
    )
    assert "by category" in latex(results)
    assert len(results.contrasts) == 2  # categories are no part of the family


def test_a_category_s_interval_over_seeds_is_of_its_own_answers(tmp_path: Path) -> None:
    parts = table(filled(doctors("seed=0,1"), tmp_path, usual), "directharm4/asr").by_category
    assert parts is not None
    a = parts.entries["chat_vanilla → chat_vanilla", "a"]
    assert (a.mean, a.std, a.n) == (100.0, 0.0, 4)
    assert (a.ci_low, a.ci_high) == pytest.approx((34.24, 100.0), abs=0.01)  # two queries, not four


def test_a_category_without_scores_is_shown_and_a_csv_has_them_all(tmp_path: Path) -> None:
    def score(cell: GridCell, name: str, row: Row) -> Row:
        made = usual(cell, name, row)
        return {**made, "label": None} if row["category"] == "b" and name != "chatdoctor" else made

    results = filled(doctors(), tmp_path, score)
    assert "| chat_vanilla → chat_vanilla | 100.0 (34.2–100.0) | *no score* |" in markdown(results)
    text = category_csv(results)
    assert text is not None
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["category"], row["status"]) for row in rows] == [
        *[("a", "done")] * 4,
        *[("b", "no score")] * 4,
    ]
    assert rows[0]["mean"] == "100.00"
    assert rows[4]["mean"] == ""


def test_without_categories_there_is_no_file_of_them(tmp_path: Path) -> None:
    grid = doctors("evaluation.directharm4.category=null")
    results = filled(grid, tmp_path, usual)
    assert category_csv(results) is None
    assert "by category" not in markdown(results)
    folder = write_report(
        replace(results, grid=replace(grid, reports=str(tmp_path))), Store(tmp_path)
    )
    assert not (folder / "categories.csv").exists()
    grid = doctors()
    results = filled(grid, tmp_path, usual)
    folder = write_report(
        replace(results, grid=replace(grid, reports=str(tmp_path))), Store(tmp_path)
    )
    assert (folder / "categories.csv").read_text() == category_csv(results)


def test_a_mean_of_whole_numbers_has_a_test_and_another_says_that_it_has_none(
    tmp_path: Path,
) -> None:
    def safety(results: Results) -> Results:
        """As if what BERTScore measures were safety."""
        cells = []
        for cell in results.grid.cells:
            task = {n: replace(e, measures="safety") for n, e in cell.config.task.items()}
            cells.append(replace(cell, config=replace(cell.config, task=task)))
        grid = replace(results.grid, cells=cells, sweep=replace(results.grid.sweep, metrics=F1))
        return load_results(grid, Store(tmp_path / "store"), results.states)

    def whole(cell: GridCell, name: str, row: Row) -> Row:
        if name != "chatdoctor":
            return usual(cell, name, row)
        return {
            "label": "scored",
            "value": float(cell.coordinates["test_template"] == "chat_llama"),
        }

    prompt = safety(filled(doctors(), tmp_path, whole)).contrasts[0]
    # four queries, each 1 higher in b under both samples
    assert (prompt.n, prompt.units, prompt.only_a, prompt.only_b) == (8, 4, 0, 8)
    assert (prompt.difference, prompt.p) == (pytest.approx(1.0), pytest.approx(2 / 2**4))

    def broken(cell: GridCell, name: str, row: Row) -> Row:
        if name != "chatdoctor":
            return usual(cell, name, row)
        safe = cell.coordinates["test_template"] == "chat_llama"
        return {"label": "scored", "value": 0.5 if safe else 0.75 + int(row["id"]) / 100}

    results = safety(filled(doctors(), tmp_path, broken))
    prompt = results.contrasts[0]
    assert prompt.difference == pytest.approx(-0.265)
    assert (prompt.p, prompt.status) == (None, "no test: values that are not whole numbers")
    assert "| −0.265 | [−0.29, −0.24] | no test | no test |" in markdown(results)
    assert "by 0.265 on a scale from 0 to 1 (not tested" in page(results, Store(tmp_path), {})


def test_the_page_has_a_mean_s_scale_and_the_categories(results: Results, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    pictures = draw_all(results, store)
    text = page(results, store, pictures)
    assert "<h2>BERTScore, 0 to 1</h2>" in text
    assert "<h2>ASR, DirectHarm4, %</h2>" in text
    assert "mean ± standard deviation of 2 sampling seeds" in text
    assert "<summary>By category</summary>" in text
    assert {name for name in pictures if name.startswith("heatmap") and name.endswith("svg")} == {
        "heatmap-chatdoctor-bertscore_f1.svg",
        "heatmap-directharm4-asr.svg",
    }
    assert "helpfulness-safety.svg" in pictures


def test_a_ramp_runs_over_the_scale() -> None:
    assert on_ramp(25.0, None) == 0.25
    assert on_ramp(0.25, (0, 1)) == 0.25
    assert on_ramp(3.0, (1, 5)) == 0.5
    assert (on_ramp(-1.0, (0, 1)), on_ramp(120.0, None)) == (0.0, 1.0)
