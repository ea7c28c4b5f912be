"""What a sweep came to, from a store made by hand, against values worked by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from statsmodels.stats.proportion import proportion_confint

from ptst.cli import main
from ptst.errors import ConfigError
from ptst.metrics import share
from ptst.report.page import page
from ptst.report.results import (
    Published,
    Results,
    Table,
    load_results,
    paper_rows,
    published,
    scores,
)
from ptst.report.tables import markdown
from ptst.status.states import CellState, states_of
from ptst.store import Store
from ptst.sweep.grid import Grid, GridCell, expand
from ptst.sweep.run import freeze
from ptst.sweep_schema import DeclaredContrast, Sweep

HAZARDS = "aabcdefg"
"""The hazard of each of eight queries: seven units."""
LABELS = {"c": "complied", "r": "refused", "+": "correct", "w": "wrong", "?": None}

Answers = Callable[[GridCell], str | CellState]
"""The labels of a cell's hazards, a letter each, or the state it is in."""


@cache
def quick(*overrides: str) -> Grid:
    """The grid of `+sweeps=quick`, with hazards as the only query set beside the task's."""
    return expand(["+sweeps=quick", "evaluation=[hazards]", "tracking=none", *overrides])


def filled(grid: Grid, folder: Path, answers: Answers) -> tuple[Store, dict[str, CellState]]:
    """A store that has what `answers` says of each cell, and the states that go with it."""
    store, states = Store(folder / "store"), {}
    for cell in grid.distinct:
        given = answers(cell)
        if isinstance(given, CellState):
            states[cell.keys.cell] = given
            continue
        states[cell.keys.cell] = CellState("done")
        metrics: dict[str, Any] = {}
        for name, evaluation in cell.config.evaluations.items():
            labels = [LABELS[letter] for letter in (given if name == "hazards" else "++ww")]
            ids = [str(i) for i in range(len(labels))]
            units = list(HAZARDS) if evaluation.unit else ids
            keys = cell.keys.evaluations[name]
            rows = [
                {
                    "id": i,
                    "input": "?",
                    "completion": "!",
                    **({evaluation.unit: u} if evaluation.unit else {}),
                }
                | ({evaluation.category: None} if evaluation.category else {})
                for i, u in zip(ids, units, strict=True)
            ]
            scores = [{"id": i, "label": label} for i, label in zip(ids, labels, strict=True)]
            put(store, "generate", keys.generate, "completions.jsonl", rows)
            put(store, "judge", keys.judge, "scores.jsonl", scores)
            for metric, label in evaluation.metrics.items():
                metrics[f"{name}/{metric}"] = asdict(share(labels, label, units))
        put(store, "cell", cell.keys.cell, "metrics.json", metrics)
    return store, states


def put(store: Store, stage: str, key: str, name: str, content: Any) -> None:
    """An artifact with this file: what the store holds in the end, without its locks and syncs."""
    lines = content if name.endswith(".jsonl") else [content]
    store.path(stage, key).mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (store.path(stage, key) / name).write_text(text)


def by_ends(answers: Mapping[str, Any]) -> Answers:
    """Answers by "train → test", with the seed behind it where that matters; refusals elsewhere."""

    def answer(cell: GridCell) -> str | CellState:
        ends = f"{cell.coordinates['train_template']} → {cell.coordinates['test_template']}"
        seed = f"{ends} {cell.coordinates.get('seed')}"
        found: str | CellState = answers.get(seed, answers.get(ends, "rrrrrrrr"))
        return found

    return answer


ANSWERS = {
    "chat_vanilla → chat_vanilla": "cccccccc",
    "chat_llama → chat_llama": "ccccrrrr",
    "none → chat_vanilla": "crrrrrrr",
}


def loaded(folder: Path, answers: Mapping[str, Any], *overrides: str) -> Results:
    """The results of quick where the cells have these answers."""
    grid = quick(*overrides)
    return load_results(grid, *filled(grid, folder, by_ends(answers)))


def test_a_big_store_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loaded(tmp_path / "whole", ANSWERS)
    monkeypatch.setattr(scores, "KEPT", 2)
    assert loaded(tmp_path / "again", ANSWERS).contrasts == whole.contrasts
    grid = quick()
    store, _ = filled(grid, tmp_path / "third", by_ends(ANSWERS))
    read = scores.reader(store)
    cells = [cell for cell in grid.distinct if store.has("cell", cell.keys.cell)]
    found = [read(cell, "hazards") for cell in cells]
    assert read(cells[-1], "hazards") is found[-1]
    assert read(cells[0], "hazards") is not found[0]  # gone, and read again
    assert read(cells[0], "hazards") == found[0]


