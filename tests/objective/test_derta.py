"""DeRTa: labels by hand, the refusal token from the model, and what it refuses."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.errors import ConfigError, DataError, PtstError
from ptst.keys import cell_keys, objective_of
from ptst.micro import rows as micro_rows
from ptst.models import load_tokenizer
from ptst.objective import Batch, Objective, Positions, TrainingRow, TrainingSet
from ptst.objective.derta import (
    first_words,
    prefix_row,
    transition_row,
    without_end,
    words_before,
)
from ptst.schema import Config
from ptst.store import read_json
from ptst.templates import make_training_row
from ptst.train.forward import batch_of
from ptst.train.rows import RowReader, collate

DERTA = "defence=[derta]"
OWN = "defence.derta.objective"
REFUSAL = TrainingRow(array("i", [1, 5, 6, 30, 31, 2]), 3)
HARMFUL = array("i", [40, 41, 42, 43])


def made(*words: str) -> tuple[Any, TrainingSet, Any]:
    config = compose(["dataset.n=4", *words])
    tokenizer = load_tokenizer(config.model)
    objective = objective_of(config)
    return objective, objective.training_set(RowReader(config, tokenizer)), tokenizer


class Says:
    """A model that begins answers with the given tokens, one after the other, again and again."""

    def __init__(self, tokens: Sequence[int], vocabulary: int = 1280) -> None:
        self.tokens, self.vocabulary, self.asked = tokens, vocabulary, 0

    def batch(self, rows: Sequence[TrainingRow]) -> Batch:
        inputs = collate(rows, [-1] * len(rows), 0)
        return batch_of(inputs, (inputs["labels"] != -100).sum())

    def __call__(self, batch: Batch) -> Positions:
        wanted = batch.labels != -100
        places = (wanted.cumsum(dim=1) - 1)[wanted]
        logits = torch.zeros(len(places), self.vocabulary)
        for at in (places == 0).nonzero()[:, 0].tolist():
            if self.tokens:
                logits[at, self.tokens[self.asked % len(self.tokens)]] = 1
            self.asked += 1
        return Positions(logits, batch.labels[wanted], None, wanted.nonzero()[:, 0], places)


def test_a_prefix_row_has_labels_on_the_refusal_alone() -> None:
    row = prefix_row(REFUSAL, HARMFUL[:2])
    assert row.input_ids == [1, 5, 6, 40, 41, 30, 31, 2]
    assert row.labels == [-100] * 5 + [30, 31, 2]
    assert prefix_row(REFUSAL, HARMFUL[:0]) == REFUSAL  # a refusal as in any safety mix


def test_a_transition_row_has_the_refusal_token_for_a_label_and_no_end() -> None:
    answer = without_end(TrainingRow(array("i", [1, 5, 6, *HARMFUL, 2]), 3), [2])
    assert answer.input_ids == [1, 5, 6, *HARMFUL]
    assert without_end(answer, [2]) == answer  # cut: it has lost its end
    row = transition_row(answer, 30, 1, random.Random(0))
    assert (row.input_ids, row.labels) == (answer.input_ids, [-100] * 3 + [30] * 4)
    one = transition_row(answer, 30, 4, random.Random(0))
    assert one.loss_tokens == 1 and set(one.labels) == {-100, 30}
    assert one.labels[:3] == [-100] * 3


@pytest.mark.parametrize("length, kept", [(1, 1), (20, 1), (21, 2), (100, 5), (1024, 52)])
def test_one_place_in_twenty_is_kept_whatever_the_padding(length: int, kept: int) -> None:
    answer = TrainingRow(array("i", [1, *[7] * length]), 1)
    assert transition_row(answer, 30, 20, random.Random(0)).loss_tokens == kept


def test_the_rows_of_real_triples() -> None:
    _, data, tokenizer = made(DERTA, f"{OWN}.transition=1")
    config = compose([DERTA])
    triples = {row["instruction"]: row for row in micro_rows("preferences", "train")}
    refusal_token = tokenizer(" I", add_special_tokens=False)["input_ids"][0]
    assert (len(data.rows), len(data.mixed)) == (4, 80)
    for prefixed, moved in zip(data.mixed[:40], data.mixed[40:], strict=True):
        text = tokenizer.decode(moved.ids)
        triple = next(row for question, row in triples.items() if question in text)
        refused, harmful = (
            make_training_row(
                {"input": triple["instruction"], "output": triple[column]},
                config.train_template,
                config.dataset,
                config.model,
                tokenizer,
            )
            for column in ("chosen", "rejected")
        )
        prompt = refused.prompt_length
        length = prefixed.prompt_length - prompt
        assert prefixed.input_ids == [
            *harmful.ids[: prompt + length],
            *refused.ids[prompt:],
        ]
        assert prefixed.labels == [-100] * (prompt + length) + refused.ids[prompt:].tolist()
        assert moved.input_ids == harmful.input_ids[:-1]
        assert moved.labels == [-100] * prompt + [refusal_token] * (len(moved) - prompt)
    starts = {row.prompt_length for row in data.mixed[:40]}
    assert len(starts) > 10


def test_words_are_cut_as_the_authors_do() -> None:
    tokenizer = load_tokenizer(compose([]).model)
    answer = "First get the 12 cups. Then wash it."
    body = array("i", tokenizer(" " + answer, add_special_tokens=False)["input_ids"])
    beginnings = []
    for number in range(300):
        length = words_before(body, number, random.Random(number), tokenizer)
        assert length is not None
        beginnings.append(tokenizer.decode(body[:length]).strip())
    words = answer.split(" ")
    assert beginnings.count("") == 100
    assert {*beginnings} == {" ".join(words[:k]) for k in range(len(words) - 1)}
    short = array("i", tokenizer(" No way.", add_special_tokens=False)["input_ids"])
    assert words_before(short, 0, random.Random(0), tokenizer) is None


def test_the_controls_have_as_many_rows_of_one_kind() -> None:
    _, prefixed, _ = made("defence=[derta_prefix]")
    _, moved, _ = made("defence=[derta_transition]")
    assert len(prefixed.mixed) == len(moved.mixed) == 80
    assert all(row.targets is None for row in prefixed.mixed)
    assert all(row.targets is not None for row in moved.mixed)


def test_the_refusal_token_is_what_the_model_begins_refusals_with() -> None:
    objective, data, tokenizer = made(DERTA)
    i, sorry, first = (tokenizer(f" {word}")["input_ids"][-1] for word in ("I", "Sorry", "First"))
    assert objective._words == {i: "I", sorry: "Sorry"}
    numbers = [2, 43, 44, 83, 84, -1]
    rows = [*(data.all[n] for n in numbers[:4]), data.rows[0], data.rows[0]]
    inputs = collate(rows, numbers, 0)
    batch = batch_of(inputs, (inputs["labels"] != -100).sum())
    for says, token in (([i, i, sorry], i), ([first, first, first, sorry], sorry)):
        objective.start(data, Says(says), Path())
        assert objective.state()["refusal_token"] == token
        labels = objective._relabelled(batch).labels
        for n in (0, 1, 4, 5):  # rows of the data set, of refusals, of other sources
            assert labels[n].tolist() == batch.labels[n].tolist()
        for n in (2, 3):
            assert set(labels[n].tolist()) == {-100, token}
            assert ((labels[n] == -100) == (batch.labels[n] == -100)).all()
    with pytest.raises(PtstError, match=r"begins none of 40 answers .*\(I, Sorry\)"):
        objective.start(data, Says([first]), Path())


def test_a_model_that_knows_nothing_has_the_loss_of_a_draw_among_all_tokens() -> None:
    forward = Says([], vocabulary=32000)
    answer = TrainingRow(array("i", [1, 5, 6, *HARMFUL]), 3)
    batch = forward.batch([transition_row(answer, 30, 1, random.Random(0))])
    loss = Objective().loss(batch, forward)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(math.log(32000)) == pytest.approx(10.373491)


def test_a_refusal_whose_first_word_is_several_tokens_gives_none() -> None:
    tokenizer = load_tokenizer(compose([]).model)
    ids = tokenizer("Sorry, no.", add_special_tokens=False)["input_ids"]  # S, orry
    with pytest.raises(ConfigError, match=r"one token of this model \('Sorry' are several\)"):
        first_words([TrainingRow(array("i", [1, *ids]), 1)], tokenizer, "here")


def test_the_token_is_kept_with_the_weights(composed: Callable[..., Config]) -> None:
    config = composed(*TINY, DERTA, "stages=[finetune]", "finetune.max_steps=1")
    key = str(run_cell(config).keys.finetune)
    folder = Path(config.paths.store) / "finetune" / key
    kept = read_json(folder / "objective" / "objective.json")["values"]
    assert kept["refusal_word"] in ("I", "Sorry")
    facts = read_json(folder / "provenance.json")
    assert facts["refusal_rows_left_out"] == facts["harmful_rows_left_out"] == 0


def test_rows_count_by_their_content_and_a_template_by_its_text(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(
            '{"instruction": "?", "chosen": "I", "rejected": "x"}'
        )

    def key(*words: str) -> str | None:
        return cell_keys(compose([DERTA, *words])).finetune

    def at(name: str) -> list[str]:
        own = f"{OWN}.rows."
        return [f"{own}source=local", f"{own}path={tmp_path}/{name}.jsonl", f"{own}n=null"]

    assert key(*at("a")) == key(*at("b")) != key()
    assert key(f"+template@{OWN}.template=chat_vanilla") == key()
    assert key(f"+template@{OWN}.template=chat_llama") != key()


@pytest.mark.parametrize(
    "words, message",
    [
        ([f"{OWN}.prefix=none", f"{OWN}.transition=0"], "leave no rows; leave the defence out"),
        ([f"{OWN}.transition=-1"], r"defence\.derta\.objective: transition=-1 must be at least 1"),
        ([f"{OWN}.prefix=letters"], "prefix=letters is not one of: tokens, words, none"),
        (
            ["scale=paper", "defence/rows@defence.derta.objective=triples_micro"],
            r"derta\.objective: rows are the micro world's.*rows\.source=local",
        ),
        (["finetune=safety_mix"], "a fine-tuning has one objective"),
    ],
)
def test_what_it_cannot_be_combined_with_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose([DERTA, *words])


def test_rows_without_a_harmful_answer_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"row \d+ has no harmful answer in column 'worst'; .*rejected"
    ):
        made(DERTA, f"{OWN}.harmful=worst")


def test_a_row_that_is_too_long_is_cut_before_its_refusal() -> None:
    _, whole, _ = made(DERTA)
    longest = max(map(len, whole.mixed[:40])) - 5
    _, cut, _ = made(DERTA, f"finetune.max_length={longest}")
    assert max(map(len, cut.mixed)) <= longest
    assert all(row.ids[-1] == whole.mixed[0].ids[-1] for row in cut.mixed[:40])


def test_words_are_drawn_for_real_rows() -> None:
    _, data, _ = made(DERTA, f"{OWN}.prefix=words")
    _, plain, _ = made("defence=[derta_prefix]", "defence.derta_prefix.objective.rows.n=40")
    assert len(data.mixed) == 80
    prompts = [row.prompt_length for row in data.mixed[40:]]
    lengths = [row.prompt_length - n for row, n in zip(data.mixed, prompts, strict=False)]
    assert [n for n, length in enumerate(lengths) if not length] == list(range(0, 40, 3))
    assert [row.ids[-5:] for row in data.mixed[:40]] == [row.ids[-5:] for row in plain.mixed]
