"""Unsafe and safe prompts: read under a template, halved, and looked at where they end."""

from __future__ import annotations

import copy
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ptst import contrast
from ptst.config.compose import compose
from ptst.contrast import (
    Asked,
    Contrast,
    halves,
    inputs_of,
    logits_of,
    own_tail,
    read_prompts,
)
from ptst.errors import ConfigError, DataError
from ptst.geometry import decoder_layers
from ptst.models import load_model, load_tokenizer
from ptst.schema import Rows


def rows(name: str, n: int) -> Rows:
    return Rows(name=name, source="micro", n=n, columns={"input": "instruction"})


def both(n: int = 8) -> Contrast:
    return Contrast(rows("hazards", n), rows("howto", n))


@pytest.fixture(scope="module")
def micro() -> Any:
    config = compose(["template@test_template=chat_llama"])
    return config, load_model(config.model, "cpu"), load_tokenizer(config.model)


@pytest.fixture(scope="module")
def asked(micro: Any) -> list[Asked]:
    config, _, tokenizer = micro
    return read_prompts(both(), config.test_template, config, tokenizer)


def test_states_and_logits_are_those_of_each_prompt_alone(micro: Any, asked: list[Asked]) -> None:
    _, model, _ = micro
    states = inputs_of(model, decoder_layers(model), asked, last=2)
    logits = logits_of(model, asked)
    assert states.shape == (16, 4, 2, 192) and states.dtype == torch.float32
    assert [a.unsafe for a in asked] == [True] * 8 + [False] * 8
    for number, one in enumerate(asked):
        with torch.inference_mode():
            made = model(torch.tensor([one.ids.tolist()]), output_hidden_states=True)
        for layer in range(4):
            wanted = made.hidden_states[layer][0, -2:]
            assert torch.allclose(states[number, layer], wanted, atol=1e-4)
        assert torch.allclose(logits[number], made.logits[0, -1], atol=1e-3)


def test_what_all_prompts_begin_with_is_read_once(
    micro: Any, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model, _ = micro
    monkeypatch.setattr(contrast, "BATCH", 4)
    seen: list[tuple[int, int]] = []
    hook = model.base_model.embed_tokens.register_forward_hook(
        lambda m, a, o: seen.append(o.shape[:2])
    )
    few = inputs_of(model, decoder_layers(model), asked)
    hook.remove()
    assert len(seen) == 5 and seen[0][0] == 1 and seen[0][1] > 90
    assert all(batch == 4 and length < 30 for batch, length in seen[1:])
    monkeypatch.setattr(contrast, "every_layer_grows", lambda model: False)
    whole = inputs_of(model, decoder_layers(model), asked)
    assert torch.allclose(few, whole, atol=1e-4)


@pytest.mark.parametrize(
    "template, tail", [("chat_vanilla", 3), ("chat_llama", 3), ("text_vanilla", 3)]
)
def test_a_templates_own_tail_is_what_follows_every_question(
    template: str, tail: int, micro: Any
) -> None:
    config = compose([f"template@test_template={template}"])
    assert own_tail(config.test_template, config, micro[2]) == tail


def test_a_template_that_ends_with_the_question_has_no_tail(micro: Any) -> None:
    config = compose(["template@test_template=text_vanilla", "test_template.user='{question}'"])
    assert own_tail(config.test_template, config, micro[2]) == 0


def test_halves_are_of_questions_and_depend_on_the_seed_alone(asked: list[Asked]) -> None:
    twice = [*asked, asked[0]]
    first, second = halves(twice, 0)
    assert sorted(first + second) == list(range(17))
    assert not {twice[n].question for n in first} & {twice[n].question for n in second}
    longer = [Asked(array("i", [1, *a.ids]), a.unsafe, a.question) for a in asked]
    assert halves(longer, 0) == halves(asked, 0) != halves(asked, 1)
    assert sum(asked[n].unsafe for n in halves(asked, 0)[0]) == 4
    with pytest.raises(DataError, match="1 safe prompts cannot be halved"):
        halves(asked[:9], 0)


def test_a_question_in_both_sets_is_refused(micro: Any) -> None:
    config, _, tokenizer = micro
    same = Contrast(rows("howto", 3), rows("howto", 3))
    same.unsafe.at = "analysis.x.unsafe"
    with pytest.raises(DataError, match=r"analysis\.x\.unsafe and howto have a question in common"):
        read_prompts(same, config.test_template, config, tokenizer)


def test_too_few_questions_are_counted_before_a_model_reads(micro: Any, tmp_path: Path) -> None:
    config, _, tokenizer = micro
    file = tmp_path / "same.jsonl"
    file.write_text('{"instruction": "Twice?"}\n' * 2)
    twice = replace(rows("x", 2), source="local", path=str(file), at="analysis.x.safe")
    few = Contrast(rows("hazards", 2), twice)
    with pytest.raises(DataError, match=r"analysis\.x\.safe: .* at least 2 different .* not 1"):
        read_prompts(few, config.test_template, config, tokenizer)


def test_invented_hazards_are_refused_for_a_real_model() -> None:
    config = compose(["scale=paper"])
    with pytest.raises(ConfigError, match=r"scale=paper knows.*analysis\.x\.unsafe\.source=local"):
        both().check_prompts("analysis.x", config)
    both().check_prompts("analysis.x", compose([]))


def test_layers_are_found_whatever_the_architecture_calls_them(micro: Any) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 8}
    llama = LlamaForCausalLM(LlamaConfig(num_hidden_layers=3, **sizes))
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2)).eval()
    asked = [Asked(array("i", range(1, n)), n % 2 == 0, str(n)) for n in (5, 6, 9)]
    for model in (llama.eval(), gpt):
        states = inputs_of(model, decoder_layers(model), asked)
        with torch.inference_mode():
            made = model(torch.tensor([asked[2].ids.tolist()]), output_hidden_states=True)
        assert torch.allclose(states[2, 2, 0], made.hidden_states[2][0, -1], atol=1e-5)
        assert torch.allclose(logits_of(model, asked)[2], made.logits[0, -1], atol=1e-5)
    bare = copy.deepcopy(llama)
    bare.config.num_hidden_layers = 7
    with pytest.raises(ConfigError, match="no list of 7 decoder layers"):
        decoder_layers(bare)


def test_a_prompt_beyond_the_models_context_is_refused(micro: Any) -> None:
    long = Asked(array("i", [5] * 2049), True, "long")
    message = "2049 tokens; the model has 2048 positions: give a shorter question than 'long'"
    with pytest.raises(DataError, match=message):
        logits_of(micro[1], [long])
