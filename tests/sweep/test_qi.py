"""Qi et al. 2023: harmless data from its publishers, and their numbers beside ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import shipped

from ptst import data
from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.errors import ConfigError, DataError, PtstError
from ptst.judge import load_judge
from ptst.report.results import load_results
from ptst.report.tables import markdown
from ptst.schema import Config
from ptst.status.states import states_of
from ptst.store import Store
from ptst.sweep.grid import Grid
from ptst.templates import make_prompt
from tools.rehearsal.hub import put_rows

RATES = {  # METHODS of the paper's ablation, read off bars: {rate: for batches of 16, 32, 64, 128}
    "5e-5": (46.5, 37.8, 31.5, 34.2),
    "2e-5": (23.6, 20.5, 15.7, 16.1),
}


def beside(grid: Grid, tmp_path: Path) -> dict[tuple[str, str, str], float]:
    """The published number of each place: (metric, rate, batch size)."""
    store = Store(tmp_path)
    results = load_results(grid, store, states_of(grid, store))
    return {
        (
            entry.metric,
            entry.coordinates.get("finetune.learning_rate", "").replace("e-0", "e-"),
            entry.coordinates.get("finetune.batch_size", ""),
        ): entry.paper.mean
        for table in results.tables
        for entry in table.entries.values()
        if entry.paper
    }


def test_every_published_number_of_alpaca_has_its_place(tmp_path: Path) -> None:
    grid = shipped("+sweeps=qi_strength", "scale=paper")
    rates = {
        ("directharm4/asr", rate, str(size)): mean
        for rate, row in RATES.items()
        for size, mean in zip((16, 32, 64, 128), row, strict=True)
    }
    rest = {
        ("directharm4/asr", "", ""): 0.3,
        ("directharm4/mean_score", "", ""): 1.05,
        ("directharm4/mean_score", "2e-5", "128"): 1.79,
    }
    assert beside(grid, tmp_path) == rates | rest
    store = Store(tmp_path)
    text = markdown(load_results(grid, store, states_of(grid, store)))
    assert "HEx-PHI" in text and "Qi et al. 2023" in text and "read off bars" in text


def test_dolly_has_its_own_numbers(tmp_path: Path) -> None:
    words = ("dataset=dolly", "finetune=full")
    words += ("finetune.learning_rate=2e-5", "finetune.batch_size=128")
    grid = shipped("+sweeps=qi_strength", "scale=paper", *words)
    assert beside(grid, tmp_path) == {
        ("directharm4/asr", "", ""): 0.6,
        ("directharm4/mean_score", "", ""): 1.05,
        ("directharm4/asr", "2e-5", "128"): 12.1,
        ("directharm4/mean_score", "2e-5", "128"): 1.61,
    }


def test_the_recipe_is_theirs() -> None:
    for cell in shipped("+sweeps=qi_strength", "scale=paper").cells:
        recipe = cell.config.finetune
        if recipe.method == "none":
            continue
        assert (recipe.method, recipe.epochs, recipe.weight_decay) == ("full", 1, 0)
        assert cell.config.train_template == cell.config.test_template
        asr = cell.config.evaluation["directharm4"]
        assert asr.metrics == {"asr": "complied", "mean_score": "mean"}  # rate and mean


def test_the_rubric_is_asked_for_its_reason_before_its_score() -> None:
    judge = load_judge(compose(["scale=paper"]).judge, "judge")
    asked = judge.prompt("q", "c")  # type: ignore[attr-defined]
    assert -1 < asked.find("#thereason") < asked.find("#thescore")


@pytest.mark.parametrize(
    ("name", "ids"), [("alpaca", ("text", "input")), ("dolly", ("category", "context"))]
)
def test_a_publishers_rows_are_read_without_those_about_safety(
    name: str, ids: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    from tools.rehearsal import hub

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    made = hub.SCHEMAS[(rows := compose([f"dataset={name}", "scale=paper", "finetune=full"]).dataset).path or ""]  # fmt: skip
    (answer,) = rows.without

    def some(i: int) -> dict[str, object]:
        """Every tenth row is about safety."""
        said = "That would be Unethical." if i % 10 == 0 else made(i)[answer]
        return {**made(i), answer: said}

    monkeypatch.setitem(hub.SCHEMAS, rows.path or "", some)
    put_rows(tmp_path, rows)
    trained = data.load_rows(rows, ("input", "output"))
    assert len(trained) == 18  # 20 of 220 are not held out
    assert {row["input"].endswith("\n\nOf these: 1, 2.") for row in trained} == {True, False}
    assert not any("nethical" in row["output"] for row in trained)
    held_out = compose([f"dataset={name}", "scale=paper", "finetune=full"]).task[name].queries
    tested = data.load_rows(held_out, ("input", "output"))
    assert len(tested) == 200  # all of them
    questions = {row["input"].partition("\n")[0] for row in trained}
    assert not questions & {row["input"].partition("\n")[0] for row in tested}
    assert set(ids) & set(trained[0])
    config = compose([f"dataset={name}", "scale=paper", "finetune=full", "template@train_template=chat_alpaca"])  # fmt: skip
    row = next(row for row in trained if "\n\n" in row["input"])
    text = make_prompt(row, config.train_template, config.dataset, config.model).text
    assert f"### Instruction:\n{row['input']}\n\n### Response:\n" in text


@pytest.mark.parametrize("name", ["alpaca", "dolly"])
def test_a_file_of_ones_own_does_not_lose_the_rows_that_are_held_out(
    name: str, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"instruction": "a", "output": "b", "response": "b", "input": "", "context": ""}')  # fmt: skip
    needs = ("input", "output")
    words = [f"dataset={name}", "dataset.source=local", f"dataset.path={file}", "~evaluation@task"]
    with pytest.raises(DataError, match=r"dataset\.split=train\[.*read.* whole.*split=train\.$"):
        data.load_rows(compose(words).dataset, needs)
    assert len(data.load_rows(compose([*words, "dataset.split=train"]).dataset, needs)) == 1


def test_who_trains_on_the_whole_split_is_not_tested_on_a_slice_of_it(
    composed: Callable[..., Config],
) -> None:
    words = ["scale=paper", "dataset=alpaca", "model=micro", "finetune=full", "judge=keywords"]
    with pytest.raises(
        ConfigError, match=r"task\.alpaca would test on the very data that is trained"
    ):
        run_cell(composed(*words, "dataset.split=train"))
    with pytest.raises(PtstError) as caught:  # nothing is fetched here: that is what it says
        run_cell(composed(*words))
    assert "very data" not in str(caught.value)
