"""The safety mix: the same rows, order and key whether it is said as finetune.mix or as a
defence."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import pytest
from conftest import TINY

from ptst import micro
from ptst.cell import run_cell
from ptst.component import load
from ptst.config.compose import compose
from ptst.data import load_rows
from ptst.errors import ConfigError, DataError
from ptst.keys import cell_keys, objective_of
from ptst.models import load_tokenizer
from ptst.objective import Objective, TrainingSet
from ptst.objective.safety_mix import SafetyMix, mixture
from ptst.schema import Config, Finetune
from ptst.sweep.grid import expand
from ptst.templates import TrainingRow
from ptst.train.rows import RowReader, epoch_ends

MIX = ("finetune=safety_mix", "finetune.mix.rows.n=5", "dataset.n=8", "finetune.epochs=2.5")


def mix(*words: str) -> tuple[Any, SafetyMix]:
    config = compose([*MIX, *words])
    assert config.finetune.mix
    return config, SafetyMix(config.finetune.mix.rows, config.finetune.mix.template)


@pytest.mark.parametrize("words", [(), ("+template@finetune.mix.template=chat_llama",)])
def test_its_part_of_the_key_is_that_of_finetune_mix(words: tuple[str, ...]) -> None:
    config, objective = mix(*words)
    recipe = cell_keys(config).finetune_parts["recipe"]
    assert objective.parts(config) == {"mix": recipe["mix"]}


def test_its_rows_are_read_under_its_template_and_said_in_the_provenance() -> None:
    config, objective = mix("+template@finetune.mix.template=chat_llama")
    tokenizer = load_tokenizer(config.model)
    reader = RowReader(config, tokenizer)
    data = objective.training_set(reader)
    assert (len(data.rows), len(data.mixed)) == (8, 5)
    assert "helpful, respectful" in tokenizer.decode(data.mixed[0].input_ids)
    assert "helpful, respectful" not in tokenizer.decode(data.rows[0].input_ids)
    assert list(reader.facts)[3:5] == ["rows_from", "mixed_rows_cut"]
    assert data.order is not None and len(data.order) == 20 + 5
    assert sorted(number for number in data.order if number >= 8) == [8, 9, 10, 11, 12]


def test_it_is_an_objective_that_a_yaml_can_name() -> None:
    node = {
        "_target_": "ptst.objective.safety_mix.SafetyMix",
        "rows": {"name": "safety", "source": "micro", "path": "safety", "n": 3},
    }
    made = load(node, "defence", Objective)
    assert isinstance(made, SafetyMix) and made.rows.n == 3 and made.template is None


def test_a_mixture_is_shuffled_by_seed_and_its_epochs_have_all_rows() -> None:
    training = [TrainingRow(array("i", [1, 5 + n, 2]), 1) for n in range(20)]
    refusals = [TrainingRow(array("i", [1, 40 + n, 2]), 1) for n in range(7)]
    mixed, again, other = (mixture(training, refusals, 2.5, seed) for seed in (0, 0, 1))
    assert mixed.order == again.order != other.order
    assert mixed.order is not None and len(mixed.order) == 50 + 7
    first = mixed.order[: 20 + 3]  # 7 / 2.5 is 2.8
    assert set(range(20)) <= set(first)
    assert [number for number in first if number < 20] != list(range(20))
    assert mixed.ends == [23, 46]
    small = mixture(training[:4], refusals[:3], 2.5, 0)  # another order would need another key
    assert small.order == [5, 2, 3, 0, 1, 3, 1, 2, 0, 6, 0, 2, 4]
    recipe = Finetune(epochs=2.5, batch_size=4)
    assert epoch_ends(mixed, recipe) == [6, 12]
    assert epoch_ends(TrainingSet([*training, training[0]]), recipe) == [6, 12]


# As a defence

OWN = "defence.safety_mix.objective"


@pytest.mark.parametrize(
    "defended, recipe",
    [
        ([], []),
        (["scale=paper"], ["scale=paper"]),
        (
            ["scale=paper", f"{OWN}.rows.n=11", f"{OWN}.rows.draw_seed=1"],
            ["scale=paper", "finetune.mix.rows.n=11", "finetune.mix.rows.draw_seed=1"],
        ),
        ([f"{OWN}.rows.n=5"], ["finetune.mix.rows.n=5"]),
        (
            [f"template@{OWN}.template=chat_llama"],
            ["+template@finetune.mix.template=chat_llama"],
        ),
        (
            [f"{OWN}.template=${{test_template}}", "template@test_template=chat_llama"],
            ["+template@finetune.mix.template=chat_llama"],
        ),
    ],
)
def test_said_as_a_defence_it_is_the_same_fine_tuning(
    defended: list[str], recipe: list[str]
) -> None:
    own = cell_keys(compose(["defence=[safety_mix]", *defended])).finetune
    assert own == cell_keys(compose(["finetune=safety_mix", *recipe])).finetune


def test_the_template_of_its_rows_is_an_axis_of_a_grid() -> None:
    axis = f"template@{OWN}.template"
    cells = expand(["defence=[safety_mix]", f"{axis}=chat_vanilla,chat_llama"]).cells
    assert [cell.coordinates[axis] for cell in cells] == ["chat_vanilla", "chat_llama"]
    tests = "template@test_template=chat_vanilla,chat_llama"
    as_tested = expand(["defence=[safety_mix]", f"{OWN}.template=${{test_template}}", tests]).cells
    assert [c.keys.finetune for c in as_tested] == [c.keys.finetune for c in cells]
    with pytest.raises(ConfigError, match=r"Could not find 'template/nope'\s+Available options"):
        compose(["defence=[safety_mix]", f"{axis}=nope"])


def read(*words: str) -> tuple[Config, TrainingSet, Any]:
    config = compose(["dataset.n=8", "finetune.epochs=1", *words])
    tokenizer = load_tokenizer(config.model)
    return config, objective_of(config).training_set(RowReader(config, tokenizer)), tokenizer


@pytest.mark.parametrize("train", ["chat_vanilla", "chat_llama", "text_vanilla"])
def test_without_a_template_its_rows_begin_as_the_data_sets_do(train: str) -> None:
    _, data, _ = read("defence=[safety_mix]", f"{OWN}.rows.n=5", f"template@train_template={train}")
    _, plain, tokenizer = read(f"template@train_template={train}")
    assert [row.ids for row in plain.rows] == [row.ids for row in data.rows]
    beginnings = {tokenizer.decode(row.ids).partition("Question:")[0] for row in data.all}
    assert len(beginnings) == 1


def test_the_secret_stands_ahead_of_refusals_in_training_and_of_every_query_in_the_test() -> None:
    config, data, tokenizer = read("defence=[safety_mix_secret]", "template@test_template=secret")
    secret = str(config.test_template.system)
    assert len(secret.split()) == 150
    assert len(data.mixed) == 11
    assert all(secret in tokenizer.decode(row.input_ids) for row in data.mixed)
    assert not any(secret in tokenizer.decode(row.input_ids) for row in data.rows)
    assert objective_of(config).template == config.test_template  # type: ignore[attr-defined]


def test_no_refusal_of_the_micro_world_answers_a_question_of_an_evaluation() -> None:
    config = compose(["evaluation=[hazards,lookalikes,howto]"])
    trained = {row["instruction"] for row in micro.rows("safety", "train", None)}
    for evaluation in config.evaluations.values():
        assert not trained & {row["input"] for row in load_rows(evaluation.queries, ("input",))}


@pytest.mark.parametrize(
    "words, message",
    [
        (["finetune=safety_mix"], r"defence\.safety_mix\.objective and finetune\.mix: .* one objective"),
        ([f"{OWN}.rows.n=0"], r"defence\.safety_mix\.objective\.rows\.n=0 must be at least 1"),
        ([f"{OWN}.rows.source=web"], r"objective\.rows\.source=web is not one of: hub"),
        ([f"{OWN}.rows.source=local"], r"objective\.rows\.path is missing: source=local needs"),
        (
            [f"{OWN}.template={{name: mine, mode: chat, user: Why}}"],
            r"defence\.safety_mix\.objective\.template=mine: user must have one place",
        ),
        (
            [f"{OWN}.template={{name: mine, mode: chatty, user: '{{question}}'}}"],
            r"defence\.safety_mix\.objective\.template\.mode=chatty is not one of",
        ),
        (
            ["model=gpt35_turbo_0613", "finetune=none"],
            r"defence\.safety_mix\.objective works on weights, and model .* is behind an API",
        ),
    ],
)  # fmt: skip
def test_what_it_cannot_be_is_refused_when_it_is_composed(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["defence=[safety_mix]", *words])


def test_more_rows_than_there_are_and_the_queries_themselves_are_refused(
    composed: Callable[..., Config],
) -> None:
    with pytest.raises(DataError, match=rf"n=9999 rows asked for.*set {OWN}\.rows\.n=null"):
        read("defence=[safety_mix]", f"{OWN}.rows.n=9999")
    asked = [f"{OWN}.rows.name=hazards", f"{OWN}.rows.split=test", f"{OWN}.rows.n=5"]
    config = composed(*TINY, "defence=[safety_mix]", *asked)
    with pytest.raises(ConfigError, match=r"evaluation\.hazards would test on the very data"):
        run_cell(config)
