"""One cell of the grid, from the top to the bottom: fine-tune, generate, judge, metrics.

            model -+
          dataset -+
   train_template -+-> finetune ---> adapter -+
  finetune recipe -+    key F                 |
             seed -+                          +-> generate --> completions -+
                            test_template ----+    key G                    +-> judge --> scores
                       evaluation (queries) --+                             |   key J
                                  decoding ---+                      judge -+

Each stage looks in the store first, and leaves its result there. What is there is never made again.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptst import chat, data, models, templates
from ptst.api import whole_text
from ptst.config import Config, Decoding, Evaluation, Rows, Template
from ptst.errors import ConfigError, DataError, Interrupted, PtstError
from ptst.judge import Bench, Score, checked, load_judge
from ptst.keys import CellKeys, EvaluationKeys, cell_keys, judge_parts, tested_epoch
from ptst.metrics import (
    MEAN,
    NO_CATEGORY,
    Answer,
    Metric,
    Scale,
    from_json,
    known_sum,
    many_cut_off,
    measure,
)
from ptst.progress import console, progress, say
from ptst.provenance import provenance
from ptst.store import (
    Maker,
    RowsKey,
    Store,
    Work,
    key_of,
    read_journal,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from ptst.tracking import check_tracking, chosen, tracked, watched
from ptst.wording import judge_name, known_judges, rows_in_words

if TYPE_CHECKING:
    from ptst.generate.batches import Completion
    from ptst.templates import TrainingRow

Metrics = dict[str, Metric]
"""By "<evaluation>/<metric>", for example "hazards/asr"."""

Stop = Callable[[], bool]
"""Whether work should stop where nothing is lost (a time limit comes near, say): asked at every step."""


THINKING_CUT_OFF = "its think block did not end within max_new_tokens"
"""Why an answer is withheld that ended at the length limit before it began."""


def never() -> bool:
    """The `Stop` of work that nobody interrupts."""
    return False


@dataclass(frozen=True)
class CellResult:
    """What a cell came to. `metrics` is None where a stage was left out (`stages=`)."""

    keys: CellKeys
    metrics: Metrics | None
    made: dict[str, float]
    """Seconds of each stage that was made in this run and not found in the store."""


def run_cell(config: Config, model: TestedModel | None = None, stop: Stop = never) -> CellResult:
    """Walk one cell through its stages.

    Args:
        model: the cell's model, where another cell has loaded it already.

    Raises:
        PtstError: what the user can mend, before time is spent where that is possible.
        Interrupted: `stop` said so.
    """
    check_cell(config)
    store = Store(Path(config.paths.store).expanduser())
    store.prepare()
    keys = cell_keys(config)
    if damage := damage_of(keys, store):
        raise PtstError(damage)
    if store.has("cell", keys.cell):
        return CellResult(keys, read_metrics(store, keys.cell), {})
    store.forget_failure(keys.cell)
    try:
        return _walk(config, keys, store, model or TestedModel(config, keys, store), stop)
    except Exception as error:
        store.record_failure(keys.cell, error)
        raise


def damage_of(keys: CellKeys, store: Store) -> str | None:
    """What is wrong with the first of a cell's artifacts that is damaged, see `ptst.store.Store.damage`."""
    damages = (store.damage(stage, key) for _, stage, key in keys.artifacts)
    return next((damage for damage in damages if damage), None)


def check_cell(config: Config) -> None:
    """Refuse what the configuration alone shows to be wrong.

    Raises:
        ConfigError: tracking without a key, a store that is a file, testing on training data.
    """
    check_tracking(config.tracking)
    store = Path(config.paths.store).expanduser()
    if store.exists() and not store.is_dir():
        raise ConfigError(f"paths.store={store} is a file; it must be a folder.")
    _check_held_out(config)


