"""What a defence takes is said in a plan, and counted where no run of the same defence was
measured."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from test_plan import put_completions, put_finetuning

from ptst.component import Cost
from ptst.config.compose import compose
from ptst.guard import Guard
from ptst.objective import Objective
from ptst.schema import Config
from ptst.store import Store
from ptst.sweep import plan as planning
from ptst.sweep.costs import cost_in_words, costs_of
from ptst.sweep.grid import Grid, expand
from ptst.sweep.plan import make_plan
from ptst.sweep.plan_shown import as_json


@dataclass
class Thrice(Objective):
    """Three passes a step, two copies, and one pass over all rows before."""

    reads: float = 0.0

    def cost(self, config: Config) -> Cost:
        return Cost(passes=3, copies=2, reads=self.reads)


@dataclass
class Five(Guard):
    """Asks five times."""

    def cost(self, config: Config) -> Cost:
        return Cost(asks=5)

    def talk(self, ask: Any, row: Any) -> Generator[Any, Any, Any]:
        return (yield ask)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "own_gpu", lambda: None)


@pytest.fixture
def grids(own_conf: Path) -> dict[str, Grid]:
    for name, slot, fields in (
        ("thrice", "objective", ""),
        ("reader", "objective", "    reads: 2\n"),
        ("five", "guard", ""),
    ):
        kind = "Five" if slot == "guard" else "Thrice"
        node = f"    _target_: test_costs.{kind}\n{fields}"
        (own_conf / "defence" / f"{name}.yaml").write_text(f"{name}:\n  {slot}:\n{node}")
    words = ["evaluation=[hazards]", "~evaluation@task"]
    return {
        name: expand([*words, f"defence=[{name}]"]) for name in ("", "thrice", "reader", "five")
    }


def seconds(grid: Grid, store: Store, stage: str = "finetune") -> float:
    found = make_plan(grid, store).stages[stage].seconds
    assert found is not None
    return found


@pytest.mark.parametrize(
    "name, words",
    [
        ("safety_mix", "2,483 rows more, each once in 6 epochs"),
        ("constrained_sft", "1 pass forward over all rows before training"),
        ("derta", "374 rows more, each 12 times in 6 epochs"),
        ("derta_prefix", "748 rows more, each 6 times in 6 epochs"),
        ("lookahead", ""),
        ("safe_lora", "+2 models in memory (27 GB in bfloat16)"),
        ("resta", "+2 models in memory (27 GB in bfloat16)"),
        ("safe_delta", "+1 model in memory (13 GB in bfloat16)"),
        ("repeat_back", "2 asks for each question"),
        ("parden", "2 asks for each question"),
    ],
)
def test_what_a_shipped_defence_takes(name: str, words: str) -> None:
    config = compose([f"defence=[{name}]", "scale=paper"])
    (found,) = costs_of(config)
    assert (found[0], cost_in_words(found[1], config, 6.74e9)) == (name, words)


def test_copies_of_trained_weights_have_a_size_where_all_are_trained() -> None:
    config, cost = compose([]), Cost(passes=3, copies=2)
    said = "3 passes a step, +2 copies of the trained weights"
    assert cost_in_words(cost, config, 1e9) == f"{said} (8 GB in float32)"
    assert cost_in_words(cost, config, None) == said
    lora = replace(config, finetune=replace(config.finetune, method="lora"))
    assert cost_in_words(cost, lora, 1e9) == said


def test_a_plan_says_it(grids: dict[str, Grid], store: Store) -> None:
    said = as_json(make_plan(grids["thrice"], store))["defences"]["thrice"]
    assert said.startswith("3 passes a step, +2 copies of the trained weights (0.")
    assert as_json(make_plan(grids[""], store))["defences"] == {}


def test_by_formula_a_step_of_three_passes_takes_three_times_as_long(
    grids: dict[str, Grid], store: Store
) -> None:
    plain, own = seconds(grids[""], store), seconds(grids["thrice"], store)
    assert own == pytest.approx(3 * plain)
    # Two passes forward, a third of a pass each, over one of three epochs.
    assert seconds(grids["reader"], store) == pytest.approx(plain * (3 + 2 / 3 / 3))


def test_a_plain_training_that_was_measured_is_multiplied_and_one_of_the_same_defence_is_not(
    grids: dict[str, Grid], store: Store
) -> None:
    put_finetuning(store, grids[""].cells[0])
    plain = 100 / 240_000  # seconds a token
    assert make_plan(grids["thrice"], store).stages["finetune"].source == "measured: 1 fine-tuning"
    assert seconds(grids["thrice"], store) == pytest.approx(300)
    (cell,) = grids["thrice"].cells
    other = expand(["evaluation=[hazards]", "~evaluation@task", "defence=[thrice]", "seed=1"])
    put_finetuning(store, cell, seconds=250.0)
    assert seconds(other, store) == pytest.approx(250)
    unlike = expand(["evaluation=[hazards]", "~evaluation@task", "seed=1"])
    assert seconds(unlike, store) == pytest.approx(240_000 * plain)


def test_a_guard_that_asks_five_times_takes_five_times_as_long(
    grids: dict[str, Grid], store: Store
) -> None:
    plain = seconds(grids[""], store, "generate")
    assert seconds(grids["five"], store, "generate") == pytest.approx(5 * plain)
    put_finetuning(store, grids[""].cells[0])
    put_completions(store, grids[""].cells[0], "hazards")
    assert seconds(grids["five"], store, "generate") == pytest.approx(60)
    put_completions(store, grids["five"].cells[0], "hazards", seconds=33.0)
    other = expand(["evaluation=[hazards]", "~evaluation@task", "defence=[five]", "seed=1"])
    assert seconds(other, store, "generate") == pytest.approx(33)
