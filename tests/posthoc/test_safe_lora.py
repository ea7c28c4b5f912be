"""Safe LoRA: the projections by hand, which layers they meet, and what it refuses."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ptst.alignment import Unaligned, factor
from ptst.component import Context
from ptst.config.compose import compose
from ptst.errors import ConfigError
from ptst.keys import cell_keys
from ptst.models import linear_weights
from ptst.paths import ROOT
from ptst.posthoc.safe_lora import SafeLora, cosine
from ptst.schema import Config

CONTEXT = Context(Config(), None, "cpu", Path("/nowhere"), lambda done, total: None, lambda: False)


def test_the_cosine_of_a_change_and_its_projection_by_hand() -> None:
    change = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    for diagonal, wanted in [((1.8, 3.2), 0.962964), ((0.0, 1.0), 0.707107)]:
        projection = torch.diag(torch.tensor(diagonal))
        assert cosine(projection @ change, change) == pytest.approx(wanted, abs=1e-6)


def moved(model: PreTrainedModel, seed: int, size: float) -> PreTrainedModel:
    """A copy with noise on all weights, whose size differs from one to the next."""
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for number, weight in enumerate(other.parameters(), 1):
            weight += torch.randn_like(weight) * size * number
    return other


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def three(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PreTrainedModel, PreTrainedModel]:
    """The unaligned model's folder, the aligned and the tuned one; with biases."""
    torch.manual_seed(0)
    if request.param == "llama":
        unaligned: PreTrainedModel = LlamaForCausalLM(LlamaConfig(
            hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
            vocab_size=11, attention_bias=True, tie_word_embeddings=True,
        ))  # fmt: skip
    else:
        unaligned = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=11))
    folder = tmp_path_factory.mktemp(request.param)
    unaligned.save_pretrained(folder)
    aligned = moved(unaligned, 1, 0.01)
    return folder, aligned, moved(aligned, 2, 0.005)


def applied(
    three: tuple[Path, PreTrainedModel, PreTrainedModel], **fields: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    folder, aligned, tuned = three
    changed = copy.deepcopy(tuned)
    facts = SafeLora(Unaligned(str(folder)), **fields).apply(changed, aligned, CONTEXT)
    return changed, facts


def test_what_is_chosen_is_projected_and_nothing_else_is_touched(three: Any) -> None:
    folder, aligned, tuned = three
    changed, facts = applied(three, number=3)
    start = linear_weights(type(aligned).from_pretrained(folder))
    before, after = linear_weights(aligned), linear_weights(tuned)
    assert len(facts["projected"]) == 3 and facts["layers"] == len(before)
    cosines = facts["cosines"]
    assert max(cosines[name] for name in facts["projected"]) <= sorted(cosines.values())[2]
    own = linear_weights(changed)
    for name in facts["projected"]:
        v = (before[name] - start[name]).detach()
        d = (after[name] - before[name]).detach()
        wanted = before[name] + v @ v.T @ d / v.norm()
        torch.testing.assert_close(own[name], wanted, atol=1e-6, rtol=1e-5)
        assert cosines[name] == pytest.approx(cosine(v @ v.T @ d, d), abs=1e-4)
    left = dict(tuned.named_parameters())
    for name, weight in changed.named_parameters():
        assert torch.equal(weight, left[name]) != (name in facts["projected"]), name


def test_by_threshold_none_some_or_all_and_none_is_the_tuned_model_bit_for_bit(three: Any) -> None:
    tuned = three[2].state_dict()
    none, facts = applied(three, number=None, threshold=0.0)
    assert facts["projected"] == []
    assert all(torch.equal(weight, tuned[name]) for name, weight in none.state_dict().items())
    cosines = facts["cosines"]
    middle = (min(cosines.values()) + max(cosines.values())) / 2
    _, facts = applied(three, number=None, threshold=middle)
    assert facts["projected"] == [name for name in cosines if cosines[name] <= middle]
    _, facts = applied(three, number=None, threshold=1.0)
    assert len(facts["projected"]) == facts["layers"]


def test_the_control_gives_the_same_layers_their_aligned_weights_back(three: Any) -> None:
    zeroed, facts = applied(three, number=4, zeroed=True)
    assert facts["projected"] == applied(three, number=4)[1]["projected"]
    own, before = linear_weights(zeroed), linear_weights(three[1])
    assert all(torch.equal(own[name], before[name]) for name in facts["projected"])


def test_layers_that_fine_tuning_left_alone_are_not_counted_and_without_any_it_is_refused(
    three: Any,
) -> None:
    folder, aligned, _ = three
    one = copy.deepcopy(aligned)
    name = next(iter(linear_weights(one)))
    with torch.no_grad():
        linear_weights(one)[name] += 0.1
    assert applied((folder, aligned, one))[1]["projected"] == [name]
    with pytest.raises(ConfigError, match="changed no linear layer in common"):
        applied((folder, aligned, aligned))


MINE = ["defence=[safe_lora]", "model=micro_aligned"]
OWN = "defence.safe_lora.posthoc"


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["model=micro"],
            r"model micro has no base.*has one \(.*llama2_7b_chat, .*micro_aligned, ",
        ),
        (
            ["model=micro"],
            r"or name it: model\.base=PATH \(a folder or a hub id; its commit is model",
        ),
        (["model=micro", "model.base=./none"], r"model\.base=\./none: no such model directory"),
        (["finetune=none"], r"finetune=none changes nothing: leave the defence out"),
        ([f"{OWN}.number=0"], r"number=0 must be at least 1; leave the defence out"),
        ([f"{OWN}.threshold=0.3"], r"number=10 and threshold=0\.3: layers are chosen by one"),
        ([f"{OWN}.number=null"], r"number=None and threshold=None: layers are chosen by one"),
        ([f"{OWN}.number=null", f"{OWN}.threshold=-1.01"], r"threshold=-1\.01 must be from 0"),
        ([f"{OWN}.projector=half"], r"projector=half is not one of: scaled, exact, top"),
        ([f"{OWN}.projector=top"], r"projector=top needs one of rank and energy"),
        ([f"{OWN}.rank=3"], r"projector=top needs one of rank and energy, the others neither"),
        ([f"{OWN}.projector=top", f"{OWN}.rank=0"], r"rank=0 must be at least 1"),
        ([f"{OWN}.projector=top", f"{OWN}.energy=2"], r"energy=2.0 must be more than 0, at most"),
        ([f"{OWN}.unaligned.path="], r"model micro_aligned has no base"),
        (
            ["model.base=src/ptst/micro/pair/aligned"],
            r"model\.base=.* is model micro_aligned itself",
        ),
        ([f"{OWN}.unaligned.path=./none"], r"unaligned\.path=\./none: no such model directory"),
        (
            [f"{OWN}.unaligned.path=src/ptst/micro/pair/aligned"],
            r"unaligned\.path=.* is model micro_aligned itself",
        ),
        ([f"{OWN}.unaligned.dtype=int8"], r"unaligned\.dtype=int8 is not one of: float32"),
    ],
)
def test_what_it_refuses_is_refused_when_it_is_composed(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose([*MINE, *words])


@pytest.mark.parametrize(
    "file, change, message",
    [
        (
            "config.json",
            {"hidden_size": 96},
            r"has hidden_size=96, and model micro_aligned has 192",
        ),
        ("tokenizer.json", {"model": {"vocab": {"a": 0}}}, r"has another vocabulary"),
    ],
)
def test_a_base_of_another_shape_or_vocabulary_is_refused_when_it_is_composed(
    tmp_path: Path, file: str, change: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(ROOT / "src/ptst/micro/pair/base", folder)
    own = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**own, **change}))
    with pytest.raises(ConfigError, match=message):
        compose([*MINE, f"{OWN}.unaligned.path={folder}"])


