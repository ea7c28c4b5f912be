"""Supervised fine-tuning with TRL, full or LoRA, resumed from its last checkpoint after a death.

The rows come in tokenised (`ptst.templates.make_training_row`) with their labels, so TRL neither
tokenises nor masks; the first real batch is checked all the same, because a wrong mask trains on the
prompt without any other sign.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ptst.config import Finetune, Model
from ptst.errors import DataError, PtstError
from ptst.models import load_model, load_tokenizer, quantization
from ptst.store import write_jsonl
from ptst.templates import TrainingRow

COMPLETE = "complete"
"""Marks a checkpoint whose files are all there."""

SHARED_FROM = 16
"""Tokens: a shorter common beginning is not worth a second forward pass."""


def fit_rows(rows: Sequence[TrainingRow], max_length: int) -> tuple[list[TrainingRow], int, int]:
    """Cut rows to `max_length` tokens.

    Returns:
        (rows, how many lost their end, how many were left out because their prompt fills it)

    Raises:
        DataError: nothing is left.
    """
    kept = [row for row in rows if row.prompt_length < max_length]
    cut = sum(len(row.input_ids) > max_length for row in kept)
    if not kept:
        raise DataError(
            f"every prompt fills finetune.max_length={max_length}: nothing is left to train on."
        )
    fitted = [
        TrainingRow(row.input_ids[:max_length], row.labels[:max_length], row.prompt_length)
        for row in kept
    ]
    return fitted, cut, len(rows) - len(kept)


def train(
    model: Model,
    recipe: Finetune,
    rows: Sequence[TrainingRow],
    seed: int,
    device: str,
    out: Path,
    scratch: Path,
    log: Callable[[dict[str, float]], None],
) -> dict[str, Any]:
    """Fine-tune and save: a PEFT adapter for lora and qlora, a whole model for full.

    Args:
        rows: tokenised, at most `recipe.max_length` long.
        out: receives `weights/` (the adapter's or the model's files) and `log.jsonl` (the losses).
        scratch: checkpoints; training resumes from the last complete one found here.
        log: called with {step, epoch, loss, learning_rate, grad_norm} after every optimizer step,
            first with those of the checkpoint where a training resumes.

    Returns:
        Facts for the provenance: steps, tokens (all, and with loss), seconds are the caller's.
    """
    from transformers import TrainerState

    trainer = make_trainer(model, recipe, rows, seed, device, scratch, log)
    check_batch(next(iter(trainer.get_train_dataloader())), rows)
    checkpoint = last_checkpoint(scratch)
    if checkpoint is not None:
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        for entry in trainer.state.log_history:
            if "loss" in entry:
                log(entry)
    if checkpoint is not None and trainer.state.global_step >= trainer.args.max_steps:
        trainer._load_from_checkpoint(str(checkpoint))  # train() would take one step too many
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(out / "weights"))
    for unwanted in ("training_args.bin", "README.md"):
        (out / "weights" / unwanted).unlink(missing_ok=True)
    history = [
        {key: entry[key] for key in ("step", "epoch", "loss", "learning_rate", "grad_norm")}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    write_jsonl(out / "log.jsonl", history)
    return {
        "steps": trainer.state.global_step,
        "rows": len(rows),
        "tokens_per_epoch": sum(len(r.input_ids) for r in rows),
        "loss_tokens_per_epoch": sum(len(r.input_ids) - r.prompt_length for r in rows),
        "final_loss": history[-1]["loss"] if history else None,
    }


def make_trainer(
    model: Model,
    recipe: Finetune,
    rows: Sequence[TrainingRow],
    seed: int,
    device: str,
    scratch: Path,
    log: Callable[[dict[str, float]], None],
) -> Any:
    """TRL's trainer over our rows; see `train` for the arguments."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTConfig

    device_batch = min(recipe.device_batch_size, recipe.batch_size)
    tokenizer = load_tokenizer(model)
    # Weights that are trained are kept in float32: in bfloat16 most updates would be rounded away.
    # (PEFT keeps LoRA's adapters so, on a base of any precision; TRL casts QLoRA's to bfloat16.)
    trained = dataclasses.replace(model, dtype="float32") if recipe.method == "full" else model
    loaded = load_model(trained, device, **quantization(recipe.method, device))
    peft_config = None
    if recipe.method != "full":
        peft_config = LoraConfig(
            r=recipe.lora.r,
            lora_alpha=recipe.lora.alpha,
            lora_dropout=recipe.lora.dropout,
            target_modules=list(recipe.lora.target_modules),
            task_type="CAUSAL_LM",
        )
    steps_per_epoch = math.ceil(len(rows) / recipe.batch_size)
    steps = recipe.max_steps if recipe.max_steps > 0 else round(steps_per_epoch * recipe.epochs)
    config = SFTConfig(
        output_dir=str(scratch),
        seed=seed,
        data_seed=seed,
        max_steps=max(1, steps),
        per_device_train_batch_size=device_batch,
        gradient_accumulation_steps=recipe.batch_size // device_batch,
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
    )
    config._n_gpu = 1  # one process trains on one GPU; DataParallel would multiply the batch
    dataset = Dataset.from_list([{"input_ids": r.input_ids, "labels": r.labels} for r in rows])
    trainer = _trainer_class(recipe, steps_per_epoch)(
        model=loaded,
        args=config,
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=peft_config,
        callbacks=[_callback(log)],
    )
    trainer.remove_callback(PrinterCallback)
    batch = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
    if batch * trainer.args.world_size != recipe.batch_size:
        raise RuntimeError(f"a step would see {batch} rows, not batch_size={recipe.batch_size}.")
    return trainer


