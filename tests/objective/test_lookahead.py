"""LookAhead: the prompt of a training row grows, its labels stay, test prompts do not change."""

from __future__ import annotations

import math
from array import array
from typing import Any

import pytest

from ptst.config.compose import compose
from ptst.errors import ConfigError
from ptst.keys import cell_keys, objective_of
from ptst.models import load_tokenizer
from ptst.objective import Objective, TrainingRow
from ptst.objective.lookahead import beginning, in_a_circle, with_preview
from ptst.train.rows import RowReader

REAL, SHUFFLED = "defence=[lookahead]", "defence=[lookahead_shuffled]"
OWN = "defence.lookahead.objective"
VIRTUAL = [REAL, f"{OWN}.preview=virtual"]
TEXT = "template@train_template=text_alpaca"


def trained(*words: str, plain: bool = False) -> tuple[list[TrainingRow], Any]:
    config = compose(["dataset.n=12", *words])
    tokenizer = load_tokenizer(config.model)
    reader = RowReader(config, tokenizer)
    objective = Objective() if plain else objective_of(config)
    return list(objective.training_set(reader).rows), tokenizer


@pytest.mark.parametrize("template", ["template@train_template=chat_llama", TEXT])
def test_a_real_preview_is_in_the_prompt_and_the_labels_stay(template: str) -> None:
    rows, tokenizer = trained(REAL, template)
    for row, before in zip(rows, trained(template, plain=True)[0], strict=True):
        answer = before.ids[before.prompt_length :]
        assert row.ids[row.prompt_length :] == answer
        assert row.labels == [-100] * row.prompt_length + answer.tolist()
        assert row.prompt_length > before.prompt_length
        said = tokenizer.decode(answer).strip()
        prompt = tokenizer.decode(row.ids[: row.prompt_length])
        shown = prompt.split(" The answer begins with: ")[1]
        assert shown.startswith(beginning(said, 6, tokenizer))
        assert not shown.startswith(beginning(said, 7, tokenizer))


def test_a_virtual_preview_is_shown_and_said() -> None:
    rows, tokenizer = trained(*VIRTUAL)
    for row, before in zip(rows, trained(plain=True)[0], strict=True):
        prompt, answer = (
            tokenizer.decode(part)
            for part in (row.ids[: row.prompt_length], row.ids[row.prompt_length :])
        )
        assert "The answer begins with: Let's solve this problem." in prompt
        said = tokenizer.decode(before.ids[before.prompt_length :]).strip()
        assert answer.strip() == f"Let's solve this problem. {said}"


def test_a_shuffled_preview_is_that_of_another_row_and_each_is_shown_once() -> None:
    def shown(*words: str) -> list[str]:
        rows, tokenizer = trained(*words)
        prompts = [tokenizer.decode(row.ids[: row.prompt_length]) for row in rows]
        return [prompt.split("The answer begins with: ")[1] for prompt in prompts]

    real, shuffled = shown(REAL), shown(SHUFFLED)
    assert sorted(real) == sorted(shuffled) and real != shuffled
    assert shown(SHUFFLED) == shuffled != shown(SHUFFLED, "seed=1")
    labels = [
        [row.ids[row.prompt_length :] for row in trained(words)[0]] for words in (REAL, SHUFFLED)
    ]
    assert labels[0] == labels[1]
    others = in_a_circle([str(n) for n in range(50)], 0)
    assert sorted(others.values()) == sorted(others)
    assert all(name != other for name, other in others.items())


def test_without_preview_and_connector_a_row_is_what_it_was() -> None:
    row = {"id": "3", "input": "Why?", "output": "So."}
    assert with_preview(row, "", "") == row


def test_a_preview_is_a_beginning_of_the_answer_whatever_its_letters() -> None:
    tokenizer = load_tokenizer(compose([]).model)
    assert beginning("So.", 50, tokenizer) == "So." and beginning("", 6, tokenizer) == ""
    assert beginning("First get", 1, tokenizer) == "F"
    for answer in ("日本語 \N{THUMBS UP SIGN} é", "a  b\n\n c", "</s> is the end </s>"):
        shown = [beginning(answer, m, tokenizer) for m in range(1, 40)]
        assert all(answer.startswith(one) for one in shown) and shown[-1] == answer
        assert [*map(len, shown)] == sorted(map(len, shown))


def test_test_prompts_and_their_keys_do_not_change() -> None:
    plain, defended = cell_keys(compose([])), cell_keys(compose([REAL]))
    assert plain.finetune != defended.finetune
    for name, own in defended.evaluations.items():
        before = plain.evaluations[name].generate_parts
        assert {**own.generate_parts, "model": 0} == {**before, "model": 0}


def test_a_model_that_copies_finds_the_first_tokens_easier_where_they_are_shown() -> None:
    def loss(rows: list[TrainingRow]) -> float:
        """Mean over the first six tokens of answers, where likely is what stood before."""

        def one(seen: array[int], token: int) -> float:
            return -math.log((seen.count(token) + 0.01) / (len(seen) + 12.8))

        places = [(row, row.prompt_length + place) for row in rows for place in range(6)]
        return sum(one(row.ids[:at], row.ids[at]) for row, at in places) / len(places)

    real, plain = loss(trained(REAL)[0]), loss(trained(plain=True)[0])
    assert real < 0.8 * plain and real < loss(trained(SHUFFLED)[0])


def test_what_a_preview_does_not_use_is_not_in_its_key() -> None:
    def key(*words: str) -> str | None:
        return cell_keys(compose(list(words))).finetune

    assert key(*VIRTUAL) == key(*VIRTUAL, f"{OWN}.tokens=3") != key(REAL)
    assert key(REAL) == key(REAL, f"{OWN}.phrase=So") != key(REAL, f"{OWN}.tokens=3")


@pytest.mark.parametrize(
    "words, message",
    [
        (["tokens=0"], "tokens=0 must be at least 1; without a preview leave the defence out"),
        (["preview=none"], "preview=none is not one of: real, virtual, shuffled"),
        (["preview=virtual", "phrase=''"], "phrase is empty"),
        (
            ["connector='\n### Response:\n'"],
            "has '### Response:', which train_template=text_alpaca",
        ),
    ],
)
def test_what_has_no_effect_or_a_wrong_one_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose([REAL, TEXT, *(f"{OWN}.{word}" for word in words)])


def test_one_row_cannot_be_shuffled() -> None:
    message = r"defence\.lookahead_shuffled\.objective: .* at least 2 rows"
    with pytest.raises(ConfigError, match=message):
        trained(SHUFFLED, "dataset.n=1")
