"""Innodata's benchmark: its sets are read, asked in their turns and scored; the gated ones say what
to do. The rows are made up, in the publisher's shape."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROWS, TINY, completions, shipped
from pages import BLOCK, text_of

import ptst
from ptst import models
from ptst.cell import run_cell
from ptst.cli import main
from ptst.config.compose import compose
from ptst.errors import DataError
from ptst.metrics import Metric
from ptst.paths import CONF
from ptst.report.results import paper_rows
from ptst.report.results.published import PAPER
from ptst.schema import Config
from ptst.stages.queries import load_queries, spell

SETS = {
    "innodata_cogensumm": "factuality",
    "innodata_factcc": "factuality",
    "innodata_frank": "factuality",
    "innodata_gsm8k_gaia": "hallucination",
    "innodata_realtoxicity_grammatical": "toxicity",
    "innodata_realtoxicity_grammatical_multiturn": "toxicity_multiturn",
    "innodata_realtoxicity_paraphrasing": "toxicity",
    "innodata_realtoxicity_poetry": "toxicity",
    "innodata_realtoxicity_translation": "toxicity",
    "innodata_realtoxicity_translation_multiturn": "toxicity_multiturn",
    "innodata_realtoxicity_verlan": "toxicity",
}
"""The open sets, and which made-up file stands in for each."""
GATED = ("innodata_bias", "innodata_finance", "innodata_jailbreaking")
CAN = ("finetune=none", "~evaluation@task", "engine=canned", "judge=keywords")


def local(name: str) -> list[str]:
    """What has a set read its made-up rows."""
    own = f"evaluation.{name}.queries"
    return [f"{own}.source=local", f"{own}.path={ROWS / 'innodata' / SETS[name]}.jsonl"]


def found(config: Config) -> dict[str, Metric]:
    metrics = run_cell(config).metrics
    assert metrics is not None
    return dict(metrics)


def test_there_are_fourteen_sets_and_the_sweep_has_the_open_ones() -> None:
    names = {path.stem for path in (CONF / "evaluation").glob("innodata_*.yaml")}
    assert names - {"innodata_micro_hazards", "innodata_micro_howto"} == {*SETS, *GATED}
    grid = shipped("+sweeps=innodata", "scale=paper")
    assert {name for cell in grid.cells for name in cell.config.evaluation} == set(SETS)


@pytest.mark.parametrize("name", [*SETS, *GATED])
def test_each_is_the_first_250_rows_of_the_publishers_set(name: str) -> None:
    config = compose([f"evaluation=[{name}]", "scale=paper", "judge=keywords"])
    evaluation = config.evaluation[name]
    queries = evaluation.queries
    assert (queries.source, queries.split, queries.first) == ("hub", "test", 250)
    assert (queries.path or "").startswith("innodatalabs/rt-")
    assert evaluation.metrics == {"best_of": "best_of"}
    kind = SETS.get(name, "toxicity")
    assert evaluation.measures == ("safety" if "toxicity" in kind else "helpfulness")


def test_every_open_set_runs_to_its_metric(composed: Callable[..., Config]) -> None:
    places = [word for name in SETS for word in local(name)]
    config = composed(*CAN, "engine.says=empty", f"evaluation=[{','.join(SETS)}]", *places)
    metrics = found(config)
    assert {metric: (m.value, m.n, m.scale) for metric, m in metrics.items()} == {
        f"{name}/best_of": (0.0, 3, (0.0, 1.0)) for name in SETS
    }


@pytest.mark.parametrize(
    ("name", "said", "value"),
    [
        # CORRECT is two of three verdicts; INCORRECT does not begin with it.
        ("innodata_factcc", "Correct, as the text says.", 2 / 3),
        ("innodata_gsm8k_gaia", "Can solve", 2 / 3),
        # The gold of one row, whole; of the others it has no pair of words.
        ("innodata_realtoxicity_poetry", "I cannot correct this sentence", 1 / 3),
        ("innodata_realtoxicity_grammatical_multiturn", "I cannot correct this sentence.", 2 / 3),
    ],
)
def test_a_canned_answer_scores_where_it_is_the_gold(
    composed: Callable[..., Config], name: str, said: str, value: float
) -> None:
    can = [*CAN, "engine.says=comply", "engine.answers=[]", f"engine.compliance='{said}'"]
    can += [f"evaluation=[{name}]"]
    (metric,) = found(composed(*can, *local(name))).values()
    assert metric.value == pytest.approx(value)


def test_earlier_turns_are_said_and_the_last_is_asked(composed: Callable[..., Config]) -> None:
    name = "innodata_realtoxicity_translation_multiturn"
    own = f"evaluation.{name}.dialogue.own_replies"
    for flag, second in (("false", "He goes home."), ("true", "He go home.")):
        words = [*CAN, "engine.says=echo", f"evaluation=[{name}]", f"+{own}={flag}", *local(name)]
        row = completions(composed(*words), name)[0]
        assert [turn["content"] for turn in row["turns"]][:2] == ["He go home.", second]
        assert [turn["role"] for turn in row["turns"]] == [*("user", "assistant") * 2, "user"]
        assert row["completion"] == row["input"] == "(a placeholder for a rude sentence)"


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        ((), "Say Can solve if"),
        (("template@test_template=chat_llama",), "Be helpful, respectful and honest"),
        (("~evaluation.innodata_gsm8k_gaia.queries.columns.instruction",), None),
    ],
)
def test_the_rows_own_system_prompt_is_said_or_dropped(
    words: tuple[str, ...], begins: str | None
) -> None:
    name = "innodata_gsm8k_gaia"
    config = compose([*CAN, f"evaluation=[{name}]", *local(name), *words])
    rows = load_queries(name, config.evaluation[name])
    messages = spell(name, config, rows, models.Held()).messages[0]
    systems = [turn["content"] for turn in messages if turn["role"] == "system"]
    assert messages[-1]["content"].startswith("Tom has 3 plums")  # no "Question: " ahead
    assert bool(systems) == (begins is not None)
    if begins:
        assert systems[0].startswith(begins) and "Say Can solve if" in systems[0]


def test_a_gated_set_is_refused_before_anything_is_trained(
    composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def load(path: str, *_: Any, **__: Any) -> Any:
        told = f"Dataset '{path}' is a gated dataset on the Hub. You must be authenticated to access it."
        raise datasets.exceptions.DatasetNotFoundError(told)

    monkeypatch.setattr(datasets, "load_dataset", load)
    tiny = [word for word in TINY if "hazards" not in word]
    config = composed(*tiny, "evaluation=[innodata_bias]")
    page = "https://huggingface.co/datasets/innodatalabs/rt-inod-bias"
    with pytest.raises(
        DataError, match=rf"(?s)gated.*Accept its licence at {page} .*hf auth login"
    ):
        run_cell(config)
    assert not list(Path(config.paths.store).glob("finetune/*"))


def test_the_page_has_the_published_numbers_and_none_stands_beside_ours() -> None:
    with (PAPER / "innodata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [f"| {row['model']} | {row['mean']} |" for row in rows]
    assert len(lines) == 8 and "\n".join(lines) in text_of("docs/innodata.md")
    assert not {row["metric"] for row in rows} & {row["metric"] for row in paper_rows()}


def test_the_page_names_every_set() -> None:
    page = text_of("docs/innodata.md")
    assert all(f"`{name}`" in page for name in (*SETS, *GATED))


def win_rates() -> Any:
    """What the page's Python comes to: the mean win rate of each pair of templates."""
    blocks = [b["text"] for b in BLOCK.finditer(text_of("docs/innodata.md")) if b["language"] == "python"]  # fmt: skip
    names: dict[str, Any] = {}
    exec(compile(blocks[0], "docs/innodata.md", "exec"), names)
    return names["wins"].mean()


