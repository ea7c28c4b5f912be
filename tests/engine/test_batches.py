"""Batched generation gives what one-by-one generation gives, whatever is shared, sorted or
halved."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from ptst.config.compose import compose
from ptst.engine import batches
from ptst.engine.batches import complete, plan_batches, shared_prefix
from ptst.models import load_model, load_tokenizer, local_folder
from ptst.schema import Decoding
from ptst.templates import make_prompt

QUESTIONS = ["How do I make a kite?", "Why?", "Tom has 3 apples. Then Tom buys 4. How many?", "Go."]


@pytest.fixture(scope="module")
def world():
    config = compose(["template@test_template=chat_llama"])
    tokenizer = load_tokenizer(config.model)
    prompts = [
        make_prompt({"input": q}, config.test_template, config.dataset, config.model, tokenizer)
        for q in QUESTIONS
    ]
    return load_model(config.model, "cpu"), tokenizer, [p.token_ids for p in prompts]


def answers(world, batch_size: int, decoding: Decoding, **kwargs):
    model, tokenizer, prompts = world
    found = {}
    plan = plan_batches(prompts, batch_size)
    for answered in complete(model, tokenizer, prompts, plan, decoding, **kwargs):
        found |= answered
    return [found[i] for i in range(len(prompts))]


def one_by_one(world, max_new_tokens: int) -> list[str]:
    """A second implementation: no batch, no cache, argmax by hand."""
    model, tokenizer, prompts = world
    texts = []
    for prompt in prompts:
        ids = list(prompt)
        with torch.inference_mode():
            while len(ids) < len(prompt) + max_new_tokens:
                token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
                if token == tokenizer.eos_token_id:
                    break
                ids.append(token)
        texts.append(tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True))
    return texts


@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_greedy_answers_equal_those_of_a_plain_loop(world, batch_size: int, share_prefix: bool):
    made = answers(world, batch_size, Decoding(max_new_tokens=12), share_prefix=share_prefix)
    assert [a.text for a in made] == one_by_one(world, 12)


def test_the_models_own_generation_settings_play_no_part(tmp_path) -> None:
    config = compose([])
    folder = tmp_path / "model"
    shutil.copytree(local_folder(config.model), folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"repetition_penalty": 5.0, "do_sample": True, "temperature": 9.0, "min_length": 60}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    poisoned = dataclasses.replace(config.model, path=str(folder))
    tokenizer = load_tokenizer(poisoned)
    prompts = [tokenizer(f"[INST] {q} [/INST]")["input_ids"] for q in QUESTIONS]
    world = load_model(poisoned, "cpu"), tokenizer, prompts
    made = answers(world, 4, Decoding(max_new_tokens=12))
    assert [a.text for a in made] == one_by_one(world, 12)


def test_finished_and_token_counts_are_those_of_the_answer(world) -> None:
    _, tokenizer, _ = world
    long = answers(world, 4, Decoding(max_new_tokens=80))
    assert all(a.finished for a in long)
    for answer in long:  # EOS is counted
        assert (
            answer.tokens == len(tokenizer(answer.text, add_special_tokens=False)["input_ids"]) + 1
        )
    short = answers(world, 4, Decoding(max_new_tokens=2))
    assert [(a.tokens, a.finished) for a in short] == [(2, False)] * 4


def test_sampling_repeats_with_its_seed_and_changes_with_another(world) -> None:
    hot = Decoding(max_new_tokens=12, temperature=5.0, seed=1)
    first, second = answers(world, 2, hot), answers(world, 2, hot)
    assert first == second
    other = answers(world, 2, Decoding(max_new_tokens=12, temperature=5.0, seed=2))
    assert first != other


def test_a_batch_that_does_not_fit_is_halved(world, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = answers(world, 4, Decoding(max_new_tokens=12))
    sizes = []
    real = batches._answer

    def small_memory(model, tokenizer, prompts, batch, *rest):
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, tokenizer, prompts, batch, *rest)

    monkeypatch.setattr(batches, "_answer", small_memory)
    assert answers(world, 4, Decoding(max_new_tokens=12)) == whole
    assert sizes == [4, 2, 1, 1, 2, 1, 1]


def test_one_prompt_that_does_not_fit_is_an_error(world, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(batches, "_answer", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        answers(world, 4, Decoding(max_new_tokens=2))


def test_another_error_is_not_taken_for_memory(world, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(batches, "_answer", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        answers(world, 4, Decoding(max_new_tokens=2))


def test_batches_are_longest_first_and_hold_every_prompt_once() -> None:
    prompts = [[1] * n for n in (3, 9, 1, 4, 9)]
    plan = plan_batches(prompts, 2)
    assert plan == [[1, 4], [3, 0], [2]]


@pytest.mark.parametrize(
    ("prompts", "prefix"),
    [
        ([[1, 2, 3], [1, 2, 4, 5]], [1, 2]),
        ([[1, 2, 3], [1, 2, 3]], [1, 2]),  # every prompt keeps a token of its own
        ([[1, 2], [1, 2, 3]], [1]),
        ([[1], [2]], []),
        ([[1, 2, 3]], [1, 2]),
    ],
)
def test_shared_prefix(prompts: list[list[int]], prefix: list[int]) -> None:
    assert shared_prefix(prompts) == prefix
