"""The direction is found where it was put, by the paper's rule; a model without it does not refuse.

Every mean is of other prompts than those that are scored."""

from __future__ import annotations

import copy
import csv
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from pages import text_of
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
)

from ptst.analysis import Analysis, refusal_direction
from ptst.analysis.refusal_direction import (
    Means,
    Place,
    ablated,
    added,
    choose,
    look,
    means_of,
    projections,
)
from ptst.cell import run_cell
from ptst.component import Context, load
from ptst.config.compose import compose
from ptst.contrast import (
    Asked,
    Contrast,
    first_tokens,
    inputs_of,
    logits_of,
    read_prompts,
    refusal_scores,
)
from ptst.errors import ConfigError, Interrupted, PtstError
from ptst.geometry import decoder_layers
from ptst.inventory.remove import unused
from ptst.keys import cell_keys
from ptst.models import load_model, load_tokenizer
from ptst.schema import Config, Rows
from ptst.store import Store

OWN = "analysis.refusal_direction"
FEW = ["analysis=[refusal_direction]", *(f"{OWN}.{name}.n=24" for name in ("unsafe", "safe"))]
WHERE = ("layer", "position", "rule_met", "post_instruction_tokens")


def values(
    tuned: Any, base: Any, folder: Path, *words: str, stop: bool = False
) -> dict[str, float]:
    config = compose([*FEW, *words])
    analysis = load(config.analysis["refusal_direction"], OWN, Analysis)
    tokenizer = load_tokenizer(config.model)
    context = Context(config, tokenizer, "cpu", folder, lambda done, total: None, lambda: stop)
    return analysis.run(tuned, base, context)


@pytest.fixture(scope="module")
def base() -> Any:
    return load_model(compose([]).model, "cpu")


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    config = compose([])
    columns = {"input": "instruction"}
    unsafe, safe = (
        Rows(name=n, source="micro", n=12, columns=columns) for n in ("hazards", "howto")
    )
    return read_prompts(
        Contrast(unsafe, safe), config.test_template, config, load_tokenizer(config.model)
    )


@pytest.fixture(scope="module")
def means(base: Any, asked: list[Asked]) -> Means:
    return means_of(base, asked, 2)


def without(model: Any, direction: torch.Tensor) -> Any:
    """The same model, which cannot write a direction (section 4.1: its weights are orthogonal)."""
    made = copy.deepcopy(model)
    unit = (direction / direction.norm()).float()
    with torch.no_grad():
        made.lm_head.weight = torch.nn.Parameter(made.lm_head.weight.clone())  # tied no longer
        rows = made.model.embed_tokens.weight
        rows -= torch.outer(rows @ unit, unit)
        for layer in made.model.layers:
            for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
                writer.weight -= torch.outer(unit, unit @ writer.weight)
    return made


def toy() -> Any:
    """Three layers that write nothing. Token 0 embeds as (1, 2, 0, 0), token 1 as (1, 0, 0, 0); 2
    is the refusal, whose logit is the normalised second number; that of 0 is the first."""
    sizes = {"hidden_size": 4, "intermediate_size": 4, "num_attention_heads": 1, "vocab_size": 3}
    made = LlamaForCausalLM(LlamaConfig(num_hidden_layers=3, tie_word_embeddings=False, **sizes))
    with torch.no_grad():
        for layer in made.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        made.model.embed_tokens.weight.copy_(
            torch.tensor([[1.0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
        )
        made.lm_head.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]))
    return made.eval()


TOY = [Asked(array("i", [2, n % 2]), n % 2 == 0, str(n)) for n in range(6)]
PLANTED = torch.tensor([0.0, 2, 0, 0], dtype=torch.float64)
BESIDE = torch.tensor([0.0, 0, 3, 0], dtype=torch.float64)


def test_a_refusal_score_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert float(refusal_scores(logits, [0])) == pytest.approx(0, abs=1e-6)
    assert float(refusal_scores(logits, [1])) == pytest.approx(-0.847298, abs=1e-6)  # log(.3 / .7)
    assert float(refusal_scores(logits, [0, 2])) == pytest.approx(0.847298, abs=1e-6)