def _walk(
    config: Config, keys: CellKeys, store: Store, model: TestedModel, stop: Stop
) -> CellResult:
    made: dict[str, float] = {}
    said = chosen(config.tracking)[1]
    if said and said not in model.held.told:
        model.held.told.add(said)
        say(said)
    check_model(config, keys, store, model.held)
    # Read and spelled before anything is trained, so that a wrong file, format or key costs no training.
    queries = {
        name: spell(name, config, load_queries(name, config.evaluations[name]), model.held)
        for name in lacking(config, keys, store)
    }
    for name, evaluation in config.evaluations.items():
        if name not in queries and store.has("generate", keys.evaluations[name].generate):
            check_rows(name, evaluation, read_completions(store, keys.evaluations[name]))
        if "judge" in config.stages and not store.has("judge", keys.evaluations[name].judge):
            check_judge(name, evaluation)
    if "finetune" in config.stages and keys.finetune:
        finetune(config, keys, store, made, stop, model.held)
    for name in config.evaluations:
        if name in queries:
            generate(name, config, queries[name], keys.evaluations[name], model, store, made, stop)
        if "judge" in config.stages:
            judge(name, config, keys.evaluations[name], store, made, stop, model.held)
    if "judge" not in config.stages:
        return CellResult(keys, None, made)
    return CellResult(keys, summarise(config, keys, store), made)


def lacking(config: Config, keys: CellKeys, store: Store) -> list[str]:
    """The evaluations of a cell whose completions are still to be made."""
    if "generate" not in config.stages:
        return []
    made = keys.evaluations
    return [name for name in config.evaluations if not store.has("generate", made[name].generate)]


@dataclass(frozen=True)
class Queries:
    """The queries of an evaluation, and what the model is given for each: token ids, or an API's messages."""

    rows: list[dict[str, Any]]
    prompts: list[list[int]]
    messages: list[list[dict[str, str]]]

    @property
    def prompt_tokens(self) -> int | None:
        """Of all prompts; None where an API counts them."""
        return None if self.messages else sum(map(len, self.prompts))


def spell(name: str, config: Config, rows: list[dict[str, Any]], held: models.Held) -> Queries:
    """Spell every query of an evaluation under the test template, and say what the model's format does of its own.

    Raises:
        TemplateError: the model's format cannot spell one of them.
        DataError: a prompt and its answer do not fit in the model's context.
    """
    evaluation = config.evaluations[name]
    spelled = (config.test_template, config.dataset, config.model)
    if config.model.api is not None:
        asked = [templates.make_messages(row, *spelled, evaluation.question) for row in rows]
        return Queries(rows, [], asked)
    quiet()
    tokenizer = held.tokenizer(config.model)
    tell_format(config, held)
    prompts = []
    room = held.context(config.model)
    limit = evaluation.decoding.max_new_tokens
    for row in rows:
        ids = templates.make_prompt(row, *spelled, tokenizer, evaluation.question).token_ids or []
        if room is not None and len(ids) + limit > room:
            raise DataError(
                f"evaluation {name}: under {config.test_template.name}, query {row['id']} has {len(ids)} tokens, "
                f"which with decoding.max_new_tokens={limit} is more than the context of {room} of model "
                f"{config.model.name}; lower {name}.decoding.max_new_tokens, or leave the query out."
            )
        prompts.append(ids)
    return Queries(rows, prompts, [])


def tell_format(config: Config, held: models.Held) -> None:
    """Say, once for a model, what its chat format does that a user may not expect."""
    used = [config.test_template]
    used += [config.train_template] if config.finetune.method != "none" else []
    for template in used:
        for line in format_notes(config, template, held.tokenizer(config.model)):
            if line not in held.told:
                held.told.add(line)
                say(line)


def format_notes(config: Config, template: Template, tokenizer: Any) -> list[str]:
    """What the model's chat format does under a template that a user may not expect; nothing for bare text."""
    return chat.notes(config.model, tokenizer) if template.mode == "chat" else []


def check_model(config: Config, keys: CellKeys, store: Store, held: models.Held) -> None:
    """Refuse a base model that cannot be had, if one of the cell's stages is still to read it.

    Raises:
        ConfigError: see `ptst.models.Held.check_access`.
    """
    trains = "finetune" in config.stages and keys.finetune is not None
    untrained = trains and not store.has("finetune", keys.finetune or "")
    if (untrained or lacking(config, keys, store)) and config.model.api is None:
        held.check_access(config.model)


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
            _write_provenance(work.result, config, work.maker.spent + made["finetune"], facts)
            return
        quiet()
        from ptst.finetune.parallel import train_on_devices
        from ptst.finetune.sft import Training, train

        held.judge.forget()  # it may hold a GPU's memory since the last cell was judged
        device = models.pick_device(config.engine.device)
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
        _write_provenance(work.result, config, seconds, facts)


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


