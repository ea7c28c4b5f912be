"""A plan counts what is shared once, prefers what was measured, and never takes unknown for
zero."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from ptst import data, estimates
from ptst.config.compose import compose
from ptst.estimates import read_estimates
from ptst.judge import Judge, JudgeContext, Score
from ptst.keys import cell_keys
from ptst.provenance import hardware as this_machine
from ptst.store import ARTIFACTS, Store, write_json
from ptst.sweep import plan as planning
from ptst.sweep.grid import Grid, GridCell, expand
from ptst.sweep.in_words import duration
from ptst.sweep.measured import typical
from ptst.sweep.plan import Plan, make_plan
from ptst.sweep.plan_shown import as_json, show

ROUND_FIGURES = """
assumed_gpu: big
gpus:
  big: {pattern: "Big", tflops: 100, gb_per_s: 1000, usd_per_hour: 3}
cpu: {tflops_per_core: 0.5, gb_per_s: 100, large: 1.0e+8, utilisation: {training: 0.25, inference: 0.25, bandwidth: 0.25}}
utilisation: {training: 0.5, inference: 0.5, bandwidth: 0.5}
models: {meta-llama/Llama-2-7b-chat-hf: 1.0e+9}
characters_per_token: 1
tokens:
  gsm8k: {input: 40, output: 50}
  advbench: {input: 15, output: 100}
judging:
  call: {input_tokens: 1000, output_tokens: 100}
  seconds: 2
  local_seconds: 0.5
  prices: {known-judge: {input: 30, output: 60}}
"""
"""An estimates.yaml whose consequences can be worked out by hand."""


@pytest.fixture
def round_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "conf" / "estimates.yaml"
    path.parent.mkdir()
    path.write_text(ROUND_FIGURES, encoding="utf-8")
    monkeypatch.setattr(estimates, "ESTIMATES", path)
    return path


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "own_gpu", lambda: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def table1() -> Grid:
    return expand(["+sweeps=table1"])


@pytest.fixture(scope="module")
def two_seeds() -> Grid:
    """Two fine-tunings, two cells, and of each the answers to 240 hazard queries."""
    return expand(["seed=0,1", "evaluation=[hazards]", "~evaluation@task"])


@pytest.fixture(scope="module")
def paper() -> Grid:
    """One cell at the paper's scale: GSM8K to train on, AdvBench to test."""
    return expand(["scale=paper", "evaluation=[advbench]", "~evaluation@task", "judge=keywords"])


def put(store: Store, stage: str, key: str, parts: Mapping[str, Any], **facts: Any) -> None:
    """An artifact as a run leaves it, made on this machine's CPU unless `facts` says otherwise."""
    machine = {**this_machine(), "gpu": None}
    with store.make(stage, key, parts) as work:
        assert work is not None
        (work.result / ARTIFACTS[stage]).write_text("{}\n")
        write_json(work.result / "provenance.json", {"hardware": machine, **facts})


def put_finetuning(store: Store, cell: GridCell, **facts: Any) -> None:
    """3 epochs over 800 rows of 100 tokens, in batches of 32: 240,000 tokens in 100 s."""
    assert cell.keys.finetune
    usual = {"seconds": 100.0, "steps": 75, "rows": 800, "rows_left_out": 0}
    facts = {**usual, "tokens_per_epoch": 80_000, **facts}
    put(store, "finetune", cell.keys.finetune, cell.keys.finetune_parts, **facts)


def put_completions(store: Store, cell: GridCell, evaluation: str, **facts: Any) -> None:
    """240 queries in 12 s: 3,000 tokens of prompts and 3,000 of answers."""
    keys = cell.keys.evaluations[evaluation]
    usual = {"seconds": 12.0, "queries": 240, "prompt_tokens": 3000, "completion_tokens": 3000}
    put(store, "generate", keys.generate, keys.generate_parts, **{**usual, **facts})


def shown(plan: Plan) -> str:
    out = Console(file=io.StringIO(), width=80, highlight=False)
    show(plan, out)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def rekeyed(cell: GridCell, **changes: Any) -> GridCell:
    """The cell with another configuration: its keys follow."""
    config = replace(cell.config, **changes)
    return replace(cell, config=config, keys=cell_keys(config))


