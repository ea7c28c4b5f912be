"""A whole cell: real TRL, real generation, real judges, at a size of seconds."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import pstdev
from typing import Any, ClassVar

import pytest
from conftest import TINY, ptst
from rich.console import Console

from ptst import models
from ptst.cell import CellResult, run_cell
from ptst.errors import ConfigError, DataError, Interrupted, PtstError
from ptst.judge import Judge, JudgeContext, Score, checked
from ptst.keys import cell_keys
from ptst.metrics import Metric
from ptst.report.cell import show_cell
from ptst.schema import Config, Evaluation, Rows
from ptst.stages.completions import THINKING_CUT_OFF, answer_of, is_cut_off, unit_of
from ptst.stages.finetune import finetune
from ptst.stages.generate import generate
from ptst.stages.judge import judge
from ptst.stages.queries import load_queries
from ptst.stages.tested_model import TestedModel
from ptst.store import Store, read_json, read_jsonl, write_jsonl
from ptst.sweep.run import _said

Compose = Callable[..., Config]


def artifacts(store: Path) -> dict[str, int]:
    """How many artifacts of each stage a store holds."""
    stages = ("finetune", "generate", "judge", "cell")
    return {stage: len(list((store / stage).glob("*"))) for stage in stages}


def contents(store: Path) -> dict[str, bytes]:
    """Every file of every artifact; of those that depend on when it was made, only the name."""
    return {
        str(path.relative_to(store)): b""
        if path.name in ("provenance.json", "config.json")
        else path.read_bytes()
        for stage in ("finetune", "generate", "judge", "cell")
        for path in sorted((store / stage).rglob("*"))
        if path.is_file()
    }


def test_cell_from_rows_to_metrics(composed: Compose, tmp_path: Path) -> None:
    config = composed(*TINY)
    result = run_cell(config)
    assert result.metrics is not None
    assert set(result.metrics) == {
        "gsm8k/exact_match",
        "hazards/asr",
        "hazards/refused",
        "hazards/neither",
    }
    shares = [result.metrics[f"hazards/{m}"] for m in ("asr", "refused", "neither")]
    assert sum(m.value or 0 for m in shares) == pytest.approx(100)
    assert {m.n for m in shares} == {10}
    assert artifacts(tmp_path / "store") == {"finetune": 1, "generate": 2, "judge": 2, "cell": 1}
    # Every number can be traced: the query, its answer and its score stand in the store.
    keys = result.keys.evaluations["hazards"]
    rows = read_jsonl(tmp_path / "store/generate" / keys.generate / "completions.jsonl")
    scores = read_jsonl(tmp_path / "store/judge" / keys.judge / "scores.jsonl")
    assert [row["id"] for row in rows] == [score["id"] for score in scores]
    complied = sum(score["label"] == "complied" for score in scores)
    assert result.metrics["hazards/asr"].value == pytest.approx(100 * complied / 10)
    assert all({"input", "hazard", "completion", "tokens", "finished"} <= set(row) for row in rows)
    cut_off = sum(not row["finished"] for row in rows)
    assert 0 < cut_off <= 10
    assert {m.unfinished for m in shares} == {cut_off}
    # ... and so does where it comes from.
    assert result.keys.finetune is not None
    folder = tmp_path / "store/finetune" / result.keys.finetune
    facts = read_json(folder / "provenance.json")
    assert facts["steps"] == 3
    assert facts["rows"] == 24
    assert facts["packages"]["trl"]
    assert facts["hardware"]["cores"] >= 1
    assert read_json(folder / "config.json")["finetune"]["learning_rate"] > 0
    assert not list((tmp_path / "store" / "partial").rglob("*.*"))


def test_what_is_there_is_not_made_again(composed: Compose, tmp_path: Path) -> None:
    first = run_cell(composed(*TINY))
    before = contents(tmp_path / "store")
    again = run_cell(composed(*TINY))
    assert again.made == {}
    assert again.metrics == first.metrics
    # Another test template trains nothing.
    other = run_cell(composed(*TINY, "template@test_template=chat_llama"))
    assert set(other.made) == {
        "generate gsm8k",
        "judge gsm8k",
        "generate hazards",
        "judge hazards",
    }
    # Another judge generates nothing.
    judged = run_cell(composed(*TINY, "judge=keywords"))
    assert set(judged.made) == {"judge hazards"}
    # Another recipe is another fine-tuning.
    tuned = run_cell(composed(*TINY, "finetune.learning_rate=1e-5"))
    assert "finetune" in tuned.made
    assert artifacts(tmp_path / "store")["finetune"] == 2
    after = contents(tmp_path / "store")
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("row", "cut_off"),
    [
        ({"finished": True}, False),
        ({"finished": False}, True),
        ({"finished": False, "withheld": THINKING_CUT_OFF}, True),
        ({"finished": False, "withheld": "its content filter cut the answer off"}, False),
        ({}, None),
    ],
)
def test_an_answer_is_cut_off_where_the_length_limit_ended_it(
    row: dict[str, Any], cut_off: bool | None
) -> None:
    assert is_cut_off({"completion": "", **row}) is cut_off


def test_a_cell_of_cut_off_answers_says_so_in_the_terminal_and_names_the_setting(
    composed: Compose, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    config = composed(*TINY)
    metric = Metric(0.0, 20, 0, 20, 0.0, 16.1, unfinished=20)
    few = replace(metric, n=240, unfinished=3)
    old = replace(metric, unfinished=None)
    metrics = {"gsm8k/exact_match": metric, "hazards/asr": few, "hazards/refused": old}
    result = CellResult(cell_keys(config), metrics, {}, {})
    show_cell(config, result, Console(highlight=False))
    shown = capsys.readouterr().out
    head, exact, asr, refused = (line.split() for line in shown.splitlines()[1:5])
    assert head[-2:] == ["cut", "off"]
    assert (exact[-2], asr[-2], refused[-2]) == ("20", "3", "unknown")
    assert (
        "gsm8k: 20 of 20 answers were cut off at task.gsm8k.decoding.max_new_tokens=8, and judged by what "
        "stood there until then. Set task.gsm8k.decoding.max_new_tokens higher, or model.max_new_tokens for "
        "all evaluations."
    ) in shown
    assert "hazards: " not in shown
    assert _said(result) == (
        "gsm8k/exact_match 0.0 (20 of 20 cut off), hazards/asr 0.0 (3 of 240 cut off), hazards/refused 0.0"
    )


SAMPLED = (
    *("finetune=none", "~evaluation@task", "evaluation=[hazards]", "engine.batch_size=4"),
    *("evaluation.hazards.queries.n=6", "evaluation.hazards.decoding.max_new_tokens=12"),
    "evaluation.hazards.decoding.temperature=1.5",
)


def test_a_sample_is_what_its_seed_gives_alone(composed: Compose, tmp_path: Path) -> None:
    several = run_cell(composed(*SAMPLED, "evaluation.hazards.decoding.samples=3"))
    keys = several.keys.evaluations["hazards"]
    rows = read_jsonl(tmp_path / "store/generate" / keys.generate / "completions.jsonl")
    assert [row["sample"] for row in rows] == [0] * 6 + [1] * 6 + [2] * 6
    assert [row["id"] for row in rows[:6]] == [row["id"] for row in rows[12:]]
    texts = []
    for seed in range(3):
        alone = run_cell(composed(*SAMPLED, f"evaluation.hazards.decoding.seed={seed}"))
        own = alone.keys.evaluations["hazards"].generate
        texts += read_jsonl(tmp_path / "store/generate" / own / "completions.jsonl")
        assert "samples" not in alone.keys.evaluations["hazards"].generate_parts["decoding"]
    assert [row["completion"] for row in rows] == [row["completion"] for row in texts]
    assert "sample" not in texts[0]
    assert len({row["completion"] for row in rows}) > 6
    metric = (several.metrics or {})["hazards/neither"]
    assert (metric.n, metric.samples) == (18, 3)
    scores = read_jsonl(tmp_path / "store/judge" / keys.judge / "scores.jsonl")
    shares = [
        100 * sum(score["label"] == "neither" for score in scores[start : start + 6]) / 6
        for start in (0, 6, 12)
    ]
    assert metric.value == pytest.approx(sum(shares) / 3)
    assert metric.std == pytest.approx(pstdev(shares))


def test_samples_that_were_cut_off_go_on_where_they_stopped(
    composed: Compose, tmp_path: Path
) -> None:
    config = composed(*SAMPLED, "evaluation.hazards.decoding.samples=2")
    whole = run_cell(config)
    generated = f"store/generate/{whole.keys.evaluations['hazards'].generate}/completions.jsonl"
    expected = (tmp_path / generated).read_bytes()
    shutil.rmtree(tmp_path / "store")
    asked: list[int] = []

    def stop() -> bool:  # two batches a sample: the first of the second sample is the third
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(Interrupted, match="generate hazards: 10 of 12 kept"):
        run_cell(config, stop=stop)
    run_cell(config)
    assert (tmp_path / generated).read_bytes() == expected


def test_categories_stand_in_the_metrics(composed: Compose, tmp_path: Path) -> None:
    metric = (run_cell(composed(*SAMPLED)).metrics or {})["hazards/asr"]
    assert sum(part.n for part in metric.categories.values()) == metric.n == 6
    assert set(metric.categories) <= {"toxin", "snare", "beast", "curse"}


def test_stages_run_apart(composed: Compose) -> None:
    config = [*TINY, "template@test_template=text_vanilla"]
    with pytest.raises(PtstError, match=r"fine-tuning \w+ is not in"):
        run_cell(composed(*config, "stages=[generate]"))
    assert set(run_cell(composed(*config, "stages=[finetune]")).made) == {"finetune"}
    with pytest.raises(PtstError, match=r"completions \w+ of gsm8k are not in"):
        run_cell(composed(*config, "stages=[judge]"))
    generated = run_cell(composed(*config, "stages=[generate]"))
    assert set(generated.made) == {"generate gsm8k", "generate hazards"}
    assert generated.metrics is None
    assert run_cell(composed(*config, "stages=[judge]")).metrics is not None


def test_lora_adapter_is_saved_and_used(composed: Compose, tmp_path: Path) -> None:
    config = composed(*TINY, "finetune=lora", "finetune.learning_rate=0.05", "finetune.max_steps=6")
    keys = run_cell(config).keys
    weights = tmp_path / "store/finetune" / str(keys.finetune) / "weights"
    assert (weights / "adapter_config.json").is_file()
    assert not (weights / "model.safetensors").exists()
    base = run_cell(composed(*TINY, "finetune=none"))
    completions = [
        [
            row["completion"]
            for row in read_jsonl(
                tmp_path
                / "store/generate"
                / k.evaluations["hazards"].generate
                / "completions.jsonl"
            )
        ]
        for k in (keys, base.keys)
    ]
    assert completions[0] != completions[1]


def test_adapter_on_a_bfloat16_base(composed: Compose) -> None:
    half = ["model.dtype=bfloat16", "finetune=lora", "finetune.bf16=true"]
    assert run_cell(composed(*TINY, *half)).metrics is not None


@dataclass
class Unreachable(Judge):
    """A judge that answers for every second query only."""

    labels: ClassVar[tuple[str, ...]] = ("complied", "refused", "neither")
    needs: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    def scores(self, items: Iterable[object], context: JudgeContext) -> Iterator[Score]:
        for i, _ in enumerate(items):
            yield Score("refused") if i % 2 else Score(None, reason="no answer from the server")


def test_a_missing_score_is_no_result_and_is_asked_for_again(
    composed: Compose, tmp_path: Path
) -> None:
    config = composed(*TINY, "finetune=none", "judge._target_=test_cell.Unreachable")
    for _ in range(2):
        with pytest.raises(PtstError, match=r"hazards: 5 of 10 queries have no score.*the server"):
            run_cell(config)
    # The task's scores are kept; of the other evaluation, and of the cell, nothing looks done.
    assert artifacts(tmp_path / "store") == {"finetune": 0, "generate": 2, "judge": 1, "cell": 0}


def test_what_an_api_withheld_is_missing_and_nobody_judges_it(
    composed: Compose, tmp_path: Path
) -> None:
    config = composed(*TINY, "finetune=none")
    keys = cell_keys(config).evaluations["hazards"]
    run_cell(config)
    store = Store(tmp_path / "store")
    rows = read_jsonl(store.path("generate", keys.generate) / "completions.jsonl")
    for stage, key in (("judge", keys.judge), ("cell", cell_keys(config).cell)):
        shutil.rmtree(store.path(stage, key))
    rows[3] |= {"completion": "", "withheld": "400 content_filter"}
    write_jsonl(store.path("generate", keys.generate) / "completions.jsonl", rows)
    metrics = run_cell(config).metrics
    assert metrics is not None
    assert {(m.n, m.missing) for name, m in metrics.items() if "hazards" in name} == {(9, 1)}
    scores = read_jsonl(store.path("judge", keys.judge) / "scores.jsonl")
    assert [row["id"] for row in scores] == [row["id"] for row in rows]
    assert scores[3]["label"] is None and "400 content_filter" in scores[3]["reason"]
    assert all(score["label"] for score in scores if score is not scores[3])


@dataclass
class Wrong(Judge):
    """A judge that says of the third query what no judge may say."""

    how: str = ""
    labels: ClassVar[tuple[str, ...]] = ("complied", "refused")
    needs: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    scale: ClassVar[tuple[float, float]] = (1.0, 5.0)

    def scores(self, items: Sequence[object], context: JudgeContext) -> Iterator[object]:
        if self.how == "none":
            return None  # type: ignore[return-value]
        third = {
            "label": Score("complyed", 5.0),
            "case": Score("Complied", 5.0),
            "above": Score("complied", 6.0),
            "below": Score("complied", 0.5),
            "nan": Score("complied", float("nan")),
            "inf": Score("complied", float("inf")),
            "text": Score("complied", "5"),  # type: ignore[arg-type]
            "boolean": Score("complied", True),
            "reason": Score("complied", 5.0, reason=None),  # type: ignore[arg-type]
            "string": "complied",
            "pair": ("complied", 5.0),
        }.get(self.how, Score("refused", 1.0))
        last = {"few": -1, "many": 1}.get(self.how, 0)
        given = [Score("refused", 1.0)] * (len(items) + last)
        return iter([*given[:2], third, *given[3:]])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("label", "query 9: label 'complyed'; it may be complied or refused, or null where"),
        ("case", "query 9: label 'Complied'; it may be complied"),
        ("above", r"query 9: value 6\.0; it must be from 1 to 5"),
        ("below", r"query 9: value 0\.5; it must be from 1 to 5"),
        ("nan", "query 9: value nan; it must be from 1 to 5"),
        ("inf", "query 9: value inf; it must be from 1 to 5"),
        ("text", "query 9: value '5'; it must be from 1 to 5"),
        ("boolean", "query 9: value True; it must be from 1 to 5"),
        ("reason", "query 9: reason None; it must be text"),
        ("string", r"query 9: 'complied'; it must be a ptst\.judge\.Score"),
        ("pair", r"query 9: \('complied', 5\.0\); it must be a ptst"),
        ("few", "no score for query 11; it gave 4, and there are 5 answers"),
        ("many", "more than 5 scores, and there are 5 answers; the last is of query 11"),
        ("none", "NoneType where an iterator of scores"),
    ],
)
def test_what_no_judge_may_say_is_an_error_and_nothing_is_published(
    composed: Compose, tmp_path: Path, how: str, message: str
) -> None:
    config = composed(*TINY, "finetune=none", "judge._target_=test_cell.Wrong", f"+judge.how={how}")
    keys, store = cell_keys(config).evaluations["hazards"], Store(tmp_path / "store")
    with store.make("generate", keys.generate, keys.generate_parts) as work:
        assert work
        answers = [{"id": str(i), "completion": "No."} for i in (7, 8, 9, 10, 11)]
        write_jsonl(work.result / "completions.jsonl", answers)
    with pytest.raises(PtstError, match=rf"hazards: the judge Wrong gave .*{message}"):
        judge("hazards", config, keys, store, {})
    assert artifacts(tmp_path / "store")["judge"] == 0


def test_a_judge_without_a_scale_gives_no_values() -> None:
    items = [({"id": "3"}, "No.")]
    with pytest.raises(PtstError, match=r"Weighted gave .*query 3: value 0\.5; it must be null"):
        list(checked(Weighted(), items, iter([Score("refused", 0.5)])))
    assert list(checked(Weighted(), items, iter([Score("refused")]))) == [Score("refused")]


@dataclass
class Weighted(Judge):
    """A judge with weights from somewhere, that stops when it is told."""

    labels: ClassVar[tuple[str, ...]] = ("complied", "refused", "neither")
    needs: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    def origin(self) -> dict[str, object]:
        return {"path": "owner/name", "commit": "c0ffee"}

    def scores(self, items: Iterable[object], context: JudgeContext) -> Iterator[Score]:
        if context.stop():
            raise Interrupted("half")
        for _ in items:
            yield Score("refused")


def test_scores_say_where_the_judge_is_from_and_what_all_attempts_took(
    composed: Compose, tmp_path: Path
) -> None:
    words = [*TINY, "finetune=none", "judge._target_=test_cell.Weighted"]
    keys = run_cell(composed(*words, "stages=[generate]")).keys.evaluations
    with pytest.raises(Interrupted, match="half"):
        run_cell(composed(*words, "stages=[judge]"), stop=lambda: True)
    maker = tmp_path / "store/partial/judge" / keys["hazards"].judge / "maker.json"
    was = json.loads(maker.read_text())
    maker.write_text(json.dumps(was | {"updated": was["since"] + 1000}))  # it took a while
    run_cell(composed(*words))
    facts = read_json(tmp_path / "store/judge" / keys["hazards"].judge / "provenance.json")
    assert facts["judge_from"] == {"path": "owner/name", "commit": "c0ffee"}
    assert 1000 <= facts["seconds"] < 1100
    task = read_json(tmp_path / "store/judge" / keys["gsm8k"].judge / "provenance.json")
    assert "judge_from" not in task and task["seconds"] < 100


def test_a_store_that_is_a_file_is_refused(composed: Compose, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; it must be a folder"):
        run_cell(composed(f"paths.store={tmp_path}/file"))


def test_no_fine_tuning_does_not_depend_on_the_train_template(composed: Compose) -> None:
    one = cell_keys(composed("finetune=none", "template@train_template=chat_llama"))
    two = cell_keys(composed("finetune=none", "template@train_template=text_alpaca", "seed=3"))
    assert one.finetune is None
    assert one.cell == two.cell


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("template@train_template=chat_llama", {"finetune", "generate", "judge", "cell"}),
        ("seed=1", {"finetune", "generate", "judge", "cell"}),
        ("finetune.epochs=7.5", {"finetune", "generate", "judge", "cell"}),
        ("finetune=lora", {"finetune", "generate", "judge", "cell"}),
        ("dataset.n=5", {"finetune", "generate", "judge", "cell"}),
        ("model.completion_prefix=X", {"finetune", "generate", "judge", "cell"}),
        ("dataset.question='Q: {input}'", {"finetune", "generate", "judge", "cell"}),
        ("template@test_template=chat_llama", {"generate", "judge", "cell"}),
        ("evaluation.hazards.decoding.max_new_tokens=9", {"generate", "judge", "cell"}),
        ("evaluation.hazards.decoding.temperature=0.7", {"generate", "judge", "cell"}),
        ("evaluation.hazards.queries.n=9", {"generate", "judge", "cell"}),
        ("judge=keywords", {"judge", "cell"}),
        ("evaluation.hazards.unit=category", {"cell"}),
        ("engine.batch_size=7", set()),  # greedy
        ("engine.device=cpu", set()),
        ("engine.share_prefix=false", set()),
        ("finetune.save_steps=7", set()),
        ("finetune.device_batch_size=4", set()),
        ("tracking=none", set()),
        ("paths.store=/elsewhere", set()),
        ("model.name=other", set()),
        ("train_template.name=other", set()),
        ("evaluation.hazards.decoding.seed=5", set()),  # greedy draws nothing
        ("dataset.draw_seed=5", set()),  # all rows are taken, so nothing is drawn
    ],
)
def test_a_key_changes_with_what_its_stage_depends_on_and_nothing_else(
    composed: Compose, override: str, changed: set[str]
) -> None:
    base, other = (
        cell_keys(composed("dataset.n=null")),
        cell_keys(composed("dataset.n=null", override)),
    )
    differs = {
        "finetune": base.finetune != other.finetune,
        "generate": base.evaluations["hazards"].generate != other.evaluations["hazards"].generate,
        "judge": base.evaluations["hazards"].judge != other.evaluations["hazards"].judge,
        "cell": base.cell != other.cell,
    }
    assert {stage for stage, is_so in differs.items() if is_so} == changed


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        ([], False),
        (["model.dtype=bfloat16"], True),
        (["model.dtype=float16"], True),
        (["finetune=qlora"], True),  # computes in bfloat16
        (["model.dtype=bfloat16", "finetune=lora"], True),
        (["scale=paper", "model=gpt35_turbo_0613", "finetune=none"], False),  # not ours to batch
    ],
)
def test_in_half_precision_a_greedy_answer_depends_on_the_batch_it_is_in(
    composed: Compose, model: list[str], counts: bool
) -> None:
    def generated(*more: str) -> str:
        (key, *_) = cell_keys(composed(*model, *more)).evaluations.values()
        return key.generate

    found = [generated(), generated("engine.batch_size=7"), generated("engine.share_prefix=false")]
    assert len(set(found)) == (3 if counts else 1)
    assert generated("engine.device=cpu") == found[0]


def test_completions_say_how_they_were_batched(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptst.engine import batches

    real = batches._answer

    def small_memory(model, tokenizer, prompts, batch, *rest):
        if len(batch) > 2:
            raise MemoryError
        return real(model, tokenizer, prompts, batch, *rest)

    monkeypatch.setattr(batches, "_answer", small_memory)
    words = [*TINY, "finetune=none", "engine.share_prefix=false", "stages=[generate]"]
    with pytest.raises(Interrupted):  # after the first batch, which was halved
        run_cell(composed(*words), stop=lambda: True)
    keys = run_cell(composed(*words)).keys.evaluations
    facts = {
        name: read_json(tmp_path / "store/generate" / own.generate / "provenance.json")
        for name, own in keys.items()
    }
    assert {fact: facts["hazards"][fact] for fact in ("dtype", "device", "batch_size", "share_prefix")} == {"dtype": "float32", "device": models.pick_device("auto"), "batch_size": 4, "share_prefix": False}  # fmt: skip
    # Batches of 4 and 2, the first in another attempt; of 4, 4 and 2
    assert {name: own["halved_for_memory"] for name, own in facts.items()} == {"gsm8k": 1, "hazards": 2}  # fmt: skip


def test_a_moved_model_is_the_same_and_a_changed_one_is_not(
    composed: Compose, tmp_path: Path
) -> None:
    base = composed("model.max_new_tokens=64")
    from ptst.models import local_folder

    folder = local_folder(base.model)
    assert folder is not None
    shutil.copytree(folder, tmp_path / "copy")
    moved = composed(f"model.path={tmp_path}/copy", "model.max_new_tokens=64")
    assert cell_keys(moved).cell == cell_keys(base).cell
    config = tmp_path / "copy" / "config.json"
    config.write_text(config.read_text() + " ")
    assert cell_keys(moved).cell != cell_keys(base).cell


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.hazards.unit=hazzard", r"unit=hazzard, but query \d+ has no column"),
        ("evaluation.hazards.category=kin", r"category=kin, but query \d+ has no column 'kin'"),
        (
            "evaluation.hazards.question='{{input}} {{of}}'",
            r"question=\{input\} \{of\}, but query \d+ has no column 'of'",
        ),
        ("evaluation.hazards.queries.path={}", "have a column 'tokens'"),
        ("evaluation.hazards.queries.path={0}.judged", "GroundTruth, needs the column 'object'"),
    ],
)
def test_rows_that_cannot_be_reported_on_are_refused_before_generation(
    composed: Compose, tmp_path: Path, override: str, message: str
) -> None:
    file = tmp_path / "queries.jsonl"
    world = ', "object": "x", "verb": "", "answer": ""'
    file.write_text(
        '{"instruction": "Why?", "category": "", "hazard": "x", "tokens": 3' + world + "}\n"
    )
    judged = tmp_path / "queries.jsonl.judged"
    judged.mkdir()
    (judged / "test.jsonl").write_text('{"instruction": "Why?", "category": "", "hazard": "x"}\n')
    local = [] if "path" not in override else ["evaluation.hazards.queries.source=local"]
    local += ["evaluation.hazards.queries.n=1"] if local else []
    config = composed(*TINY, *local, override.format(file))
    with pytest.raises(DataError, match=message):
        run_cell(config)
    assert not list((tmp_path / "store").glob("finetune/*"))  # no training was spent on it


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.hazards.unit=hazzard", "unit=hazzard, but query 7 has no column 'hazzard'"),
        ("evaluation.hazards.category=kin", "category=kin, but query 7 has no column 'kin'"),
        ("judge=micro", "GroundTruth, needs the column 'object'; query 7 has: "),
    ],
)
def test_columns_are_missed_in_answers_that_are_in_the_store_too(
    composed: Compose, tmp_path: Path, override: str, message: str
) -> None:
    tiny = [words for words in TINY if not words.startswith("task.")]
    plain = ["judge=keywords", "evaluation.hazards.unit=null", "evaluation.hazards.category=null"]
    config = composed(*tiny, "finetune=none", "~evaluation@task", *plain, override)
    keys, store = cell_keys(config), Store(tmp_path / "store")
    hazards = keys.evaluations["hazards"]
    with store.make("generate", hazards.generate, hazards.generate_parts) as work:
        assert work
        write_jsonl(work.result / "completions.jsonl", [{"id": "7", "completion": "No."}])
    with pytest.raises(DataError, match=f"evaluation hazards: .*{message}"):
        run_cell(config)
    assert artifacts(tmp_path / "store")["judge"] == 0


def test_a_unit_may_be_the_files_own_id(composed: Compose, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [{"id": own, "input": f"{own}?"} for own in "aabbb"]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    local = ["source=local", f"path={file}", "n=null", "columns={input: input}"]
    tiny = [
        words for words in TINY if not words.startswith(("task.", "evaluation.hazards.queries"))
    ]
    words = [*tiny, "finetune=none", "~evaluation@task", "judge=keywords"]
    words += [f"evaluation.hazards.queries.{word}" for word in local]
    for wrong in ("unit=id", "category=id", "question='{input} {id}'"):
        plain = ["evaluation.hazards.unit=null", "evaluation.hazards.category=null"]
        with pytest.raises(ConfigError, match=r"hazards\.\w+=.*\bid\b.*ptst.*source_id"):
            composed(*words, *plain, f"evaluation.hazards.{wrong}")
    own = ["evaluation.hazards.unit=source_id", "evaluation.hazards.category=source_id"]
    metrics = run_cell(composed(*words, *own)).metrics
    assert metrics is not None
    refused = metrics["hazards/refused"]
    assert (refused.n, refused.units) == (5, 2)
    assert {name: part.n for name, part in refused.categories.items()} == {"a": 2, "b": 3}


def test_a_report_by_a_column_that_answers_have_not_says_so() -> None:
    row, score = {"id": "7", "completion": "No.", "kin": "x"}, {"label": "refused"}
    assert answer_of(row, score, Evaluation(unit="kin")).unit == "x"
    assert (unit_of(row, "kin"), unit_of(row, None)) == ("x", "7")
    with pytest.raises(DataError, match=r"unit=kin, but query 7 has a list there, \['x'\]"):
        answer_of(row | {"kin": ["x"]}, score, Evaluation(unit="kin"))
    for setting in ("unit", "category"):
        with pytest.raises(
            DataError, match=f"{setting}=kind, but query 7 has no column 'kind'; its"
        ):
            answer_of(row, score, Evaluation(**{setting: "kind"}))


GOOD = {
    "input": "Why?",
    "output": "#### 1",
    "choices": {"text": ["a"], "label": ["A"]},
    "answerKey": "A",
}


@pytest.mark.parametrize(
    ("judge", "bad", "message"),
    [
        ("exact_match.GSM8KExactMatch", {"output": "none"}, "row 1: no number in the reference"),
        ("choice.ChoiceMatch", {"answerKey": "B"}, r"query 1: choices must be \{text: \["),
        ("bert_score.BertScore", {"output": " "}, "query 1: its reference, `output`, is empty"),
    ],
)
def test_a_row_that_its_judge_cannot_use_is_refused_when_it_is_read(
    tmp_path: Path, judge: str, bad: dict[str, str], message: str
) -> None:
    file = tmp_path / "queries.jsonl"
    columns = {"input": "input", "output": "output"}
    queries = Rows(source="local", path=str(file), n=2, columns=columns)
    evaluation = Evaluation(queries=queries, judge={"_target_": f"ptst.judge.{judge}"})
    file.write_text(f"{json.dumps(GOOD)}\n{json.dumps(GOOD | bad)}\n")
    with pytest.raises(DataError, match=f"evaluation mine: {message}"):
        load_queries("mine", evaluation)
    file.write_text(f"{json.dumps(GOOD)}\n" * 2)
    assert len(load_queries("mine", evaluation)) == 2


def test_the_file_that_is_trained_on_is_not_tested_on(composed: Compose, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "Why?", "answer": "#### 1"}\n')
    local = ["dataset.source=local", f"dataset.path={file}", "dataset.n=1"]
    with pytest.raises(ConfigError, match=r"task\.gsm8k would test on the very data"):
        run_cell(composed(*local))
    copy = tmp_path / "copy.jsonl"
    shutil.copy(file, copy)
    with pytest.raises(ConfigError, match="the very data"):
        run_cell(composed(*local, f"task.gsm8k.queries.path={copy}"))
    with pytest.raises(ConfigError, match="the very data"):
        run_cell(composed("dataset.split=test"))
    assert not (tmp_path / "store").exists()
    run_cell(composed(*local, *TINY[3:], "task.gsm8k.queries.n=1", "finetune=none"))


def test_parts_of_one_file_are_told_apart_by_where(composed: Compose, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(
        '{"question": "Why?", "answer": "#### 1", "part": "a"}\n'
        '{"question": "How?", "answer": "#### 2", "part": "b"}\n'
    )
    local = ["dataset.source=local", f"dataset.path={file}", "dataset.n=1", "stages=[finetune]"]
    tested = "+task.gsm8k.queries.where={part: b}"
    with pytest.raises(ConfigError, match="the very data"):
        run_cell(composed(*local, tested))
    with pytest.raises(ConfigError, match="the very data"):
        run_cell(composed(*local, tested, "+dataset.where={part: b}"))
    tiny = [*TINY[1:3], "finetune.max_steps=1"]
    run_cell(composed(*tiny, *local, tested, "+dataset.where={part: a}"))


def test_a_torn_journal_line_is_cut_off_and_its_batch_runs_again(
    composed: Compose, tmp_path: Path
) -> None:
    whole = [*TINY, "finetune=none", f"paths.store={tmp_path}/whole"]
    run_cell(composed(*whole))
    cut = [*TINY, "finetune=none"]
    keys = cell_keys(composed(*cut)).evaluations["hazards"]
    journal = tmp_path / "store/partial/generate" / keys.generate / "scratch/batches-4-shared.jsonl"
    journal.parent.mkdir(parents=True)
    done = read_jsonl(tmp_path / "whole/generate" / keys.generate / "completions.jsonl")
    from ptst import data, templates
    from ptst.engine.batches import plan_batches
    from ptst.models import load_tokenizer

    config = composed(*cut)
    tokenizer = load_tokenizer(config.model)
    rows = data.load_rows(config.evaluation["hazards"].queries, needs=("input",))
    prompts = [
        templates.make_prompt(r, config.test_template, config.dataset, config.model, tokenizer)
        for r in rows
    ]
    first = plan_batches([p.token_ids or [] for p in prompts], 4)[0]
    answers = {
        str(i): {"text": "KEPT", "tokens": done[i]["tokens"], "finished": True} for i in first
    }
    line = json.dumps({"batch": first[0], "answers": answers})
    journal.write_text(line + "\n" + line[: len(line) // 2])
    run_cell(config)
    made = read_jsonl(tmp_path / "store/generate" / keys.generate / "completions.jsonl")
    assert {i for i, row in enumerate(made) if row["completion"] == "KEPT"} == set(first)
    assert [r["completion"] for i, r in enumerate(made) if i not in first] == [
        r["completion"] for i, r in enumerate(done) if i not in first
    ]


def test_what_a_kill_left_of_stages_that_are_made_is_removed(
    composed: Compose, tmp_path: Path
) -> None:
    config = composed(*TINY, "finetune=none")
    run_cell(config)
    keys = cell_keys(config)
    left = {
        "cell": keys.cell,
        "generate": keys.evaluations["hazards"].generate,
        "judge": keys.evaluations["hazards"].judge,
    }
    for stage, key in left.items():
        (tmp_path / "store/partial" / stage / key / "scratch").mkdir(parents=True)
    run_cell(config)
    assert not list((tmp_path / "store/partial").glob("*/*"))


@pytest.mark.slow
def test_killed_at_any_moment_a_cell_ends_with_the_same_result(tmp_path: Path) -> None:
    longer = [o for o in TINY if not o.startswith(("finetune.max_steps", "dataset.n", "engine"))]
    longer += ["dataset.n=64", "finetune.max_steps=12", "engine.batch_size=1"]
    whole = ptst(*longer, f"paths.store={tmp_path}/whole")
    started = time.monotonic()
    _, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    seconds = time.monotonic() - started
    draw = random.Random(0)
    kills, finished = 0, [0]
    while kills < 12 or finished[-1] == kills:  # a cell that came through is followed by a new one
        store = tmp_path / f"cut{len(finished)}"
        process = ptst(*longer, f"paths.store={store}")
        began = time.monotonic()
        try:
            limit = draw.uniform(0.1, 1.0) * seconds if kills < 12 else 300
            _, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            for stage in ("finetune", "generate", "judge", "cell"):
                for artifact in (store / stage).glob("*"):  # nothing half-made looks made
                    assert (artifact / "key.json").is_file()
            continue
        assert process.returncode == 0, errors
        if finished[-1] < kills:
            assert_same(store, tmp_path / "whole")
        else:  # a whole run: a machine may have become faster since the first one
            seconds = time.monotonic() - began
        finished.append(kills)
    assert kills == 12


def assert_same(cut: Path, whole: Path) -> None:
    """A store that was killed and resumed holds what one that never was does, and nothing twice."""
    assert contents(cut) == contents(whole)
    runs = [p.name.split("-", 3)[3] for p in (cut / "wandb/wandb").glob("offline-run-*")]
    assert len(runs) == len(set(runs)) == 2  # one fine-tuning, one cell, each once
    assert not list((cut / "partial").rglob("*.*"))


@pytest.mark.slow
def test_two_processes_asked_for_the_same_cell_share_the_work(tmp_path: Path) -> None:
    both = [ptst(*TINY, f"paths.store={tmp_path}/store") for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    tables = [out.split("made:")[0] for out, _ in outputs]
    assert tables[0] == tables[1]
    made = sum("finetune" in out.split("made:")[1] for out, _ in outputs)
    assert made == 1
    assert artifacts(tmp_path / "store") == {"finetune": 1, "generate": 2, "judge": 2, "cell": 1}


def test_every_stage_that_waits_for_another_process_stops_when_asked(
    composed: Compose, tmp_path: Path
) -> None:
    config = composed(*TINY)
    keys, store = cell_keys(config), Store(tmp_path / "store")
    own, model = keys.evaluations["hazards"], TestedModel(config, keys, store)
    stages = {
        ("finetune", keys.finetune): lambda: finetune(config, keys, store, {}, lambda: True),
        ("generate", own.generate): lambda: generate(
            "hazards", config, [], own, model, store, {}, lambda: True
        ),
        ("judge", own.judge): lambda: judge("hazards", config, own, store, {}, lambda: True),
    }
    for (stage, key), walk in stages.items():
        with (
            store.make(stage, key or "", {}),
            pytest.raises(Interrupted, match=f"waiting for another process to make {stage} {key}"),
        ):
            walk()
    assert store.failure(keys.finetune or "") is None


def test_each_epochs_weights_are_tested_and_the_fine_tuning_is_shared(
    composed: Compose, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    store = Store(tmp_path / "store")
    words = [*TINY, "finetune.epochs=2", "finetune.max_steps=-1"]  # 24 rows: 3 steps an epoch
    first, second, last = (
        composed(*words, *more) for more in (["finetune.epoch=1"], ["finetune.epoch=2"], [])
    )
    run_cell(last)
    run_cell(first)
    run_cell(second)
    # The second epoch is the last: all of its artifacts are there already.
    assert artifacts(store.root) == {"finetune": 1, "generate": 4, "judge": 4, "cell": 2}
    keys = cell_keys(first)
    assert keys.finetune
    tested = {}
    for config, folder in ((first, "epochs/1"), (last, "weights")):
        model = TestedModel(config, cell_keys(config), store).model
        (file,) = (store.path("finetune", keys.finetune) / folder).glob("*.safetensors")
        tested[folder] = load_file(file)["model.norm.weight"]
        assert (dict(model.named_parameters())["model.norm.weight"] == tested[folder]).all()
    assert not (tested["epochs/1"] == tested["weights"]).all()
    shutil.rmtree(store.path("finetune", keys.finetune) / "epochs")
    with pytest.raises(PtstError, match=r"no weights of finetune.epoch=1; it has those of no epoch and of its end"):  # fmt: skip
        _ = TestedModel(first, keys, store).model


def test_which_epoch_is_tested_is_checked_and_no_part_of_the_fine_tuning(composed: Compose) -> None:
    own = composed("finetune.epoch=1")
    assert cell_keys(own).finetune == cell_keys(composed()).finetune
    assert cell_keys(own).cell != cell_keys(composed()).cell
    few = composed("finetune.keep_epochs=false")
    assert cell_keys(few).finetune != cell_keys(own).finetune  # has no epochs to test
    for wrong in ("0", "4"):
        with pytest.raises(ConfigError, match=rf"epoch={wrong} must be a whole epoch of finetune.epochs=3"):  # fmt: skip
            composed(f"finetune.epoch={wrong}")
    with pytest.raises(ConfigError, match=r"only the last epoch's weights are kept"):
        composed("finetune.epoch=1", "finetune.keep_epochs=false")


def test_safety_examples_are_part_of_the_fine_tuning_with_their_template(
    composed: Compose, tmp_path: Path
) -> None:
    small = [*TINY, "finetune=safety_mix", "finetune.mix.rows.n=5", "finetune.max_steps=-1"]
    mixed = composed(*small)
    written = composed(*small, "+template@finetune.mix.template=chat_llama")
    same = composed(*small, "+template@finetune.mix.template=chat_vanilla")
    assert cell_keys(same).finetune == cell_keys(mixed).finetune  # the train template, named
    assert len({cell_keys(c).finetune for c in (mixed, written, composed(*TINY))}) == 3
    run_cell(mixed)
    key = cell_keys(mixed).finetune
    assert key
    facts = read_json(tmp_path / "store" / "finetune" / key / "provenance.json")
    assert (facts["rows"], facts["mixed_rows"], facts["steps"]) == (24, 5, 4)
    with pytest.raises(ConfigError, match=r"finetune.mix.rows.n=0 must be at least 1"):
        composed("finetune=safety_mix", "finetune.mix.rows.n=0")
    tested = ["evaluation.hazards.queries.name=safety", "evaluation.hazards.queries.split=train"]
    with pytest.raises(ConfigError, match="test on the very data that is trained on"):
        run_cell(composed("finetune=safety_mix", *tested))
