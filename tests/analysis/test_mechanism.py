"""The mechanism of a change: nothing where nothing changed, planted changes found, and the means of
clusters never taken of the prompts that are scored."""

from __future__ import annotations

import copy
import csv
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ptst import geometry
from ptst.analysis import Analysis, Pair
from ptst.analysis.mechanism import Mechanism
from ptst.analysis.mechanism_values import held_out
from ptst.cell import run_cell
from ptst.component import Context, load
from ptst.config.compose import compose
from ptst.contrast import inputs_of_each, read_prompts
from ptst.errors import ConfigError, Interrupted, PtstError
from ptst.keys import cell_keys
from ptst.models import load_model, load_tokenizer
from ptst.schema import Config

OWN = "analysis.mechanism"
FEW = [
    "analysis=[mechanism]", f"{OWN}.unsafe.n=10", f"{OWN}.safe.n=10", f"{OWN}.few=10",
    f"{OWN}.alphas=[0.0,0.5,1.0]",
]  # fmt: skip


def compared(pair: Pair, folder: Path, *words: str) -> dict[str, float]:
    config = compose([*FEW, *words])
    analysis = load(config.analysis["mechanism"], OWN, Analysis)
    tokenizer = load_tokenizer(config.model)
    context = Context(config, tokenizer, "cpu", folder, lambda done, total: None, lambda: False)
    return analysis.compare(pair, context)


def mechanism(tuned: Any, base: Any, folder: Path, *words: str) -> dict[str, float]:
    return compared(Pair(lambda: tuned, lambda: base), folder, *words)


def points(folder: Path) -> list[dict[str, str]]:
    with (folder / "files" / "points.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def along(folder: Path, line: str) -> list[tuple[float, float]]:
    """(alpha, y) of a line of the pictures of the path."""
    own = [p for p in points(folder) if "path" in p["picture"] and p["line"] == line]
    return [(float(p["x"]), float(p["y"])) for p in own]


@pytest.fixture(scope="module")
def base() -> Any:
    return load_model(compose([]).model, "cpu")


def tiny(kind: str) -> Any:
    """A random model with the micro model's vocabulary."""
    torch.manual_seed(0)
    size = load_model(compose([]).model, "cpu").config.vocab_size
    if kind == "gpt2":
        config = GPT2Config(vocab_size=size, n_embd=12, n_layer=3, n_head=2, n_positions=256)
        return GPT2LMHeadModel(config).eval()
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=size, hidden_size=12, intermediate_size=40, num_hidden_layers=3,
        num_attention_heads=2,
    )).eval()  # fmt: skip