class TestedModel:
    """The model that cells test: loaded when the first of them needs it, once.

    What it is made of is all it knows: a test template, say, is the cell's.

    Args:
        held: the models of the run, of which the base model serves several fine-tunings in turn.
    """

    __test__ = False  # not a test class, whatever pytest reads into the name

    def __init__(
        self, config: Config, keys: CellKeys, store: Store, held: models.Held | None = None
    ) -> None:
        self.held = held or models.Held()
        self.model_config = config.model
        self.method = config.finetune.method
        self.device = config.engine.device
        self.finetuning = keys.finetune
        self.epoch = tested_epoch(config.finetune)
        self.store = store

    @cached_property
    def tokenizer(self) -> Any:
        """The base model's tokenizer (fine-tuning does not change it)."""
        quiet()
        return self.held.tokenizer(self.model_config)

    @property
    def name_at_api(self) -> str:
        """What the model, or its fine-tuning, is called at its API.

        Raises:
            PtstError: the fine-tuning is not in the store (`stages` left it out).
        """
        if self.finetuning is None:
            return self.model_config.path
        from ptst.finetune.openai import fine_tuned_model

        return fine_tuned_model(self._tuned())

    def _tuned(self) -> Path:
        assert self.finetuning is not None
        folder = self.store.path("finetune", self.finetuning)
        if not folder.is_dir():
            raise PtstError(
                f"fine-tuning {self.finetuning} is not in {self.store.root}: run the cell with "
                "stages=[finetune] first, or with all stages."
            )
        return folder

    def weights(self) -> Path:
        """Where the fine-tuned weights are.

        Raises:
            PtstError: the fine-tuning is not in the store, or has no weights of the epoch that is to be tested.
        """
        artifact = self._tuned()
        if self.epoch is None:
            return artifact / "weights"
        folder = artifact / "epochs" / str(self.epoch)
        if not folder.is_dir():
            kept = sorted(int(path.name) for path in artifact.glob("epochs/*"))
            raise PtstError(
                f"fine-tuning {self.finetuning} has no weights of finetune.epoch={self.epoch}; it has "
                f"those of {', '.join(f'epoch {n}' for n in kept) or 'no epoch'} and of its end "
                "(finetune.epoch=null). It stopped before (finetune.max_steps), or an older version "
                f"made it: delete {artifact} to make it again."
            )
        return folder

    @cached_property
    def model(self) -> Any:
        """The fine-tuned model, or the untouched one.

        Raises:
            PtstError: the fine-tuning is not in the store (`stages` left it out), or ended before, or
                did not keep, the epoch that is to be tested.
        """
        quiet()
        device = models.pick_device(self.device)
        if self.finetuning is None:
            return self.held.base.untouched(self.model_config, device)
        folder = self.weights()
        if self.method == "full":
            tuned = dataclasses.replace(self.model_config, path=str(folder), revision=None)
            self.held.base.forget()  # there may not be room for both
            return models.load_model(tuned, device)
        return self.held.base.adapted(self.model_config, device, self.method, folder)


