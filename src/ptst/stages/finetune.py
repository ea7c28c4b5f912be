"""Stage 1: benign rows under the train template become an adapter, or a whole model."""

from __future__ import annotations

import dataclasses
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ptst import data, models
from ptst.engine.chosen import engine_of
from ptst.keys import CellKeys, objective_of
from ptst.progress import progress, say
from ptst.schema import Config
from ptst.store import Store, Work, key_of
from ptst.tracking import tracked

if TYPE_CHECKING:
    from ptst.train.rows import RowReader
    from ptst.train.trainer import Training
from ptst.quiet import quiet
from ptst.stages.base import Stop, never, write_provenance
from ptst.stages.queries import format_notes, tell_format
from ptst.stages.summarise import run_labels


def finetune(
    config: Config,
    keys: CellKeys,
    store: Store,
    made: dict[str, float],
    stop: Stop = never,
    held: models.Held | None = None,
    wait: bool = True,
) -> None:
    """Stage 1: benign rows under the train template -> an adapter, or a whole model.

    Args:
        held: the run's models, whose judge makes room.
        wait: see `Store.make`.

    An error is recorded under the fine-tuning's own key: it is what blocks all cells that test it.
    """
    assert keys.finetune is not None
    try:
        _finetune(config, keys, store, made, stop, held or models.Held(), wait)
    except Exception as error:
        with suppress(OSError):  # a full disk, say: the error itself is raised all the same
            store.record_failure(keys.finetune, error)
        raise


def _finetune(
    config: Config,
    keys: CellKeys,
    store: Store,
    made: dict[str, float],
    stop: Stop,
    held: models.Held,
    wait: bool,
) -> None:
    assert keys.finetune is not None
    with store.make("finetune", keys.finetune, keys.finetune_parts, stop, wait) as work:
        store.forget_failure(keys.finetune)
        if work is None:
            return
        started = time.monotonic()
        if config.finetune.method == "openai":
            facts = _finetune_at_api(config, keys.finetune, work, stop)
            made["finetune"] = time.monotonic() - started
        else:
            facts = _finetune_here(config, keys, store, work, made, stop, held)
        write_provenance(work.result, config, work.maker.spent + made["finetune"], facts)


def _finetune_here(
    config: Config,
    keys: CellKeys,
    store: Store,
    work: Work,
    made: dict[str, float],
    stop: Stop,
    held: models.Held,
) -> dict[str, Any]:
    """Train on this machine, and say so to W&B and the terminal."""
    started = time.monotonic()
    quiet()
    from ptst.train.devices import train_on_devices
    from ptst.train.trainer import train

    training, reader = _training(config, work, held)
    key, recipe = str(keys.finetune), config.finetune.name or config.finetune.method
    name = f"{config.dataset.name} {recipe} {config.train_template.name} seed {config.seed}"
    named = f"finetune {config.model.name} {name} [{key[:8]}]"
    settings = _finetuning(config, keys)
    with (
        tracked(config.tracking, store.root, "finetune", key, named, settings) as run,
        progress(f"fine-tune {name}") as advance,
    ):

        def log(entry: dict[str, float]) -> None:
            step = int(entry["step"])
            told = ("step", "steps", "tokens")
            run.log({k: v for k, v in entry.items() if k not in told}, step)
            if "steps" in entry:  # not one of those that led to the checkpoint
                steps = int(entry["steps"])
                advance(step, steps, f"loss {entry['loss']:.3f}")
                work.tell(step, steps, entry["loss"], int(entry["tokens"]))

        on = train if config.finetune.devices == 1 else train_on_devices
        facts = on(training, log, stop)
        facts |= reader.facts | {"model_from": models.origin(config.model)}
        notes = format_notes(config, config.train_template, held.tokenizer(config.model))
        facts["chat_format"] = notes
        made["finetune"] = time.monotonic() - started
        run.summary(facts | {"seconds": work.maker.spent + made["finetune"]})
    return facts


def _training(config: Config, work: Work, held: models.Held) -> tuple[Training, RowReader]:
    """All that a training needs, its rows read and spelled."""
    from ptst.train.rows import RowReader
    from ptst.train.trainer import Training

    held.judge.forget()  # it may hold a GPU's memory since the last cell was judged
    held.served.forget()  # and so may an engine's
    device = models.pick_device(engine_of(config).device)
    models.quantization(config.finetune.method, device)  # refuses what cannot be had here
    if config.finetune.method in ("lora", "qlora"):
        models.check_targets(config.model, config.finetune.lora.target_modules)
    tell_format(config, held)
    reader = RowReader(config, held.tokenizer(config.model))
    objective = objective_of(config)
    return Training(
        config.model,
        config.finetune,
        objective.training_set(reader),
        config.seed,
        device,
        work.result,
        work.scratch,
        objective,
    ), reader


def _finetuning(config: Config, keys: CellKeys) -> dict[str, Any]:
    """What decides a fine-tuning, for its run: cells of several test templates and judges share
    it."""
    recipe = dataclasses.asdict(config.finetune)
    del recipe["epoch"]  # which of its weights a cell tests
    labels = run_labels(config, keys)
    return {
        "key": keys.finetune,
        "train": labels["train"],
        "fine_tuning": labels["fine_tuning"],
        "model": dataclasses.asdict(config.model),
        "dataset": dataclasses.asdict(config.dataset),
        "train_template": dataclasses.asdict(config.train_template),
        "finetune": recipe,
        "seed": config.seed,
    }


def _finetune_at_api(config: Config, key: str, work: Work, stop: Stop) -> dict[str, Any]:
    from ptst.train.openai import train_at_api, training_messages

    rows = data.load_rows(config.dataset, needs=("input", "output"))
    messages = training_messages(rows, config.train_template, config.dataset, config.model)
    facts = train_at_api(
        config.model,
        config.finetune,
        messages,
        config.seed,
        key,
        work.result,
        work.scratch,
        say,
        stop,
    )
    return facts | {"rows_key": key_of({"rows": rows})}