def check_batch(batch: Any, rows: Sequence[TrainingRow]) -> None:
    """Check a batch as the trainer sees it: the loss covers completion and EOS, and nothing else.

    Raises:
        RuntimeError: the batch is not made of our rows with our masks.
    """
    known = {tuple(row.input_ids): row for row in rows}
    for ids, labels, mask in zip(
        batch["input_ids"].tolist(),
        batch["labels"].tolist(),
        batch["attention_mask"].tolist(),
        strict=True,
    ):
        real = [i for i, m in enumerate(mask) if m]
        row = known.get(tuple(ids[i] for i in real))
        if row is None or [labels[i] for i in real] != row.labels:
            raise RuntimeError("a training batch differs from the rows that were tokenised.")
        if any(labels[i] != -100 for i, m in enumerate(mask) if not m):
            raise RuntimeError("a training batch has a loss on padding.")


def last_checkpoint(scratch: Path) -> Path | None:
    """The latest complete checkpoint; half-written ones are removed."""
    found = sorted(scratch.glob("checkpoint-*"), key=lambda p: int(p.name.rsplit("-", 1)[1]))
    for checkpoint in [c for c in found if not (c / COMPLETE).is_file()]:
        shutil.rmtree(checkpoint)
    found = [c for c in found if c.is_dir()]
    return found[-1] if found else None


def _trainer_class(recipe: Finetune, steps_per_epoch: int) -> Any:
    from torch.nn.functional import cross_entropy
    from torch.optim.lr_scheduler import StepLR
    from trl import SFTTrainer

    # Dropout is drawn for every row apart; what checkpoints activations has no cache to share.
    dropout = recipe.method != "full" and recipe.lora.dropout > 0
    share_prefix = not dropout and not recipe.activation_checkpointing

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
            first = int((labels != -100).int().argmax(dim=1).min())
            keep = labels.shape[1] - first + 1
            logits = _logits(model, inputs, keep, share_prefix)[:, :-1]
            wanted = labels[:, first:] != -100
            total = cross_entropy(
                logits[wanted].float(), labels[:, first:][wanted], reduction="sum"
            )
            return total / (wanted.sum() if num_items_in_batch is None else num_items_in_batch)

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            # transformers has no schedule that drops once an epoch; the paper's code base uses it.
            if recipe.schedule != "step":
                return super().create_scheduler(num_training_steps, optimizer)
            self.lr_scheduler = StepLR(optimizer or self.optimizer, steps_per_epoch, recipe.gamma)
            return self.lr_scheduler

        def create_model_card(self, *_: Any, **__: Any) -> None:
            # TRL writes one at every checkpoint; what it would say is in our provenance.
            pass

    return Trainer


def _logits(model: Any, inputs: Any, keep: int, share_prefix: bool) -> Any:
    """Logits of the last `keep` positions, shape (batch, keep, vocabulary).

    What all rows begin with (a system prompt: two thirds of a row under chat_llama) runs through the
    model once; its keys and values serve every row, and get the gradients of every row.
    """
    from transformers import DynamicCache

    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    alike = ((ids == ids[:1]) & (mask == 1)).all(dim=0).long()
    shared = min(int(alike.cumprod(dim=0).sum()), ids.shape[1] - keep)
    if not share_prefix or shared < SHARED_FROM or len(ids) == 1:
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


def _callback(log: Callable[[dict[str, float]], None]) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        """Hands every step's loss on, and marks checkpoints when they are complete."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                if not math.isfinite(logs["loss"]) or not math.isfinite(logs["grad_norm"]):
                    raise PtstError(
                        f"training diverged at step {state.global_step} (loss {logs['loss']}, "
                        f"gradient norm {logs['grad_norm']}): lower finetune.learning_rate."
                    )
                log({**logs, "step": state.global_step, "steps": state.max_steps})

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / COMPLETE).touch()

    return Progress()
