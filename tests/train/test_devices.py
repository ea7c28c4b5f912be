"""Several devices train what one would: the same rows, the same loss, at the same global batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import TINY
from safetensors.torch import load_file

from ptst.config.compose import compose
from ptst.errors import ConfigError, Interrupted, PtstError
from ptst.models import load_tokenizer
from ptst.objective import TrainingSet
from ptst.schema import Finetune, Lora, Model
from ptst.templates import TrainingRow, make_training_row
from ptst.train.checkpoints import last_checkpoint
from ptst.train.devices import train_on_devices
from ptst.train.trainer import Training, train

RECIPE = {"batch_size": 8, "learning_rate": 1e-3, "epochs": 2, "save_steps": 2}


@pytest.fixture(scope="module")
def rows() -> tuple[Model, list[TrainingRow]]:
    """20 rows: the third step of an epoch of batches of 8 has four."""
    config = compose([])
    tokenizer = load_tokenizer(config.model)
    made = [
        make_training_row(
            {"input": f"Tom has {n} apples." * (1 + n % 3), "output": f"Tom has {n}.\n#### {n}"},
            config.train_template,
            config.dataset,
            config.model,
            tokenizer,
        )
        for n in range(20)
    ]
    return config.model, made


def ranks(parent: psutil.Process) -> list[psutil.Process]:
    """The training processes; a process of pytest has other children, of other tests."""
    found = []
    for process in parent.children():
        with suppress(psutil.NoSuchProcess):
            found += [process] if "spawn_main" in " ".join(process.cmdline()) else []
    return found


def run(
    by: Callable[..., dict],
    model: Model,
    rows: list[TrainingRow],
    folder: Path,
    recipe: Finetune,
    stop_at: int = 0,
    die_at: int = 0,
    steps: int = 6,
) -> dict[int, float]:
    losses: dict[int, float] = {}

    def log(entry: dict[str, float]) -> None:
        losses[int(entry["step"])] = entry["loss"]
        if die_at and entry["step"] == die_at:
            os.kill(ranks(psutil.Process())[-1].pid, signal.SIGKILL)

    out, scratch = folder / "result", folder / "scratch"
    out.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(exist_ok=True)
    stop = (lambda: len(losses) >= stop_at) if stop_at else (lambda: False)
    facts = by(Training(model, recipe, TrainingSet(rows), 7, "cpu", out, scratch), log, stop)
    assert facts["steps"] == steps
    return losses


def weights(folder: Path, where: str = "weights") -> dict:
    (file,) = (folder / "result" / where).glob("*.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def alone(rows, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, float], Path]:
    """Losses and folder of the full fine-tuning on one device."""
    folder = tmp_path_factory.mktemp("alone")
    recipe = Finetune(method="full", device_batch_size=8, **RECIPE)
    return run(train, *rows, folder, recipe), folder


def same(ours: Path, theirs: Path) -> None:
    for where in ("weights", "epochs/1"):
        ours_, theirs_ = weights(ours, where), weights(theirs, where)
        assert ours_.keys() == theirs_.keys()
        for name, weight in theirs_.items():
            assert ours_[name].dtype == weight.dtype
            assert (ours_[name] - weight).abs().max() < 3e-3, (where, name)


def test_two_devices_have_the_loss_curve_of_one_at_the_same_global_batch(
    rows, tmp_path: Path
) -> None:
    recipe = {"method": "lora", "lora": Lora(r=4, dropout=0.0), "schedule": "step", **RECIPE}
    one = run(train, *rows, tmp_path / "one", Finetune(device_batch_size=8, **recipe))
    two = Finetune(device_batch_size=2, devices=2, **recipe)  # and accumulates twice
    both = run(train_on_devices, *rows, tmp_path / "two", two)
    assert list(both) == list(one) == [1, 2, 3, 4, 5, 6]
    assert both == pytest.approx(one, rel=2e-4)
    same(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.xdist_group("alone")
@pytest.mark.parametrize("fsdp", [False, True])
def test_stopped_and_killed_two_devices_end_as_one_that_never_was(
    rows, alone, tmp_path: Path, fsdp: bool
) -> None:
    recipe = Finetune(method="full", device_batch_size=4, devices=2, fsdp=fsdp, **RECIPE)
    with pytest.raises(Interrupted, match=r"step \d of 6 is kept"):
        run(train_on_devices, *rows, tmp_path, recipe, stop_at=1)
    if not fsdp:
        with pytest.raises(PtstError, match="one of 2 training processes died"):
            run(train_on_devices, *rows, tmp_path, recipe, die_at=3)
    both = run(train_on_devices, *rows, tmp_path, recipe)
    assert both == pytest.approx(alone[0], rel=2e-4)
    same(tmp_path, alone[1])


@pytest.mark.slow
def test_two_devices_resumed_in_a_later_epoch_have_its_order_of_rows(rows, tmp_path: Path) -> None:
    long = {
        **RECIPE,
        "epochs": 10,
        "save_steps": 4,
    }  # 3 steps an epoch: most checkpoints lie in one
    one = run(train, *rows, tmp_path / "one", Finetune(method="full", device_batch_size=8, **long), steps=30)  # fmt: skip
    recipe = Finetune(method="full", device_batch_size=4, devices=2, **long)
    with pytest.raises(PtstError, match="one of 2 training processes died"):
        run(train_on_devices, *rows, tmp_path / "two", recipe, die_at=5)
    kept = last_checkpoint(tmp_path / "two" / "scratch")  # the kill comes some steps late
    assert kept is not None and kept.name in ("checkpoint-4", "checkpoint-8", "checkpoint-16")
    both = run(train_on_devices, *rows, tmp_path / "two", recipe, steps=30)
    # Rounding adds up over the steps; another order of rows is 0.03 off at once.
    assert both == pytest.approx(one, rel=2e-2, abs=5e-3)


def test_training_processes_die_with_their_parent(tmp_path: Path) -> None:
    words = [*TINY, f"paths.store={tmp_path}/store", "tracking=none", "finetune.devices=2"]
    words += ["finetune.max_steps=10000", "finetune.device_batch_size=4"]
    parent = subprocess.Popen([sys.executable, "-m", "ptst.cli", *words], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("store/partial/finetune/*/scratch/checkpoint-*/complete")):
            assert time.monotonic() < deadline and parent.poll() is None
            time.sleep(0.1)
        both = ranks(psutil.Process(parent.pid))
        assert len(both) == 2
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(both, timeout=60)
    assert not alive


@pytest.mark.slow
def test_sigterm_for_every_process_stops_them_together_and_kills_none(rows, tmp_path: Path) -> None:
    """As SLURM announces a preemption, or cancels: whatever they are at, their imports included."""
    losses: list[float] = []

    def stop() -> bool:
        for process in ranks(psutil.Process()):
            process.terminate()
        return bool(losses)

    recipe = Finetune(method="full", device_batch_size=4, devices=2, **RECIPE)
    for folder in ("out", "scratch"):
        (tmp_path / folder).mkdir()
    with pytest.raises(Interrupted, match=r"step \d of 6 is kept"):
        train_on_devices(
            Training(
                rows[0],
                recipe,
                TrainingSet(rows[1]),
                7,
                "cpu",
                tmp_path / "out",
                tmp_path / "scratch",
            ),
            lambda entry: losses.append(entry["loss"]),
            stop,
        )
    assert last_checkpoint(tmp_path / "scratch") is not None


def _tell_and_die_or_hang(rank: int, messages: Any, *_: object) -> None:
    if rank == 0:
        messages.put(("refused", "training diverged at step 3"))
        os.abort()
    time.sleep(600)  # as in a collective with the one that died


@pytest.mark.slow
def test_what_a_process_told_before_one_died_is_the_reason_and_none_is_left(
    rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptst.train.devices._train_rank", _tell_and_die_or_hang)
    before = set(ranks(psutil.Process()))
    with pytest.raises(PtstError, match=r"^training diverged at step 3$"):
        train_on_devices(
            Training(
                rows[0], Finetune(devices=2), TrainingSet(rows[1]), 0, "cpu", tmp_path, tmp_path
            ),
            print,
        )
    assert not set(ranks(psutil.Process())) - before


def test_what_cannot_be_shared_out_is_refused(
    rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"batch_size=32 is not a multiple of finetune.devices=3"):
        compose(["finetune.devices=3"])
    with pytest.raises(
        ConfigError, match=r"=16 is not a multiple of finetune.device_batch_size=12"
    ):
        compose(["finetune.devices=2", "finetune.device_batch_size=12"])
    with pytest.raises(ConfigError, match=r"fsdp=true shards over several"):
        compose(["finetune.fsdp=true"])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    model, training = rows
    with pytest.raises(ConfigError, match=r"devices=2, but this process sees 1 GPU"):
        train_on_devices(
            Training(
                model, Finetune(devices=2), TrainingSet(training), 0, "cuda", tmp_path, tmp_path
            ),
            print,
        )


def test_a_fine_tuning_of_two_devices_is_the_same_artifact_unless_it_draws_dropout() -> None:
    from ptst.keys import cell_keys

    def key(*overrides: str) -> str | None:
        return cell_keys(compose(overrides)).finetune

    assert key("finetune.devices=2") == key()
    dropout = ("finetune=lora", "finetune.lora.dropout=0.1")
    assert key(*dropout, "finetune.devices=2") != key(*dropout)