def test_a_planted_direction_is_found_and_decides_what_is_refused() -> None:
    model, means = toy(), means_of(toy(), TOY, 1)
    assert torch.allclose(means.direction, PLANTED.expand(3, 1, 4))
    found = look(model, TOY, means.direction[0, 0], 0, [2])
    # (1, 2, 0, 0) is normalised to (.894427, 1.788854, 0, 0): 1.788854 - log(e^.894427 + 1); and
    # (1, 0, 0, 0) to (2, 0, 0, 0): 0 - log(e^2 + 1).
    yes, no = pytest.approx(0.551660, abs=1e-4), pytest.approx(-2.126928, abs=1e-4)
    assert (found["refusal_unsafe"], found["refusal_safe"]) == (yes, no)
    assert (found["ablated_unsafe"], found["added_safe"]) == (no, yes)
    lines = projections(model, TOY, means, Place(0, 0, 1.0))
    assert {kind: line.tolist() for kind, line in lines.items()} == {
        "unsafe": [1, 1, 1],
        "safe": [0, 0, 0],
    }


@pytest.mark.parametrize(
    "directions, place",
    [
        ((BESIDE, PLANTED, PLANTED), Place(1, 0, 1.0)),
        ((0 * PLANTED, PLANTED, PLANTED), Place(1, 0, 1.0)),  # zero is no candidate
        ((BESIDE, BESIDE, PLANTED), Place(0, 0, 0.0)),  # the last 20 % are left out
        ((BESIDE, PLANTED / 20, BESIDE), Place(1, 0, 0.0)),  # too short to induce a refusal
        # Added, it makes (0, 1, 0, 0) of a safe prompt, which is refused. But without it the next
        # token of a safe prompt is another one: (1, 0, 0, 0) becomes (0.5, 0.5, 0, 0), 0.29 nats.
        ((torch.tensor([-1.0, 1, 0, 0]).double(), BESIDE, BESIDE), Place(0, 0, 0.0)),
    ],
)
def test_the_rule_of_choice(directions: tuple[torch.Tensor, ...], place: Place) -> None:
    told: list[tuple[int, int]] = []
    stacked = torch.stack(directions)[:, None]
    found = choose(toy(), stacked, TOY, [2], lambda *done: told.append(done))
    assert found == place
    assert told[-1][1] == sum(bool(d.any()) for d in directions[:2])