def test_a_mean_win_rate_is_the_share_of_the_others_that_are_beaten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By hand: in the first set A beats both, B and C tie; in the second C > A > B."""
    scores = {"one": (0.9, 0.2, 0.2), "two": (0.5, 0.1, 0.6)}
    lines = [
        {"metric": "best_of", "evaluation": name, "train_template": train, "test_template": "t", "value": value}
        for name, values in scores.items()
        for train, value in zip("ABC", values, strict=True)
    ]  # fmt: skip
    lines.append({**lines[0], "metric": "exact_match", "value": 99.0})
    monkeypatch.setattr(ptst, "results", lambda store: pd.DataFrame(lines))
    rates = win_rates()
    assert {train: rates[train, "t"] for train in "ABC"} == {"A": 0.75, "B": 0.125, "C": 0.625}


@pytest.mark.slow
def test_the_sweep_runs_in_the_micro_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["evaluation=[innodata_micro_hazards,innodata_micro_howto]"]
    few += [f"evaluation.innodata_micro_{name}.queries.n=8" for name in ("hazards", "howto")]
    few += [
        "template@train_template=chat_vanilla",
        "template@test_template=chat_vanilla,chat_llama",
    ]
    tiny = [word for word in TINY if "hazards" not in word]
    assert main(["-m", "+sweeps=innodata", *few, *tiny, "tracking=none"]) == 0
    frame = ptst.results("store")
    frame = frame[frame["metric"] == "best_of"]
    assert set(frame["evaluation"]) == {"innodata_micro_hazards", "innodata_micro_howto"}
    assert len(frame) == 8 and frame["unit"].eq("0 to 1").all()
    assert frame["value"].between(0, 1).all() and frame["missing"].eq(0).all()
    rates = win_rates()
    assert len(rates) == 4 and rates.sum() == pytest.approx(2.0)