def test_table_1_shares_five_fine_tunings_among_thirty_cells(table1: Grid, store: Store) -> None:
    plan = make_plan(table1, store)
    assert {name: stage.total for name, stage in plan.stages.items()} == {
        "finetune": 5,
        "generate": 30 * 2,
        "judge": 30 * 2,
    }
    assert (plan.cells, plan.cells_done) == (30, 0)
    assert plan.judge_calls == plan.judge_calls_left == 30 * (250 + 240)


def test_two_judges_score_the_same_completions(store: Store) -> None:
    plan = make_plan(expand(["judge=micro,keywords", "evaluation=[hazards]"]), store)
    totals = [plan.stages[name].total for name in ("finetune", "generate", "judge")]
    assert (plan.cells, totals) == (2, [1, 2, 3])
    assert plan.judge_calls == 250 + 2 * 240


def test_a_set_of_rows_is_read_once_however_many_cells_use_it(
    table1: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    load = data.read_rows
    monkeypatch.setattr(
        data, "read_rows", lambda rows, needs: read.append(rows) or load(rows, needs)
    )
    make_plan(table1, store)
    assert len(read) == 1 + 2


def test_only_the_stages_that_were_asked_for_are_planned(store: Store) -> None:
    grid = expand(["stages=[finetune]", "seed=0,1"])
    plan = make_plan(grid, store)
    assert [stage.total for stage in plan.stages.values()] == [2, 0, 0]
    assert plan.judge_calls == 0
    put_finetuning(store, grid.cells[0])
    plan = make_plan(grid, store)
    assert (plan.cells_done, plan.stages["finetune"].left) == (1, 1)


def test_a_done_store_leaves_nothing(two_seeds: Grid, store: Store) -> None:
    for cell in two_seeds.cells:
        put_finetuning(store, cell)
        put_completions(store, cell, "hazards")
        keys = cell.keys.evaluations["hazards"]
        put(store, "judge", keys.judge, keys.judge_parts, seconds=1.0)
        put(store, "cell", cell.keys.cell, cell.keys.cell_parts, seconds=0.1)
    plan = make_plan(two_seeds, store)
    assert (plan.cells_done, plan.seconds, plan.judge_calls_left) == (2, 0, 0)
    assert all(stage.left == 0 and stage.done == 2 for stage in plan.stages.values())
    assert "Nothing is left to be made." in shown(plan)


def test_a_finished_cell_needs_none_of_its_artifacts_any_more(
    two_seeds: Grid, store: Store
) -> None:
    first = two_seeds.cells[0]
    put(store, "cell", first.keys.cell, first.keys.cell_parts, seconds=0.1)
    plan = make_plan(two_seeds, store)
    assert [stage.left for stage in plan.stages.values()] == [1, 1, 1]
    assert (plan.judge_calls, plan.judge_calls_left) == (480, 240)


def test_a_cell_whose_data_are_missing_is_said_and_not_counted(
    tmp_path: Path, store: Store
) -> None:
    there = tmp_path / "there.jsonl"
    there.write_text('{"question": "1+1?", "answer": "#### 2"}\n' * 7)
    grid = expand(
        [
            f"dataset.path={there},{tmp_path}/gone.jsonl",
            "dataset.source=local",
            "evaluation=[hazards]",
            "~evaluation@task",
        ]
    )
    plan = make_plan(grid, store)
    assert (plan.cells, plan.stages["finetune"].total) == (2, 1)
    assert any("cannot be run" in note and "gone.jsonl" in note for note in plan.notes)


def test_by_formula_from_the_configuration_to_hours_and_dollars(
    paper: Grid, store: Store, round_figures: Path
) -> None:
    plan = make_plan(paper, store)
    # A row: 40 + 50 tokens, and 10 of the template's "{question}". 4 x 1e9 FLOPs per token at 5e13.
    tuning = 4e9 * (7473 * 6 * 100) / 5e13
    # 520 queries of 15 tokens and the template's 10 once. 9 batches x 512 steps of 2e9 bytes at
    # 5e11.
    answering = 2e9 * (520 * 15 + 10) / 5e13 + 9 * 512 * 0.004
    assert plan.stages["finetune"].seconds == pytest.approx(tuning)
    assert plan.stages["generate"].seconds == pytest.approx(answering)
    assert plan.stages["judge"].seconds == pytest.approx(520 * 0.5)
    assert {stage.source for stage in plan.stages.values()} == {"formula"}
    assert plan.gpu_hours == pytest.approx((tuning + answering) / 3600)
    assert plan.gpu_usd == pytest.approx(3 * (tuning + answering) / 3600)
    assert plan.seconds == pytest.approx(tuning + answering + 260)


def test_a_cpu_reaches_more_of_its_rate_with_a_large_model_and_computes_a_common_beginning_once(
    store: Store, round_figures: Path, paper: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = paper.cells
    monkeypatch.setattr(planning, "this_machine", lambda: {"cpu": "Cores", "cores": 2})
    recipe = replace(
        cell.config.finetune,
        lora=replace(cell.config.finetune.lora, dropout=0.0),
        activation_checkpointing=False,
        device_batch_size=4,
    )
    own = rekeyed(cell, finetune=recipe, engine={**cell.config.engine, "device": "cpu"})
    plan = make_plan(replace(paper, cells=[own]), store)
    # Of a template's 10 tokens a quarter counts in a batch of 4. A quarter of 2 x 0.5 TFLOP/s.
    assert plan.stages["finetune"].seconds == pytest.approx(4e9 * 7473 * 6 * 92.5 / 2.5e11)


def test_qlora_reads_half_a_byte_per_weight(store: Store, round_figures: Path, paper: Grid) -> None:
    (cell,) = paper.cells
    quantised = rekeyed(cell, finetune=replace(cell.config.finetune, method="qlora"))
    plan = make_plan(replace(paper, cells=[quantised]), store)
    # One weight's half byte for 1e9 weights at 5e11: 1 ms; but 2e9 x 64 FLOPs at 5e13 are 2.56 ms.
    answering = 2e9 * (520 * 15 + 10) / 5e13 + 9 * 512 * 0.00256
    assert plan.stages["generate"].seconds == pytest.approx(answering)


def test_an_engine_has_rates_and_a_formula_of_its_own(
    store: Store, round_figures: Path, paper: Grid, pretended: Path
) -> None:
    (cell,) = paper.cells
    served = rekeyed(cell, engine={"_target_": "ptst.engine.vllm.Vllm"})
    grid = replace(paper, cells=[served, rekeyed(served, seed=7)])
    big = {"gpu": "Big", "cpu": "", "cores": 1}
    put_finetuning(store, cell, hardware=big)
    put_completions(store, cell, "advbench", hardware=big)  # under transformers
    text = round_figures.read_text(encoding="utf-8")
    more = "engines: {vllm: {inference: 0.25, bandwidth: 0.25, start: 7}}\n"
    round_figures.write_text(text + more, encoding="utf-8")
    stage = make_plan(grid, store).stages["generate"]
    # 240 queries of 15 tokens, the template's 10 once, at 2.5e13 FLOP/s; one batch's 512 steps of
    # 2e9 x 240 FLOPs, 19.2 ms, more than 2e9 bytes at 2.5e11 a second; one start for two adapters
    answering = 2e9 * (240 * 15 + 10) / 2.5e13 + 512 * 0.0192
    assert stage.seconds == pytest.approx(7 + 2 * answering)
    assert stage.source == "formula"
    put_completions(store, served, "advbench", hardware=big)
    assert make_plan(grid, store).stages["generate"].source == "measured: 1 generation"


def test_what_was_measured_is_preferred_to_the_formula(two_seeds: Grid, store: Store) -> None:
    assert make_plan(two_seeds, store).stages["finetune"].source == "formula"
    first, _ = two_seeds.cells
    put_finetuning(store, first)
    put_completions(store, first, "hazards")
    keys = first.keys.evaluations["hazards"]
    put(store, "judge", keys.judge, keys.judge_parts, seconds=24.0)
    plan = make_plan(two_seeds, store)
    found = {name: (stage.seconds, stage.source) for name, stage in plan.stages.items()}
    assert found == {
        "finetune": (pytest.approx(100), "measured: 1 fine-tuning"),
        "generate": (pytest.approx(12), "measured: 1 generation"),
        "judge": (pytest.approx(24), "measured: 1 judge run"),
    }
    assert "measured: 1 fine-tuning" in shown(plan)


def test_analyses_are_counted_and_take_what_they_took_before(two_seeds: Grid, store: Store) -> None:
    words = [f"analysis.mechanism.{name}.n=8" for name in ("unsafe", "safe")]
    grid = expand(["seed=0,1", "analysis=[mechanism]", *words])
    first = grid.cells[0]
    assert "analyse" not in make_plan(two_seeds, store).stages
    plan = make_plan(grid, store)
    assert (plan.stages["analyse"].left, plan.stages["analyse"].seconds) == (2, None)
    assert plan.seconds is None and "unknown  see below" in shown(plan)
    assert "analysis mechanism: what it takes is not known" in " ".join(plan.notes)
    put(store, "finetune", str(first.keys.finetune), first.keys.finetune_parts)
    key, parts = first.keys.analyses["mechanism"]
    put(store, "analyse", "shared", {**parts, "model": {}}, seconds=999.0)
    put(store, "analyse", key, parts, seconds=7.0)
    stage = make_plan(grid, store).stages["analyse"]
    assert (stage.total, stage.done, stage.seconds) == (2, 1, 7)
    assert stage.source == "measured: 1 analysis"
    assert as_json(plan)["analyses"] == 2 and as_json(plan)["left"]["analyses"] == 2
    other = expand(["seed=1", "analysis=[mechanism]", *words, "analysis.mechanism.few=3"])
    assert make_plan(other, store).stages["analyse"].seconds is None


def test_tokens_carry_a_measurement_to_another_template_and_another_query_set(
    store: Store, round_figures: Path
) -> None:
    grid = expand(["template@train_template=chat_vanilla,chat_llama", "evaluation=[hazards,howto]"])
    first, other = grid.cells
    put_finetuning(store, first)
    put_completions(store, first, "hazards")
    plan = make_plan(grid, store)
    config = other.config
    rows = data.load_rows(config.dataset, ("input", "output"))
    system = config.train_template.system
    assert system
    letters = sum(len(row["input"]) + len(row["output"]) for row in rows)  # a token each
    tokens = 3 * (letters + len(rows) * (len(system) + len("{question}")))
    assert plan.stages["finetune"].seconds == pytest.approx(tokens * 100 / 240_000)
    howto = data.load_rows(config.evaluations["howto"].queries, ("input",))
    task = data.load_rows(config.evaluations["gsm8k"].queries, ("input",))
    # 2 ms a token, questions with the template's 10. An answer is as long as the reference, or 64.
    tokens = sum(len(row["input"]) + 10 + 64 for row in howto)
    lengths = [len(row["output"]) for row in task]
    answer = min(64, sum(lengths) / len(lengths))
    tokens += sum(len(row["input"]) + 10 + answer for row in task)
    known = 12.0  # the hazard queries of the second fine-tuning: 12 s, as of the first
    expected = 2 * tokens * 0.002 + known
    assert plan.stages["generate"].seconds == pytest.approx(expected)


@pytest.mark.parametrize(
    "elsewhere",
    [{"cpu": "another", "cores": 1, "gpu": None}, {**this_machine(), "gpu": "Big GPU"}],
)
def test_other_hardware_is_no_measurement(
    two_seeds: Grid, store: Store, elsewhere: dict[str, Any]
) -> None:
    put_finetuning(store, two_seeds.cells[0], hardware=elsewhere)
    assert make_plan(two_seeds, store).stages["finetune"].source == "formula"


def test_another_model_or_method_is_no_measurement(two_seeds: Grid, store: Store) -> None:
    first, second = two_seeds.cells
    lora = replace(first.config.finetune, method="lora")
    put_finetuning(store, rekeyed(first, finetune=lora))
    put_finetuning(store, rekeyed(first, model=replace(first.config.model, dtype="bfloat16")))
    assert make_plan(two_seeds, store).stages["finetune"].source == "formula"
    put_finetuning(store, second)
    assert make_plan(two_seeds, store).stages["finetune"].source == "measured: 1 fine-tuning"


def test_what_another_version_left_in_the_store_is_passed_over(
    two_seeds: Grid, store: Store
) -> None:
    first, second = two_seeds.cells
    assert first.keys.finetune
    put(store, "finetune", first.keys.finetune, {"format": 0}, seconds=1.0)
    (store.root / "finetune" / "notes.txt").write_text("mine")
    put_completions(store, second, "hazards")  # of a fine-tuning that is not there
    assert make_plan(two_seeds, store).stages["finetune"].source == "formula"


def test_the_untouched_model_answers_as_quickly_as_one_tuned_in_full(store: Store) -> None:
    grid = expand(["finetune=none,full,lora", "evaluation=[hazards]", "~evaluation@task"])
    put_completions(store, grid.cells[0], "hazards")
    stage = make_plan(grid, store).stages["generate"]
    assert (stage.left, stage.source) == (2, "measured: 1 generation; formula for 1")


def test_of_a_large_store_the_newest_artifacts_count(
    two_seeds: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = two_seeds.cells[0]
    for age, (cell, seconds) in enumerate([(first, 100.0), (rekeyed(first, seed=9), 300.0)]):
        put_finetuning(store, cell, seconds=seconds)
        assert cell.keys.finetune
        os.utime(store.path("finetune", cell.keys.finetune), (1000 - age, 1000 - age))
    monkeypatch.setattr("ptst.sweep.measured.READ_AT_MOST", 1)
    assert make_plan(two_seeds, store).stages["finetune"].seconds == pytest.approx(100)


def test_a_trial_of_three_rows_promises_no_twelve_hours(two_seeds: Grid, store: Store) -> None:
    """A measured rate of a start is no rate: the trial tells the fixed part, the formula or a
    larger run the rate."""
    tuned = two_seeds.cells[0]
    by_formula = make_plan(two_seeds, store).stages
    trial = rekeyed(tuned, seed=9)
    put_finetuning(store, trial, seconds=20.0, steps=1, rows=3, tokens_per_epoch=300)
    plan = make_plan(two_seeds, store).stages["finetune"]
    # 20 s for 300 tokens would be 4.4 hours for each of two times 240,000
    expected = by_formula["finetune"].seconds
    assert expected is not None
    assert plan.seconds is not None and plan.seconds < expected * 2 + 2 * 20 + 1
    assert plan.source == "formula"
    # Beside a whole one, 100 s for 240,000 tokens, it is what of those is the start
    put_finetuning(store, rekeyed(tuned, seed=8), seconds=100.0)
    plan = make_plan(two_seeds, store).stages["finetune"]
    assert plan.seconds == pytest.approx(2 * (20 + 80))
    assert plan.source == "measured: 1 fine-tuning"
    for cell in (trial, rekeyed(tuned, seed=7)):
        keys = cell.keys.evaluations["hazards"]
        few = {"seconds": 9.0, "queries": 3, "prompt_tokens": 30, "completion_tokens": 60}
        put(store, "generate", keys.generate, keys.generate_parts, **few)
    plan = make_plan(two_seeds, store).stages["generate"]
    assert plan.seconds is not None and by_formula["generate"].seconds is not None
    assert plan.seconds == pytest.approx(by_formula["generate"].seconds + 2 * 9.0)


def test_the_number_of_calls_is_explained_beside_the_answers_to_judge(store: Store) -> None:
    own = ["evaluation=[hazards]", "judge=rubric", "judge.model=gpt-x"]
    plan = make_plan(expand(own), store)
    assert (plan.judge_calls_left, plan.paid.calls) == (250 + 240, 240)
    text = " ".join(shown(plan).split())
    assert "answers to judge 490 0 490" in text
    assert "Judges: 240 calls," in text
    assert "for as many of the 490 answers left; the other 250 are judged here, at no cost." in text


def test_a_short_trial_run_counts_for_little() -> None:
    assert typical([(1.0, 1), (100.0, 1), (2.0, 1)]) == 2.0
    assert typical([(10.0, 5), (11.0, 5), (12.0, 5), (1.0, 1000)]) == 1.0


def test_a_grid_of_api_models_takes_no_gpu(store: Store) -> None:
    plan = make_plan(expand(["+sweeps=table3", "scale=paper"]), store)
    assert (plan.hardware.gpu, plan.gpu_hours) == (False, 0.0)


def test_where_no_gpu_is_the_papers_scale_assumes_one_and_says_so(
    paper: Grid, store: Store
) -> None:
    plan = make_plan(paper, store)
    assert plan.hardware.name == read_estimates().assumed_gpu
    assert "assumed" in shown(plan)


def test_the_gpu_of_earlier_runs_is_better_than_an_assumed_one(paper: Grid, store: Store) -> None:
    put_finetuning(store, paper.cells[0], hardware={"gpu": "NVIDIA H200", "cpu": "", "cores": 1})
    again = replace(paper, cells=[rekeyed(paper.cells[0], seed=7)])
    plan = make_plan(again, store)
    assert (plan.hardware.name, plan.hardware.tflops) == ("NVIDIA H200", 989)
    assert plan.stages["finetune"].source == "measured: 1 fine-tuning"


def test_micro_runs_on_the_cpu_and_takes_no_gpu_hours(two_seeds: Grid, store: Store) -> None:
    plan = make_plan(two_seeds, store)
    assert (plan.hardware.gpu, plan.gpu_hours) == (False, 0.0)
    assert plan.hardware.tflops == read_estimates().cpu.tflops_per_core * this_machine()["cores"]
    assert "GPU-hours" not in shown(plan)


def test_this_machines_gpu_is_taken_unless_the_cpu_is_asked_for(
    paper: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "own_gpu", lambda: "NVIDIA H100 80GB HBM3")
    assert make_plan(paper, store).hardware.tflops == 989
    (cell,) = paper.cells
    on_cpu = rekeyed(cell, engine={**cell.config.engine, "device": "cpu"})
    assert not make_plan(replace(paper, cells=[on_cpu]), store).hardware.gpu


def test_a_gpu_that_is_not_listed_has_no_formula(
    paper: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "own_gpu", lambda: "Abacus 3000")
    plan = make_plan(paper, store)
    assert (plan.stages["finetune"].seconds, plan.gpu_hours, plan.seconds) == (None, None, None)
    assert "Abacus 3000: its speed is not in conf/estimates.yaml" in plan.notes
    assert "GPU-hours: unknown" in shown(plan)


@pytest.mark.parametrize(
    ("fixed", "sizes"),
    [
        (
            ["evaluation=[hazards]"],
            ["evaluation.hazards.queries.size=5", "task.gsm8k.queries.size=5"],
        ),
        (["scale=paper", "evaluation=[advbench]"], ["evaluation.advbench.queries.size=5"]),
        ([], ["task.gsm8k.queries.size=5"]),
    ],
)
def test_size_is_in_no_key(fixed: list[str], sizes: list[str]) -> None:
    sized = compose([*fixed, "dataset.size=5", *sizes])
    assert sized.dataset.size == 5
    assert [e.queries.size for e in sized.evaluations.values()].count(5) == len(sizes)
    assert cell_keys(sized) == cell_keys(compose(fixed))


def test_sizes_are_the_publishers_and_only_of_the_hub(tmp_path: Path, store: Store) -> None:
    config = compose(["scale=paper"])
    sizes = {name: e.queries.size for name, e in config.evaluations.items()}
    assert (config.dataset.size, sizes) == (
        7473,
        {"gsm8k": 1319, "directharm4": 400, "advbench": 520},
    )
    row = json.dumps({"question": "How many are two?", "answer": "#### 2"}) + "\n"
    (tmp_path / "train.jsonl").write_text(row * 5)
    (tmp_path / "test.jsonl").write_text(row * 3)
    local = [
        "scale=paper",
        "dataset.source=local",
        f"dataset.path={tmp_path}",
        "evaluation=[advbench]",
    ]
    assert make_plan(expand(local), store).judge_calls == 3 + 520


def test_an_unknown_size_is_unknown_and_not_zero(store: Store) -> None:
    unsized = ["dataset.size=null", "evaluation.advbench.queries.size=null"]
    plan = make_plan(expand(["scale=paper", "evaluation=[advbench]", *unsized]), store)
    assert plan.judge_calls is plan.judge_calls_left is None
    assert [stage.seconds for stage in plan.stages.values()] == [None, None, None]
    assert (plan.seconds, plan.gpu_hours) == (None, None)
    assert any(
        note.startswith("advbench (https://") and "how many rows" in note for note in plan.notes
    )
    text = shown(plan)
    assert "unknown" in text and "Total: at least" in text
    made = as_json(plan)
    assert (made["judge_calls"], made["seconds"]["total"]) == (None, None)


def test_a_size_that_a_run_has_found_is_known(store: Store) -> None:
    grid = expand(["scale=paper", "evaluation=[advbench]", "~evaluation@task", "seed=0,1"])
    for cell in grid.cells:
        cell.config.evaluations["advbench"].queries.size = None
        cell.config.dataset.size = None
    gpu = {"gpu": "NVIDIA H200", "cpu": "", "cores": 1}
    # 960 rows, of which 160 did not fit: 25 steps an epoch for 800, 30 for 960.
    put_finetuning(store, grid.cells[0], hardware=gpu, rows_left_out=160)
    put_completions(store, grid.cells[0], "advbench", hardware=gpu, queries=520)
    plan = make_plan(grid, store)
    assert plan.judge_calls == 2 * 520
    assert plan.stages["finetune"].seconds == pytest.approx(6 * 960 * 100 * 100 / 240_000)


def test_a_model_or_data_set_without_figures_is_named(
    paper: Grid, store: Store, round_figures: Path
) -> None:
    text = ROUND_FIGURES.replace("meta-llama/Llama-2-7b-chat-hf", "other/model")
    round_figures.write_text(text.replace("  gsm8k: {input: 40, output: 50}\n", ""))
    plan = make_plan(paper, store)
    assert plan.stages["finetune"].seconds is plan.stages["generate"].seconds is None
    assert set(plan.notes) == {
        "gsm8k: tokens of a row are not in conf/estimates.yaml",
        "meta-llama/Llama-2-7b-chat-hf: its parameters are not in conf/estimates.yaml",
    }


@dataclass
class AskedJudge(Judge):
    """Stands for a judge behind an endpoint."""

    model: str = "known-judge"
    labels: ClassVar[tuple[str, ...]] = ("complied", "refused", "neither")
    needs: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    def scores(
        self, items: Iterable[tuple[Mapping[str, Any], str]], context: JudgeContext
    ) -> Iterator[Score]:
        raise AssertionError("a plan asks no judge")


def judged_by(grid: Grid, **node: str) -> Grid:
    target = {"_target_": f"{__name__}.AskedJudge", **node}
    cells = []
    for cell in grid.cells:
        evaluations = {n: replace(e, judge=target) for n, e in cell.config.evaluation.items()}
        cells.append(rekeyed(cell, evaluation=evaluations))
    return replace(grid, cells=cells)


@pytest.mark.parametrize("node", [{"model": "known-judge"}, {}])
def test_a_judge_with_a_price_costs_its_tokens(
    two_seeds: Grid, store: Store, round_figures: Path, node: dict[str, str]
) -> None:
    plan = make_plan(judged_by(two_seeds, **node), store)
    paid = plan.paid
    assert (paid.calls, paid.input_tokens, paid.output_tokens) == (480, 480_000, 48_000)
    assert paid.usd == pytest.approx(0.48 * 30 + 0.048 * 60)
    assert plan.stages["judge"].seconds == 480 * 2
    assert "480 calls, 0.5 M tokens in, 0.0 M out, about 17.28 USD" in shown(plan).replace(
        "\n", " "
    )


def test_a_judge_without_a_price_costs_nobody_knows_what(
    two_seeds: Grid, store: Store, round_figures: Path
) -> None:
    plan = make_plan(judged_by(two_seeds, model="new-judge"), store)
    assert (plan.paid.calls, plan.paid.usd) == (480, None)
    assert "judge model new-judge: its price is not in conf/estimates.yaml" in plan.notes
    assert "unknown cost" in shown(plan)


def test_batch_mode_is_half_the_price_and_a_price_of_ones_own_counts(store: Store) -> None:
    def usd(*overrides: str) -> float | None:
        one = ["scale=paper", "evaluation=[advbench]", "~evaluation@task", *overrides]
        return make_plan(expand(one), store).paid.usd

    whole = usd("judge=rubric")
    assert whole == pytest.approx(520 * (1350 * 30 + 150 * 60) / 1e6)
    assert usd("judge=rubric", "judge.batch=true") == pytest.approx(whole / 2)
    own = usd("judge=rubric", "judge.model=mine", "judge.price={input: 1, output: 2}")
    assert own == pytest.approx(520 * (1350 * 1 + 150 * 2) / 1e6)


def test_what_a_local_classifier_takes_is_not_made_up(store: Store) -> None:
    one = ["scale=paper", "evaluation=[advbench]", "~evaluation@task", "judge=wildguard"]
    plan = make_plan(expand(one), store)
    assert plan.stages["judge"].seconds is None
    assert any(
        note.startswith("judge allenai/wildguard: what it takes is not known")
        for note in plan.notes
    )


def test_judges_of_today_cost_nothing(two_seeds: Grid, store: Store) -> None:
    plan = make_plan(two_seeds, store)
    assert (plan.paid.calls, plan.paid.usd) == (0, 0.0)
    assert "Judges: run here, at no cost." in shown(plan)


def test_json_has_the_promised_fields(table1: Grid, store: Store) -> None:
    made = json.loads(json.dumps(as_json(make_plan(table1, store)), allow_nan=False))
    promised = ("cells", "finetunings", "generations", "judge_calls", "done")
    assert [made[name] for name in promised] == [30, 5, 60, 14_700, 0]
    assert all(isinstance(made[name], int) for name in promised)
    assert made["left"] == {
        "cells": 30,
        "finetunings": 5,
        "generations": 60,
        "judge_runs": 60,
        "judge_calls": 14_700,
    }
    assert made["seconds"]["total"] == pytest.approx(
        sum(made["seconds"][stage] for stage in ("finetune", "generate", "judge"))
    )
    assert (made["gpu_hours"], made["judge"]["usd"]) == (0.0, 0.0)


def test_the_table_fits_eighty_columns(table1: Grid, store: Store) -> None:
    put_finetuning(store, table1.distinct[0])
    lines = shown(make_plan(table1, store)).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "table1-micro: 0 of 30 cells done (0 %)"
    assert lines[3].split()[:4] == ["fine-tunings", "5", "1", "4"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "unknown"),
        (0.2, "under 1 s"),
        (45.4, "45 s"),
        (59.7, "1 min"),
        (725, "12 min"),
        (3590, "1 h"),
        (3 * 3600 + 600, "3 h 10 min"),
        (5 * 86400 + 3 * 3600, "5 d 3 h"),
        (2 * 86400, "2 d"),
    ],
)
def test_durations_are_humane(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_a_plan_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from ptst.sweep.grid import expand;"
        "from ptst.sweep.plan import make_plan; from ptst.store import Store;"
        "make_plan(expand(sys.argv[1:]), Store(Path('nowhere')));"
        "print(sorted({'torch', 'transformers', 'trl', 'wandb', 'pandas', 'datasets'} & set(sys.modules)))"
    )
    command: Sequence[str] = [sys.executable, "-c", code, "seed=0,1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_each_sample_of_a_query_is_an_answer_to_generate_and_to_judge(store: Store) -> None:
    several = make_plan(
        expand(["scale=paper", "dataset=chatdoctor", "evaluation=[advbench]"]), store
    )
    assert several.judge_calls == 5 * 1000 + 520
    one = ["task.chatdoctor.decoding.samples=1", "evaluation=[advbench]"]
    alone = make_plan(expand(["scale=paper", "dataset=chatdoctor", *one]), store)
    assert alone.judge_calls == 1000 + 520
    assert (several.stages["generate"].seconds or 0) > 2 * (alone.stages["generate"].seconds or 0)


def test_openorca_at_the_papers_scale_asks_arc(store: Store) -> None:
    plan = make_plan(expand(["scale=paper", "dataset=openorca", "evaluation=[advbench]"]), store)
    assert (plan.judge_calls, plan.notes) == (2376 + 1172 + 520, ())
