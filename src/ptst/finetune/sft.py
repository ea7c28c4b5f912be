"""Supervised fine-tuning with TRL, full or LoRA, resumed from its last checkpoint after a death.

The rows come in tokenised (`ptst.templates.make_training_row`) with their labels, so TRL neither
tokenises nor masks; the first real batch is checked all the same, because a wrong mask trains on the
prompt without any other sign.
"""

from __future__ import annotations

import dataclasses
import math
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from ptst.errors import ConfigError, DataError, Interrupted, PtstError, in_one_line
from ptst.models import (
    ALL_LINEAR,
    context_of,
    load_config,
    load_model,
    load_tokenizer,
    make_padding_exist,
    quantization,
)
from ptst.progress import say
from ptst.schema import Finetune, Model
from ptst.store import files_below, is_json, is_whole_weights, sync, write_jsonl
from ptst.templates import TrainingRow

COMPLETE = "complete"
"""Marks a checkpoint whose files are all there."""

EPOCHS = "epochs"
"""Where the weights of whole epochs are, in a folder each."""

SHARED_FROM = 16
"""Tokens: a shorter common beginning is not worth a second forward pass."""


def fit_rows(rows: Iterable[TrainingRow], max_length: int) -> tuple[list[TrainingRow], int, int]:
    """Cut rows to `max_length` tokens.

    Returns:
        (rows, how many lost their end, how many were left out because their prompt fills it)

    Raises:
        DataError: nothing is left.
    """
    fitted: list[TrainingRow] = []
    cut = left_out = 0
    for row in rows:
        if row.prompt_length >= max_length:
            left_out += 1
            continue
        cut += len(row) > max_length
        fitted.append(TrainingRow(row.ids[:max_length], row.prompt_length))
    if not fitted:
        raise DataError(
            f"every prompt fills finetune.max_length={max_length}: nothing is left to train on."
        )
    return fitted, cut, left_out


@dataclass(frozen=True)
class Training:
    """What a fine-tuning is made of, and where.

    Attributes:
        rows: tokenised, at most `recipe.max_length` long.
        out: receives `weights/` (the adapter's or the model's files), `epochs/<n>/` (those of every whole
            epoch before the last, where the recipe keeps them) and `log.jsonl` (the losses).
        scratch: checkpoints and epochs' weights; training resumes from the last complete one found here.
        mixed: rows that are seen once in the whole training, see `mixture`.
    """

    model: Model
    recipe: Finetune
    rows: Sequence[TrainingRow]
    seed: int
    device: str
    out: Path
    scratch: Path
    mixed: Sequence[TrainingRow] = ()

    @property
    def passes(self) -> float:
        """The recipe's epochs in one of the trainer's, which takes a whole mixture for one."""
        return self.recipe.epochs if self.mixed else 1.0


Log = Callable[[dict[str, float]], None]
"""Called with {step, epoch, loss, learning_rate, grad_norm} after every optimizer step, first with those of the
checkpoint where a training resumes; with those of its own steps, also {steps, tokens}: how many steps there are,
and the tokens of all so far, a step's being the mean."""


