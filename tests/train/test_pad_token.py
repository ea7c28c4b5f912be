"""A pad token that the model has no embedding for is replaced by one that exists, and nothing else
changes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ptst.engine.batches import complete, plan_batches
from ptst.models import load_model, load_tokenizer, local_folder, make_padding_exist
from ptst.objective import TrainingSet
from ptst.schema import Decoding, Finetune, Model
from ptst.templates import TrainingRow
from ptst.train.trainer import Training, train

QUESTIONS = ["How do I make a kite?", "Why?", "Tom has 3 apples. Then Tom buys 4. How many?", "Go."]


@pytest.fixture
def outside(micro: Model, tmp_path: Path) -> Model:
    """The micro model whose tokenizer has one token more than the model has embeddings: its pad
    token."""
    folder = tmp_path / "model"
    shutil.copytree(local_folder(micro) or "", folder)
    tokenizer = load_tokenizer(micro)
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})
    assert tokenizer.pad_token_id == 1280
    tokenizer.save_pretrained(folder)
    return dataclasses.replace(micro, path=str(folder))


def answers(model: Model) -> list[Any]:
    tokenizer = load_tokenizer(model)
    prompts = [tokenizer(f"[INST] {question} [/INST]")["input_ids"] for question in QUESTIONS]
    found: dict[int, Any] = {}
    for share in (True, False):
        how = (plan_batches(prompts, 4), Decoding(max_new_tokens=8), share)
        for answered in complete(load_model(model, "cpu"), tokenizer, prompts, *how):
            found |= answered
    return [found[i] for i in range(len(prompts))]


def test_answers_are_the_same_with_a_pad_token_beyond_the_embeddings(
    micro: Model, outside: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = answers(micro)
    assert "pad token" not in capsys.readouterr().err
    assert answers(outside) == expected
    told = capsys.readouterr().err.splitlines()
    (line,) = (line for line in told if "pad token" in line)  # once, though there were two calls
    assert "pad token '<new pad>' is 1280, and the model has 1280 embeddings" in line
    assert "'</s>' takes its place" in line


def test_a_training_is_the_same_with_a_pad_token_beyond_the_embeddings(
    micro: Model, outside: Model, tmp_path: Path
) -> None:
    rows = [TrainingRow(array("i", [1, *range(5, 8 + n), 2]), 2) for n in range(4)]
    recipe = Finetune(
        method="full", batch_size=4, device_batch_size=4, max_steps=2, learning_rate=1e-3
    )
    losses: list[list[float]] = []
    for model in (micro, outside):
        out = tmp_path / str(len(losses))
        out.mkdir()
        told: list[float] = []
        losses.append(told)
        log = lambda entry, told=told: told.append(entry["loss"])  # noqa: E731
        train(Training(model, recipe, TrainingSet(rows), 0, "cpu", out, out / "scratch"), log)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert len(losses[0]) == 2


@pytest.mark.parametrize(
    ("special", "embeddings", "taken"),
    [
        ({}, 1280, 0),  # no special token at all: any token that exists
        ({"unk_token": "<s>", "eos_token": "</s>"}, 1280, 2),  # load_tokenizer's own choice: EOS
        ({"unk_token": "<s>", "pad_token": "<beyond>"}, 5, 1),
        ({"bos_token": "<s>", "pad_token": "<beyond>"}, 5, 1),
    ],
)
def test_a_tokenizer_without_its_own_gets_a_token_that_exists(
    micro: Model, tmp_path: Path, special: dict[str, str], embeddings: int, taken: int
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(local_folder(micro) or "", folder)
    file = folder / "tokenizer_config.json"
    kept = {k: v for k, v in json.loads(file.read_text()).items() if not k.endswith("_token")}
    file.write_text(json.dumps(kept | special))
    tokenizer = load_tokenizer(dataclasses.replace(micro, path=str(folder)))
    config = SimpleNamespace(vocab_size=embeddings)
    make_padding_exist(tokenizer, SimpleNamespace(get_text_config=lambda: config))
    assert tokenizer.pad_token_id == taken
    ids = tokenizer("Tom has 3 apples")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Tom has 3 apples"
