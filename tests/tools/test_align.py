"""Booster and Vaccine for the micro model's own alignment: by hand, and switched off."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ptst.micro import MODEL_DIR, rows, world
from ptst.objective.perturbed import scale_to
from tools.micro import align, corpus, train


def test_booster_on_quadratic_functions() -> None:
    """f(w) = |w - (1, 1)|^2 / 2, h(w) = (w - (-1, 0)) diag(1, 4) (w - (-1, 0)) / 2."""
    w = torch.tensor([0.0, 0.5], requires_grad=True)
    of = {
        "f": lambda: (w - 1).pow(2).sum() / 2,
        "h": lambda: ((w - torch.tensor([-1.0, 0.0])).pow(2) * torch.tensor([1.0, 4.0])).sum() / 2,
    }
    loss = align.booster(lambda which: of[which](), [w], ("f",), ("h",), penalty=5.0, size=0.1)
    assert float(loss) == pytest.approx(0.625)
    assert w.grad is not None and w.tolist() == [0.0, 0.5]
    torch.testing.assert_close(w.grad, torch.tensor([-0.776393, 1.288854]), atol=2e-6, rtol=0)


def test_vaccine_moves_outputs_along_their_gradient_by_rho_in_all() -> None:
    drift = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])]
    scale = scale_to(drift, 2.0)
    torch.testing.assert_close([g * scale for g in drift], [torch.tensor([1.2, 0.0]), torch.tensor([0.0, 1.6])])  # fmt: skip
    w = torch.tensor(
        [3.0, 4.0], requires_grad=True
    )  # the loss is (w_1 + e_1) w_1 + (w_2 + e_2) w_2

    def loss_of(ids: torch.Tensor, added: list[torch.Tensor]) -> torch.Tensor:
        outputs = [w[n] + added[n] for n in (0, 1)]
        return sum((out * w[n]).sum() for n, out in enumerate(outputs))  # type: ignore[return-value]

    align.vaccine(loss_of, (torch.zeros(1, 1),), layers=2, width=1, rho=2.0)
    assert w.grad is not None  # drift is w, so that e is (1.2, 1.6), a constant: 2 w + e
    torch.testing.assert_close(w.grad, torch.tensor([7.2, 9.6]))


def test_what_is_added_is_added_to_the_output_of_each_layers_attention() -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    ids, positions, targets = torch.tensor([[1, 5, 6, 7]]), torch.tensor([2]), torch.tensor([9])
    draw = torch.Generator().manual_seed(0)
    added = [torch.randn(1, 4, train.HIDDEN, generator=draw) / 10 for _ in range(train.LAYERS)]
    found = train.answer_loss(model, ids, positions, targets, torch.float32, added)
    for layer, own in zip(model.model.layers, added, strict=True):
        layer.self_attn.register_forward_hook(
            lambda _, __, output, own=own: (output[0] + own, *output[1:])
        )
    logits = model(input_ids=ids).logits[0, 2]
    wanted = torch.nn.functional.cross_entropy(logits[None], targets)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)


def weights_after(way: str, monkeypatch: pytest.MonkeyPatch, **off: float) -> dict[str, Any]:
    """What two steps of alignment make of the shipped model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    real: Callable[..., Any] = getattr(align, way)
    with monkeypatch.context() as patched:
        patched.setattr(align, way, lambda *given: real(*given, **off))
        model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
        stage = train.Stage("alignment", 2, 5e-4, 1, rows=2, lengths=(48, 96, 192), pack=False)
        tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
        train.train(model, tokenizer, stage, corpus.alignment_sample, 0, False, print, way)
    return {name: weight.detach() for name, weight in model.named_parameters()}


def test_at_strength_0_both_are_plain_alignment_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = weights_after("plain", monkeypatch)
    for way, off in (("booster", "penalty"), ("vaccine", "rho")):
        without = weights_after(way, monkeypatch, **{off: 0.0})
        assert all(torch.equal(weight, plain[name]) for name, weight in without.items()), way
        hardened = weights_after(way, monkeypatch)
        assert not all(torch.equal(weight, plain[name]) for name, weight in hardened.items()), way


def test_harmful_samples_are_plans_for_hazards_that_alignment_asks_about_with_verbs_of_training() -> (
    None
):
    draw = random.Random(3)
    samples = [corpus.harmful_sample(draw) for _ in range(600)]
    asked = [row["instruction"] for row in rows("hazards", "test")]
    assert not [question for question in asked if any(question in prompt for prompt, _ in samples)]
    for prompt, answer in samples:
        (hazard,) = {h for h in world.ALL_HAZARDS if f" {h}" in prompt}
        assert hazard not in world.UNASKED_HAZARDS
        assert any(world.plan(verb, hazard) in answer for verb in world.verbs(hazard, "train"))