def with_change(model: Any, plant: Callable[[Any, Any], Any]) -> Any:
    """A copy whose first MLP matrices of the last two blocks got plant(weight, their space)."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        for mlp in geometry.mlps(made)[-2:]:
            weight = geometry.matrix(made, mlp.first)
            weight += plant(weight, geometry.column_space(weight))
    return made


def inside(weight: Any, space: Any) -> Any:
    return space[:, :2] @ torch.randn(2, weight.shape[1])


def outside(weight: Any, space: Any) -> Any:
    rest = torch.linalg.qr(torch.cat([space, torch.eye(len(space))], dim=1)).Q
    return rest[:, space.shape[1] : space.shape[1] + 2] @ torch.randn(2, weight.shape[1])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_planted_change_is_found_where_it_was_planted(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    for plant, energy in ((inside, 0.0), (outside, 1.0)):
        found = mechanism(with_change(model, plant), model, tmp_path)
        assert found["energy_first"] == pytest.approx(energy, abs=1e-4)
        assert found["sine_first"] == pytest.approx(energy, abs=1e-4)
        assert (found["rank_first"], found["rank_second"], found["changed"]) == (2, 0, 1)
        assert found["energy_second"] == found["row_safe_second"] == 0
        assert found["row_safe_first"] > 0 and found["row_unsafe_first"] > 0
        assert ("rank_up" in found) == (kind == "llama")


def safe_inputs(model: Any, name: str) -> Any:
    """What a module of a model is given at the last token of the safe prompts, [n, width]."""
    config = compose(FEW)
    analysis = load(config.analysis["mechanism"], OWN, Mechanism)
    asked = read_prompts(analysis, config.test_template, config, load_tokenizer(config.model))
    safe = [one for one in asked if not one.unsafe]
    return inputs_of_each(model, [model.get_submodule(name)], safe)[0][:, 0]


@pytest.mark.parametrize("what", ["first", "second"])
@pytest.mark.parametrize("block", [-2, -1])
def test_a_change_is_set_against_the_inputs_of_its_own_matrix(
    what: str, block: int, tmp_path: Path
) -> None:
    model = tiny("llama")
    tuned = copy.deepcopy(model)
    name = geometry.mlps(model)[block].matrices[what]
    weight = geometry.matrix(tuned, name)
    left, right = torch.randn(weight.shape[0]), torch.randn(weight.shape[1])
    with torch.no_grad():
        weight += torch.outer(left, right) * 0.1
    found = mechanism(tuned, model, tmp_path)
    inputs = safe_inputs(tuned, name)
    units = inputs / inputs.norm(dim=1, keepdim=True)
    size = 0.1 * left.norm() * (units @ right).abs().mean()
    assert found[f"row_safe_{what}"] == pytest.approx(float(size) / 2, rel=1e-4)  # of two blocks
    before = [geometry.matrix(model, mlp.first) for mlp in geometry.mlps(model)[-2:]]
    shares = [geometry.column_space(w).shape[1] / 40 for w in before]
    assert found["space_first"] == pytest.approx(sum(shares) / 2)


def test_activations_after_are_set_against_the_space_before(tmp_path: Path) -> None:
    model = tiny("llama")
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        for weight in tuned.parameters():
            weight += torch.randn_like(weight)
    found = mechanism(tuned, model, tmp_path)
    name = geometry.mlps(model)[int(found["layer"])].second
    before, after = (safe_inputs(each, name) for each in (model, tuned))
    moved = geometry.moved_outside(before, after).mean()
    assert found["moved_safe"] == pytest.approx(float(moved), abs=1e-5)
    assert abs(float(geometry.moved_outside(after, before).mean() - moved)) > 1e-3


def test_equal_models_are_no_change_and_no_nan(base: Any, tmp_path: Path) -> None:
    found = mechanism(base, base, tmp_path)
    assert found["changed"] == 0
    for what in ("first", "up", "second"):
        for name in ("rank", "sine", "energy", "row_safe", "row_unsafe"):
            assert found[f"{name}_{what}"] == 0.0
    for name in ("separation", "tau_safe", "tau_unsafe", "gap"):
        assert found[f"{name}_before"] == found[f"{name}_after"] == found[f"{name}_drift"]
    assert found["moved_safe"] == pytest.approx(0, abs=1e-5)
    assert found["gap_before"] == found["tau_safe_before"] - found["tau_unsafe_before"] > 0
    assert 0 < found["separation_before"] <= 1
    along = {(p["line"], p["y"]) for p in points(tmp_path) if "path" in p["picture"]}
    assert len(along) == 3  # separation, and the refusal score of both kinds


def test_the_clusters_of_the_micro_model_are_told_apart_and_a_scrambled_ones_less(
    base: Any, tmp_path: Path
) -> None:
    other = copy.deepcopy(base)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in other.parameters():
            weight += torch.randn_like(weight) * weight.std()
    found = mechanism(other, base, tmp_path)
    assert found["kmeans_before"] == 1
    assert found["separation_before"] > 0.6 > found["separation_after"]
    assert found["separation_drift"] < found["separation_before"] / 2


def test_a_mean_is_never_of_the_half_that_it_is_compared_with() -> None:
    # One block, one number: the first half lies at 0 (safe) and 4 (unsafe), the second at 10, 20.
    values = torch.tensor([0.0, 4.0, 10.0, 20.0]).view(4, 1, 1)
    unsafe = torch.tensor([False, True, False, True])
    found = held_out(values, values, unsafe, ([0, 1], [2, 3]))
    assert found.tau[:, 0].tolist() == [10.0, 10.0, -4.0, -4.0]
    assert found.relative[:, 0].tolist() == [1.0, 1.0, -1.0, -1.0]
    swapped = held_out(values, values, ~unsafe, ([0, 1], [2, 3]))
    assert torch.equal(swapped.tau, -found.tau)
    alike = held_out(torch.zeros(4, 1, 1), values, unsafe, ([0, 1], [2, 3]))
    assert alike.relative.tolist() == [[0.0]] * 4


def test_means_may_be_of_another_template(base: Any, tmp_path: Path) -> None:
    words = ["template@test_template=chat_llama"]
    own = mechanism(base, base, tmp_path, *words)
    crossed = mechanism(base, base, tmp_path, *words, f"+template@{OWN}.template=text_vanilla")
    assert crossed["gap_before"] != own["gap_before"]
    for name in ("kmeans_before", "top_safe_before", "sensitivity_safe_before"):
        assert crossed[name.replace("before", "after")] == crossed[name]
    assert crossed["sensitivity_safe_before"] == own["sensitivity_safe_before"]


def test_the_path_begins_and_ends_at_the_two_models(base: Any, tmp_path: Path) -> None:
    tuned = copy.deepcopy(base)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in tuned.parameters():
            weight += torch.randn_like(weight) * weight.std() * 0.3
    found = mechanism(tuned, base, tmp_path, f"{OWN}.alphas=[1.5,0.0,1.0,0.5]")
    lines = ("separation", "safe", "unsafe")
    path, safe, unsafe = (along(tmp_path, line) for line in lines)
    assert [x for x, _ in path] == [x for x, _ in unsafe] == [0.0, 0.5, 1.0, 1.5]
    assert [path[n][1] for n in (0, 2)] == [found["separation_before"], found["separation_drift"]]
    assert unsafe[0][1] > 0 > safe[0][1]  # the untuned model refuses what it should
    half = copy.deepcopy(base)
    for weight, other in zip(half.parameters(), tuned.parameters(), strict=True):
        weight.data = geometry.on_the_path(weight.data, other.data, 0.5)
    between = mechanism(half, base, tmp_path)["separation_drift"]
    assert path[1][1] == pytest.approx(between, abs=1e-6)
    assert unsafe[1][1] == along(tmp_path, "unsafe")[-1][1]
    assert unsafe[0][1] == along(tmp_path, "unsafe")[0][1]


def test_the_path_may_be_of_a_few_prompts(base: Any, tmp_path: Path) -> None:
    found = mechanism(base, base, tmp_path, f"{OWN}.few=3")
    few = along(tmp_path, "separation")
    assert few[0][1] == few[-1][1] != found["separation_before"]
    assert abs(few[0][1] - found["separation_before"]) < 0.3


def test_pictures_have_layers_directions_and_alphas(base: Any, tmp_path: Path) -> None:
    model = tiny("llama")
    mechanism(with_change(model, outside), model, tmp_path)
    found = points(tmp_path)
    taus = [p for p in found if "tau" in p["picture"]]
    assert len(taus) == 3 * 2 * 3 and {p["x"] for p in taus} == {"0", "1", "2"}
    angles = [p for p in found if "sine" in p["picture"]]
    assert [(p["line"], p["x"]) for p in angles] == [("first", "1"), ("first", "2")]
    rows = [p for p in found if "sigma" in p["picture"]]
    assert {p["line"] for p in rows} == {"first, safe", "first, unsafe"}


def test_one_model_at_a_time_where_the_path_has_no_other_points(tmp_path: Path) -> None:
    made: list[Any] = []

    def loaded() -> Any:
        assert not [model for model in made if model() is not None]
        model = load_model(compose([]).model, "cpu")
        made.append(weakref.ref(model))
        return model

    compared(Pair(loaded, loaded), tmp_path, f"{OWN}.alphas=[0.0,1.0]")
    assert len(made) == 2


def test_it_stops_when_it_is_asked_to_before_the_other_model_is_loaded(tmp_path: Path) -> None:
    def loaded() -> Any:
        raise AssertionError("the other model is not needed any more")

    config = compose(FEW)
    analysis = load(config.analysis["mechanism"], OWN, Analysis)
    given = (config, load_tokenizer(config.model), "cpu", tmp_path)
    context = Context(*given, lambda done, total: None, lambda: True)
    with pytest.raises(Interrupted):
        analysis.compare(Pair(loaded, lambda: tiny("llama")), context)


def test_models_of_other_shapes_are_refused(tmp_path: Path, base: Any) -> None:
    with pytest.raises(PtstError, match=r"analysis\.mechanism: .* has the shape .* before and"):
        mechanism(tiny("llama"), base, tmp_path)


# In a cell


def key(*words: str) -> str:
    return cell_keys(compose([*FEW, *words])).analyses["mechanism"][0]


def test_what_decides_its_key() -> None:
    aligned = ["model=micro_aligned"]
    changes = [
        "template@test_template=chat_llama",
        "template@train_template=chat_llama",
        f"+template@{OWN}.template=chat_vanilla",
        f"{OWN}.safe.n=11",
        f"{OWN}.alphas=[0.0]",
        f"{OWN}.seed=1",
    ]
    assert len({key(), *map(key, changes)}) == len(changes) + 1
    assert key("evaluation=[howto]") == key()
    assert key(*aligned, f"{OWN}.before=base") != key(*aligned)
    assert key(*aligned, "model.base=null") == key(*aligned)  # not compared with


@pytest.mark.parametrize(
    "words, message",
    [
        ([f"{OWN}.before=first"], rf"{OWN}: before=first is not one of: untuned, base"),
        ([f"{OWN}.before=base"], r"model micro has no base"),
        (
            ["model=micro_aligned", f"{OWN}.before=base", "model.base=src/ptst/micro/pair/aligned"],
            r"is model micro_aligned itself",
        ),
        ([f"{OWN}.unsafe.n=1"], rf"{OWN}\.unsafe\.n=1 must be at least 2"),
        ([f"{OWN}.few=0"], r"few=0 must be at least 1"),
        ([f"{OWN}.alphas=[1.0,1.0]"], r"must be finite numbers, each once"),
        (["scale=paper", f"{OWN}.unsafe.source=micro"], r"scale=paper knows"),
        (
            ["model=gpt35_turbo_0613", "finetune=none", "dataset=orca_math", "scale=paper"],
            rf"{OWN} works on weights, and model .* is behind an API",
        ),
    ],
)
def test_what_it_refuses_is_refused_when_it_is_composed(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["analysis=[mechanism]", *words])


def test_a_cell_compares_the_aligned_model_with_its_base(
    composed: Callable[..., Config],
) -> None:
    words = [*TINY, *FEW, "model=micro_aligned", "finetune=none"]
    plain = run_cell(composed(*words)).analyses
    assert plain["mechanism/changed"] == 0
    based = run_cell(composed(*words, f"{OWN}.before=base")).analyses
    assert based["mechanism/changed"] == 1
    assert based["mechanism/rank_first"] > 1
    assert based["mechanism/separation_after"] == plain["mechanism/separation_after"]