def generate(
    name: str,
    config: Config,
    queries: Queries,
    keys: EvaluationKeys,
    model: TestedModel,
    store: Store,
    made: dict[str, float],
    stop: Stop = never,
) -> None:
    """Stage 2: queries under the test template -> completions.jsonl, one row per answer.

    A row is the query's own columns, and `completion`, `tokens`, `finished`; what stood in a think block before the
    completion, as `thinking`; where there is no answer (an API does not give it, a think block did not end), why, as
    `withheld`; where each query is answered several times also `sample`, from 0: all answers of the first sample, then all of the second. A sample
    is what `decoding.seed` raised by its number gives by itself.
    """
    with store.make("generate", keys.generate, keys.generate_parts, stop) as work:
        if work is None:
            return
        started = time.monotonic()
        evaluation = config.evaluations[name]
        decoding = evaluation.decoding
        rows = queries.rows
        halved: list[int] = []  # a 1 for each time since the last batch that was answered
        batches, how, answer = answering(config, queries, model, stop, lambda: halved.append(1))
        opened = opens_think(config, model)
        total, halvings = decoding.samples * len(rows), 0
        completions: list[dict[str, Any]] = []
        with (
            _watched("generate", keys.generate, name, config, store) as watch,
            progress(f"generate {name}") as advance,
        ):
            for sample in range(decoding.samples):
                journal = work.scratch / f"batches-{how}{f'-{sample}' if sample else ''}.jsonl"
                done = read_journal(journal)
                todo = [batch for batch in batches if batch[0] not in done]
                first = {i: batch[0] for batch in todo for i in batch}
                sampled = dataclasses.replace(decoding, seed=decoding.seed + sample)
                with journal.open("a", encoding="utf-8") as file:
                    for answered in answer(todo, sampled):
                        batch = first[next(iter(answered))]
                        own = {str(i): dataclasses.asdict(a) for i, a in answered.items()}
                        done[batch] = own
                        line = {"batch": batch, "answers": own, "halved": sum(halved)}
                        halved.clear()
                        file.write(json.dumps(line) + "\n")
                        file.flush()
                        so_far = len(completions) + sum(map(len, done.values()))
                        advance(so_far, total, "")
                        work.tell(so_far, total)
                        watch(work.maker)
                        # An API's calls under way are waited for, and stopped there
                        if not config.model.api and so_far < total and stop():
                            raise Interrupted(f"generate {name}: {so_far} of {total} kept")
                halvings += sum(line.get("halved", 0) for line in read_jsonl(journal))
                by_row = {int(i): answer for batch in done.values() for i, answer in batch.items()}
                completions += [
                    {
                        **row,
                        **({"sample": sample} if decoding.samples > 1 else {}),
                        **read_answer(by_row[i], opened),
                    }
                    for i, row in enumerate(rows)
                ]
        write_jsonl(work.result / "completions.jsonl", completions)
        made[f"generate {name}"] = time.monotonic() - started
        tokens = queries.prompt_tokens
        facts = {
            "queries": len(rows),
            "samples": decoding.samples,
            "rows_key": key_of({"rows": rows}),
            "rows_from": data.origin(evaluation.queries),
            "model_from": models.origin(config.model),
            "chat_format": []
            if config.model.api
            else format_notes(config, config.test_template, model.tokenizer),
            "prompt_tokens": None if tokens is None else decoding.samples * tokens,
            "completion_tokens": known_sum(row["tokens"] for row in completions),
            "unfinished": sum(bool(is_cut_off(row)) for row in completions),
            "withheld": sum("withheld" in row for row in completions),
        }
        if config.model.api is None:
            facts |= {
                "dtype": config.model.dtype,
                "device": models.pick_device(config.engine.device),
                "batch_size": config.engine.batch_size,
                "share_prefix": config.engine.share_prefix,
                "halved_for_memory": halvings,
            }
        seconds = work.maker.spent + made[f"generate {name}"]
        _write_provenance(work.result, config, seconds, facts)


Batch = Sequence[int]
"""Row numbers that are answered together."""
Answering = tuple[
    Sequence[Batch],
    str,
    Callable[[Sequence[Batch], Decoding], Iterator[dict[int, "Completion"]]],
]
"""The batches, what else decides a batch, and the function that answers some of them."""


def answering(
    config: Config, queries: Queries, model: TestedModel, stop: Stop, halved: Callable[[], None]
) -> Answering:
    """How the cell's model answers queries: here in batches, or at its API one by one.

    Args:
        halved: see `ptst.generate.batches.complete`.
    """
    if config.model.api is not None:
        from ptst.generate.at_api import complete_at_api

        def asked(todo: Sequence[Batch], decoding: Decoding) -> Iterator[dict[int, Completion]]:
            single = [batch[0] for batch in todo]
            name = model.name_at_api
            return complete_at_api(config.model, name, queries.messages, single, decoding, stop)

        return [[i] for i in range(len(queries.rows))], "api", asked

    from ptst.generate.batches import complete, plan_batches

    engine = config.engine
    ends = templates.ends(config.test_template, config.model, model.tokenizer)

    def here(todo: Sequence[Batch], decoding: Decoding) -> Iterator[dict[int, Completion]]:
        loaded = model.model if todo else None
        return complete(
            loaded,
            model.tokenizer,
            queries.prompts,
            todo,
            decoding,
            engine.share_prefix,
            ends,
            halved,
        )

    how = f"{engine.batch_size}-{'shared' if engine.share_prefix else 'whole'}"
    return plan_batches(queries.prompts, engine.batch_size), how, here


