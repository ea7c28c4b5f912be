"""RESTA: the sum by hand, its way back, and what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ptst.alignment import Unaligned
from ptst.component import Context
from ptst.config.compose import compose
from ptst.errors import ConfigError
from ptst.keys import cell_keys
from ptst.posthoc.resta import Resta
from ptst.schema import Config

CONTEXT = Context(Config(), None, "cpu", Path("/nowhere"), lambda done, total: None, lambda: False)


def moved(model: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight += torch.randn_like(weight) * 0.1
    return other


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def three(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any, Any]:
    """The unaligned model, which is also saved in `tmp_path`, the aligned and the tuned one."""
    torch.manual_seed(0)
    unaligned = LlamaForCausalLM(LlamaConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=11, attention_bias=True, tie_word_embeddings=request.param,
    ))  # fmt: skip
    unaligned.save_pretrained(tmp_path)
    aligned = moved(unaligned, 1)
    return unaligned, aligned, moved(aligned, 2)


def test_each_weight_gets_half_of_what_alignment_changed_and_base_stays(
    three: Any, tmp_path: Path
) -> None:
    unaligned, aligned, tuned = three
    changed, base = copy.deepcopy(tuned), copy.deepcopy(aligned)
    facts = Resta(Unaligned(str(tmp_path))).apply(changed, base, CONTEXT)
    start, before, after = (dict(model.named_parameters()) for model in (unaligned, aligned, tuned))
    for name, weight in changed.named_parameters():
        wanted = after[name] + (before[name] - start[name]) / 2
        torch.testing.assert_close(weight, wanted, atol=1e-7, rtol=1e-6)
    squares = sum(float((before[n] - start[n]).detach().pow(2).sum()) for n in start)
    assert facts["added_norm"] == pytest.approx(squares**0.5 / 2, rel=1e-5)
    assert facts["weights"] == len(start)
    assert all(torch.equal(weight, before[name]) for name, weight in base.named_parameters())


def test_the_unaligned_model_with_coefficient_1_becomes_the_aligned_one(
    three: Any, tmp_path: Path
) -> None:
    unaligned, aligned, _ = three
    Resta(Unaligned(str(tmp_path)), 1.0).apply(unaligned, aligned, CONTEXT)
    wanted = dict(aligned.named_parameters())
    for name, weight in unaligned.named_parameters():
        torch.testing.assert_close(weight, wanted[name], atol=1e-7, rtol=1e-6)


def test_the_sum_is_worked_out_in_float32_and_rounded_once(three: Any, tmp_path: Path) -> None:
    unaligned, aligned, tuned = (copy.deepcopy(model).to(torch.bfloat16) for model in three)
    unaligned.save_pretrained(tmp_path)
    start, before, after = (dict(model.named_parameters()) for model in (unaligned, aligned, tuned))
    wanted = {n: (after[n].float() + (before[n].float() - start[n].float()) / 2) for n in start}
    Resta(Unaligned(str(tmp_path), dtype="bfloat16")).apply(tuned, aligned, CONTEXT)
    for name, weight in tuned.named_parameters():
        assert torch.equal(weight, wanted[name].to(torch.bfloat16)), name


def test_a_copy_of_the_aligned_model_is_refused(three: Any, tmp_path: Path) -> None:
    unaligned, _, tuned = three
    with pytest.raises(ConfigError, match="has the aligned model's weights"):
        Resta(Unaligned(str(tmp_path))).apply(tuned, unaligned, CONTEXT)


OWN = "defence.resta.posthoc"


@pytest.mark.parametrize(
    "words, message",
    [
        (["model=micro"], r"model micro has no base, and the weights before alignment are needed"),
        (["model=micro_base"], r"model micro_base has no base"),
        ([f"{OWN}.coefficient=0"], r"coefficient=0\.0 must be more than 0; to add nothing leave"),
        ([f"{OWN}.coefficient=inf"], r"coefficient=inf must be"),
        ([f"{OWN}.unaligned.path=src/ptst/micro/pair/aligned"], r"is model micro_aligned itself"),
    ],
)
def test_what_it_refuses_is_refused_when_it_is_composed(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["defence=[resta]", "model=micro_aligned", *words])


def test_the_untouched_model_can_have_it() -> None:
    words = ["defence=[resta]", "model=micro_aligned", "finetune=none"]
    assert cell_keys(compose(words)).posthoc
