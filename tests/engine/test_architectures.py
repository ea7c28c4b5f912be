"""Whatever a model's architecture, a batch gives each prompt the answer that it gets alone.

The models are tiny, with random weights in float32; their windows are shorter than the prompts.
"""

from __future__ import annotations

import dataclasses
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import pad
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, MistralForCausalLM

from ptst.config.compose import compose
from ptst.data import load_rows
from ptst.engine.batches import complete, plan_batches
from ptst.models import context_of, load_model, load_tokenizer
from ptst.schema import Decoding
from ptst.templates import make_prompt
from ptst.train.forward import logits_of

VOCABULARY, EOS = 96, 95
TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
WINDOW: dict[str, Any] = {"sliding_window": 16}
EVERY_OTHER = ["sliding_attention", "full_attention"] * 2
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": WINDOW,
    "gemma2": WINDOW | {"query_pre_attn_scalar": 8},
    "gemma3_text": WINDOW | {"query_pre_attn_scalar": 8, "layer_types": EVERY_OTHER},
    "gpt_oss": WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2},
    # Linear attention (a state, no keys) beside attention
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    # Its recurrent layers do not look at the attention mask: padding counts as text.
    "recurrent_gemma": {"attention_window_size": 16, "lru_width": 32},
    # Distances are counted from the first column of a batch, padding included (ALiBi).
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 256},
    # A cache of its own kind, and from the second token on padding counts
    "minimax": {
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "num_local_experts": 2,
        "block_size": 16,
    },
}
PREFIX = [1, *random.Random(0).choices(range(2, 90), k=40)]
PROMPTS = [
    [*PREFIX, *random.Random(n).choices(range(2, 90), k=n)] for n in (3, 30, 11, 12, 5, 13, 12)
]


class Numbers:
    """A tokenizer whose texts are token ids."""

    pad_token_id, eos_token_id, bos_token_id, unk_token_id = 0, EOS, 1, None
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))


def tiny(name: str) -> Any:
    """A model whose next token really depends on what came before it."""
    config = AutoConfig.for_model(name, **(TINY | ARCHITECTURES[name]))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.3)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=EOS, pad_token_id=0)
    return model


def answers(model: Any, prompts: list[list[int]], batch_size: int, share: bool, n: int = 12):
    tokenizer: Any = Numbers()
    plan = plan_batches(prompts, batch_size)
    found = {}
    for answered in complete(model, tokenizer, prompts, plan, Decoding(max_new_tokens=n), share):
        found |= answered
    return [found[i].text for i in range(len(prompts))]


def alone(model: Any, prompts: list[list[int]], n: int = 12) -> list[str]:
    """A second implementation: no batch, no padding, no cache, argmax by hand."""
    texts = []
    for prompt in prompts:
        ids = list(prompt)
        with torch.inference_mode():
            while len(ids) < len(prompt) + n:
                token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
                if token == EOS:
                    break
                ids.append(token)
        texts.append(Numbers().decode(ids[len(prompt) :]))
    return texts


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_batch_gives_what_each_prompt_gets_alone(name: str) -> None:
    model = tiny(name)
    expected = alone(model, PROMPTS)
    assert len(set(expected)) >= 5  # the answers are not all one
    for share in (False, True):
        for batch_size in (7, 3, 1):
            made = answers(model, PROMPTS, batch_size, share)
            assert made == expected, f"batches of {batch_size}, share_prefix={share}"


@pytest.mark.parametrize(("name", "shared"), [("llama", True), ("gemma3_text", False)])
def test_a_prefix_is_still_shared_where_every_layer_simply_grows(name: str, shared: bool) -> None:
    model, seen = tiny(name), []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    answers(model, PROMPTS, 7, share=True, n=1)
    assert ((1, len(PREFIX)) in seen) == shared


@pytest.fixture(scope="module")
def windowed() -> Any:
    """The micro model's weights as a Mistral with a window that is shorter than a safety prompt."""
    config = compose(["template@test_template=chat_llama"])
    micro = load_model(config.model, "cpu")
    settings = micro.config.to_dict() | {"sliding_window": 96}
    settings = {k: v for k, v in settings.items() if k not in ("model_type", "architectures")}
    model = MistralForCausalLM(AutoConfig.for_model("mistral", **settings)).eval()
    model.load_state_dict(micro.state_dict())
    model.generation_config = micro.generation_config
    tokenizer = load_tokenizer(config.model)
    rows = [
        row
        for e in config.evaluations.values()
        for row in load_rows(e.queries, needs=("input",))[:6]
    ]
    prompts = [
        make_prompt(row, config.test_template, config.dataset, config.model, tokenizer)
        for row in rows
    ]
    return SimpleNamespace(model=model, tokenizer=tokenizer, prompts=[p.token_ids for p in prompts])


def test_a_safety_prompt_longer_than_the_window_gives_the_same_answers_shared(windowed) -> None:
    assert min(map(len, windowed.prompts)) > 96
    found = []
    for share, batch_size in ((True, 12), (False, 12), (False, 1)):
        plan = plan_batches(windowed.prompts, batch_size)
        made = {}
        how = (windowed.tokenizer, windowed.prompts, plan, Decoding(max_new_tokens=16), share)
        for answered in complete(windowed.model, *how):
            made |= answered
        found.append([dataclasses.astuple(made[i]) for i in range(12)])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n != "minimax"])
def test_the_loss_of_a_training_batch_is_the_same_with_a_shared_prefix_and_a_head_at_labels_alone(
    name: str,
) -> None:
    model = tiny(name)
    width = max(map(len, PROMPTS))
    ids = torch.tensor([p + [0] * (width - len(p)) for p in PROMPTS])
    mask = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in PROMPTS])
    keep = width - len(PREFIX)
    gradients = []
    real = mask[:, -keep:][:, 1:] == 1
    labels = ids[:, -keep:][:, 1:][real]
    for share, at in [(False, None), (True, None), (False, real), (True, real)]:
        model.zero_grad()
        inputs = {"input_ids": ids, "attention_mask": mask}
        if at is None:
            logits = logits_of(model, inputs, keep, share).float()
            assert logits.shape == (len(ids), keep, VOCABULARY)
            logits = logits[:, :-1][real]
        else:
            logits = logits_of(model, inputs, keep, share, pad(at, (0, 1))).float()
        assert logits.shape == (len(labels), VOCABULARY)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        norm = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
        gradients.append((loss.item(), norm**0.5))
    for other in gradients[1:]:
        assert other == pytest.approx(gradients[0], rel=1e-3)


def test_the_context_of_a_model_for_several_modalities_is_its_text_models() -> None:
    text = TINY | ARCHITECTURES["gemma3_text"]
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision)
    assert context_of(config) == 256
    assert context_of(AutoConfig.for_model("bloom")) is None  # any length
