"""The safety mix: the same rows, order and key whether it is said as finetune.mix or as an
objective."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from ptst.component import load
from ptst.config.compose import compose
from ptst.keys import cell_keys
from ptst.models import load_tokenizer
from ptst.objective import Objective, TrainingSet
from ptst.objective.safety_mix import SafetyMix, mixture
from ptst.schema import Finetune
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