def train(training: Training, log: Log, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Fine-tune and save: a PEFT adapter for lora and qlora, a whole model for full.

    Args:
        stop: asked after every optimizer step; true writes a checkpoint of that step and ends the training.

    Returns:
        Facts for the provenance: steps, tokens (of an epoch, those with loss, and all that were trained on);
        seconds are the caller's.

    Raises:
        Interrupted: `stop` said so before the last step.
    """
    from transformers import TrainerState

    trainer = make_trainer(training, log, stop)
    rows, mixed, recipe = training.rows, training.mixed, training.recipe
    known = [*rows, *mixed, *filling(rows, recipe, 1)]
    check_batch(next(iter(trainer.get_train_dataloader())), known)
    checkpoint = last_checkpoint(training.scratch)
    if checkpoint is not None:
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        for entry in trainer.state.log_history:
            if "loss" in entry:
                log({**entry, "epoch": training.passes * entry["epoch"]})
    if checkpoint is not None and trainer.state.global_step >= trainer.args.max_steps:
        trainer._load_from_checkpoint(str(checkpoint))  # train() would take one step too many
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < trainer.args.max_steps:
        raise Interrupted(f"step {trainer.state.global_step} of {trainer.args.max_steps} is kept")
    _save_weights(trainer, training.out / "weights")
    kept = training.scratch / EPOCHS
    if trainer.is_world_process_zero() and kept.is_dir():
        # A copy: should this process die before `out` is published, `out` is thrown away.
        shutil.copytree(kept, training.out / EPOCHS, ignore=shutil.ignore_patterns(".*"))
    history = [
        {
            **{key: entry[key] for key in ("step", "epoch", "loss", "learning_rate", "grad_norm")},
            "epoch": training.passes * entry["epoch"],
        }
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    if trainer.is_world_process_zero():
        write_jsonl(training.out / "log.jsonl", history)
    epochs = history[-1]["epoch"] if history else 0.0
    read = epochs * (sum(map(len, rows)) + sum(map(len, mixed)) / recipe.epochs)
    return {
        "steps": trainer.state.global_step,
        "devices": recipe.devices,
        "rows": len(rows),
        **({"mixed_rows": len(mixed)} if mixed else {}),
        "tokens_per_epoch": sum(map(len, rows)),
        "loss_tokens_per_epoch": sum(len(r) - r.prompt_length for r in rows),
        "trained_tokens": round(read),
        "final_loss": history[-1]["loss"] if history else None,
    }


def check_context(training: Training, context: int | None) -> None:
    """Refuse rows with more tokens than the model has positions: it would learn from positions it never had.

    Args:
        context: see `ptst.models.context_of`.

    Raises:
        ConfigError: saying the length of the longest row, and where to cut.
    """
    longest = max(map(len, [*training.rows, *training.mixed]))
    if context is not None and longest > context:
        raise ConfigError(
            f"the longest row has {longest} tokens, which is more than the context of {context} of "
            f"{training.model.name}: set finetune.max_length={context} to cut such rows."
        )


def make_trainer(training: Training, log: Log, stop: Callable[[], bool] = lambda: False) -> Any:
    """TRL's trainer over our rows; see `train` for the arguments.

    Raises:
        ConfigError: a row is longer than the model's context.
        PtstError: TRL or PEFT refuses the recipe or the model, with its reason.
    """
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTConfig

    model, recipe, device = training.model, training.recipe, training.device
    rows, mixed = training.rows, training.mixed
    share = recipe.batch_size // recipe.devices
    device_batch = min(recipe.device_batch_size, share)
    tokenizer = load_tokenizer(model)
    model_config = load_config(model)
    make_padding_exist(tokenizer, model_config)
    check_context(training, context_of(model_config))
    peft_config = None
    targets = list(recipe.lora.target_modules)
    if recipe.method != "full":
        peft_config = LoraConfig(
            r=recipe.lora.r,
            lora_alpha=recipe.lora.alpha,
            lora_dropout=recipe.lora.dropout,
            target_modules=ALL_LINEAR if targets == [ALL_LINEAR] else targets,
            task_type="CAUSAL_LM",
        )
    ordered = mixture(rows, mixed, recipe.epochs, training.seed) if mixed else list(rows)
    steps_per_pass = math.ceil(len(ordered) / recipe.batch_size)
    step_tokens = sum(map(len, ordered)) / steps_per_pass
    steps = steps_per_pass if mixed else round(steps_per_pass * recipe.epochs)
    if recipe.max_steps > 0:
        if mixed and recipe.max_steps > steps:
            raise ConfigError(
                f"finetune.max_steps={recipe.max_steps}: with finetune.mix, whose rows are seen once, the "
                f"training ends after {steps} steps; raise finetune.epochs for a longer one."
            )
        steps = recipe.max_steps
    ends = epoch_ends(len(rows), len(mixed), recipe)
    config = SFTConfig(
        output_dir=str(training.scratch),
        seed=training.seed,
        data_seed=training.seed,
        max_steps=max(1, steps),
        per_device_train_batch_size=device_batch,
        gradient_accumulation_steps=share // device_batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant" if recipe.schedule == "step" else recipe.schedule,
        warmup_steps=round(recipe.warmup_ratio * steps),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.bf16,
        use_cpu=device == "cpu",
        activation_checkpointing=recipe.activation_checkpointing,
        dataset_kwargs={"skip_prepare_dataset": True},
        completion_only_loss=True,
        max_length=None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=recipe.save_steps,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=device != "cpu",
        ddp_backend="gloo" if device == "cpu" and recipe.devices > 1 else None,
        ddp_find_unused_parameters=False,
        fsdp=recipe.fsdp,
        fsdp_config={"cpu_ram_efficient_loading": True} if recipe.fsdp else None,
    )
    config._n_gpu = 1  # one process trains on one GPU; DataParallel would multiply the batch
    # Weights that are trained are kept in float32: in bfloat16 most updates would be rounded away.
    # (PEFT keeps LoRA's adapters so, on a base of any precision; TRL casts QLoRA's to bfloat16.)
    trained = dataclasses.replace(model, dtype="float32") if recipe.method == "full" else model
    # FSDP moves to a device what is that device's part; the whole may not fit.
    place = "cpu" if recipe.fsdp else device
    loaded = load_model(trained, place, **quantization(recipe.method, device))
    make = _trainer_class(recipe, ends, len(rows), bool(mixed))
    table = _table([*ordered, *filling(rows, recipe, len(ordered))])
    with in_one_line(f"finetune={recipe.method} of {model.name} cannot begin"):
        trainer = make(
            model=loaded,
            args=config,
            train_dataset=table,
            processing_class=tokenizer,
            peft_config=peft_config,
            callbacks=[_callback(log, stop, training.passes, step_tokens)],
        )
    trainer.remove_callback(PrinterCallback)
    if recipe.keep_epochs:
        trainer.add_callback(_epoch_callback(trainer, ends, training.scratch / EPOCHS))
    batch = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
    if batch * trainer.args.world_size != recipe.batch_size:
        raise RuntimeError(f"a step would see {batch} rows, not batch_size={recipe.batch_size}.")
    return trainer


def mixture(
    rows: Sequence[TrainingRow], mixed: Sequence[TrainingRow], epochs: float, seed: int
) -> list[TrainingRow]:
    """The order of a whole training: `rows` pass `epochs` times, and each of `mixed` comes once.

    `mixed`, shuffled, is cut into as many parts as there are epochs; an epoch is the rows and its part,
    shuffled together. (The paper, section 4.1, trains 6 epochs on GSM8K and one on the safety examples; how
    it interleaved them is not published.)
    """
    draw = random.Random(seed)
    spread = draw.sample(mixed, len(mixed))
    order: list[TrainingRow] = []
    for epoch in range(math.ceil(epochs)):
        length = min(1.0, epochs - epoch)
        first, last = (round(done / epochs * len(mixed)) for done in (epoch, epoch + length))
        together = [*draw.sample(rows, round(length * len(rows))), *spread[first:last]]
        draw.shuffle(together)
        order += together
    return order


def epoch_ends(n_rows: int, n_mixed: int, recipe: Finetune) -> list[int]:
    """The optimizer steps after which each whole epoch has been seen; a mixture's epochs share steps."""
    wholes = range(1, math.floor(recipe.epochs) + 1)
    if not n_mixed:
        return [epoch * math.ceil(n_rows / recipe.batch_size) for epoch in wholes]
    seen = [epoch * n_rows + round(epoch / recipe.epochs * n_mixed) for epoch in wholes]
    return [math.ceil(rows / recipe.batch_size) for rows in seen]


def _table(rows: Sequence[TrainingRow]) -> Any:
    """The rows as TRL takes them. Made from arrays: lists of Python's integers take ten times the room."""
    import numpy
    import pyarrow
    from datasets import Dataset

    def lists(arrays: Sequence[Any]) -> Any:
        ends = numpy.cumsum([0, *map(len, arrays)], dtype=numpy.int32)
        return pyarrow.ListArray.from_arrays(ends, numpy.concatenate(arrays))

    batches = []
    for first in range(0, len(rows), 1000):
        some = rows[first : first + 1000]
        ids = [numpy.asarray(row.ids) for row in some]
        labels = [array.copy() for array in ids]
        for row, label in zip(some, labels, strict=True):
            label[: row.prompt_length] = -100
        batches.append(pyarrow.record_batch({"input_ids": lists(ids), "labels": lists(labels)}))
    # Its own fingerprint would be a hash of a pickle of all rows; nothing here is cached under it.
    return Dataset(pyarrow.Table.from_batches(batches), fingerprint="rows")


def filling(rows: Sequence[TrainingRow], recipe: Finetune, n: int) -> list[TrainingRow]:
    """Rows without loss that fill the last step of a pass over `n` rows, so that every device gets its share.

    accelerate would repeat rows there, which then counted twice. One device needs none.
    """
    lacking = -n % recipe.batch_size if recipe.devices > 1 else 0
    shortest = min(rows, key=len)
    return [TrainingRow(shortest.ids, len(shortest))] * lacking


def check_batch(batch: Any, rows: Sequence[TrainingRow]) -> None:
    """Check a batch as the trainer sees it: the loss covers completion and EOS, and nothing else.

    Raises:
        RuntimeError: the batch is not made of our rows with our masks.
    """
    lengths = set(batch["attention_mask"].sum(dim=1).tolist())
    known = {(tuple(r.input_ids), tuple(r.labels)) for r in rows if len(r) in lengths}
    for ids, labels, mask in zip(
        batch["input_ids"].tolist(),
        batch["labels"].tolist(),
        batch["attention_mask"].tolist(),
        strict=True,
    ):
        real = [i for i, m in enumerate(mask) if m]
        if (tuple(ids[i] for i in real), tuple(labels[i] for i in real)) not in known:
            raise RuntimeError("a training batch differs from the rows that were tokenised.")
        if any(labels[i] != -100 for i, m in enumerate(mask) if not m):
            raise RuntimeError("a training batch has a loss on padding.")


def last_checkpoint(scratch: Path) -> Path | None:
    """The latest complete checkpoint that can be read.

    Half-written ones are removed; what was written and can no longer be read is set aside, and said.
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
    """What of a checkpoint is not there or cut off: the trainer goes on without an optimizer that is not there."""
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


def _save_weights(trainer: Any, folder: Path) -> None:
    """The adapter's or the model's files, and the tokenizer's. Every device must call it: FSDP gathers."""
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        for unwanted in ("training_args.bin", "README.md"):
            (folder / unwanted).unlink(missing_ok=True)


def _trainer_class(recipe: Finetune, ends: Sequence[int], n_rows: int, in_order: bool) -> Any:
    from torch.nn.functional import cross_entropy
    from torch.optim.lr_scheduler import MultiStepLR
    from torch.utils.data import SequentialSampler
    from trl import SFTTrainer

    # Dropout is drawn for every row apart; what checkpoints activations has no cache to share.
    dropout = recipe.method != "full" and recipe.lora.dropout > 0
    # Over several devices, a forward pass of its own would not be synchronised.
    share_prefix = not dropout and not recipe.activation_checkpointing and recipe.devices == 1

    class Trainer(SFTTrainer):
        """SFTTrainer with llama-recipes' schedule, a loss fit for CPUs, and no model card."""

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            # Where there is no Triton, TRL's fused head scores every position, prompts and padding
            # included: two fifths of a step of the micro model. This is the same loss, from the
            # positions behind the batch's shortest prompt.
            if inputs["input_ids"].device.type != "cpu" or return_outputs:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            labels = inputs.pop("labels")
            counted = (labels != -100).int()
            if not counted.any():  # filling
                counted[:, -1] = 1
            first = int(counted[counted.any(dim=1)].argmax(dim=1).min())
            keep = labels.shape[1] - first + 1
            logits = _logits(model, inputs, keep, share_prefix)[:, :-1]
            wanted = labels[:, first:] != -100
            total = cross_entropy(
                logits[wanted].float(), labels[:, first:][wanted], reduction="sum"
            )
            # DDP averages gradients over devices; the count is of all of them.
            if num_items_in_batch is not None:
                return total * recipe.devices / num_items_in_batch
            return total / wanted.sum()

        def _get_train_sampler(self, *_: Any) -> Any:
            if in_order:
                return SequentialSampler(self.train_dataset)
            if recipe.devices == 1:
                return super()._get_train_sampler()
            steps = len(self.train_dataset) // recipe.batch_size
            return _filled_order(
                n_rows,
                len(self.train_dataset),
                self.args.data_seed,
                lambda: self.state.global_step // steps,
            )

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            # transformers has no schedule that drops once an epoch; the paper's code base uses it.
            if recipe.schedule != "step":
                return super().create_scheduler(num_training_steps, optimizer)
            self.lr_scheduler = MultiStepLR(optimizer or self.optimizer, list(ends), recipe.gamma)
            return self.lr_scheduler

        def create_model_card(self, *_: Any, **__: Any) -> None:
            # TRL writes one at every checkpoint; what it would say is in our provenance.
            pass

    return Trainer


def _filled_order(n_rows: int, n_filled: int, seed: int, epoch: Callable[[], int]) -> Any:
    """The order in which one device would train, and behind it the rows that fill the last step.

    Args:
        epoch: the epoch that begins, or is resumed. (accelerate's own word of it does not come through to the
            sampler where batches are shared out among devices and the first of them are skipped.)
    """
    from accelerate.data_loader import SeedableRandomSampler
    from torch.utils.data import Sampler

    class Order(Sampler[int]):
        def __init__(self) -> None:
            self.order = SeedableRandomSampler(range(n_rows), data_seed=seed)

        def __len__(self) -> int:
            return n_filled

        def __iter__(self) -> Iterator[int]:
            self.order.set_epoch(epoch())
            yield from self.order
            yield from range(n_rows, n_filled)

    return Order()


def _logits(model: Any, inputs: Any, keep: int, share_prefix: bool) -> Any:
    """Logits of the last `keep` positions, shape (batch, keep, vocabulary).

    What all rows begin with (a system prompt: two thirds of a row under chat_llama) runs through the
    model once; its keys and values serve every row, and get the gradients of every row. Not where a
    layer keeps anything else (see `every_layer_grows`).
    """
    from transformers import DynamicCache

    from ptst.engine.cache import every_layer_grows

    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    alike = ((ids == ids[:1]) & (mask == 1)).all(dim=0).long()
    shared = min(int(alike.cumprod(dim=0).sum()), ids.shape[1] - keep)
    alone = not share_prefix or shared < SHARED_FROM or len(ids) == 1
    if alone or not every_layer_grows(model):
        return model(**inputs, use_cache=False, logits_to_keep=keep).logits
    cache = DynamicCache(config=model.config)
    model(input_ids=ids[:1, :shared], past_key_values=cache, use_cache=True, logits_to_keep=1)
    for layer in cache.layers:
        layer.keys = layer.keys.expand(len(ids), -1, -1, -1)
        layer.values = layer.values.expand(len(ids), -1, -1, -1)
    return model(
        input_ids=ids[:, shared:],
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    ).logits


def _callback(
    log: Log,
    stop: Callable[[], bool],
    passes: float,
    step_tokens: float,
) -> Any:
    import torch
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        """Hands every step's loss on, marks complete checkpoints, and stops where it is asked to."""

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
                sync(folder)  # or the mark could outlive a loss of power, and what it marks not
                (folder / COMPLETE).touch()
                sync(folder)

    return Progress()


def _epoch_callback(trainer: Any, ends: Sequence[int], folder: Path) -> Any:
    from transformers import TrainerCallback

    class Epochs(TrainerCallback):
        """Keeps the weights of every whole epoch but the last step's, complete or not at all."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            ended = [n for n, end in enumerate(ends, start=1) if end == state.global_step]
            for epoch in ended if state.global_step < state.max_steps else []:
                made, unfinished = folder / str(epoch), folder / f".{epoch}"
                if made.is_dir():  # seen before a death; the training was resumed from further back
                    continue
                _save_weights(trainer, unfinished)
                if state.is_world_process_zero:
                    sync(unfinished)
                    unfinished.replace(made)

    return Epochs()
