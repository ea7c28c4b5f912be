"""What defences were set to and what they recorded stands on the page of a grid, and in a card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY

from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.report.card import model_card
from ptst.report.page import page
from ptst.report.provenance import configured, costs_of, facts_in_words, recorded
from ptst.report.results import load_results
from ptst.status.states import states_of
from ptst.store import Store, read_json, read_jsonl
from ptst.sweep.grid import Grid, expand

WORDS = (*TINY, "tracking=none")
CHOSEN = "derta,add_noise,repeat_back"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Grid, Store]:
    """A cell with a defence in every slot."""
    store = Store(tmp_path_factory.mktemp("defended") / "store")
    words = [*WORDS, f"defence=[{CHOSEN}]", f"paths.store={store.root}"]
    run_cell(compose(words))
    return expand(words), store


def test_the_fields_of_every_defence_are_said(made: tuple[Grid, Store]) -> None:
    said = dict(configured(made[0]))
    (noise,), (derta,) = said["defence.add_noise.posthoc"], said["defence.derta.objective"]
    assert noise == "ptst.posthoc.add_noise.AddNoise version 1, scale=0.01, seed=0"
    assert "rows: preferences: the micro world, version" in derta
    assert "prefix=tokens" in derta and "transition=20" in derta and "template" not in derta
    assert "repeater=tested" in said["defence.repeat_back.guard"][0]
    grid = expand(["+sweeps=quick", "evaluation=[hazards]", "defence=[derta,repeat_back]"])
    cells = [cell for cell in grid.cells if cell.config.finetune.method == "none"]
    untrained = replace(grid, cells=cells)
    assert [name for name, _ in configured(untrained) if name.startswith("defence")] == [
        "defence.repeat_back.guard"
    ]


def test_what_they_recorded_is_read_from_the_store(made: tuple[Grid, Store]) -> None:
    grid, store = made
    said, keys = dict(recorded(grid, store)), grid.cells[0].keys
    assert keys.finetune and keys.posthoc
    facts = read_json(store.path("finetune", keys.finetune) / "provenance.json")["objective"]
    assert set(facts) == {"refusal_token", "refusal_word"}
    token, word = facts["refusal_token"], facts["refusal_word"]
    own = [(f"fine-tune [{keys.finetune[:8]}]", f"refusal_token {token}, refusal_word {word}")]
    assert said["defence.derta.objective"] == own
    matrices = read_json(store.path("posthoc", keys.posthoc) / "provenance.json")["matrices"]
    assert said["defence.add_noise.posthoc"] == [
        (f"posthoc [{keys.posthoc[:8]}]", f"matrices {matrices}")
    ]
    key = keys.evaluations["hazards"].generate
    rows = read_jsonl(store.path("generate", key) / "completions.jsonl")
    done = [entry for row in rows for entry in row["guard"]]
    replaced, asked = sum(e["replaced"] for e in done), sum(len(e["asked"]) for e in done)
    assert len(done) == 10 and asked >= 10
    assert dict(said["defence.repeat_back.guard"])[f"generate hazards [{key[:8]}]"] == (
        f"answers 10, replaced {replaced}, asked {asked}"
    )


def test_the_page_shows_what_they_recorded_and_nothing_where_there_is_none(
    made: tuple[Grid, Store],
) -> None:
    def shown(grid: Grid) -> str:
        return page(load_results(grid, made[1], states_of(grid, made[1])), made[1], {})

    assert ">What the defences recorded<" in shown(made[0])
    assert "answers 10, replaced" in shown(made[0])
    assert "What the defences recorded" not in shown(
        expand([*WORDS, f"paths.store={made[1].root}"])
    )


def test_a_step_after_training_is_among_the_costs(made: tuple[Grid, Store]) -> None:
    rows = dict(costs_of(*made)["rows"])
    assert list(rows)[:3] == ["fine-tune", "posthoc", "generate gsm8k"]
    assert rows["posthoc"]["artifacts"] == 1


def test_the_card_says_what_the_weights_were_defended_with(made: tuple[Grid, Store]) -> None:
    store = made[1]
    card = model_card(compose([*WORDS, "defence=[derta]", f"paths.store={store.root}"]), store)
    (line,) = [line for line in card.splitlines() if line.startswith("| defence |")]
    assert line.startswith("| defence | derta: ptst.objective.derta.Derta version 1, rows: ")
    assert "transition=20" in line and "; recorded: refusal_token" in line
    assert str(Path.cwd()) not in card


def test_facts_are_said_on_a_line() -> None:
    kept = {f"layer {n}": n / 10 for n in range(1, 8)}
    assert facts_in_words({"tokens": 12, "kept": kept, "chosen": ["a", "b"], "from": {"at": "x"}}) == (
        "tokens 12, kept 0.1 to 0.7, mean 0.4 (7), chosen (2), from (at x)"
    )  # fmt: skip