def opens_think(config: Config, model: TestedModel) -> bool:
    """Whether the prompt of a cell ends within a think block."""
    if config.model.api is not None or config.test_template.mode == "text":
        return False
    return chat.chat_format(config.model, model.tokenizer).opens_think


def read_answer(answer: Mapping[str, Any], opened: bool) -> dict[str, Any]:
    """The columns of an answer; what stands in a think block is no part of the completion.

    Args:
        answer: a `Completion` as plain values.
        opened: whether its prompt ended within a think block.
    """
    thinking, text = chat.split_thinking(whole_text(answer["text"]), opened)
    withheld = answer.get("withheld", "")
    if text is None and not withheld:
        withheld = THINKING_CUT_OFF
    return {
        **({} if thinking is None else {"thinking": thinking}),
        "completion": text or "",
        "tokens": answer["tokens"],
        "finished": answer["finished"] and text is not None,
        **({"withheld": withheld} if withheld else {}),
    }


def is_cut_off(row: Mapping[str, Any]) -> bool | None:
    """Whether a row of completions.jsonl ended at max_new_tokens; None where the row does not say."""
    if "finished" not in row:
        return None
    return not row["finished"] and row.get("withheld", THINKING_CUT_OFF) == THINKING_CUT_OFF


def cut_off_warnings(config: Config, metrics: Metrics) -> list[str]:
    """A line for each evaluation of a cell of whose answers many were cut off, with the setting that lifts the limit."""
    of_evaluation = {name.partition("/")[0]: metric for name, metric in metrics.items()}
    return [
        f"{name}: {metric.unfinished} of {metric.n + metric.missing} answers were cut off at "
        f"{length_limit(config, name)}, and judged by what stood there until then. "
        f"{how_to_lift(config, name)}"
        for name, metric in of_evaluation.items()
        if many_cut_off(metric.unfinished, metric.n + metric.missing)
    ]


def length_limit(config: Config, name: str) -> str:
    """An evaluation's length limit as an override: "task.gsm8k.decoding.max_new_tokens=64"."""
    group = "task" if name in config.task else "evaluation"
    limit = config.evaluations[name].decoding.max_new_tokens
    return f"{group}.{name}.decoding.max_new_tokens={limit}"


def how_to_lift(config: Config, name: str) -> str:
    """What to set so that fewer answers are cut off."""
    return f"Set {length_limit(config, name).partition('=')[0]} higher, or model.max_new_tokens for all evaluations."


