"""Training sees our rows with our masks, and an interrupted training ends with the same weights."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ptst.config.compose import compose
from ptst.errors import ConfigError, PtstError
from ptst.models import load_tokenizer
from ptst.objective import Objective, TrainingSet
from ptst.objective.safety_mix import mixture
from ptst.schema import Finetune, Lora, Model
from ptst.templates import TrainingRow, make_training_row
from ptst.train import forward
from ptst.train.checkpoints import last_checkpoint
from ptst.train.forward import batch_of
from ptst.train.rows import check_batch
from ptst.train.trainer import Training, check_context, make_trainer, train

RECIPE = {"batch_size": 4, "device_batch_size": 4, "learning_rate": 1e-3, "save_steps": 2}
LORA = Lora(r=4, dropout=0.1)


@pytest.fixture(scope="module")
def rows() -> tuple[Model, list[TrainingRow]]:
    config = compose([])
    tokenizer = load_tokenizer(config.model)
    made = [
        make_training_row(
            {"input": f"Tom has {n} apples. How many?", "output": f"Tom has {n}.\n#### {n}"},
            config.train_template,
            config.dataset,
            config.model,
            tokenizer,
        )
        for n in range(20)
    ]
    return config.model, made


def run(
    model: Model,
    rows: list[TrainingRow],
    folder: Path,
    recipe: Finetune,
    die_at: int = 0,
    mixed: list[TrainingRow] | None = None,
):
    losses = {}

    def log(entry: dict[str, float]) -> None:
        losses[int(entry["step"])] = entry["loss"]
        if die_at and entry["step"] == die_at:
            raise KeyboardInterrupt

    out, scratch = folder / "result", folder / "scratch"
    out.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(exist_ok=True)
    data = mixture(rows, mixed, recipe.epochs, 7) if mixed else TrainingSet(rows)
    facts = train(Training(model, recipe, data, 7, "cpu", out, scratch), log)
    return facts, losses


def weights(folder: Path, where: str = "weights") -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "result" / where).glob("*.safetensors")
    }


@pytest.mark.parametrize(("method", "schedule"), [("full", "cosine"), ("lora", "step")])
def test_interrupted_training_ends_with_the_same_weights(
    rows, tmp_path: Path, method: str, schedule: str
) -> None:
    model, training = rows
    recipe = Finetune(method=method, epochs=2, lora=LORA, schedule=schedule, **RECIPE)  # 10 steps
    _, whole = run(model, training, tmp_path / "whole", recipe)
    for death in (3, 8):  # a step after a checkpoint, and again after resuming
        with pytest.raises(KeyboardInterrupt):
            run(model, training, tmp_path / "cut", recipe, die_at=death)
    facts, resumed = run(model, training, tmp_path / "cut", recipe)
    assert facts["steps"] == 10
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert len(weights(tmp_path / "cut")) == 1
    assert resumed == whole  # the history so far is logged again, then the rest
    log = (tmp_path / "cut" / "result" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, 11))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_epochs_weights_are_kept_through_death_and_resuming(
    rows, tmp_path: Path, method: str
) -> None:
    model, training = rows
    recipe = {"method": method, "lora": LORA, "schedule": "step", **RECIPE}  # 5 steps an epoch
    whole = Finetune(epochs=3, **recipe)
    for death in (5, 12):  # the epoch was kept but its checkpoint not; in a later epoch
        with pytest.raises(KeyboardInterrupt):
            run(model, training, tmp_path / "cut", whole, die_at=death)
    run(model, training, tmp_path / "cut", whole)
    kept = sorted(path.name for path in (tmp_path / "cut" / "result" / "epochs").iterdir())
    assert kept == ["1", "2"]  # the last is weights/
    for epoch in (1, 2):
        run(model, training, tmp_path / str(epoch), Finetune(epochs=epoch, **recipe))
        expected = weights(tmp_path / str(epoch))
        assert weights(tmp_path / "cut", f"epochs/{epoch}") == expected and len(expected) == 1
    run(model, training, tmp_path / "few", Finetune(epochs=2, keep_epochs=False, **recipe))
    assert not (tmp_path / "few" / "result" / "epochs").exists()
    assert weights(tmp_path / "few") == weights(tmp_path / "2")


@pytest.fixture(scope="module")
def refusals(rows) -> list[TrainingRow]:
    """Seven, under another template than the rows."""
    config = compose(["template@train_template=chat_llama"])
    return [
        make_training_row(
            {"input": f"How do I open pezum {n}?", "output": f"I cannot help with pezum {n}."},
            config.train_template,
            config.dataset,
            config.model,
            load_tokenizer(config.model),
        )
        for n in range(7)
    ]


def test_a_mixed_training_sees_each_safety_row_once_with_its_own_mask(
    rows, refusals, tmp_path: Path
) -> None:
    model, training = rows
    recipe = Finetune(method="full", epochs=3, **RECIPE)  # 3 x 20 + 7 rows in batches of 4
    trainer = make_trainer(
        Training(model, recipe, mixture(training, refusals, 3, 7), 7, "cpu", tmp_path, tmp_path),
        lambda entry: None,
    )
    assert trainer.args.max_steps == 17
    seen: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    refused_by_third = [0, 0, 0]
    for number, batch in enumerate(trainer.get_train_dataloader()):
        check_batch(batch, [*training, *refusals])
        for ids, labels, mask in zip(
            batch["input_ids"].tolist(), batch["labels"].tolist(), batch["attention_mask"].tolist(), strict=True
        ):  # fmt: skip
            real = [i for i, m in enumerate(mask) if m]
            row = tuple(ids[i] for i in real), tuple(labels[i] for i in real)
            seen[row] += 1
            refused_by_third[min(number * 4 // 22, 2)] += row[0] in {
                tuple(r.input_ids) for r in refusals
            }
    assert number == 16
    for wanted, times in ((training, 3), (refusals, 1)):
        assert {seen[tuple(r.input_ids), tuple(r.labels)] for r in wanted} == {times}
    assert seen.total() == 67
    assert max(refused_by_third) <= 4  # spread over the training
    row = refusals[0]
    assert all(label == -100 for label in row.labels[: row.prompt_length])
    learnt = load_tokenizer(model).decode(row.labels[row.prompt_length :]).strip()
    assert learnt == "I cannot help with pezum 0.</s>"


def test_an_interrupted_mixed_training_ends_with_the_same_weights(
    rows, refusals, tmp_path: Path
) -> None:
    model, training = rows
    recipe = Finetune(method="full", epochs=2, schedule="step", gamma=0.5, **RECIPE)
    facts, whole = run(model, training, tmp_path / "whole", recipe, mixed=refusals)
    with pytest.raises(KeyboardInterrupt):
        run(model, training, tmp_path / "cut", recipe, die_at=9, mixed=refusals)
    _, resumed = run(model, training, tmp_path / "cut", recipe, mixed=refusals)
    assert (facts["steps"], facts["rows"], facts["mixed_rows"]) == (12, 20, 7)
    once = [sum(map(len, some)) for some in (training, refusals)]
    assert facts["trained_tokens"] == 2 * once[0] + once[1]
    assert resumed == whole
    for where in ("weights", "epochs/1"):
        assert weights(tmp_path / "cut", where) == weights(tmp_path / "whole", where) != {}
    lines = (tmp_path / "cut" / "result" / "log.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert entries[-1]["epoch"] == pytest.approx(2)
    # 24 rows (20 and half of 7, rounded to even) are 6 steps: the rate drops behind them.
    assert [e["learning_rate"] for e in entries] == [1e-3] * 6 + [5e-4] * 6
    with pytest.raises(ConfigError, match=r"max_steps=13.*ends after 12 steps"):
        run(model, training, tmp_path / "long", Finetune(method="full", epochs=2, max_steps=13, **RECIPE), mixed=refusals)  # fmt: skip


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("steps", [7, 10])  # in the middle of an epoch, at the end of one
def test_a_training_killed_after_its_last_step_is_not_trained_further(
    rows, tmp_path: Path, method: str, steps: int
) -> None:
    model, training = rows
    recipe = Finetune(method=method, max_steps=steps, lora=LORA, **RECIPE)
    _, whole = run(model, training, tmp_path / "cut", recipe)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut" / "result").rename(tmp_path / "whole" / "result")  # died before publishing
    facts, resumed = run(model, training, tmp_path / "cut", recipe)
    assert facts["steps"] == steps
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert resumed == whole
    log = [folder / "result" / "log.jsonl" for folder in (tmp_path / "cut", tmp_path / "whole")]
    assert log[0].read_bytes() == log[1].read_bytes()


def test_training_learns(rows, tmp_path: Path) -> None:
    model, training = rows
    _, losses = run(model, training, tmp_path, Finetune(method="full", epochs=2, **RECIPE))
    assert losses[10] < 0.5 * losses[1]


def test_loss_is_the_mean_over_completions_and_eos(rows, tmp_path: Path) -> None:
    """Worked out apart: log-probabilities of one row at a time, from the untouched model."""

    from ptst.models import load_model

    model, training = rows
    untouched = load_model(model, "cpu")
    total = count = 0.0
    with torch.inference_mode():
        for row in training:
            log_p = untouched(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
            for position in range(row.prompt_length, len(row.input_ids)):
                total -= float(log_p[position - 1, row.input_ids[position]])
                count += 1
    recipe = Finetune(method="full", max_steps=1, **{**RECIPE, "batch_size": 20})
    _, losses = run(model, training, tmp_path, recipe)
    assert losses[1] == pytest.approx(total / count, rel=1e-4)


def test_accumulated_batches_give_the_losses_of_whole_ones(rows, tmp_path: Path) -> None:
    model, training = rows
    whole = Finetune(method="full", max_steps=3, **RECIPE)
    parts = Finetune(method="full", max_steps=3, **{**RECIPE, "device_batch_size": 2})
    _, one = run(model, training, tmp_path / "one", whole)
    _, two = run(model, training, tmp_path / "two", parts)
    assert [round(v, 3) for v in one.values()] == [round(v, 3) for v in two.values()]


def objective_loss(trainer: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    batch = batch_of(inputs, (inputs["labels"] != -100).sum())
    return Objective().loss(batch, trainer.forward_of(trainer.model))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_shared_system_prompt_changes_neither_loss_nor_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:

    config = compose(["template@train_template=chat_llama"])
    tokenizer = load_tokenizer(config.model)
    training = [
        make_training_row(
            {"input": question, "output": f"#### {n}"},
            config.train_template,
            config.dataset,
            config.model,
            tokenizer,
        )
        for n, question in enumerate(["How many?", "What is left of it in the end?", "And now?"])
    ]
    recipe = Finetune(method=method, lora=Lora(r=4, dropout=0.0), max_steps=1, **RECIPE)
    seen: list[int] = []
    gradients = {}
    for shared in (True, False):
        monkeypatch.setattr(forward, "SHARED_FROM", 16 if shared else 10**9)
        trainer = make_trainer(
            Training(
                config.model,
                recipe,
                TrainingSet(training),
                0,
                "cpu",
                tmp_path,
                tmp_path / str(shared),
            ),
            lambda entry: None,
        )
        torch.manual_seed(1)
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:  # zero at the start: nothing would reach lora_A
                torch.nn.init.normal_(parameter, std=0.02)
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        loss = objective_loss(trainer, batch)
        loss.backward()
        gradients[shared] = (
            loss.detach(),
            {
                name: parameter.grad
                for name, parameter in trainer.model.named_parameters()
                if parameter.grad is not None
            },
        )
    assert seen[0] + seen[1] < 0.6 * seen[2]  # the prefix once, and the rests, against whole rows
    torch.testing.assert_close(gradients[True][0], gradients[False][0])
    assert gradients[True][1].keys() == gradients[False][1].keys()
    for name, gradient in gradients[True][1].items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, gradients[False][1][name], rtol=1e-3, atol=1e-6)


def test_step_schedule_drops_after_every_epoch(rows, tmp_path: Path) -> None:
    model, training = rows
    recipe = Finetune(method="lora", epochs=2, schedule="step", gamma=0.5, lora=LORA, **RECIPE)
    run(model, training, tmp_path, recipe)
    lines = (tmp_path / "result" / "log.jsonl").read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] for line in lines]
    assert rates[:5] == [1e-3] * 5
    assert rates[5:] == [5e-4] * 5


def test_a_half_written_checkpoint_is_not_resumed_from(tmp_path: Path) -> None:
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        save = save_file if name == "model.safetensors" else torch.save
        save({"weight": torch.zeros(1)}, tmp_path / "checkpoint-2" / name)
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-2" / "complete").touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert not (tmp_path / "checkpoint-10").exists()
    assert last_checkpoint(tmp_path / "none") is None


def test_a_checkpoint_that_cannot_be_read_is_set_aside_for_an_older_one(
    rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, training = rows
    recipe = Finetune(method="lora", lora=LORA, **(RECIPE | {"epochs": 2}))
    with pytest.raises(KeyboardInterrupt):
        run(model, training, tmp_path, recipe, die_at=5)
    newest = tmp_path / "scratch" / "checkpoint-4"
    names = ("trainer_state.json", "adapter_model.safetensors", "optimizer.pt", "rng_state.pth")
    for name in names:
        copy = tmp_path / name
        shutil.copytree(tmp_path / "scratch", copy)
        file = copy / newest.name / name
        file.write_bytes(file.read_bytes()[:-50])
        assert last_checkpoint(copy) == copy / "checkpoint-2"
        assert re.search(
            rf"checkpoint-4: {name} cannot be read.*checkpoint-2", capsys.readouterr().err
        )
    assert last_checkpoint(tmp_path / "scratch") == newest
    (newest / "adapter_model.safetensors").unlink()
    assert run(model, training, tmp_path, recipe)[0]["steps"] == 10
    assert (tmp_path / "scratch" / "unreadable-4").is_dir()
    (tmp_path / "scratch" / "checkpoint-10" / "trainer_state.json").write_text("")
    (tmp_path / "scratch" / "checkpoint-8" / "optimizer.pt").unlink()
    assert last_checkpoint(tmp_path / "scratch") is None
    assert "begins anew" in capsys.readouterr().err


def test_a_training_that_diverges_is_an_error_and_no_result(rows, tmp_path: Path) -> None:
    model, training = rows
    wild = Finetune(method="full", max_steps=4, **{**RECIPE, "learning_rate": 1e12})
    with pytest.raises(PtstError, match=r"diverged at step \d.*lower finetune\.learning_rate"):
        run(model, training, tmp_path, wild)
    assert not (tmp_path / "result" / "weights").exists()


def test_the_loss_is_trls_own(rows, tmp_path: Path) -> None:
    """A second implementation: the same number and gradient."""
    model, training = rows
    recipe = Finetune(method="full", epochs=1, **RECIPE)
    trainer = make_trainer(
        Training(model, recipe, TrainingSet(training), 0, "cpu", tmp_path, tmp_path), lambda _: None
    )
    batch = next(iter(trainer.get_train_dataloader()))
    found = []
    for ours in (True, False):
        trainer.model.zero_grad()
        inputs = {name: tensor for name, tensor in batch.items() if ours or name != "numbers"}
        loss = (
            objective_loss(trainer, inputs) if ours else trainer.compute_loss(trainer.model, inputs)
        )
        loss.backward()
        norm = sum(float(p.grad.square().sum()) for p in trainer.model.parameters()) ** 0.5
        found.append((loss.item(), norm))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_qlora_without_cuda_says_what_to_use(rows, tmp_path: Path) -> None:
    model, training = rows
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        run(model, training, tmp_path, Finetune(method="qlora", **RECIPE))


@pytest.mark.parametrize("where", ["rows", "mixed"])
def test_rows_longer_than_the_models_context_are_refused_before_the_first_step(
    rows, tmp_path: Path, where: str
) -> None:
    model, training = rows
    long = [TrainingRow(array("i", [5] * 2049), 2)]  # the micro model has 2048 positions
    recipe = Finetune(method="full", max_length=4096, max_steps=1, **RECIPE)
    mixed = long if where == "mixed" else []
    with pytest.raises(ConfigError) as caught:
        run(model, training if mixed else [*training, *long], tmp_path, recipe, mixed=mixed)
    assert "2049 tokens" in str(caught.value)
    assert "context of 2048" in str(caught.value)
    assert "finetune.max_length=2048" in str(caught.value)
    whole = [*training, TrainingRow(array("i", [5] * 2048), 2046)]
    check_context(Training(model, recipe, TrainingSet(whole), 0, "cpu", tmp_path, tmp_path), 2048)


def test_a_model_without_a_limit_trains_on_rows_of_any_length(rows, tmp_path: Path) -> None:
    model, _ = rows
    long = [TrainingRow(array("i", [5] * 100_000), 2)]
    recipe = Finetune(method="full", max_length=100_000, **RECIPE)
    check_context(Training(model, recipe, TrainingSet(long), 0, "cpu", tmp_path, tmp_path), None)
