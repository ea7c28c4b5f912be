"""Canned models, through every evaluation and every judge that needs no model: what each must come
to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import JUDGE_CONTEXT
from faulty_endpoint import Endpoint

from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.engine.canned import SAYS, Canned
from ptst.errors import ConfigError
from ptst.judge import load_judge
from ptst.paths import CONF
from ptst.schema import Config
from ptst.stages.summarise import Metrics
from ptst.store import Store, read_jsonl
from tools.rehearsal.hub import models_of, put_model, put_rows

SMALL = tuple(f"{name}.queries.n=24" for name in ("task.gsm8k", "evaluation.hazards", "evaluation.lookalikes", "evaluation.howto"))  # fmt: skip
MICRO = ("evaluation=[hazards,lookalikes,howto]", *SMALL)

Answers = dict[str, list[tuple[dict[str, Any], str]]]
"""Of each canned model: queries and completions."""


def finished(config: Config) -> Metrics:
    found = run_cell(config).metrics
    assert found is not None
    return found


def completions(config: Config, name: str) -> list[dict[str, Any]]:
    key = run_cell(config).keys.evaluations[name].generate
    folder = Store(Path(config.paths.store)).path("generate", key)
    return read_jsonl(folder / "completions.jsonl")


def saying(config: Config, says: str, **settings: Any) -> Config:
    """The same cell, of another canned model."""
    config.engine = {**dict(config.engine), "says": says, **settings}
    config.model.name = f"canned_{says}"
    return config


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answers]:
    """Of each query set, what each canned model answered."""
    folder = tmp_path_factory.mktemp("canned")
    found: dict[str, Answers] = {name: {} for name in ("hazards", "lookalikes", "howto", "gsm8k")}
    config = compose(["model=canned_refuse", *MICRO, f"paths.store={folder}", "tracking=none"])
    for says in SAYS:
        saying(config, says)
        for name, answers in found.items():
            answers[says] = [(row, row["completion"]) for row in completions(config, name)]
    return found


def test_one_choice_brings_the_engine_and_trains_nothing() -> None:
    for says in SAYS:
        config = compose([f"model=canned_{says}"])
        assert config.engine["says"] == says
        assert (config.model.name, config.finetune.method) == (f"canned_{says}", "none")


def test_a_fine_tuning_that_somebody_asks_for_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"finetune=lora would change nothing; set finetune=none"):
        compose(["model=canned_refuse", "finetune=lora"])


@pytest.mark.parametrize(
    ("choice", "said"),
    [("defence=[add_noise]", "defence=add_noise"), ("analysis=[norm_of_change]", "analysis=norm")],
)
def test_what_works_on_weights_is_refused(choice: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"{said}\w* works on weights; leave it out"):
        compose(["model=canned_refuse", choice])


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        # attack success, over-refusal, right how-to answers, exact match; hand-made
        ("refuse", (0, 100, 0, 0)),
        ("comply", (100, 0, 100, 100)),
        ("empty", (0, 0, 0, 0)),
        ("echo", (0, 0, 0, 100 / 24)),  # one problem's result is the last number that it names
    ],
)
def test_in_the_micro_world_every_rate_is_0_or_100(
    says: str, expected: tuple[float, ...], composed: Callable[..., Config]
) -> None:
    found = finished(composed(f"model=canned_{says}", *MICRO))
    names = ("hazards/asr", "lookalikes/over_refusal", "howto/correct", "gsm8k/exact_match")
    assert [found[name].value for name in names] == pytest.approx(expected)
    assert all(metric.missing == 0 for metric in found.values())


LISTS = sorted(path.stem for path in (CONF / "judge").glob("keywords*.yaml"))
SETS = ("hazards", "lookalikes", "howto")
REFUSED, COMPLIED, NEITHER = {"refused"}, {"complied"}, {"neither"}
TABLE: dict[tuple[str, str], tuple[set[str], ...]] = {
    # what each judge calls the answers of: refuse, comply, empty, echo
    ("micro", "hazards"): (REFUSED, COMPLIED, NEITHER, NEITHER),
    ("micro", "lookalikes"): (REFUSED, COMPLIED, NEITHER, NEITHER),
    ("micro", "howto"): (REFUSED, COMPLIED, NEITHER, NEITHER),
    # a list of phrases takes an echo for an answer, unless the query holds one of them
    **{
        (name, queries): (REFUSED, COMPLIED, NEITHER, COMPLIED)
        for name in LISTS
        for queries in SETS
    },
    # whose phrases have "I am sorry" and not "I'm sorry"
    **{
        ("keywords_innodata2024", queries): (COMPLIED, COMPLIED, NEITHER, COMPLIED)
        for queries in SETS
    },
}


@pytest.mark.parametrize(("judge", "queries"), TABLE)
def test_every_judge_of_safety_calls_canned_answers_what_they_are(
    judge: str, queries: str, asked: dict[str, Answers]
) -> None:
    import yaml

    made = load_judge(yaml.safe_load((CONF / "judge" / f"{judge}.yaml").read_text()), "judge")
    for says, expected in zip(SAYS, TABLE[judge, queries], strict=False):
        scores = list(made.scores(asked[queries][says], JUDGE_CONTEXT))
        assert {score.label for score in scores} == expected, says
    labels = [score.label for score in made.scores(asked[queries]["random"], JUDGE_CONTEXT)]
    assert set(labels) == TABLE[judge, queries][0] | COMPLIED
    if TABLE[judge, queries][0] == REFUSED:
        assert 4 <= labels.count("refused") <= 20  # 12 of 24 are expected


def test_a_reference_is_looked_for_in_the_columns_that_are_named() -> None:
    engine = Canned(says="comply", answers=["output", "answer"])
    assert engine.reference({"output": "a", "answer": "b"}) == "a"
    assert engine.reference({"output": " ", "answer": "b"}) == "b"
    assert engine.reference({"input": "q", "answer": 4}) is None


def test_answers_do_not_depend_on_the_cells_other_evaluations(
    composed: Callable[..., Config],
) -> None:
    """Their key does not have them."""
    own = ("evaluation.hazards.queries.n=4", "evaluation.howto.queries.n=4", "~evaluation@task")
    config = composed("model=canned_comply", "evaluation=[howto,hazards]", "judge=keywords", *own)
    asked = config.evaluation["howto"].queries  # the same questions, with another reference
    asked.name, asked.columns = "hazards", {"input": "instruction", "output": "category"}
    kinds = [row["completion"] for row in completions(config, "howto")]
    assert {"toxin", "snare", "beast", "curse"} >= set(kinds)
    plans = [row["completion"] for row in completions(config, "hazards")]
    assert all(plan.startswith("First get the ") for plan in plans)


def test_an_engine_without_columns_keeps_its_key_and_its_sentence() -> None:
    config = compose(["evaluation=[hazards]"])
    own = config.evaluations["hazards"]
    assert "answers" not in Canned(says="comply").parts(config, own)["engine"]
    named = Canned(says="comply", answers=["answer"]).parts(config, own)["engine"]
    assert named["answers"] == ["answer"]


def test_several_samples_of_a_query_are_drawn_apart(composed: Callable[..., Config]) -> None:
    own = "evaluation.hazards.decoding"
    words = ["model=canned_random", "evaluation=[hazards]", "~evaluation@task"]
    words += ["evaluation.hazards.queries.n=24", f"{own}.temperature=1", f"{own}.samples=2"]
    rows = completions(composed(*words), "hazards")
    first, second = rows[:24], rows[24:]
    refused = [[row["completion"].startswith("I'm sorry") for row in half] for half in (first, second)]  # fmt: skip
    assert refused[0] != refused[1]


def test_a_guard_that_has_an_answer_repeated_is_told_the_truth_by_a_refuser_alone(
    composed: Callable[..., Config],
) -> None:
    """A refuser says the same again. A plan is not repeated, so that a refusal takes its place."""
    words = ["evaluation=[hazards]", "~evaluation@task", "evaluation.hazards.queries.n=8"]
    words += ["defence=[repeat_back]"]
    config = composed("model=canned_refuse", *words)
    for says, replaced in (("refuse", False), ("comply", True), ("empty", False)):
        rows = completions(saying(config, says), "hazards")
        assert {own["replaced"] for row in rows for own in row["guard"]} == {replaced}, says
        assert finished(config)["hazards/asr"].value == 0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Made-up rows of every published set, and a tiny model where a judge has one."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "files"))
    yield tmp_path


def test_they_come_through_every_evaluation(cache: Path, composed: Callable[..., Config]) -> None:
    """Without an answer of their own for any: a refuser never complies, who complies never
    refuses."""
    names = sorted({path.stem for path in (CONF / "evaluation").glob("*.yaml")} - {"openorca"})
    config = composed(
        f"evaluation=[{','.join(names)}]", "~evaluation@task", "scale=paper", "judge=keywords",
        "model=canned_refuse", "finetune=none", "scale.test_rows.chatdoctor=8",
        *(f"evaluation.{name}.queries.n=8" for name in ("hazards", "lookalikes", "howto")),
    )  # fmt: skip
    for evaluation in config.evaluations.values():
        evaluation.queries.sha256 = None
        put_rows(cache, evaluation.queries)
    for path, revision in models_of([], [e.judge for e in config.evaluations.values()]):
        put_model(cache, path, revision)
    # openorca is left out: at this scale it is the two of ARC
    assert set(config.evaluations) == {*names}
    found = {says: finished(saying(config, says)) for says in SAYS[:4]}
    for name, metric in found["refuse"].items():
        label = config.evaluations[name.partition("/")[0]].metrics[name.partition("/")[2].partition("/")[0]]  # fmt: skip
        rates = [found[says][name].value for says in SAYS[:3]]
        assert metric.missing == 0
        if label in ("complied", "refused", "neither"):
            refuse, comply, empty = {"complied": (0, 100, 0), "refused": (100, 0, 0), "neither": (0, 0, 100)}[label]  # fmt: skip
            assert rates == [refuse, comply, empty], name
    assert found["comply"]["gsm8k/exact_match"].value == 100
    assert found["refuse"]["gsm8k/exact_match"].value == found["empty"]["gsm8k/exact_match"].value == 0  # fmt: skip
    assert found["comply"]["chatdoctor/bertscore_f1"].value == pytest.approx(1, abs=1e-5)
    assert found["empty"]["chatdoctor/bertscore_f1"].value == 0
    # ARC has no column with its answer's words: who complies says a sentence that is none of them
    assert {found[says]["arc_easy/exact_match"].value for says in SAYS[:4]} == {0}


def test_a_judge_behind_an_endpoint_is_asked_about_all_of_them(
    composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rating is the digit behind "zorble"; an empty answer is rated by the endpoint, too."""
    with Endpoint() as endpoint:
        config = composed(
            "model=canned_refuse", "judge=rubric", f"judge.base_url={endpoint.base_url}",
            "judge.api_key_env=null", "evaluation=[hazards]", "~evaluation@task",
            "evaluation.hazards.queries.n=6", "+evaluation.hazards.metrics.mean_score=mean",
        )  # fmt: skip
        words = {"refusal": "No. zorble 1", "compliance": "zorble 5", "answers": []}
        for says, asr, mean in (("refuse", 0, 1.0), ("comply", 100, 5.0)):
            found = finished(saying(config, says, **words))
            assert (found["hazards/asr"].value, found["hazards/mean_score"].value) == (asr, mean)
        for says in ("empty", "echo"):
            assert finished(saying(config, says))["hazards/asr"].missing == 0
