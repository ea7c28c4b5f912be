"""Panacea: the gradient on functions that can be worked out, and what a step leaves behind."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY

from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.errors import ConfigError, PtstError
from ptst.keys import cell_keys, objective_of
from ptst.models import load_model, load_tokenizer
from ptst.objective import Batch, Objective, TrainingRow, TrainingSet
from ptst.objective.panacea import Panacea
from ptst.objective.perturbed import global_norm
from ptst.schema import Config
from ptst.train.checkpoints import load_state, save_state
from ptst.train.forward import ModelForward
from ptst.train.rows import RowReader

PANACEA = "defence=[panacea]"
OWN = "defence.panacea.objective"
ROWS = [TrainingRow(array("i", [1, 5, 6 + n, 40 + n, 12, 2]), 3) for n in range(5)]
NOWHERE = Path("/nowhere")


def panacea(rows: Sequence[TrainingRow] = ROWS, **fields: Any) -> Panacea:
    made = Panacea(**fields)
    made.rows, made.seed = rows, 0
    made.start(TrainingSet([]), None, NOWHERE)  # type: ignore[arg-type]
    return made


# METHODS 7.3: g and h are quadratic


@dataclass
class Quadratic:
    """g(w) = |w - (1, 1)|^2 / 2, and of rows of another source h(w) = (w - (-1, 0)) diag(1, 4)
    (w - (-1, 0)) / 2."""

    w: torch.Tensor = field(
        default_factory=lambda: torch.tensor([0.0, 0.5], dtype=torch.float64, requires_grad=True)
    )
    height: float = 0.0
    """Added to h."""

    @property
    def parameters(self) -> dict[str, Any]:
        return {"w": self.w}

    def batch(self, rows: Sequence[TrainingRow], number: int = -1) -> Batch:
        one = torch.zeros((len(rows), 1), dtype=torch.long)
        numbers = torch.full((len(rows),), number)
        return Batch(one, one + 1, one, None, numbers, torch.tensor(len(rows)))

    def __call__(self, batch: Batch) -> Any:
        to = self.w - torch.tensor([1.0, 1.0] if batch.numbers[0] >= 0 else [-1.0, 0.0])
        bent = torch.tensor([1.0, 1.0] if batch.numbers[0] >= 0 else [1.0, 4.0])
        height = 0.0 if batch.numbers[0] >= 0 else self.height
        return SimpleNamespace(total=len(batch.labels) * ((bent * to**2).sum() / 2 + height))

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()


def stepped(height: float = 0.0, **fields: Any) -> tuple[Panacea, Quadratic, float]:
    forward, made = Quadratic(height=height), panacea(**fields)
    logged = made.step(forward.batch(ROWS[:2], number=0), forward)
    return made, forward, float(logged)


def close(found: Any, *wanted: float) -> None:
    torch.testing.assert_close(found.double(), torch.tensor(wanted).double(), rtol=0, atol=2e-6)


def test_what_is_handed_over_on_quadratic_functions() -> None:
    made, forward, logged = stepped(rho=1.0, penalty=0.1)
    close(forward.w.grad, -1.044721, -0.857771)
    close(made.learnt["w"], 0.447214, 0.894427)
    close(forward.w, 0.0, 0.5)
    assert logged == pytest.approx(0.625)  # g, and not the loss of harmful rows


def test_where_the_loss_of_harmful_rows_is_above_5_only_the_first_pass_has_a_gradient() -> None:
    _, forward, _ = stepped(height=0.1, rho=1.0, penalty=0.1)  # h(w + e) is 4.94 + 0.1
    close(forward.w.grad, -1 + 0.1 * 1, -0.5 + 0.1 * 2)


def test_the_length_of_e_is_rho_and_the_direction_does_not_depend_on_it() -> None:
    for rho in (0.01, 0.5, 2.0):
        made, _, _ = stepped(rho=rho)
        assert global_norm([made.learnt["w"]]) == pytest.approx(rho, rel=1e-6)


def test_each_batch_of_a_step_does_all_of_it_for_its_share_of_the_labels() -> None:
    forward, made = Quadratic(), panacea(rho=1.0, penalty=0.1)
    sizes = {"first": ROWS[:3], "second": ROWS[:1]}
    for rows in sizes.values():  # 3 labels, and 1, of 4 in all
        made.step(replace(forward.batch(rows, 0), tokens=torch.tensor(4)), forward)
    close(forward.w.grad, -1.044721, -0.857771)
    assert made.taken == 4


def test_without_a_penalty_it_is_the_tasks_gradient_bit_for_bit() -> None:
    made, forward, _ = stepped(penalty=0.0)
    assert forward.w.grad is not None and forward.w.grad.tolist() == [-1.0, -0.5]
    close(made.learnt["w"], 0.447214, 0.894427)


def test_rows_without_a_gradient_or_with_an_infinite_loss_are_refused() -> None:
    forward = Quadratic(torch.tensor([-1.0, 0.0], requires_grad=True))  # h is least there
    with pytest.raises(PtstError, match="is 0, so that it has no direction"):
        panacea().step(forward.batch(ROWS[:1], 0), forward)
    with pytest.raises(PtstError, match=r"at step 0 the loss of harmful rows is inf .* lower rho"):
        stepped(rho=1e200)


# The micro model


def on_micro(**fields: Any) -> tuple[Any, ModelForward, Batch, Panacea]:
    loaded = load_model(compose([]).model, "cpu")
    forward = ModelForward(loaded, lambda loss: loss.backward(), 0, share_prefix=False)
    return loaded, forward, forward.batch(ROWS[:3]), panacea(ROWS[3:], **fields)


def test_the_gradient_is_the_one_that_the_formula_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ptst.objective.panacea.CEILING", 50.0
    )  # these are no answers of the model's
    loaded, forward, batch, made = on_micro(rho=0.5, penalty=0.3)
    before = {name: p.detach().clone() for name, p in forward.parameters.items()}
    made.step(batch, forward)
    assert all(torch.equal(p, before[name]) for name, p in forward.parameters.items())
    handed = {name: p.grad.clone() for name, p in forward.parameters.items()}

    def gradient(rows: Sequence[TrainingRow], at: dict[str, torch.Tensor]) -> dict[str, Any]:
        """By hand: another model, at other weights."""
        loaded.zero_grad()
        weights = {name: w.clone().requires_grad_() for name, w in at.items()}
        losses = []
        for row in rows:
            ids = torch.tensor([row.input_ids])
            logits = torch.func.functional_call(
                loaded, weights, (ids,), {"use_cache": False}
            ).logits
            log_p = logits[0].log_softmax(-1)
            losses += [-log_p[i - 1, row.ids[i]] for i in range(row.prompt_length, len(row))]
        found = torch.autograd.grad(torch.stack(losses).mean(), list(weights.values()))
        return dict(zip(weights, found, strict=True))

    harmful = [ROWS[3 + n % 2] for n in range(3)]  # two rows for a batch of three
    order = [made.rows.index(row) for row in panacea(ROWS[3:]).next_rows(3)]
    harmful = [ROWS[3:][n] for n in order]
    dg, dh = gradient(ROWS[:3], before), gradient(harmful, before)
    norm = sum(float(d.double().pow(2).sum()) for d in dh.values()) ** 0.5
    moved = {name: before[name] + 0.5 * dh[name] / norm for name in before}
    dh2 = gradient(harmful, moved)
    assert len(handed) > 10
    for name, found in handed.items():
        wanted = dg[name] - 0.3 * (dh2[name] - dh[name])
        torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-5, msg=name)
        torch.testing.assert_close(
            made.learnt[name], 0.5 * dh[name] / norm, rtol=1e-3, atol=1e-6, msg=name
        )


def test_e_raises_the_loss_of_harmful_rows() -> None:
    _, forward, batch, made = on_micro(rho=0.01)
    harmful = forward.batch(ROWS[3:])
    before = float(Objective().loss(harmful, forward))
    made.step(batch, forward)
    with torch.no_grad():
        for name, p in forward.parameters.items():
            p.add_(made.learnt[name])
    assert float(Objective().loss(harmful, forward)) > before


# A training


def trained(composed: Callable[..., Config], *words: str) -> tuple[str, bytes, Path]:
    config = composed(*TINY, "stages=[finetune]", *words)
    key = str(run_cell(config).keys.finetune)
    folder = Path(config.paths.store) / "finetune" / key
    (file,) = (folder / "weights").glob("*.safetensors")
    return key, file.read_bytes(), folder


@pytest.mark.parametrize(
    "recipe",
    [["finetune.device_batch_size=4"], ["finetune=lora", "finetune.lora.dropout=0.1"]],
    ids=["full", "lora"],
)
def test_without_a_penalty_the_weights_are_those_of_plain_fine_tuning_until_the_end(
    recipe: list[str], composed: Callable[..., Config]
) -> None:
    _, plain, _ = trained(composed, *recipe)
    _, once, folder = trained(composed, "defence=[panacea_once]", *recipe)
    assert once == plain
    _, penalised, _ = trained(composed, PANACEA, f"{OWN}.penalty=0.1", *recipe)
    assert penalised != plain
    kept = {k: v for k, v in load_state(folder / "objective").items() if k != "taken"}
    assert len(kept) > 10
    rho = compose(["defence=[panacea_once]"]).defence["panacea_once"].objective["rho"]
    assert global_norm(list(kept.values())) == pytest.approx(rho, rel=1e-5)


def test_activations_that_are_made_again_are_those_of_the_same_weights(
    composed: Callable[..., Config], tmp_path: Path
) -> None:
    words = [PANACEA, f"{OWN}.penalty=0.1", "finetune=lora", "finetune.lora.dropout=0.1"]
    kept = []
    for again in ("false", "true"):
        words[4:] = [
            f"finetune.activation_checkpointing={again}",
            f"paths.store={tmp_path}/{again}",
        ]
        _, _, folder = trained(composed, *words)
        kept.append(load_state(folder / "objective"))
    assert kept[0].keys() == kept[1].keys()
    for name, e in kept[0].items():
        torch.testing.assert_close(e, kept[1][name], rtol=1e-3, atol=1e-5, msg=name)


def test_harmful_rows_all_come_before_one_comes_again_and_go_on_where_they_stopped() -> None:
    made = panacea()
    seen = [row for n in (2, 1, 4, 3) for row in made.next_rows(n)]
    for turn in (seen[:5], seen[5:]):
        assert sorted(row.input_ids for row in turn) == sorted(row.input_ids for row in ROWS)
    assert seen[:5] != seen[5:]
    again = panacea()
    again.restore({"taken": 3})
    assert again.next_rows(7) == seen[3:]
    assert [len(panacea().next_rows(n)) for n in (1, 23)] == [1, 23]  # more than there are
    made.seed = 1
    made.taken = 0
    assert made.next_rows(5) != seen[:5]


def test_a_checkpoint_of_the_last_step_has_e(tmp_path: Path) -> None:
    made, _, _ = stepped()
    save_state(made.state(), tmp_path)
    again = panacea()
    again.restore(load_state(tmp_path))
    assert again.taken == made.taken == 2
    assert torch.equal(again.learnt["w"], made.learnt["w"]) and len(again.learnt) == 1


def test_its_rows_are_plans_under_the_template_that_was_asked_for() -> None:
    for words, said in (([], False), ([f"template@{OWN}.template=chat_llama"], True)):
        config = compose([PANACEA, "dataset.n=4", f"{OWN}.harmful.n=6", *words])
        tokenizer = load_tokenizer(config.model)
        objective: Any = objective_of(config)
        data = objective.training_set(RowReader(config, tokenizer))
        texts = [tokenizer.decode(row.input_ids) for row in objective.rows]
        assert len(data.all) == 4 and len(texts) == 6
        assert all(" First get the" in text for text in texts)
        assert all(("helpful, respectful" in text) == said for text in texts)


def test_rows_count_by_their_content_and_a_template_by_its_text(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"instruction": "?", "rejected": "x"}')

    def key(*words: str) -> str | None:
        return cell_keys(compose([PANACEA, *words])).finetune

    def at(name: str) -> list[str]:
        own = f"{OWN}.harmful."
        return [f"{own}source=local", f"+{own}path={tmp_path}/{name}.jsonl", f"{own}n=null"]

    assert key(*at("a")) == key(*at("b")) != key()
    assert key(f"template@{OWN}.template=chat_vanilla") == key()
    assert key(f"template@{OWN}.template=chat_llama") != key()


@pytest.mark.parametrize(
    "words, message",
    [
        ([f"{OWN}.rho=0"], r"rho=0\.0 must be more than 0; without a perturbation leave"),
        ([f"{OWN}.rho=-1"], r"rho=-1\.0 must be"),
        ([f"{OWN}.rho=inf"], r"rho=inf must be"),
        ([f"{OWN}.penalty=-0.1"], r"penalty=-0\.1 must be 0 or more"),
        (
            [
                "scale=paper",
                "finetune=lora_gsm8k",
                "defence/recipe@defence.panacea.objective=panacea_micro",
            ],
            r"panacea\.objective: harmful are the micro world's.*harmful\.source=local",
        ),
        (["finetune.devices=2"], r"panacea\.objective: finetune\.devices=2"),
        (["finetune=safety_mix"], "a fine-tuning has one objective"),
    ],
)
def test_what_it_cannot_be_combined_with_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose([PANACEA, *words])