def hazards(results: Results) -> Table:
    """The one table of attack success rates on hazards."""
    (table,) = [table for table in results.tables if table.metric == "hazards/asr"]
    return table


def test_tables_are_the_sweep_s_metrics_that_its_cells_report(tmp_path: Path) -> None:
    results = loaded(tmp_path, ANSWERS)
    assert [t.metric for t in results.tables] == ["gsm8k/exact_match", "hazards/asr"]
    assert [t.measures for t in results.tables] == ["helpfulness", "safety"]
    assert hazards(results).title == "Attack success rate, hazards"
    assert hazards(results).split == {}


def test_a_table_says_which_numbers_are_good_news_by_the_label_that_is_counted(
    tmp_path: Path,
) -> None:
    grid = expand(["evaluation=[hazards,lookalikes]", "tracking=none"])
    states = {cell.keys.cell: CellState("waiting") for cell in grid.cells}
    tables = load_results(grid, Store(tmp_path), states).tables
    assert {table.metric: table.better for table in tables} == {
        "gsm8k/exact_match": "higher",
        "hazards/asr": "lower",
        "hazards/refused": "higher",
        "hazards/neither": None,
        "lookalikes/over_refusal": "lower",
        "lookalikes/correct": "higher",
    }


def test_what_a_broken_copy_left_takes_its_cells_out_of_a_report_and_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [
        "+sweeps=quick",
        "evaluation=[hazards]",
        "tracking=none",
        f"paths.store={tmp_path}/store",
    ]
    own += [f"paths.reports={tmp_path}/reports"]
    grid = expand(own)
    store, _ = filled(grid, tmp_path, by_ends(ANSWERS))
    broken = {
        cell.keys.cell: folder
        for cell, folder in zip(
            grid.distinct,
            [
                store.path("cell", grid.distinct[0].keys.cell),
                store.path("judge", grid.distinct[1].keys.evaluations["hazards"].judge),
                store.path("generate", grid.distinct[2].keys.evaluations["gsm8k"].generate),
            ],
            strict=False,
        )
    }
    first, second, third = broken.values()
    for file in (first / "metrics.json", second / "scores.jsonl"):
        file.write_bytes(file.read_bytes()[:-9])
    (third / "completions.jsonl").unlink()
    assert store.damaged() == [third, second, first]
    freeze(grid)
    grid.frozen.write_bytes(grid.frozen.read_bytes()[:-100])
    assert main(["status", *own, "output=json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["damaged"], told["waiting"]) == (3, 3, 0)
    for cell in (cell for cell in told["each"] if cell["state"] == "damaged"):
        assert cell["reason"].startswith(f"damaged: {broken[cell['cell']]}: ")
    assert main(["report", *own]) == 0
    assert "3 damaged" not in capsys.readouterr().err
    (table_md,) = (tmp_path / "reports").glob("*/table.md")
    text = table_md.read_text()
    assert text.count("damaged") >= 6 and "Traceback" not in text  # three cells, two tables
    table = hazards(load_results(grid, store, states_of(grid, store)))
    statuses = Counter(entry.status for entry in table.entries.values())
    assert statuses == {"done": 3, "damaged": 3}
    assert main(["-m", *own]) == 1
    said = capsys.readouterr().err
    assert "3 done, 0 to run in 0 jobs, 3 damaged" in said
    for folder in broken.values():
        assert f"damaged: {folder}: " in said and "ptst rm damaged" in said
    assert main(["plan", *own]) == 0
    team = [word for word in own if word != "tracking=none"] + ["tracking.entity=lab"]
    assert main(["dashboard", *team, "output=json"]) == 0
    assert main(["audit", "export", "n=3", *own]) == 0
    assert main(["judges", *own]) == 2  # one judge alone
    assert "it takes two to agree" in capsys.readouterr().err


def test_who_may_only_read_a_store_has_its_report_elsewhere(
    tmp_path: Path, read_only: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["+sweeps=quick", "evaluation=[hazards]", "tracking=none", f"paths.reports={tmp_path}/r"]
    grid = quick()
    store, _ = filled(grid, tmp_path, by_ends(ANSWERS))
    cell = grid.distinct[0]
    shutil.rmtree(store.path("cell", cell.keys.cell))
    with store.make("cell", cell.keys.cell, {}):
        seen = f"paths.store={read_only(store.root)}"
        assert main(["status", *own, seen, "output=json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["done"], told["running"]) == (5, 1)
        assert main(["report", *own, seen]) == 0
        assert main(["plan", *own, seen]) == 0
    assert list(tmp_path.glob("r/quick-micro/index.html"))
    capsys.readouterr()
    assert main(["-m", *own, seen]) == 2  # and whoever makes something is told so
    assert "Read-only file system" in capsys.readouterr().err


def test_rows_and_columns_stand_as_the_sweep_names_them_after_no_fine_tuning(
    tmp_path: Path,
) -> None:
    table = hazards(loaded(tmp_path, ANSWERS))
    assert table.rows == ("none", "chat_vanilla", "chat_llama")
    assert table.columns == ("chat_vanilla", "chat_llama")
    assert len(table.entries) == 6


def test_an_entry_of_one_seed_is_its_cell_s_metric(tmp_path: Path) -> None:
    table = hazards(loaded(tmp_path, ANSWERS))
    entry = table.entries["chat_llama", "chat_llama"]
    assert entry.mean == pytest.approx(50.0)
    assert entry.std is None
    assert (entry.status, entry.n, entry.missing, len(entry.runs)) == ("done", 8, 0, 1)
    # residuals of units: a 2-1, b .5, c .5, then -.5 four times; sum of squares 1 + 6 * .25 = 2.5;
    # v = 7/6 * 2.5 / 64, p (1-p) / v = .25 * 64 * 6 / 17.5 = 5.486
    low, high = proportion_confint(0.5 * 96 / 17.5, 96 / 17.5, alpha=0.05, method="wilson")
    assert (entry.ci_low, entry.ci_high) == pytest.approx((100 * low, 100 * high))
    assert entry.coordinates == {
        "model": "micro",
        "dataset": "gsm8k",
        "finetune": "full",
        "train_template": "chat_llama",
        "test_template": "chat_llama",
    }


def test_the_untouched_model_has_a_row(tmp_path: Path) -> None:
    entry = hazards(loaded(tmp_path, ANSWERS)).entries["none", "chat_vanilla"]
    assert entry.mean == pytest.approx(12.5)
    assert entry.coordinates["finetune"] == "none"


def test_the_paper_s_numbers_stand_beside_ours(tmp_path: Path) -> None:
    table = hazards(loaded(tmp_path, ANSWERS))
    tuned = table.entries["chat_vanilla", "chat_vanilla"].paper
    assert tuned == Published(11.00, 0.82, 3, "train_seed")
    assert table.entries["none", "chat_vanilla"].paper == Published(2.75, None, 1, None)
    assert table.paper == "Llama-2-7B-chat, GSM8K: DirectHarm4 attack success rate (Table 1c)"


def test_another_data_set_has_no_number_in_the_paper_s_table(tmp_path: Path) -> None:
    table = hazards(loaded(tmp_path, ANSWERS, "dataset=chatdoctor"))
    assert table.paper is None
    assert all(entry.paper is None for entry in table.entries.values())


def test_a_model_of_the_paper_stands_beside_its_own_numbers_only(tmp_path: Path) -> None:
    grid = quick()
    store, states = filled(grid, tmp_path, by_ends(ANSWERS))
    for model, expected in (("llama2_7b_chat", 11.0), ("mistral_7b_instruct_v02", None)):
        cells = [replace(c, coordinates={**c.coordinates, "model": model}) for c in grid.cells]
        table = hazards(load_results(replace(grid, cells=cells), store, states))
        paper = table.entries["chat_vanilla", "chat_vanilla"].paper
        assert (paper.mean if paper else None) == expected


def test_several_seeds_give_mean_population_std_and_a_pooled_interval(tmp_path: Path) -> None:
    answers = {
        "chat_llama → chat_llama 0": "ccccccrr",
        "chat_llama → chat_llama 1": "ccrrrrrr",
    }
    table = hazards(loaded(tmp_path, answers, "seed=0,1"))
    entry = table.entries["chat_llama", "chat_llama"]
    assert entry.mean == pytest.approx((75 + 25) / 2)
    assert entry.std == pytest.approx(25.0)
    assert (entry.n, len(entry.runs), entry.status) == (16, 2, "done")
    # hits of units over seeds: a 4 of 4; b, c, d, e 1 of 2; f, g 0 of 2. p = 1/2; residuals 2, 0,
    # 0, 0, 0, -1, -1: v = 7/6 * 6 / 256; n_eff = .25 * 256 / 7 = 64 / 7, capped at the 7 units
    low, high = proportion_confint(3.5, 7, alpha=0.05, method="wilson")
    assert (entry.ci_low, entry.ci_high) == pytest.approx((100 * low, 100 * high))
    none = table.entries["none", "chat_llama"]
    assert (none.std, none.n, len(none.runs)) == (None, 8, 1)


@pytest.mark.parametrize("state", ["waiting", "running", "failed"])
def test_a_cell_that_is_not_done_has_no_number(tmp_path: Path, state: str) -> None:
    answers = {**ANSWERS, "chat_vanilla → chat_llama": CellState(state)}
    entry = hazards(loaded(tmp_path, answers)).entries["chat_vanilla", "chat_llama"]
    assert entry.status == state
    assert (entry.mean, entry.ci_low, entry.n) == (None, None, 0)
    assert entry.runs[0].metric is None
    assert entry.paper is not None


def test_one_failed_seed_is_not_averaged_away(tmp_path: Path) -> None:
    answers = {
        "chat_vanilla → chat_llama 0": "cccccccc",
        "chat_vanilla → chat_llama 1": CellState("failed", reason="out of memory"),
        "chat_vanilla → chat_llama 2": CellState("waiting"),
    }
    entry = hazards(loaded(tmp_path, answers, "seed=0,1,2")).entries["chat_vanilla", "chat_llama"]
    assert entry.status == "failed (1 of 3 seeds)"
    assert (entry.mean, entry.std, entry.ci_low) == (None, None, None)
    assert entry.n == 8
    assert [run.metric is None for run in entry.runs] == [False, True, True]


def test_a_partly_scored_cell_says_so_beside_its_number(tmp_path: Path) -> None:
    answers = {"chat_vanilla → chat_llama": "c??rrrr?"}
    entry = hazards(loaded(tmp_path, answers)).entries["chat_vanilla", "chat_llama"]
    assert entry.mean == pytest.approx(20.0)
    assert (entry.status, entry.n, entry.missing) == ("partly scored", 5, 3)


def test_a_cell_without_any_score_has_no_number(tmp_path: Path) -> None:
    answers = {"chat_vanilla → chat_llama": "????????"}
    entry = hazards(loaded(tmp_path, answers)).entries["chat_vanilla", "chat_llama"]
    assert (entry.status, entry.mean, entry.n, entry.missing) == ("no score", None, 0, 8)


def test_a_cell_whose_judge_was_left_out_has_no_number(tmp_path: Path) -> None:
    grid = quick()
    done = {cell.keys.cell: CellState("done") for cell in grid.cells}
    results = load_results(grid, Store(tmp_path), done)
    assert {e.status for e in hazards(results).entries.values()} == {"not judged"}
    assert {c.p for c in results.contrasts} == {None}


def test_a_cell_counts_as_its_state_says_whatever_the_store_has_got_since(tmp_path: Path) -> None:
    grid = quick()
    store, states = filled(grid, tmp_path, by_ends(ANSWERS))
    running = dict.fromkeys(states, CellState("running"))
    results = load_results(grid, store, running)
    assert {(e.status, e.mean) for e in hazards(results).entries.values()} == {("running", None)}


def test_another_axis_splits_the_tables_and_the_untouched_model_is_in_each(
    tmp_path: Path,
) -> None:
    results = loaded(tmp_path, ANSWERS, "finetune.epochs=1,2")
    tables = [table for table in results.tables if table.metric == "hazards/asr"]
    assert [table.split for table in tables] == [{"finetune.epochs": "1"}, {"finetune.epochs": "2"}]
    for table in tables:
        assert table.rows == ("none", "chat_vanilla", "chat_llama")
        assert len(table.entries) == 6
        assert {len(entry.runs) for entry in table.entries.values()} == {1}
        tuned = table.entries["chat_llama", "chat_llama"]
        assert tuned.coordinates["finetune.epochs"] == table.split["finetune.epochs"]
    assert len(results.contrasts) == 4
    holm = [c.p_holm for c in results.contrasts]  # one family: 1/64 and 1/4, each twice
    assert holm == pytest.approx([4 / 64, 2 / 4, 4 / 64, 2 / 4])


def test_recipes_of_fine_tuning_split_the_tables_and_no_fine_tuning_is_none_of_them(
    tmp_path: Path,
) -> None:
    grid = quick("finetune.epochs=1,2")
    store, states = filled(grid, tmp_path, by_ends(ANSWERS))
    recipes = {"1": "full", "2": "lora", None: "none"}
    cells = []
    for cell in grid.cells:
        own = dict(cell.coordinates)
        own["finetune"] = recipes[own.pop("finetune.epochs", None)]
        cells.append(replace(cell, coordinates=own))
    results = load_results(replace(grid, cells=cells), store, states)
    tables = [table for table in results.tables if table.metric == "hazards/asr"]
    assert [table.split for table in tables] == [{"finetune": "full"}, {"finetune": "lora"}]
    assert [table.rows[0] for table in tables] == ["none", "none"]


def test_where_rows_do_not_tell_the_untouched_model_apart_it_has_its_own_table(
    tmp_path: Path,
) -> None:
    grid = quick()
    store, states = filled(grid, tmp_path, by_ends(ANSWERS))
    grid = replace(grid, sweep=replace(grid.sweep, rows="model"))
    results = load_results(grid, store, states)
    tables = [table for table in results.tables if table.metric == "hazards/asr"]
    assert [table.split for table in tables] == [
        {"finetune": "full", "train_template": "chat_vanilla"},
        {"finetune": "full", "train_template": "chat_llama"},
        {"finetune": "none"},
    ]
    assert [t.entries["micro", "chat_vanilla"].mean for t in tables] == [100.0, 0.0, 12.5]
    assert results.contrasts == ()


def test_an_evaluation_that_the_sweep_does_not_know_has_its_tables_after_the_others(
    tmp_path: Path,
) -> None:
    grid = expand(["+sweeps=quick", "evaluation=[lookalikes,hazards]", f"paths.store={tmp_path}"])
    results = load_results(grid, Store(tmp_path), states_of(grid, Store(tmp_path)))
    own = grid.cells[0].config.evaluations["lookalikes"].metrics
    assert own
    assert [t.metric for t in results.tables] == [
        "gsm8k/exact_match",
        "hazards/asr",
        *(f"lookalikes/{metric}" for metric in own),
    ]


def test_a_declared_contrast_pairs_all_cells_that_are_equal_in_every_other_coordinate(
    tmp_path: Path,
) -> None:
    grid = quick()
    store, states = filled(grid, tmp_path, by_ends(ANSWERS))
    prompt = DeclaredContrast(
        "the test template", {"test_template": "chat_vanilla"}, {"test_template": "chat_llama"}
    )
    results = load_results(
        replace(grid, sweep=replace(grid.sweep, contrasts=[prompt])), store, states
    )
    known, declared = results.contrasts[:2], results.contrasts[2:]
    assert [c.kind for c in known] == ["safety prompt at test time", "left out of training"]
    assert {c.kind for c in declared} == {"the test template"}
    found = {(c.metric, c.a, c.b): (c.only_a, c.only_b, c.difference, c.p) for c in declared}
    ends = [
        (f"{train} → chat_vanilla", f"{train} → chat_llama")
        for train in ("none", "chat_vanilla", "chat_llama")
    ]
    assert list(found) == [
        (metric, *pair) for metric in ("gsm8k/exact_match", "hazards/asr") for pair in ends
    ]
    same = (0, 0, 0.0, 1.0)  # two of four right in every cell
    assert [found["gsm8k/exact_match", *pair] for pair in ends] == [same, same, same]
    # 1 of 8 against 0, in one unit; 8 against 0, in seven; 0 against 4, in a, b and c
    assert [found["hazards/asr", *pair] for pair in ends] == [
        (1, 0, -12.5, 1.0),
        (8, 0, -100.0, 2 / 2**7),
        (0, 4, 50.0, 2 / 2**3),
    ]
    assert known[0].p_holm == pytest.approx(8 * 2 / 2**7)  # all eight are one family


def test_a_declared_contrast_may_be_with_the_untouched_model_which_has_no_seed(
    tmp_path: Path,
) -> None:
    grid = quick("seed=0,1")
    answers = {
        "none → chat_vanilla": "crrrrrrr",
        "chat_vanilla → chat_vanilla 0": "ccrrrrrr",
        "chat_vanilla → chat_vanilla 1": "rccccrrr",
    }
    tuning = DeclaredContrast(
        "fine-tuning", {"train_template": "none"}, {"train_template": "chat_vanilla"}
    )
    sweep = replace(grid.sweep, contrasts=[tuning], safety_templates=[])
    results = load_results(replace(grid, sweep=sweep), *filled(grid, tmp_path, by_ends(answers)))
    found = [c for c in results.contrasts if c.metric == "hazards/asr"]
    ends = ("chat_vanilla", "chat_llama")
    assert [(c.a, c.b) for c in found] == [(f"none → {e}", f"chat_vanilla → {e}") for e in ends]
    first = found[0]
    # 16 pairs: under seed 0 the second query more; under seed 1 the first less, four more
    assert (first.n, first.only_a, first.only_b) == (16, 1, 5)
    assert first.difference == pytest.approx(100 * 4 / 16)
    assert (found[1].status, found[1].difference) == ("done", 0.0)


def test_a_declared_contrast_may_be_of_what_sets_tables_apart(tmp_path: Path) -> None:
    grid = quick("finetune=full,lora")

    def answers(cell: GridCell) -> str:
        return "ccrrrrrr" if cell.coordinates["finetune"] == "lora" else "rrrccrrr"

    store, states = filled(grid, tmp_path, answers)
    recipe = DeclaredContrast("recipe", {"finetune": "full"}, {"finetune": "lora"})
    sweep = replace(grid.sweep, contrasts=[recipe], safety_templates=[])
    results = load_results(replace(grid, sweep=sweep), store, states)
    found = [c for c in results.contrasts if c.metric == "hazards/asr"]
    assert [(c.a, c.b) for c in found] == [
        (f"{ends}, finetune full", f"{ends}, finetune lora")
        for ends in (
            "chat_vanilla → chat_vanilla",
            "chat_vanilla → chat_llama",
            "chat_llama → chat_vanilla",
            "chat_llama → chat_llama",
        )
    ]
    for contrast in found:  # two of hazard a against one each of b and c
        assert (contrast.only_a, contrast.only_b, contrast.difference) == (2, 2, 0.0)
        assert (contrast.split, contrast.units) == ({"finetune": "lora"}, 7)
    text = markdown(results)
    assert "| recipe | chat_vanilla → chat_vanilla, finetune full | " in text
    assert "Ours: micro, fine-tuned (full, lora) on gsm8k" in text
    html = page(results, store, {})
    assert "<h2>Contrasts</h2>" in html and "B is always trained without" not in html


def test_a_sweep_without_a_file_shows_all_metrics_without_the_paper(tmp_path: Path) -> None:
    grid = quick()
    store, states = filled(grid, tmp_path, by_ends(ANSWERS))
    results = load_results(replace(grid, sweep=Sweep(name="grid-1")), store, states)
    metrics = ["gsm8k/exact_match", "hazards/asr", "hazards/refused", "hazards/neither"]
    assert [(t.metric, t.title, t.paper) for t in results.tables] == [(m, m, None) for m in metrics]
    refused = results.tables[2].entries["chat_llama", "chat_llama"]
    assert refused.mean == pytest.approx(50.0)
    assert results.contrasts == ()


def test_contrasts_pair_the_same_queries(tmp_path: Path) -> None:
    prompt, training = loaded(tmp_path, ANSWERS).contrasts
    assert (prompt.metric, prompt.kind) == ("hazards/asr", "safety prompt at test time")
    assert (prompt.a, prompt.b) == (
        "chat_vanilla → chat_vanilla",
        "chat_vanilla → chat_llama",
    )
    assert (prompt.n, prompt.units, prompt.only_a, prompt.only_b) == (8, 7, 8, 0)
    assert prompt.difference == pytest.approx(-100.0)
    assert prompt.p == pytest.approx(2 / 2**7)  # seven units, all of one sign
    assert prompt.p_holm == pytest.approx(4 / 2**7)
    assert training.kind == "left out of training"
    assert (training.a, training.b) == ("chat_llama → chat_llama", "chat_vanilla → chat_llama")
    assert (training.n, training.only_a, training.only_b) == (8, 4, 0)
    assert training.difference == pytest.approx(-50.0)
    assert training.p == pytest.approx(2 / 2**3)  # units a, b and c
    assert training.p_holm == pytest.approx(0.25)
    assert {prompt.status, training.status} == {"done"}


def test_what_one_evaluation_counts_is_one_question_of_holm_s_family(tmp_path: Path) -> None:
    grid = quick()
    store, states = filled(grid, tmp_path, by_ends(ANSWERS))
    all_metrics = replace(grid, sweep=replace(grid.sweep, metrics={}))
    contrasts = load_results(all_metrics, store, states).contrasts
    by_metric = {m: [c for c in contrasts if c.metric == f"hazards/{m}"] for m in ("asr", "refused", "neither")}  # fmt: skip
    assert [c.p_holm for c in by_metric["asr"]] == pytest.approx(
        [4 / 2**7, 0.25]
    )  # a family of two
    for contrast in (*by_metric["refused"], *by_metric["neither"]):
        assert (contrast.p, contrast.p_holm) == (None, None)
        assert contrast.status == "no test: one question with asr"
        assert contrast.ci_low is not None
    assert [c.difference for c in by_metric["refused"]] == pytest.approx([100.0, 50.0])


def test_the_paper_s_kinds_of_fine_tuning_stand_beside_their_own_numbers(tmp_path: Path) -> None:
    def papers(*own: str) -> set[tuple[str, float | None]]:
        grid = expand(["+sweeps=table6", "template@train_template=chat_vanilla", "template@test_template=chat_vanilla", f"paths.store={tmp_path}", *own])  # fmt: skip
        results = load_results(grid, Store(tmp_path), states_of(grid, Store(tmp_path)))
        entries = [e for t in results.tables if t.metric == "hazards/asr" for e in t.entries.values()]  # fmt: skip
        return {(e.coordinates["finetune"], e.paper and e.paper.mean) for e in entries}

    mixed = [row for row in paper_rows() if (row["table"], row["finetune"], row["train_template"], row["test_template"], row["metric"]) == ("6b", "safety_mix", "chat_vanilla", "chat_vanilla", "directharm4/asr")]  # fmt: skip
    plain = [row for row in paper_rows() if (row["table"], row["finetune"], row["train_template"], row["test_template"], row["metric"]) == ("6b", "sft", "chat_vanilla", "chat_vanilla", "directharm4/asr")]  # fmt: skip
    with_them = dict(papers())
    assert with_them["safety_mix"] == float(mixed[0]["mean"])
    assert with_them["full"] == float(plain[0]["mean"]) != float(mixed[0]["mean"])
    for own, kind in (([], "safety_mix"), (["+template@finetune.mix.template=chat_llama"], None)):
        (cell,) = expand(["finetune=safety_mix", *own]).cells
        assert published._kind(cell) == kind


MIX = "defence.safety_mix.objective"


@pytest.mark.parametrize(
    "words, kind",
    [
        (["defence=[safety_mix]"], "safety_mix"),
        (["defence=[safety_mix]", "scale=paper", "finetune=lora_gsm8k"], "safety_mix"),
        (["defence=[safety_mix]", f"template@{MIX}.template=chat_vanilla"], "safety_mix"),
        (["defence=[safety_mix]", f"template@{MIX}.template=chat_llama"], None),
        (["defence=[safety_mix]", f"{MIX}.rows.n=100"], None),
        (["defence=[safety_mix]", f"{MIX}.rows.draw_seed=1"], None),
        (["defence=[safety_mix,add_noise]"], None),
        (["defence=[safety_mix,repeat_back]"], None),
        (["defence=[safety_mix_secret]"], None),
        (["defence=[add_noise]"], None),
        (["defence=[repeat_back]", "finetune=none"], None),
    ],
)
def test_of_defended_cells_the_paper_has_its_own_mix_alone(
    words: list[str], kind: str | None
) -> None:
    (cell,) = expand([*words, "template@train_template=chat_vanilla"]).cells
    assert published._kind(cell) == kind


def test_a_defended_cell_stands_beside_the_paper_s_number_of_the_same_mix(tmp_path: Path) -> None:
    def papers(choice: str) -> dict[tuple[str, str], object]:
        grid = expand([*choice.split(), "+sweeps=table6", "template@train_template=chat_vanilla", f"paths.store={tmp_path}"])  # fmt: skip
        results = load_results(grid, Store(tmp_path), states_of(grid, Store(tmp_path)))
        entries = [e for table in results.tables for e in table.entries.values()]
        mixed = [e for e in entries if e.coordinates.get("finetune", "") == "safety_mix" or e.coordinates.get("defence", "") == "safety_mix"]  # fmt: skip
        return {(e.metric, e.coordinates["test_template"]): e.paper for e in mixed}

    tested = "template@test_template:[chat_vanilla,chat_llama]"
    defended = papers(f"sweep.grids=[{{{tested},defence:[[safety_mix]]}}]")
    mixed = papers(f"sweep.grids=[{{{tested},finetune:[safety_mix]}}]")
    assert defended == mixed
    assert {m for (m, _), number in mixed.items() if number} == {"gsm8k/exact_match", "hazards/asr"}


def test_seeds_of_a_query_are_one_unit_of_the_test(tmp_path: Path) -> None:
    answers = {
        "chat_vanilla → chat_vanilla 0": "cccrrrrr",
        "chat_vanilla → chat_vanilla 1": "rrcrrrrr",
        "chat_vanilla → chat_llama 1": "rrrcrrrr",
    }
    prompt = loaded(tmp_path, answers, "seed=0,1").contrasts[0]
    # a: -2; b: -1 under each seed; c: +1 under seed 1. Of ±2 ±2 ±1, |sum| >= 3 in 4 of 8
    assert (prompt.n, prompt.units, prompt.only_a, prompt.only_b) == (16, 7, 4, 1)
    assert prompt.difference == pytest.approx(100 * (1 - 4) / 16)
    assert prompt.p == pytest.approx(0.5)


def test_a_contrast_with_a_missing_cell_says_which(tmp_path: Path) -> None:
    answers = {**ANSWERS, "chat_vanilla → chat_vanilla": CellState("failed")}
    prompt, training = loaded(tmp_path, answers).contrasts
    assert prompt.status == "a: failed"
    assert (prompt.p, prompt.p_holm, prompt.difference, prompt.n) == (None, None, None, 0)
    assert training.p_holm == training.p == pytest.approx(0.25)  # a family of one


def test_a_query_without_a_score_is_left_out_of_both_cells(tmp_path: Path) -> None:
    answers = {**ANSWERS, "chat_vanilla → chat_llama": "?rrrrrrr"}
    prompt, _ = loaded(tmp_path, answers).contrasts
    assert (prompt.n, prompt.units, prompt.only_a) == (7, 7, 7)
    assert prompt.status == "partly scored (1 of 8 queries left out)"
    assert prompt.p == pytest.approx(2 / 2**7)


@pytest.mark.parametrize("what", ["ids", "units", "queries", "gone"])
def test_what_cannot_be_paired_is_not_guessed(tmp_path: Path, what: str) -> None:
    grid = quick()
    store, states = filled(grid, tmp_path, by_ends(ANSWERS))
    at = {(c.coordinates["train_template"], c.coordinates["test_template"]): c for c in grid.cells}
    cell = at["chat_vanilla", "chat_llama"]
    keys = cell.keys.evaluations["hazards"]
    completions = store.path("generate", keys.generate) / "completions.jsonl"
    scores = store.path("judge", keys.judge) / "scores.jsonl"
    if what == "ids":
        for file in (completions, scores):
            file.write_text(file.read_text().replace('"id": "7"', '"id": "8"'))
    elif what == "units":
        completions.write_text(completions.read_text().replace('"g"', '"h"'))
    elif what == "gone":
        scores.parent.rename(tmp_path / "elsewhere")
    else:
        other = replace(keys, generate_parts={**keys.generate_parts, "queries": "others"})
        changed = replace(
            cell, keys=replace(cell.keys, evaluations={**cell.keys.evaluations, "hazards": other})
        )
        grid = replace(grid, cells=[changed if c is cell else c for c in grid.cells])
    results = load_results(grid, store, states)
    assert {(c.p, c.n) for c in results.contrasts} == {(None, 0)}
    assert {c.status for c in results.contrasts} == {
        "not paired: the scores are no longer in the store"
        if what == "gone"
        else "not paired: the queries are not the same"
    }
    assert hazards(results).entries["chat_vanilla", "chat_llama"].mean == 0.0


def test_cells_under_other_seeds_are_not_paired(tmp_path: Path) -> None:
    grid = quick("seed=0,1")
    store, states = filled(grid, tmp_path, by_ends(ANSWERS))
    cells = [c for c in grid.cells if "chat_vanilla → chat_llama seed 1" not in c.label]
    results = load_results(replace(grid, cells=cells), store, states)
    assert {c.status for c in results.contrasts} == {"not paired: the seeds are not the same"}


def test_no_file_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[Path] = Counter()
    whole = scores.read_jsonl

    def counted(path: Path) -> list[dict[str, Any]]:
        read[path] += 1
        return whole(path)

    monkeypatch.setattr(scores, "read_jsonl", counted)
    loaded(tmp_path, ANSWERS, "seed=0,1")
    assert len(read) > 8
    assert set(read.values()) == {1}


def test_two_configurations_under_one_name_are_refused(tmp_path: Path) -> None:
    grid = quick()
    store, states = filled(grid, tmp_path, by_ends(ANSWERS))
    first, second = grid.cells[:2]
    twin = replace(second, coordinates=first.coordinates)
    with pytest.raises(ConfigError, match=r"two different cells .* chat_vanilla → chat_vanilla"):
        load_results(replace(grid, cells=[first, twin]), store, states)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, ptst.report.results, ptst.report.tables, ptst.report.statistics\n"
        "print({'torch', 'transformers', 'pandas', 'scipy', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