def judge(
    name: str,
    config: Config,
    keys: EvaluationKeys,
    store: Store,
    made: dict[str, float],
    stop: Stop = never,
    held: models.Held | None = None,
) -> None:
    """Stage 3: completions -> scores.jsonl, one row (id, label, value, reason) per query.

    A label is null where the judge was asked and has no score to give; see `ptst.judge.Score`. What an API
    withheld says nothing of the model: it is missing, and no judge is asked.

    Raises:
        PtstError: some queries were not judged, and may be if the judge is asked again.
    """
    with store.make("judge", keys.judge, keys.judge_parts, stop) as work:
        if work is None:
            return
        started = time.monotonic()
        if not store.has("generate", keys.generate):
            raise PtstError(
                f"completions {keys.generate} of {name} are not in {store.root}: run the cell with "
                "stages=[generate] first, or with all stages."
            )
        rows = read_completions(store, keys)
        with (
            _watched("judge", keys.judge, name, config, store) as watch,
            progress(f"judge {name}") as advance,
        ):

            def tell(done: int, total: int) -> None:
                advance(done, total, "")
                work.tell(done, total)
                watch(work.maker)

            asked = load_judge(config.evaluations[name].judge, f"{name}.judge")
            items = [(row, row["completion"]) for row in rows if "withheld" not in row]
            bench = Bench(
                store.root / "judging",
                config.engine.device,
                tell,
                stop,
                (held or models.Held()).judge,
            )
            try:
                given = iter(list(checked(asked, items, asked.scores(items, bench))))
            except PtstError as error:
                raise type(error)(f"{name}: {error}") from error
            scores = [
                Score(None, reason=f"no answer: {row['withheld']}", final=True)
                if "withheld" in row
                else next(given)
                for row in rows
            ]
        missing = [score for score in scores if score.label is None and not score.final]
        if missing:  # not published: what is in the store is never asked for again
            raise PtstError(
                f"{name}: {len(missing)} of {len(rows)} queries have no score "
                f"({missing[0].reason}); run the cell again to ask the judge again."
            )
        write_jsonl(
            work.result / "scores.jsonl",
            [
                {
                    "id": row["id"],
                    "label": score.label,
                    "value": score.value,
                    "reason": score.reason,
                }
                for row, score in zip(rows, scores, strict=True)
            ],
        )
        made[f"judge {name}"] = time.monotonic() - started
        seconds = work.maker.spent + made[f"judge {name}"]
        _write_provenance(
            work.result, config, seconds, _judge_facts(name, config.evaluations[name])
        )


def _watched(
    stage: str, key: str, name: str, config: Config, store: Store
) -> AbstractContextManager[Callable[[Maker], None]]:
    return watched(
        config.tracking,
        store.root,
        stage,
        key,
        f"{stage} {name}: {_title(config)} [{key[:8]}]",
        {"key": key, "evaluation": name, "test": config.test_template.name},
    )


def _title(config: Config) -> str:
    tuned = config.finetune.method != "none"
    recipe = (config.finetune.name or config.finetune.method) if tuned else "none"
    train = config.train_template.name if tuned else "none"
    return (
        f"{config.model.name} {config.dataset.name} {recipe} {train} -> {config.test_template.name} "
        f"seed {config.seed}"
    )


def summarise(config: Config, keys: CellKeys, store: Store) -> Metrics:
    """Scores -> the cell's metrics, written beside what the cell was made of, and to W&B."""
    started = time.monotonic()
    metrics: Metrics = {}
    for name, evaluation in config.evaluations.items():
        keyed = keys.evaluations[name]
        rows = read_completions(store, keyed)
        scores = read_jsonl(store.path("judge", keyed.judge) / "scores.jsonl")
        answers = [
            answer_of(row, score, evaluation) for row, score in zip(rows, scores, strict=True)
        ]
        for metric, what in evaluation.metrics.items():
            scale = scale_of_metric(evaluation, metric)
            by_category = evaluation.category is not None
            metrics[f"{name}/{metric}"] = measure(answers, what, scale, by_category)
    plain = {name: dataclasses.asdict(metric) for name, metric in metrics.items()}
    with store.make("cell", keys.cell, keys.cell_parts) as work:
        if work is None:
            return metrics
        labels = run_labels(config, keys)
        with tracked(
            config.tracking,
            store.root,
            "cell",
            keys.cell,
            f"{_title(config)}, judge {labels['judges']} [{keys.cell[:8]}]",
            {
                "key": keys.cell,
                **labels,
                "test": config.test_template.name,
                **dataclasses.asdict(config),
            },
        ) as run:
            run.summary({"key": keys.cell, **run_costs(keys, store)})
            for name, values in plain.items():
                categories = values["categories"].items()
                run.summary(
                    {name: values["value"]}
                    | {f"{name}/{k}": values[k] for k in values if k != "categories"}
                    | {f"{name}/category/{c}": part["value"] for c, part in categories}
                )
            if config.tracking.upload_completions:
                for name, keyed in keys.evaluations.items():
                    scores = read_jsonl(store.path("judge", keyed.judge) / "scores.jsonl")
                    run.table(f"completions/{name}", scored(read_completions(store, keyed), scores))
        write_json(work.result / "metrics.json", plain)
        _write_provenance(work.result, config, time.monotonic() - started, {})
    return metrics


