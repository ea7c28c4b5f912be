"""Fine-tuning with TRL, full or LoRA, resumed from its last checkpoint after a death.

The rows come in tokenised (`ptst.templates.make_training_row`) with their labels, so TRL neither
tokenises nor masks; the first real batch is checked all the same, because a wrong mask trains on
the prompt without any other sign. What is done with a batch is the objective's (`ptst.objective`).
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptst.errors import ConfigError, Interrupted, PtstError, in_one_line
from ptst.models import (
    ALL_LINEAR,
    context_of,
    load_config,
    load_model,
    load_tokenizer,
    make_padding_exist,
    quantization,
)
from ptst.objective import Objective, TrainingRow, TrainingSet
from ptst.schema import Finetune, Model
from ptst.store import write_jsonl
from ptst.train.checkpoints import (
    EPOCHS,
    STATE,
    Log,
    epoch_callback,
    last_checkpoint,
    load_state,
    progress_callback,
    save_state,
    save_weights,
)
from ptst.train.forward import ModelForward, batch_of
from ptst.train.frozen import keep_in_bfloat16
from ptst.train.rows import check_batch, collate, epoch_ends, filled_order, filling, numbers_of


@dataclass(frozen=True)
class Training:
    """What a fine-tuning is made of, and where.

    Attributes:
        data: rows tokenised, at most `recipe.max_length` long, from `objective.training_set`.
        out: receives `weights/` (the adapter's or the model's files), `epochs/<n>/` (those of every
            whole epoch before the last, where the recipe keeps them), `log.jsonl` (the losses), and
            `objective/` (the objective's last state, where it has one).
        scratch: checkpoints and epochs' weights; training resumes from the last complete one here.
    """

    model: Model
    recipe: Finetune
    data: TrainingSet
    seed: int
    device: str
    out: Path
    scratch: Path
    objective: Objective = field(default_factory=Objective)

    @property
    def passes(self) -> float:
        """The recipe's epochs in one of the trainer's, which takes a whole order for one."""
        return 1.0 if self.data.order is None else self.recipe.epochs

    @property
    def known(self) -> list[TrainingRow]:
        """All rows, at their numbers; the last is the one that fills steps."""
        return [*self.data.all, *filling(self.data.rows, self.recipe, 1)[:1]]


def train(training: Training, log: Log, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Fine-tune and save: a PEFT adapter for lora and qlora, a whole model for full.

    Args:
        stop: asked after every optimizer step; true writes a checkpoint of that step and ends the
            training.

    Returns:
        Facts for the provenance: steps, tokens (of an epoch, those with loss, and all that were
        trained on); seconds are the caller's.

    Raises:
        Interrupted: `stop` said so before the last step.
    """
    trainer = make_trainer(training, log, stop)
    check_batch(next(iter(trainer.get_train_dataloader())), training.known)
    checkpoint = last_checkpoint(training.scratch)
    _begin(trainer, training, checkpoint)
    if checkpoint is not None:
        for entry in trainer.state.log_history:
            if "loss" in entry:
                log({**entry, "epoch": training.passes * entry["epoch"]})
    if checkpoint is not None and trainer.state.global_step >= trainer.args.max_steps:
        trainer._load_from_checkpoint(str(checkpoint))  # train() would take one step too many
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < trainer.args.max_steps:
        raise Interrupted(f"step {trainer.state.global_step} of {trainer.args.max_steps} is kept")
    return _finish(trainer, training)


def _begin(trainer: Any, training: Training, checkpoint: Path | None) -> None:
    """Bring trainer and objective to where the training begins, or goes on.

    Raises:
        PtstError: the checkpoint has no state of the objective.
    """
    import torch
    from transformers import TrainerState

    objective = training.objective
    rank = trainer.args.process_index
    folder = training.scratch / (f"{STATE}-{rank}" if rank else STATE)
    folder.mkdir(parents=True, exist_ok=True)
    trainer.model.eval()
    devices = [] if training.device == "cpu" else [training.device]
    with torch.no_grad(), torch.random.fork_rng(devices), trainer.accelerator.autocast():
        objective.start(training.data, trainer.forward_of(trainer.model), folder)
    trainer.model.train()
    if checkpoint is None:
        return
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state := load_state(checkpoint):
        objective.restore(state)
    elif objective.state():
        name = type(objective).__name__
        raise PtstError(f"{checkpoint} has no state of {name}: delete it to begin anew.")


def _finish(trainer: Any, training: Training) -> dict[str, Any]:
    """Save what a whole training left, and give its facts."""
    data, recipe = training.data, training.recipe
    save_weights(trainer, training.out / "weights")
    history = [
        {
            **{key: entry[key] for key in ("step", "epoch", "loss", "learning_rate", "grad_norm")},
            "epoch": training.passes * entry["epoch"],
        }
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    kept, state = training.scratch / EPOCHS, training.objective.state()
    said = {name: value for name, value in state.items() if isinstance(value, int | float | str)}
    if trainer.is_world_process_zero():
        if kept.is_dir():
            # A copy: should this process die before `out` is published, `out` is thrown away.
            shutil.copytree(kept, training.out / EPOCHS, ignore=shutil.ignore_patterns(".*"))
        write_jsonl(training.out / "log.jsonl", history)
        if state:
            (training.out / STATE).mkdir()
            save_state(state, training.out / STATE)
    if data.order is None:
        read = (history[-1]["epoch"] if history else 0.0) * sum(map(len, data.all))
    else:
        known, seen = data.all, trainer.state.global_step * recipe.batch_size
        read = sum(len(known[number]) for number in data.order[:seen])
    return {
        "steps": trainer.state.global_step,
        "devices": recipe.devices,
        "rows": len(data.rows),
        **({"mixed_rows": len(data.mixed)} if data.mixed else {}),
        "tokens_per_epoch": sum(map(len, data.rows)),
        "loss_tokens_per_epoch": sum(row.loss_tokens for row in data.rows),
        "trained_tokens": round(read),
        **({"objective": said} if said else {}),
        "final_loss": history[-1]["loss"] if history else None,
    }


def check_context(training: Training, context: int | None) -> None:
    """Refuse rows with more tokens than the model has positions: it would learn new ones.

    Args:
        context: see `ptst.models.context_of`.

    Raises:
        ConfigError: saying the length of the longest row, and where to cut.
    """
    longest = max(map(len, training.data.all))
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
    from transformers import PrinterCallback

    model, recipe, device = training.model, training.recipe, training.device
    tokenizer = load_tokenizer(model)
    model_config = load_config(model)
    make_padding_exist(tokenizer, model_config)
    check_context(training, context_of(model_config))
    numbers = numbers_of(training.data)
    known = training.data.all
    steps_per_pass = math.ceil(len(numbers) / recipe.batch_size)
    step_tokens = sum(len(known[number]) for number in numbers) / steps_per_pass
    ends = epoch_ends(training.data, recipe)
    # Weights that are trained are kept in float32: in bfloat16 most updates would be rounded away.
    # (PEFT keeps LoRA's adapters so, on a base of any precision; TRL casts QLoRA's to bfloat16.)
    trained = dataclasses.replace(model, dtype="float32") if recipe.method == "full" else model
    # FSDP moves to a device what is that device's part; the whole may not fit.
    place = "cpu" if recipe.fsdp else device
    loaded = load_model(trained, place, **quantization(recipe.method, device))
    loaded.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    loaded.generation_config.pad_token_id = tokenizer.pad_token_id
    make = _trainer_class(training, ends, tokenizer.pad_token_id)
    with in_one_line(f"finetune={recipe.method} of {model.name} cannot begin"):
        trainer = make(
            model=loaded,
            args=_settings(training, _steps(training, steps_per_pass)),
            train_dataset=_table(training, numbers),
            data_collator=_collator(training.known, tokenizer.pad_token_id),
            processing_class=tokenizer,
            peft_config=_adapter(recipe),
            callbacks=[
                progress_callback(log, stop, training.objective, training.passes, step_tokens)
            ],
        )
    if recipe.bf16 and recipe.method == "lora" and not recipe.fsdp:
        keep_in_bfloat16(trainer.model)
    trainer.model_accepts_loss_kwargs = True  # a step's labels are counted whatever the model takes
    trainer.remove_callback(PrinterCallback)
    if recipe.keep_epochs:
        trainer.add_callback(epoch_callback(trainer, ends, training.scratch / EPOCHS))
    batch = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
    if batch * trainer.args.world_size != recipe.batch_size:
        raise RuntimeError(f"a step would see {batch} rows, not batch_size={recipe.batch_size}.")
    return trainer


def _steps(training: Training, steps_per_pass: int) -> int:
    """How many optimizer steps the recipe asks for."""
    recipe = training.recipe
    whole = training.data.order is not None
    steps = steps_per_pass if whole else round(steps_per_pass * recipe.epochs)
    if recipe.max_steps <= 0:
        return steps
    if whole and recipe.max_steps > steps:
        raise ConfigError(
            f"finetune.max_steps={recipe.max_steps}: this training's rows have an order (as with "
            f"finetune.mix, whose rows are seen once), which ends after {steps} steps; raise "
            "finetune.epochs for a longer one."
        )
    return recipe.max_steps


def _settings(training: Training, steps: int) -> Any:
    from trl import SFTConfig

    recipe, device = training.recipe, training.device
    share = recipe.batch_size // recipe.devices
    device_batch = min(recipe.device_batch_size, share)
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
        remove_unused_columns=False,
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
    return config


def _adapter(recipe: Finetune) -> Any:
    """PEFT's settings; None where all weights are trained."""
    from peft import LoraConfig

    if recipe.method == "full":
        return None
    targets = list(recipe.lora.target_modules)
    return LoraConfig(
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        target_modules=ALL_LINEAR if targets == [ALL_LINEAR] else targets,
        task_type="CAUSAL_LM",
    )


def _table(training: Training, numbers: Sequence[int]) -> Any:
    """The numbers of the rows as TRL takes them; `_collator` looks the rows up."""
    from datasets import Dataset

    recipe, last = training.recipe, len(training.data.all)
    filled = [*numbers, *[last] * len(filling(training.data.rows, recipe, len(numbers)))]
    return Dataset.from_dict({"number": filled})


def _collator(known: Sequence[TrainingRow], pad: int) -> Callable[[Any], dict[str, Any]]:
    def together(examples: Sequence[dict[str, int]]) -> dict[str, Any]:
        numbers = [example["number"] for example in examples]
        return collate([known[number] for number in numbers], numbers, pad)

    return together


def _trainer_class(training: Training, ends: Sequence[int], pad: int) -> Any:
    from torch.optim.lr_scheduler import MultiStepLR
    from torch.utils.data import SequentialSampler
    from trl import SFTTrainer

    recipe, data, objective = training.recipe, training.data, training.objective
    # Dropout is drawn for every row apart; what checkpoints activations has no cache to share.
    dropout = recipe.method != "full" and recipe.lora.dropout > 0
    # Over several devices, a forward pass of its own would not be synchronised.
    share_prefix = not dropout and not recipe.activation_checkpointing and recipe.devices == 1

    class Trainer(SFTTrainer):
        """SFTTrainer with the objective's step, llama-recipes' schedule, and no model card."""

        def forward_of(self, model: Any) -> ModelForward:
            return ModelForward(model, self.accelerator.backward, pad, share_prefix)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            model.train()
            inputs = self._prepare_inputs(inputs)
            step = self.state.global_step
            batch = batch_of(inputs, num_items_in_batch, recipe.devices, step)
            forward = self.forward_of(model)
            # Several devices would have different numbers of parts.
            cut = objective.additive and recipe.devices == 1
            parts = forward.parts(batch) if cut else [batch]
            return sum(objective.step(part, forward) for part in parts)

        def _get_train_sampler(self, *_: Any) -> Any:
            if data.order is not None:
                return SequentialSampler(self.train_dataset)
            if recipe.devices == 1:
                return super()._get_train_sampler()
            steps = len(self.train_dataset) // recipe.batch_size
            return filled_order(
                len(data.all),
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
