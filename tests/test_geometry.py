"""The geometry of a change, by hand; and the MLPs of tiny models, by plain loops."""

from __future__ import annotations

import copy
from array import array
from typing import Any

import pytest
import torch
from torch import Tensor, tensor
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from ptst import geometry as g
from ptst.contrast import Asked, inputs_of_each
from ptst.errors import PtstError

E1, E2, E3 = torch.eye(3).unbind()
PLANE = torch.stack([E1, E2], dim=1)
"""P = diag(1, 1, 0)."""


def test_tau_is_how_much_nearer_the_safe_mean_is() -> None:
    safe, unsafe = tensor([1.0, 0.0]), tensor([0.0, 2.0])
    a = tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    assert g.tau(a, safe, unsafe).tolist() == pytest.approx([1.0, 5**0.5, -(5**0.5)])
    assert torch.equal(g.tau(a, safe, unsafe), -g.tau(a, unsafe, safe))


def test_the_share_of_the_largest_singular_value_of_a_covariance() -> None:
    # Centred: (-2,0), (2,0), (0,-1), (0,1); the covariance is diag(8, 2) / 3.
    x = tensor([[1.0, 5.0], [5.0, 5.0], [3.0, 4.0], [3.0, 6.0]])
    assert g.top_share(x) == pytest.approx(0.8)
    assert g.top_share(x[:1].repeat(3, 1)) == 0.0


def test_k_means_is_told_no_labels() -> None:
    near = tensor([[0.0], [0.1], [0.2], [0.3]])
    assert g.two_means_accuracy(near, near + 9) == g.two_means_accuracy(near + 9, near) == 1.0
    assert g.two_means_accuracy(tensor([[0.0], [0.1], [9.0]]), tensor([[9.1]])) == 0.75
    assert g.two_means_accuracy(near[:1].repeat(3, 1), near[:1]) == 0.75  # nothing to tell apart


@pytest.mark.parametrize(
    "sizes, rank", [((3, 2, 1), 3), ((10, 1, 0.1), 1), ((0, 0), 0), ((), 0), ((2, 0), 1)]
)
def test_the_empirical_rank_is_of_squares(sizes: tuple[float, ...], rank: int) -> None:
    assert g.empirical_rank(tensor(sizes, dtype=torch.float64)) == rank


def test_a_sine_is_the_norm_of_what_lies_outside() -> None:
    u = ((E1 + E3) / 2**0.5).unsqueeze(1)
    assert g.sines(PLANE, u).item() == pytest.approx(0.707107, abs=1e-6)
    assert g.sines(PLANE, torch.eye(3)).tolist() == [0.0, 0.0, 1.0]


def test_the_energy_outside() -> None:
    assert g.energy_outside(PLANE, torch.diag(E2 + E3)) == pytest.approx(0.707107, abs=1e-6)
    assert g.energy_outside(PLANE, torch.zeros(3, 3)) == 0.0


