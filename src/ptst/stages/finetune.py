"""Stage 1: benign rows under the train template become an adapter, or a whole model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ptst import data, models, templates
from ptst.engine.chosen import engine_of
from ptst.keys import CellKeys
from ptst.progress import console, progress, say
from ptst.schema import Config, Rows, Template
from ptst.store import RowsKey, Store, Work, key_of
from ptst.tracking import tracked

if TYPE_CHECKING:
    from ptst.templates import TrainingRow
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
            write_provenance(work.result, config, work.maker.spent + made["finetune"], facts)
            return
        quiet()
        from ptst.finetune.parallel import train_on_devices
        from ptst.finetune.sft import Training, train

        held.judge.forget()  # it may hold a GPU's memory since the last cell was judged
        device = models.pick_device(engine_of(config).device)
        models.quantization(config.finetune.method, device)  # refuses what cannot be had here
        if config.finetune.method in ("lora", "qlora"):
            models.check_targets(config.model, config.finetune.lora.target_modules)
        tokenizer = held.tokenizer(config.model)
        tell_format(config, held)
        examples, rows_facts = _tokenised(config.dataset, config.train_template, config, tokenizer)
        mixed: list[TrainingRow] = []
        if mix := config.finetune.mix:
            template = mix.template or config.train_template
            mixed, mixed_facts = _tokenised(mix.rows, template, config, tokenizer)
            rows_facts |= {f"mixed_{name}": value for name, value in mixed_facts.items()}
        recipe = config.finetune.name or config.finetune.method
        name = f"{config.dataset.name} {recipe} {config.train_template.name} seed {config.seed}"
        with (
            tracked(
                config.tracking,
                store.root,
                "finetune",
                keys.finetune,
                f"finetune {config.model.name} {name} [{keys.finetune[:8]}]",
                _finetuning(config, keys),
            ) as run,
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

            training = Training(
                config.model,
                config.finetune,
                examples,
                config.seed,
                device,
                work.result,
                work.scratch,
                mixed,
            )
            facts = (train if config.finetune.devices == 1 else train_on_devices)(
                training, log, stop
            )
            facts |= rows_facts | {"model_from": models.origin(config.model)}
            facts["chat_format"] = format_notes(config, config.train_template, tokenizer)
            made["finetune"] = time.monotonic() - started
            seconds = work.maker.spent + made["finetune"]
            run.summary(facts | {"seconds": seconds})
        write_provenance(work.result, config, seconds, facts)


def _finetuning(config: Config, keys: CellKeys) -> dict[str, Any]:
    """What decides a fine-tuning, for its run: cells of several test templates and judges share it."""
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


def _tokenised(
    source: Rows, template: Template, config: Config, tokenizer: Any
) -> tuple[list[TrainingRow], dict[str, Any]]:
    """Rows to train on, cut to the recipe's length, and facts about them for the provenance."""
    from ptst.finetune.sft import fit_rows
    from ptst.model_check import check_training

    key, longest = RowsKey(), config.finetune.max_length
    rows = key.of(data.read_rows(source, needs=("input", "output")))
    spelled = (template, config.dataset, config.model, tokenizer)

    def training_rows() -> Iterator[TrainingRow]:
        for number, row in enumerate(rows):  # one at a time: there may be hundreds of thousands
            if number == 0:
                check_training(row, *spelled)
            yield templates.make_training_row(row, *spelled)

    examples, cut, left_out = fit_rows(training_rows(), longest)
    if cut or left_out:
        console().print(
            f"finetune.max_length={longest}: {cut} of {len(examples) + left_out} rows of {source.name} "
            f"lose their end, {left_out} are left out because their prompt fills it."
        )
    return examples, {
        "rows_cut": cut,
        "rows_left_out": left_out,
        "rows_key": key.key,
        "rows_from": data.origin(source),
    }


def _finetune_at_api(config: Config, key: str, work: Work, stop: Stop) -> dict[str, Any]:
    from ptst.finetune.openai import train_at_api, training_messages

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
