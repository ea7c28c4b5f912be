"""Safe Delta: the choice and the compensation by hand, both ends of the budget, and the inputs."""

from __future__ import annotations

import copy
from array import array
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ptst.config.compose import compose
from ptst.errors import ConfigError
from ptst.keys import cell_keys
from ptst.models import linear_weights
from ptst.posthoc import safe_delta
from ptst.posthoc.safe_delta import SafeDelta, hessians

H = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
TINY_DAMPING = 1e-12


def change(delta: torch.Tensor, hessian: torch.Tensor, **fields: Any) -> tuple[torch.Tensor, float]:
    """(what is left of a change of weights that were 0, the share that was kept)"""
    tuned = delta.clone()
    step = SafeDelta(**{"damping": TINY_DAMPING, **fields})
    return tuned, step.change(tuned, torch.zeros_like(delta), hessian)


def test_two_entries_by_hand() -> None:
    delta = torch.tensor([[1.0, 0.5]])
    left, kept = change(delta, H, budget=1.2)  # costs .75 and .1875, of .9
    torch.testing.assert_close(left, torch.tensor([[1.0, -0.5]]))
    assert kept == 0.5
    row = left[0].double()
    assert float(row @ H @ row / 2) == pytest.approx(0.75)
    assert torch.equal(change(delta, H, budget=1.2, compensate=False)[0], torch.tensor([[1.0, 0]]))


def random_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(50, 6).double() * torch.arange(1, 7)
    aligned = torch.randn(4, 6)
    return aligned, aligned + torch.randn(4, 6), 2 / 50 * x.T @ x


def test_without_a_budget_it_is_the_aligned_model_and_with_all_of_it_the_tuned_one() -> None:
    aligned, tuned, hessian = random_case()
    for budget, wanted, share in [(1e-30, aligned, 0.0), (1e9, tuned, 1.0)]:
        own = tuned.clone()
        assert SafeDelta(budget=budget).change(own, aligned, hessian) == share
        assert torch.equal(own, wanted)
    own = aligned.clone()
    SafeDelta().change(own, aligned, hessian)
    assert torch.equal(own, aligned)


def test_more_budget_keeps_more_the_freest_inputs_first_and_never_spends_more_than_it() -> None:
    aligned, tuned, hessian = random_case()
    free = torch.linalg.inv(hessian).diagonal()
    columns = free.argsort(descending=True)
    last = -1.0
    for budget in (0.5, 2.0, 5.0, 20.0):
        own = tuned.clone()
        step = SafeDelta(budget=budget, damping=TINY_DAMPING, compensate=False)
        share = step.change(own, aligned, hessian)
        keep = own == tuned
        assert share == pytest.approx(float(keep.float().mean()), abs=1e-4) and share > last
        last = share
        costs = (tuned - aligned).double().pow(2) / (2 * free)
        spent, allowed = float((costs * keep).sum()), float(budget * (1 / (2 * free)).mean())
        assert spent <= allowed
        flat = keep[:, columns].T.flatten().tolist()
        assert flat == sorted(flat, reverse=True)  # a beginning of the order, and nothing behind it


def test_where_inputs_are_independent_nothing_is_compensated() -> None:
    aligned, tuned, _ = random_case()
    with_it, without = tuned.clone(), tuned.clone()
    eye = torch.eye(6).double()
    SafeDelta(budget=3.0).change(with_it, aligned, eye)
    SafeDelta(budget=3.0, compensate=False).change(without, aligned, eye)
    assert torch.equal(with_it, without)
    assert 0 < int((with_it == tuned).sum()) < 24


def test_half_precision_is_worked_out_in_full_and_rounded_once() -> None:
    aligned, tuned, hessian = (m.to(torch.bfloat16) for m in random_case())
    exact, own = tuned.double(), tuned.clone()
    SafeDelta(budget=3.0).change(exact, aligned.double(), hessian.double())
    SafeDelta(budget=3.0).change(own, aligned, hessian.double())
    assert torch.equal(own, exact.to(torch.bfloat16))


def test_inputs_that_are_always_0_do_not_stop_it() -> None:
    aligned, tuned, _ = random_case()
    SafeDelta().change(tuned, aligned, torch.zeros(6, 6).double())
    assert tuned.isfinite().all()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_inputs_are_those_of_all_tokens_of_all_rows(kind: str) -> None:
    torch.manual_seed(0)
    model: Any = (
        LlamaForCausalLM(LlamaConfig(
            hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
            vocab_size=11,
        ))
        if kind == "llama"
        else GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=11))
    ).eval()  # fmt: skip
    before = copy.deepcopy(model.state_dict())
    rows = [array("i", [1, 4, 2]), array("i", [7, 3])]
    names = list(linear_weights(model))
    found = hessians(model, names, rows)
    assert set(found) == set(names)
    for name, weight in linear_weights(model).items():
        assert found[name].shape == (weight.shape[1],) * 2
    first = "model.layers.0.self_attn.q_proj" if kind == "llama" else "transformer.h.0.attn.c_attn"
    norm = "model.layers.0.input_layernorm" if kind == "llama" else "transformer.h.0.ln_1"
    seen: list[torch.Tensor] = []
    hook = model.get_submodule(norm).register_forward_hook(lambda m, a, out: seen.append(out[0]))
    for row in rows:
        model(torch.tensor([list(row)]))
    hook.remove()
    x = torch.cat(seen).double()
    assert len(x) == 5
    torch.testing.assert_close(found[f"{first}.weight"], 2 / 5 * x.T @ x, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_does_not_fit_together_is_a_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {name: torch.zeros(2, width) for name, width in [("a", 3), ("b", 3), ("c", 9)]}
    assert safe_delta._held_together(weights) == [["a", "b", "c"]]
    monkeypatch.setattr(safe_delta, "HELD", 8 * (3**2 + 3**2))
    assert safe_delta._held_together(weights) == [["a", "b"], ["c"]]


OWN = "defence.safe_delta.posthoc"


@pytest.mark.parametrize(
    "words, message",
    [
        (["finetune=none"], r"finetune=none changes nothing: leave the defence out"),
        ([f"{OWN}.budget=0"], r"budget=0\.0 must be more than 0"),
        ([f"{OWN}.damping=-1"], r"damping=-1\.0 must be more than 0"),
        (
            [f"+template@{OWN}.template=chat_llama", f"{OWN}.template.user=nothing"],
            r"safe_delta\.posthoc\.template=chat_llama: user must",
        ),
        (
            [f"+template@{OWN}.template=chat_llama", "+model.system_prompts={chat_llama: Be}"],
            r"template chat_llama has another system prompt for model micro",
        ),
    ],
)
def test_what_it_refuses_is_refused_when_it_is_composed(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["defence=[safe_delta]", *words])


def test_rows_and_their_template_are_part_of_the_key() -> None:
    def key(*words: str) -> str | None:
        return cell_keys(compose(["defence=[safe_delta]", *words])).posthoc

    keys = [key(), key(f"{OWN}.rows.n=64"), key(f"+template@{OWN}.template=chat_llama")]
    assert len({*keys, key(f"{OWN}.compensate=false")}) == 4
    assert key("template@test_template=chat_llama") == keys[0]