def planted(d_out: int, d_in: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """A weight of rank k, and bases of its column space and of what is left."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(d_out, d_out)).Q
    return basis[:, :k] @ torch.randn(k, d_in), basis[:, :k], basis[:, k:]


def test_a_change_within_the_column_space_has_energy_0_and_one_outside_has_1() -> None:
    weight, inside, rest = planted(12, 8, 5)
    row = torch.randn(2, 8)
    for space, energy in ((inside, 0.0), (rest, 1.0)):
        # Within: of the columns' leading directions, which the 99 % keep.
        own = g.column_space(weight) if energy == 0 else space
        found = g.change_of(weight, weight + own[:, :2] @ row)
        assert found.energy == pytest.approx(energy, abs=1e-5)
        assert found.sines.tolist() == pytest.approx([energy] * 2, abs=1e-5)
        assert (found.rank, found.outputs) == (2, 12) and found.space_rank <= 5


def test_the_energy_is_that_of_the_sines_by_their_singular_values() -> None:
    torch.manual_seed(1)
    before, change = torch.randn(10, 6).double(), torch.randn(10, 6).double()
    found = g.change_of(before, before + change, energy=1.0)
    weighted = (found.sines * found.sizes).norm() / found.sizes.norm()
    assert found.energy == pytest.approx(float(weighted))


def test_nothing_changed_is_rank_0_and_no_nan() -> None:
    found = g.change_of(torch.eye(3), torch.eye(3))
    assert (found.rank, found.energy, found.space_rank) == (0, 0.0, 3)
    assert len(found.sines) == len(found.sizes) == len(found.right) == 0


def test_weights_of_other_shapes_are_refused() -> None:
    with pytest.raises(PtstError, match=r"shape \(3, 3\) became one of \(2, 3\)"):
        g.change_of(torch.eye(3), torch.eye(3)[:2])


def test_the_row_space_reads_inputs_without_their_norm() -> None:
    inputs = tensor([[3.0, 4.0], [0.0, -7.0]])
    found = g.row_space(tensor([10.0, 2.0]), torch.eye(2), inputs)
    assert found.tolist() == pytest.approx([10 * (0.6 + 0) / 2, 2 * (0.8 + 1) / 2])


def test_activations_that_turned_out_of_their_plane() -> None:
    before = torch.stack([E1, 2 * E1, E2])
    after = torch.stack([E1, 2 * E1, E3])
    assert g.moved_outside(before, before).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert sorted(g.moved_outside(before, after).tolist()) == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_path_ends_at_the_two_weights_to_the_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    before, after = torch.randn(5, 5).to(dtype), torch.randn(5, 5).to(dtype)
    assert torch.equal(g.on_the_path(before, after, 0.0), before)
    assert torch.equal(g.on_the_path(before, after, 1.0), after)
    found = g.on_the_path(tensor([1.0, 2.0]), tensor([3.0, 1.0]), 1.5)
    assert found.tolist() == [4.0, 0.5]


# Models


def llama() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=11,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=11, n_positions=32)
    return GPT2LMHeadModel(config).eval()


def opt() -> Any:
    """Its MLP is given all tokens of a batch in one row, [batch x tokens, width]."""
    torch.manual_seed(0)
    config = OPTConfig(
        hidden_size=8, ffn_dim=12, num_hidden_layers=2, num_attention_heads=2, vocab_size=11,
        word_embed_proj_dim=8, max_position_embeddings=32,
    )  # fmt: skip
    return OPTForCausalLM(config).eval()


PROMPTS = [[1, 2, 3, 4], [5, 6], [7, 8, 9, 10, 1, 2], [3]]


def test_the_matrices_of_a_gated_mlp_and_of_a_plain_one() -> None:
    own = g.mlps(llama())[1].matrices
    assert own == {
        "first": "model.layers.1.mlp.gate_proj",
        "up": "model.layers.1.mlp.up_proj",
        "second": "model.layers.1.mlp.down_proj",
    }
    own = g.mlps(gpt2())[0].matrices
    assert own == {"first": "transformer.h.0.mlp.c_fc", "second": "transformer.h.0.mlp.c_proj"}
    assert g.matrix(llama(), "model.layers.1.mlp.gate_proj").shape == (12, 8)
    assert g.matrix(gpt2(), "transformer.h.0.mlp.c_fc").shape == (32, 8)  # stored [d_in, d_out]


def test_a_block_without_such_an_mlp_is_refused() -> None:
    model = llama()
    model.model.layers[1].mlp = torch.nn.Identity()
    with pytest.raises(PtstError, match=r"model\.layers\.1 of LlamaForCausalLM has no MLP"):
        g.mlps(model)
    model.config.num_hidden_layers = 7
    with pytest.raises(PtstError, match="LlamaForCausalLM has no list of 7 decoder layers"):
        g.mlps(model)


def test_an_expert_that_all_tokens_share_is_not_taken_for_the_mlp() -> None:
    config = DeepseekV3Config(
        hidden_size=8, intermediate_size=12, moe_intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, vocab_size=11, first_k_dense_replace=0,
        n_routed_experts=2, num_experts_per_tok=1, n_group=1, topk_group=1, q_lora_rank=4,
        kv_lora_rank=4, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4,
    )  # fmt: skip
    with pytest.raises(PtstError, match=r"model\.layers\.0 of DeepseekV3ForCausalLM has no MLP"):
        g.mlps(DeepseekV3ForCausalLM(config))


@pytest.mark.parametrize("make", [llama, gpt2, opt])
def test_inputs_of_the_second_matrix_are_read_at_the_last_token_of_every_prompt(make: Any) -> None:
    model = make()
    mlp = g.mlps(model)[1]
    first, second = (model.get_submodule(name) for name in (mlp.first, mlp.second))
    asked = [Asked(array("i", prompt), False, "") for prompt in PROMPTS]
    given_first, given_second = inputs_of_each(model, [first, second], asked)
    for n, prompt in enumerate(PROMPTS):  # alone, without padding
        states = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states[1]
        given: list[Tensor] = []
        hook = second.register_forward_pre_hook(lambda m, i, given=given: given.append(i[0]))
        model(torch.tensor([prompt]))
        hook.remove()
        last = given[0].flatten(0, -2)[-1]
        torch.testing.assert_close(given_second[n, 0], last, atol=1e-6, rtol=1e-4)
        if make is gpt2:  # the nonlinearity of the first, worked out from the states
            block = model.transformer.h[1]
            states = block.attn(block.ln_1(states))[0] + states
            act = block.mlp.act(block.mlp.c_fc(block.ln_2(states)))
            torch.testing.assert_close(given_second[n, 0], act[0, -1], atol=1e-6, rtol=1e-4)
    assert given_first.shape == (4, 1, 8)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_sensitivity_is_the_norm_of_the_gradient_of_the_largest_logit(make: Any) -> None:
    model = make().double()
    found = g.sensitivity(model, PROMPTS)
    prompt = torch.tensor([PROMPTS[0]])
    embedded = model.get_input_embeddings()(prompt).detach()
    step = 1e-6

    def largest(x: Tensor) -> float:
        return model(inputs_embeds=x).logits[0, -1].max().item()

    slopes = []
    for place in range(embedded.numel()):
        moved = embedded.clone()
        moved.view(-1)[place] += step
        slopes.append((largest(moved) - largest(embedded)) / step)
    assert float(found[0]) == pytest.approx(sum(s * s for s in slopes) ** 0.5, rel=1e-3)
    places: list[int] = []
    model.lm_head.register_forward_hook(lambda _, args, made: places.append(made.shape[1]))
    alone = [float(g.sensitivity(model, [p])) for p in PROMPTS]
    assert found.tolist() == pytest.approx(alone)
    assert places == [1] * len(PROMPTS)  # logits of every token may take more than the model


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_model_on_the_path_has_the_weights_between_and_gets_its_own_back(make: Any) -> None:
    before, after = make(), make()
    with torch.no_grad():
        for weight in after.parameters():
            weight += torch.randn_like(weight) * 0.1
    wanted = make()
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    for weight, (a, b) in zip(wanted.parameters(), pairs, strict=True):
        weight.data = g.on_the_path(a.data, b.data, 0.25)
    ids, untouched = torch.tensor([PROMPTS[0]]), copy.deepcopy(after)
    for alpha, model in ((0.25, wanted), (0.0, before), (1.0, after)):
        with g.model_on_the_path(before, after, alpha), torch.no_grad():
            found = after(ids).logits
        with torch.no_grad():
            assert torch.equal(found, model(ids).logits)
    for a, b in zip(after.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_weight_that_no_call_reaches_is_not_taken_for_moved() -> None:
    model = llama()
    model.spare = torch.nn.Linear(2, 2)
    with (
        pytest.raises(PtstError, match="spare of LlamaForCausalLM was not called"),
        g.model_on_the_path(copy.deepcopy(model), model, 0.5),
    ):
        model(torch.tensor([PROMPTS[0]]))
