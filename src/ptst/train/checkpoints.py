"""What a training leaves on its way: checkpoints, the weights of epochs, a line a step."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from ptst.errors import PtstError
from ptst.objective import Objective, State
from ptst.progress import say
from ptst.store import files_below, is_json, is_whole_weights, read_json, sync, write_json

COMPLETE = "complete"
"""Marks a checkpoint whose files are all there."""

EPOCHS = "epochs"
"""Where the weights of whole epochs are, in a folder each."""

STATE = "objective"
"""What the files of an objective's state are called."""

Log = Callable[[dict[str, float]], None]
"""Called with {step, epoch, loss, learning_rate, grad_norm} after every optimizer step, first with
those of the checkpoint where a training resumes; with those of its own steps, also {steps, tokens}:
how many steps there are, and the tokens of all so far, a step's being the mean."""


def last_checkpoint(scratch: Path) -> Path | None:
    """The latest complete checkpoint that can be read.

    Half-written ones are removed. One that was written and can no longer be read is set aside, with
    a message.
    """
    found = sorted(scratch.glob("checkpoint-*"), key=lambda p: int(p.name.rsplit("-", 1)[1]))
    for checkpoint in [c for c in found if not (c / COMPLETE).is_file()]:
        shutil.rmtree(checkpoint)
    found = [c for c in found if c.is_dir()]
    while found and (lacks := _unreadable(found[-1])):
        broken = found.pop()
        aside = scratch / broken.name.replace("checkpoint", "unreadable")
        shutil.rmtree(aside, ignore_errors=True)
        broken.rename(aside)
        goes_on = f"goes on from {found[-1].name}" if found else "begins anew"
        say(f"{broken}: {lacks}; it is set aside as {aside.name}, and the training {goes_on}")
    return found[-1] if found else None


def _unreadable(checkpoint: Path) -> str | None:
    """What of a checkpoint is not there or cut off.

    (The trainer would go on without an optimizer that is not there.)
    """
    files = [path.relative_to(checkpoint).as_posix() for path in files_below(checkpoint)]
    weights = ("model", "adapter_model", "pytorch_model")
    for start in ("trainer_state.json", "optimizer", "scheduler", "rng_state", weights):
        if not any(name.startswith(start) for name in files):
            return f"there is no {start if isinstance(start, str) else 'model'}"
    whole: dict[str, Callable[[Path], bool]] = {".json": is_json, ".safetensors": is_whole_weights}
    whole |= dict.fromkeys((".pt", ".pth", ".bin"), is_zipfile)  # torch's format
    for name in files:
        if not whole.get(Path(name).suffix, Path.is_file)(checkpoint / name):
            return f"{name} cannot be read"
    return None


def save_weights(trainer: Any, folder: Path) -> None:
    """The adapter's or the model's files, and the tokenizer's. All devices must call it (FSDP)."""
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        for unwanted in ("training_args.bin", "README.md"):
            (folder / unwanted).unlink(missing_ok=True)


def save_state(state: State, folder: Path) -> None:
    """An objective's state, if it has one: its tensors, and the rest as JSON; never a pickle."""
    from safetensors.torch import save_file
    from torch import Tensor

    if not state:
        return
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if tensors:
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(whole, folder / f"{STATE}.safetensors")
    values = {name: value for name, value in state.items() if name not in tensors}
    write_json(folder / f"{STATE}.json", {"values": values, "tensors": list(tensors)})


def load_state(folder: Path) -> State:
    """What `save_state` left; empty where it left nothing."""
    from safetensors.torch import load_file

    file = folder / f"{STATE}.json"
    if not file.exists():
        return {}
    kept = read_json(file)
    tensors = load_file(folder / f"{STATE}.safetensors") if kept["tensors"] else {}
    return {**kept["values"], **tensors}


def progress_callback(
    log: Log,
    stop: Callable[[], bool],
    objective: Objective,
    passes: float,
    step_tokens: float,
) -> Any:
    import torch
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        """Hands every step's loss on, marks complete checkpoints, and stops where asked to."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if stop() and state.global_step < state.max_steps:
                control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                if not math.isfinite(logs["loss"]) or not math.isfinite(logs["grad_norm"]):
                    raise PtstError(
                        f"training diverged at step {state.global_step} (loss {logs['loss']}, "
                        f"gradient norm {logs['grad_norm']}): lower finetune.learning_rate."
                    )
                step = state.global_step
                told = {"step": step, "steps": state.max_steps, "tokens": step * step_tokens}
                log({**logs, "epoch": passes * logs["epoch"], **told})

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if torch.distributed.is_initialized():
                torch.distributed.barrier()  # the other devices have written their part
            if state.is_world_process_zero:
                save_state(objective.state(), folder)
                sync(folder)  # or the mark could outlive a loss of power, and what it marks not
                (folder / COMPLETE).touch()
                sync(folder)

    return Progress()


def epoch_callback(trainer: Any, ends: Sequence[int], folder: Path) -> Any:
    from transformers import TrainerCallback

    class Epochs(TrainerCallback):
        """Keeps the weights of every whole epoch but the last step's, complete or not at all."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            ended = [n for n, end in enumerate(ends, start=1) if end == state.global_step]
            for epoch in ended if state.global_step < state.max_steps else []:
                made, unfinished = folder / str(epoch), folder / f".{epoch}"
                if made.is_dir():  # seen before a death; the training was resumed from further back
                    continue
                save_weights(trainer, unfinished)
                if state.is_world_process_zero:
                    sync(unfinished)
                    unfinished.replace(made)

    return Epochs()