def read_completions(store: Store, keys: EvaluationKeys) -> list[dict[str, Any]]:
    """The queries of an evaluation with their answers, from the store."""
    rows: list[dict[str, Any]] = read_jsonl(
        store.path("generate", keys.generate) / "completions.jsonl"
    )
    return rows


def scored(
    rows: Iterable[Mapping[str, Any]], scores: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of completions.jsonl with label, score and reason; a query's own column of such a name keeps it apart."""
    ours = ("label", "score", "reason")
    return [
        {
            **{f"query {column}" if column in ours else column: row[column] for column in row},
            "label": score["label"],
            "score": score["value"],
            "reason": score["reason"],
        }
        for row, score in zip(rows, scores, strict=True)
    ]


def run_labels(config: Config, keys: CellKeys) -> dict[str, str]:
    """Which model a run is about, in flat keys that W&B can filter, group and show in a column by.

    `fine_tuning` is what seeds have in common: the train template, and a hash of all but the seed. `judges` are those
    of safety, or all where there are none.
    """
    known = known_judges()
    used = [e for e in config.evaluations.values() if e.measures == "safety"]
    used = used or list(config.evaluations.values())
    judges = dict.fromkeys(judge_name(judge_parts(e.judge), known) for e in used)
    recipe = {name: part for name, part in keys.finetune_parts.items() if name != "seed"}
    train = config.train_template.name if keys.finetune else "none"
    return {
        "train": train,
        "fine_tuning": f"{train} {key_of(recipe)[:8]}" if keys.finetune else "none",
        "judges": ", ".join(judges),
    }


def run_costs(keys: CellKeys, store: Store) -> dict[str, float]:
    """Seconds of the completions and scores that a cell is made of, whoever made them, and tokens of the completions.

    What one of them does not say (an API, what it read) is left out: the rest of a sum is none.
    """
    stages = {
        stage: [
            read_json(store.path(stage, getattr(own, stage)) / "provenance.json")
            for own in keys.evaluations.values()
        ]
        for stage in ("generate", "judge")
    }
    costs = {"seconds": sum(facts["seconds"] for made in stages.values() for facts in made)}
    for name in ("prompt_tokens", "completion_tokens"):
        tokens = known_sum(facts[name] for facts in stages["generate"])
        costs |= {} if tokens is None else {name: tokens}
    return costs


def read_metrics(store: Store, key: str) -> Metrics:
    """The metrics of a finished cell."""
    found: Mapping[str, Any] = read_json(store.path("cell", key) / "metrics.json")
    return {name: from_json(values) for name, values in found.items()}


def answer_of(row: Mapping[str, Any], score: Mapping[str, Any], evaluation: Evaluation) -> Answer:
    """A row of completions.jsonl and its row of scores.jsonl, as metrics count them."""
    unit, category = unit_of(row, evaluation.unit), None
    if evaluation.category:
        category = _value(row, evaluation.category, f"category={evaluation.category}")
    named = NO_CATEGORY if category is None or not str(category).strip() else str(category)
    sample = row["sample"] if evaluation.decoding.samples > 1 else 0
    return Answer(score["label"], score.get("value"), unit, sample, named, is_cut_off(row))


def unit_of(row: Mapping[str, Any], unit: str | None) -> Any:
    """Which queries a query belongs with: those of the same value in the column `unit`, or none but itself.

    Raises:
        DataError: the row has not the column, or a list or an object in it.
    """
    value = _value(row, unit, f"unit={unit}") if unit else row["id"]
    if isinstance(value, list | dict):
        raise DataError(
            f"unit={unit}, but query {row['id']} has a {type(value).__name__} there, {value}; it must be "
            "text or a number."
        )
    return value


def _value(row: Mapping[str, Any], column: str, setting: str) -> Any:
    """A row's value in a column that a setting of its evaluation names.

    Raises:
        DataError: there is no such column.
    """
    if column not in row:
        raise DataError(
            f"{setting}, but query {row['id']} has no column {column!r}; its columns are: "
            f"{', '.join(row)}."
        )
    return row[column]


def scale_of_metric(evaluation: Evaluation, metric: str) -> Scale:
    """What a metric's numbers are on: the scale of the judge's values for a mean, else percent."""
    if evaluation.metrics[metric] != MEAN:
        return None
    return load_judge(evaluation.judge, "judge").scale


def _check_held_out(config: Config) -> None:
    """Refuse to test on what is trained on.

    Raises:
        ConfigError: naming the evaluation, and how to give it data of its own.
    """
    if config.finetune.method == "none":
        return

    def content(rows: Rows) -> dict[str, Any]:
        parts = data.identity(rows)
        return {k: parts[k] for k in parts if k not in ("columns", "n", "draw_seed", "where")}

    def apart(one: dict[str, str], other: dict[str, str]) -> bool:
        return any(one[column] != other[column] for column in one.keys() & other.keys())

    mix = config.finetune.mix
    trained = [config.dataset, *([mix.rows] if mix else [])]
    for name, evaluation in config.evaluations.items():
        queries = evaluation.queries
        if any(
            content(queries) == content(rows) and not apart(queries.where, rows.where)
            for rows in trained
        ):
            group = "task" if name in config.task else "evaluation"
            raise ConfigError(
                f"{group}.{name} would test on the very data that is trained on "
                f"({rows_in_words(queries)}). "
                f"Give {group}.{name}.queries.path or .split, or as dataset.path a folder with "
                "train and test files."
            )


def check_judge(name: str, evaluation: Evaluation) -> None:
    """Refuse a judge that says it could not judge at all: no key in the environment, say.

    Raises:
        PtstError: the judge's own words.
    """
    load_judge(evaluation.judge, f"{name}.judge").ready()


def _judge_facts(name: str, evaluation: Evaluation) -> dict[str, Any]:
    """What a judge with weights of its own has to add to the provenance of its scores."""
    origin = load_judge(evaluation.judge, f"{name}.judge").origin()
    return {"judge_from": origin} if origin else {}


def load_queries(name: str, evaluation: Evaluation) -> list[dict[str, Any]]:
    """The queries of an evaluation, with all that its prompt, its judge and its report need.

    Raises:
        DataError: see `check_rows`; or a row has a column of the name of one of ours.
    """
    rows = data.load_rows(evaluation.queries, needs=("input",))
    ours = {"completion", "tokens", "finished", "withheld", "thinking"}
    ours |= {"sample"} if evaluation.decoding.samples > 1 else set()
    for row in rows:
        if taken := sorted(ours & set(row)):
            raise DataError(
                f"evaluation {name}: the queries have a column {taken[0]!r}, which is where the "
                "answer goes; give the column another name."
            )
    check_rows(name, evaluation, rows)
    return rows


def check_rows(name: str, evaluation: Evaluation, rows: Iterable[Mapping[str, Any]]) -> None:
    """Refuse queries, with or without answers, that an evaluation cannot be judged or reported by.

    Raises:
        DataError: a row has not the column that says its unit or category, that its reading has a place for
            or that its judge reads; or its judge cannot use it.
    """
    judge = load_judge(evaluation.judge, f"{name}.judge")
    wanted = [("category", evaluation.category)]
    wanted += [("question", column) for column in templates.columns_of(evaluation.question or "")]
    for row in rows:
        if lacking := [column for column in judge.needs if column not in row]:
            setting = data.column_setting(evaluation.queries, lacking[0], "NAME")
            mapped = f", or say which one it is with {setting}" if lacking[0] in data.OURS else ""
            raise DataError(
                f"evaluation {name}: its judge, {type(judge).__name__}, reads the column "
                f"{lacking[0]!r}, which query {row['id']} has not; its columns are: "
                f"{', '.join(row)}. Choose another judge{mapped}."
            )
        try:
            unit_of(row, evaluation.unit)
            for what, column in wanted:
                if column:
                    _value(row, column, f"{what}={getattr(evaluation, what)}")
            judge.check_row(row)
        except DataError as error:
            raise DataError(f"evaluation {name}: {error}") from error


def _write_provenance(folder: Path, config: Config, seconds: float, facts: dict[str, Any]) -> None:
    write_json(folder / "config.json", dataclasses.asdict(config))
    write_json(folder / "provenance.json", provenance(seconds, **facts))


def quiet() -> None:
    """Keep the libraries' progress bars and notices out of ours."""
    import os
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\.")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