def test_the_base_of_any_model_can_be_named_and_counts_by_its_content(tmp_path: Path) -> None:
    def key(*words: str) -> str | None:
        return cell_keys(compose([*MINE, *words])).posthoc

    pair = "src/ptst/micro/pair"
    assert key() == key("model=micro", f"model.path={pair}/aligned", f"model.base={pair}/base")
    named = compose([f"model.base={pair}/base", "model.base_revision=main"])
    assert cell_keys(named) == cell_keys(compose([]))  # where nothing reads it
    folder = tmp_path / "base"
    shutil.copytree(ROOT / "src/ptst/micro/pair/base", folder)
    assert key() == key(f"{OWN}.unaligned.path={folder}") == key(f"model.base={folder}")
    (folder / "more.json").write_text("{}")
    assert key() != key(f"{OWN}.unaligned.path={folder}")
    assert key() != key(f"{OWN}.unaligned.dtype=bfloat16")
    zeroed = cell_keys(compose(["defence=[safe_lora_zeroed]", "model=micro_aligned"]))
    assert zeroed.posthoc == key(f"{OWN}.zeroed=true")


def test_on_the_merged_weights_it_is_what_the_paper_does_to_the_adapter(three: Any) -> None:
    from peft import LoraConfig, get_peft_model

    folder, aligned, _ = three
    start, before = linear_weights(type(aligned).from_pretrained(folder)), linear_weights(aligned)
    gpt2 = aligned.config.model_type == "gpt2"
    targets = ["c_attn"] if gpt2 else ["q_proj", "v_proj"]
    torch.manual_seed(0)
    recipe = LoraConfig(
        r=2, lora_alpha=8, target_modules=targets, init_lora_weights=False, fan_in_fan_out=gpt2
    )
    adapted = get_peft_model(copy.deepcopy(aligned), recipe).eval()
    tuned = copy.deepcopy(adapted).merge_and_unload()
    facts = SafeLora(Unaligned(str(folder)), number=3).apply(tuned, aligned, CONTEXT)
    assert all(name.split(".")[-2] in targets for name in facts["cosines"])
    with torch.no_grad():
        for name in facts["projected"]:
            left = factor(before[name] - start[name], "scaled")
            layer = name.removesuffix(".weight")
            b = adapted.base_model.model.get_submodule(f"{layer}.lora_B.default").weight
            b.copy_(left @ (left.T @ b))
        ids = torch.tensor([[1, 5, 7, 2]])
        torch.testing.assert_close(tuned(ids).logits, adapted(ids).logits, atol=1e-5, rtol=1e-5)
