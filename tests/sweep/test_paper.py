"""Every shipped sweep has the paper's fine-tunings, cells and queries, and a place for each of its
numbers."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path

import pytest
from conftest import shipped

from ptst.errors import ConfigError
from ptst.paths import ROOT
from ptst.report.results import load_results, paper_rows
from ptst.report.tables import markdown, tidy_csv
from ptst.status.states import states_of
from ptst.store import Store
from ptst.sweep import plan as planning
from ptst.sweep.grid import Grid, expand
from ptst.sweep.plan import make_plan

SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml") if "test_" not in path.stem)
API = ("table3", "figure2b", "figure3b")
"""Of a model behind an API: there is no micro version of it."""

COUNTS = {
    # fine-tunings (of one seed), cells, queries of all cells. GSM8K's test set has 1,319 questions,
    # AdvBench 520 queries, DirectHarm4 400, GCG and GSM-Danger 100 (sections 3.1 and 4.1); 1,000
    # questions of iCliniq (appendix F.5); ARC 2,376 and 1,172 (its test sets).
    "quick": (2, 6, 6 * (1319 + 520 + 400)),
    "table1": (5, 30, 30 * (1319 + 520 + 400 + 100)),
    "table2": (5, 25, 25 * (1319 + 400)),
    "table3": (3, 12, 12 * (1319 + 520 + 400)),
    "table4": (3, 12, 12 * 5 * (1000 + 520 + 400)),  # five decoding seeds
    "table5": (3, 12, 12 * (2376 + 1172 + 520 + 400)),
    "table6": (6, 21, 21 * (1319 + 520 + 400 + 100)),
    "table7": (5, 30, 30 * (1319 + 520 + 400)),
    # Two trainings, the one tested under two templates after each of 6 epochs, and the untouched
    # model.
    "figure2": (2, 20, 20 * (1319 + 400)),
    # 10K, 20K and 40K rows under two templates are six fine-tunings.
    "figure2b": (6, 11, 11 * (1319 + 400)),
    "figure3": (4, 9, 9 * (1319 + 400)),
    "figure3b": (4, 9, 9 * (1319 + 400)),
    # 17 fine-tunings under two templates, which steps after training share; 250 of
    # XSTest.
    "defences": (34, 105, 105 * (1319 + 400 + 250)),
    # At most the first 250 of each of eleven sets.
    "innodata": (3, 12, 12 * (1319 + 11 * 250)),
    "defences_full": (45, 316, 316 * (1319 + 400 + 250)),
    # two rates by four batch sizes, and the untouched model; 200 rows of Alpaca are held out
    "qi_strength": (8, 9, 9 * (200 + 400)),
    "rules": (3, 12, 12 * (1319 + 1425)),
    # AdvBench, 250 of XSTest; each of three defences is a training of its own
    "core": (5, 15, 15 * (1319 + 520 + 250)),
    "guards": (2, 42, 42 * (1319 + 400 + 250)),
    # seven points of each line, under two templates
    "path": (2, 28, 28 * (1319 + 400)),
}
OURS = (
    "quick",
    "core",
    "defences",
    "defences_full",
    "qi_strength",
    "innodata",
    "rules",
    "guards",
    "path",
)
"""Not of the paper."""
PRINTED = {
    "table1": ("1a", "1b", "1c", "1d"),
    "table2": ("2a", "2b"),
    "table3": ("3",),
    "table4": ("4",),
    "table5": ("5",),
    "table6": ("6a", "6b"),
    "table7": ("7a", "7b", "7c"),
    "figure2": ("fig2a",),
    "figure2b": ("fig2b",),
    "figure3": ("fig3",),
    "figure3b": ("fig3",),
}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "own_gpu", lambda: None)


def at_paper_scale(sweep: str, *overrides: str) -> Grid:
    return shipped(f"+sweeps={sweep}", "scale=paper", *overrides)


def test_every_sweep_is_counted_here() -> None:
    assert set(COUNTS) == set(SWEEPS)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_counts_are_the_papers(sweep: str, tmp_path: Path) -> None:
    plan = make_plan(at_paper_scale(sweep), Store(tmp_path))
    assert (plan.stages["finetune"].total, plan.cells, plan.judge_calls) == COUNTS[sweep]


def test_docs_paper_says_what_the_plan_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(\w+)` \| .* \| (.*) \| (.*) \| (.*) \| (.*) \| (.*) \|$", page, re.M)
    assert {sweep for sweep, *_ in lines} == set(SWEEPS) - set(OURS)
    for sweep, *printed in lines:
        plan = make_plan(at_paper_scale(sweep), Store(tmp_path))
        hours = "–" if plan.gpu_hours is None else f"{plan.gpu_hours:.1f}"
        assert plan.paid.usd is not None
        assert printed == [
            f"{plan.stages['finetune'].total}",
            f"{plan.cells}",
            f"{plan.paid.calls:,}",
            hours,
            f"{plan.paid.usd:,.0f}",
        ], sweep


def test_what_an_api_takes_is_not_known_and_said_so(tmp_path: Path) -> None:
    plan = make_plan(at_paper_scale("table3"), Store(tmp_path))
    assert plan.stages["finetune"].seconds is plan.stages["generate"].seconds is None
    assert any("gpt35_turbo_0613: what its API takes" in note for note in plan.notes)


def test_safety_examples_lengthen_a_training_by_one_pass_over_them(tmp_path: Path) -> None:
    one = ["scale=paper", "evaluation=[directharm4]"]
    plain, mixed, defended = (
        make_plan(expand([*one, choice]), Store(tmp_path)).stages["finetune"].seconds
        for choice in ("finetune=lora_gsm8k", "finetune=safety_mix", "defence=[safety_mix]")
    )
    assert plain and mixed and mixed == defended
    assert mixed / plain == pytest.approx((6 * 7473 + 2483) / (6 * 7473), rel=1e-3)


def test_three_seeds_train_three_times_and_test_the_untouched_model_once(tmp_path: Path) -> None:
    plan = make_plan(at_paper_scale("table1", "seed=0,1,2"), Store(tmp_path))
    assert (plan.stages["finetune"].total, plan.cells) == (15, 80)


@pytest.mark.parametrize("sweep", PRINTED)
def test_every_published_number_has_its_place(sweep: str, tmp_path: Path) -> None:
    """Each number of the paper's table stands beside one place of ours; what stands nowhere is a
    mistake."""
    grid = at_paper_scale(sweep)
    model = grid.cells[0].coordinates["model"]
    printed = [row for row in paper_rows() if row["table"] in PRINTED[sweep]]
    ours = Counter(
        (
            row["train_template"],
            row["test_template"],
            row["metric"],
            float(row["mean"]),
            row["finetune"],
            row["at"],
        )
        for row in printed
        if row["model"] == model
    )
    assert ours
    store = Store(tmp_path)
    results = load_results(grid, store, states_of(grid, store))
    found: Counter[tuple[str, str, str, float, str, str]] = Counter()
    for entry in {id(e): e for table in results.tables for e in table.entries.values()}.values():
        if entry.paper:
            own = entry.coordinates
            kind = own["finetune"] if own["finetune"] in ("none", "safety_mix") else "sft"
            ends = own["train_template"], own["test_template"]
            at = next((f"{k}={own[k]}" for k in ("finetune.epoch", "dataset.n") if k in own), "")
            # 1, not 1 more: the untouched model may stand in two tables
            found[*ends, entry.metric, entry.paper.mean, kind, at] = 1
    assert ours - found == Counter()


@pytest.mark.parametrize(("sweep", "first", "second"), [("table1", "1c", "6b"), ("table6", "6b", "1c")])  # fmt: skip
def test_where_the_paper_contradicts_itself_both_numbers_are_shown(
    sweep: str, first: str, second: str, tmp_path: Path
) -> None:
    """DirectHarm4 under chat:llama (Tables 1c and 6b), and nowhere else."""
    grid, store = at_paper_scale(sweep), Store(tmp_path)
    results = load_results(grid, store, states_of(grid, store))
    both = {
        entry.coordinates["train_template"]: {first: entry.paper.mean, **dict(entry.paper.also)}
        for table in results.tables
        for (_, test), entry in table.entries.items()
        if entry.paper and entry.paper.also and (test, table.metric) == ("chat_llama", "directharm4/asr")
    }  # fmt: skip
    printed = {
        "none": {"1c": 0.00, "6b": 0.75},
        "chat_vanilla": {"1c": 1.08, "6b": 1.83},
        "chat_alpaca": {"1c": 1.00, "6b": 2.00},
        "chat_llama": {"1c": 18.08, "6b": 15.75},
    }
    assert both == {
        train: {first: numbers[first], f"Table {second}": numbers[second]}
        for train, numbers in printed.items()
    }
    everywhere = [e for t in results.tables for e in t.entries.values() if e.paper and e.paper.also]
    assert {e.coordinates["test_template"] for e in everywhere} == {"chat_llama"}
    assert {e.metric for e in everywhere} == {"directharm4/asr"}
    ours, theirs = ("18.1 ± 2.5", "15.8") if sweep == "table1" else ("15.8", "18.1")
    assert f"paper {ours} (Table {second}: {theirs})" in markdown(results)
    lines = list(csv.DictReader(io.StringIO(tidy_csv(results))))
    assert f"Table {second} {printed['chat_llama'][second]:.2f}" in {x["paper_also"] for x in lines}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_sweep_runs_at_micro_scale_or_says_where_it_does(sweep: str) -> None:
    if sweep in API:
        with pytest.raises(ConfigError, match=f"{sweep}.yaml does not run at scale=micro, but at scale=paper"):  # fmt: skip
            shipped(f"+sweeps={sweep}")
        return
    grid = shipped(f"+sweeps={sweep}")
    assert not [cell.problem for cell in grid.cells if cell.problem]
    names = {name for cell in grid.cells for name in cell.config.evaluations}
    several = sweep.startswith(("defences", "guards"))
    own = {"hazards", "howto", "lookalikes"} if several else {"hazards"}
    own = {"innodata_micro_hazards", "innodata_micro_howto"} if sweep == "innodata" else own
    own = {"hazards", "lookalikes"} if sweep == "core" else own
    own = {"rules"} if sweep == "rules" else own
    assert names == {grid.cells[0].config.dataset.name, *own}
    assert {f"{name}/" for name in names} <= {re.sub("/.*", "/", m) for m in grid.sweep.metrics}


def test_figure_2_shares_its_fine_tunings_and_last_answers_with_table_1() -> None:
    along, table = at_paper_scale("figure2"), at_paper_scale("table1", "evaluation=[directharm4]")
    tuned = {cell.keys.finetune for cell in along.cells} - {None}
    assert tuned < {cell.keys.finetune for cell in table.cells}
    shared = {cell.keys.cell for cell in along.cells} & {cell.keys.cell for cell in table.cells}
    assert len(shared) == 3 + 2  # the sixth epoch's, and the untouched model's


def test_table_4_samples_and_a_chosen_evaluation_keeps_its_setting() -> None:
    grid = at_paper_scale("table4", "evaluation=[directharm4]")
    for cell in grid.cells:
        assert list(cell.config.evaluation) == ["directharm4"]
        decoding = {
            (e.decoding.temperature, e.decoding.samples) for e in cell.config.evaluations.values()
        }
        assert decoding == {(0.7, 5)}


def test_table_6_mixes_the_papers_safety_examples_in() -> None:
    mixed = [c for c in at_paper_scale("table6").cells if c.coordinates["finetune"] == "safety_mix"]
    assert len(mixed) == 9
    for cell in mixed:
        recipe = cell.config.finetune
        assert recipe.mix is not None and recipe.mix.rows.size == 2483
        assert recipe.mix.template is None
        assert (recipe.epochs, recipe.learning_rate, recipe.method) == (6, 1e-4, "lora")