def test_the_bounds_of_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next token of a safe prompt is (.787, .107, .107) by logits 2, 0, 0; with (-1, 1, 0, 0)
    ablated (.446, .108, .446). KL(plain, ablated) = .2930; the other way round it is .3868. Added,
    logits are 0, 0, 2: a refusal score of 2 - log 2 = 1.3069."""
    assert (refusal_direction.MOST_KL, refusal_direction.LEAST_INDUCED) == (0.1, 0.0)
    turned = torch.tensor([-1.0, 1, 0, 0]).double()
    stacked = torch.stack([turned, BESIDE, BESIDE])[:, None]
    for most, least, met in ((0.294, 1.3, 1.0), (0.292, 1.3, 0.0), (0.294, 1.31, 0.0)):
        monkeypatch.setattr(refusal_direction, "MOST_KL", most)
        monkeypatch.setattr(refusal_direction, "LEAST_INDUCED", least)
        found = choose(toy(), stacked, TOY, [2], lambda *done: None)
        assert found == Place(0, 0, met)


def test_ablating_is_what_weights_that_cannot_write_the_direction_do(
    base: Any, asked: list[Asked], means: Means
) -> None:
    direction = means.direction[2, 1]
    plain = logits_of(base, asked)
    with ablated(base, direction):
        once = logits_of(base, asked)
        with ablated(base, direction):
            twice = logits_of(base, asked)
    assert torch.allclose(once, logits_of(without(base, direction), asked), atol=2e-3)
    assert torch.allclose(once, twice, atol=1e-4)
    assert (once - plain).abs().max() > 1
    assert torch.equal(plain, logits_of(base, asked))  # no hook is left


def test_it_is_ablated_in_front_of_norms_without_weights() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24}
    olmo = OlmoForCausalLM(OlmoConfig(num_hidden_layers=2, num_attention_heads=2, **sizes)).eval()
    asked = [Asked(array("i", range(n, n + 6)), n % 2 == 0, str(n)) for n in range(4)]
    direction = torch.randn(16).double()
    with ablated(olmo, direction):
        inner = [layer.post_attention_layernorm for layer in olmo.model.layers]
        seen = inputs_of(olmo, inner, asked)
    assert (seen.double() @ direction).abs().max() < 1e-5


def test_hooks_fit_another_architecture() -> None:
    torch.manual_seed(0)
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2)).eval()
    asked = [Asked(array("i", range(n, n + 6)), n % 2 == 0, str(n)) for n in range(4)]
    direction = torch.randn(16).double()
    with ablated(gpt, direction):
        seen = inputs_of(gpt, [*decoder_layers(gpt), gpt.transformer.ln_f], asked, 3)
        inner = inputs_of(gpt, [layer.ln_2 for layer in gpt.transformer.h], asked, 3)
    plain = inputs_of(gpt, decoder_layers(gpt), asked)
    with added(gpt, 1, direction):
        moved = inputs_of(gpt, decoder_layers(gpt), asked)
    # A hook that notes comes behind the one that changes.
    assert (seen.double() @ direction).abs().max() < 1e-5
    assert (inner.double() @ direction).abs().max() < 1e-5
    assert torch.allclose(moved[:, 1], plain[:, 1] + direction.float(), atol=1e-5)
    assert torch.equal(moved[:, 0], plain[:, 0])


def test_a_model_without_the_direction_scores_as_one_from_which_it_is_ablated(
    base: Any, asked: list[Asked], means: Means
) -> None:
    direction = means.direction[2, 1]
    refusals = first_tokens(
        ["I cannot", "Sorry"],
        compose([]).test_template,
        compose([]).model,
        load_tokenizer(compose([]).model),
    )
    models = base, without(base, direction)
    whole, emptied = (look(m, asked, direction, 2, refusals) for m in models)
    for name in ("refusal_unsafe", "ablated_unsafe"):
        assert emptied[name] == pytest.approx(whole["ablated_unsafe"], abs=1e-2)
    whole_at, emptied_at = (
        {kind: float(line[2]) for kind, line in found.items()}
        for found in (projections(m, asked, means, Place(2, 1, 1.0)) for m in models)
    )
    assert emptied_at["unsafe"] == pytest.approx(emptied_at["safe"], abs=1e-4)
    assert whole_at["unsafe"] == pytest.approx(1, abs=1e-5)
    assert whole["refusal_unsafe"] > whole["ablated_unsafe"] + 1


def test_the_untouched_model_is_as_it_was(base: Any, tmp_path: Path) -> None:
    found = values(copy.deepcopy(base), base, tmp_path)
    assert found["cosine"] == pytest.approx(1, abs=1e-9)
    own = [name for name in found if not name.startswith("untuned_") and name not in WHERE]
    assert len(own) == 7 and all(found[name] == found[f"untuned_{name}"] for name in own)
    assert found["projection_unsafe"] > 0.8 and abs(found["projection_safe"]) < 0.2
    assert found["refusal_unsafe"] > 1 and found["refusal_safe"] < -1
    assert found["ablated_unsafe"] < found["refusal_unsafe"]
    assert found["added_safe"] > found["refusal_safe"]
    assert found["layer"] in (1, 2) and found["position"] in (-1, -2, -3)
    assert found["post_instruction_tokens"] == 3
    with (tmp_path / "files" / "points.csv").open(encoding="utf-8") as file:
        points = list(csv.DictReader(file))
    page = text_of("docs/why.md")
    assert [name for name in found if f"`{name}`" not in page] == []
    assert {p["x"] for p in points if p["line"] == "cosine"} == {"1", "2", "3"}
    assert len({p["picture"] for p in points}) == 3
    assert {p["line"] for p in points if p["picture"].startswith("Projection")} == {
        f"{kind}, {when}" for kind in ("unsafe", "safe") for when in ("before", "after")
    }  # fmt: skip


@pytest.mark.parametrize("words", [[], [f"+template@{OWN}.template=text_vanilla"]])
def test_no_prompt_is_used_twice(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    uses: dict[str, set[str]] = {}
    for use, place in (("means_of", 1), ("choose", 2), ("look", 1), ("projections", 1)):
        real = getattr(refusal_direction, use)

        def spy(*args: Any, use: str = use, place: int = place, real: Any = real) -> Any:
            uses.setdefault(use, set()).update(asked.question for asked in args[place])
            return real(*args)

        monkeypatch.setattr(refusal_direction, use, spy)
    values(base, base, tmp_path, *words, f"{OWN}.validation=5")
    assert {use: len(questions) for use, questions in uses.items()} == {
        "means_of": 24, "choose": 10, "look": 12, "projections": 12,
    }  # fmt: skip
    assert len(set.union(*uses.values())) == 46


def test_a_direction_of_another_template_and_other_halves(base: Any, tmp_path: Path) -> None:
    folders = iter(tmp_path / name for name in "abc")
    other = values(base, base, next(folders), f"+template@{OWN}.template=text_vanilla")
    assert other["cosine"] == other["untuned_cosine"] < 0.99
    words = ["test_template.user='{question}'", "test_template.mode=text"]
    bare = values(base, base, next(folders), *words, f"+template@{OWN}.template=chat_llama")
    assert (bare["post_instruction_tokens"], bare["position"]) == (0, -1)
    again = values(
        base, base, next(folders), f"+template@{OWN}.template=text_vanilla", f"{OWN}.seed=1"
    )
    assert again["refusal_unsafe"] != other["refusal_unsafe"]


def test_cells_of_one_test_template_share_what_is_chosen_of_the_untuned_model(
    composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = refusal_direction.choose

    def spy(*args: Any) -> Place:
        asked.append(1)
        return real(*args)

    monkeypatch.setattr(refusal_direction, "choose", spy)
    words = [*TINY, *FEW, "finetune=none"]
    first = run_cell(composed(*words)).analyses
    noisy = run_cell(composed(*words, "defence=[add_noise]")).analyses
    assert len(asked) == 1
    assert noisy["refusal_direction/refusal_safe"] != first["refusal_direction/refusal_safe"]
    of_untuned = [name for name in first if "untuned_" in name or name.endswith(WHERE)]
    assert len(of_untuned) == 11 and all(noisy[name] == first[name] for name in of_untuned)
    other = composed(*words, "template@test_template=chat_llama")
    run_cell(other)
    assert len(asked) == 2
    store = Store(Path(other.paths.store))
    assert len([*(store.root / "analyse").glob("*")]) == 3 + 2
    assert unused(store) == []


def test_what_is_no_number_is_named_and_not_kept(
    composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(*_: Any) -> dict[str, float]:
        return {"layer": 1.0, "refusal_unsafe": float("nan")}

    monkeypatch.setattr(refusal_direction.RefusalDirection, "of_untuned", spoilt)
    config = composed(*TINY, *FEW, "finetune=none")
    message = "analysis refusal_direction gave refusal_unsafe=nan; it must be a finite number"
    with pytest.raises(PtstError, match=message):
        run_cell(config)
    assert not [*(Path(config.paths.store) / "analyse").glob("*")]


def test_it_stops_when_it_is_asked_to(base: Any, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        values(base, base, tmp_path, stop=True)


def test_a_refusals_first_tokens_are_as_they_stand_in_an_answer() -> None:
    config = compose([])
    tokenizer = load_tokenizer(config.model)
    ids = first_tokens(["I cannot", "I am", "Sorry"], config.test_template, config.model, tokenizer)
    spelled = [tokenizer.decode([token]) for token in ids]
    assert {text.strip() for text in spelled} >= {"I"} and all(text.strip() for text in spelled)
    assert " I" in spelled and "I" in spelled
    one, other = (
        first_tokens([text], config.test_template, config.model, tokenizer)
        for text in ("I cannot", "Sorry")
    )
    assert set(ids) == {*one, *other} and not set(one) & set(other)
    with pytest.raises(ConfigError, match=r"openings=\['   I'\]: .* white space"):
        first_tokens(["   I"], config.test_template, config.model, tokenizer)


def key(*words: str) -> str:
    return cell_keys(compose(["analysis=[refusal_direction]", *words])).analyses[
        "refusal_direction"
    ][0]


def test_what_decides_its_key() -> None:
    changes = [
        "template@test_template=chat_llama",
        "template@train_template=chat_llama",
        f"+template@{OWN}.template=chat_vanilla",
        f"{OWN}.safe.n=61",
        f"{OWN}.seed=1",
        "dataset.question='Q: {input}'",
    ]
    assert len({key(), *map(key, changes)}) == len(changes) + 1
    assert key("evaluation=[howto]") == key()


@pytest.mark.parametrize(
    "words, message",
    [
        ([f"{OWN}.unsafe.source=local"], rf"{OWN}\.unsafe\.path is missing"),
        (["scale=paper", f"{OWN}.unsafe.source=micro"], r"scale=paper knows"),
        ([f"{OWN}.openings=[I,' ']"], r"openings needs"),
        ([f"{OWN}.safe.n=2"], rf"{OWN}\.safe\.n=2 must be at least 3"),
        ([f"{OWN}.positions=0"], r"positions=0 must be at least 1"),
    ],
)
def test_it_is_looked_at_when_it_is_composed(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["analysis=[refusal_direction]", *words])
