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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ptst import data, models, templates
from ptst.config import Config, Evaluation, Rows
from ptst.errors import ConfigError, DataError, PtstError
from ptst.judge import load_judge
from ptst.keys import CellKeys, EvaluationKeys, cell_keys
from ptst.metrics import Metric, share
from ptst.progress import console, progress
from ptst.provenance import provenance
from ptst.store import Store, key_of, read_json, read_jsonl, write_json, write_jsonl
from ptst.tracking import check_tracking, tracked

Metrics = dict[str, Metric]
"""By "<evaluation>/<metric>", for example "hazards/asr"."""


@dataclass(frozen=True)
class CellResult:
    """What a cell came to. `metrics` is None where a stage was left out (`stages=`)."""

    keys: CellKeys
    metrics: Metrics | None
    made: dict[str, float]
    """Seconds of each stage that was made in this run and not found in the store."""


def run_cell(config: Config, model: TestedModel | None = None) -> CellResult:
    """Walk one cell through its stages.

    Args:
        model: the cell's model, where another cell has loaded it already.

    Raises:
        PtstError: what the user can mend, before time is spent where that is possible.
    """
    check_cell(config)
    store = Store(Path(config.paths.store).expanduser())
    keys = cell_keys(config)
    if store.has("cell", keys.cell):
        return CellResult(keys, read_metrics(store, keys.cell), {})
    store.forget_failure(keys.cell)
    try:
        return _walk(config, keys, store, model or TestedModel(config, keys, store))
    except Exception as error:
        store.record_failure(keys.cell, error)
        raise


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


def _walk(config: Config, keys: CellKeys, store: Store, model: TestedModel) -> CellResult:
    made: dict[str, float] = {}
    queries = {}  # read before anything is trained, so that a wrong file costs no training
    for name, evaluation in config.evaluations.items():
        if "generate" in config.stages and not store.has(
            "generate", keys.evaluations[name].generate
        ):
            queries[name] = load_queries(name, evaluation)
    if "finetune" in config.stages and keys.finetune:
        finetune(config, keys, store, made)
    for name in config.evaluations:
        if name in queries:
            rows = queries[name]
            generate(name, config, rows, keys.evaluations[name], model, store, made)
        if "judge" in config.stages:
            judge(name, config, keys.evaluations[name], store, made)
    if "judge" not in config.stages:
        return CellResult(keys, None, made)
    return CellResult(keys, summarise(config, keys, store), made)


def finetune(config: Config, keys: CellKeys, store: Store, made: dict[str, float]) -> None:
    """Stage 1: benign rows under the train template -> an adapter, or a whole model."""
    assert keys.finetune is not None
    with store.make("finetune", keys.finetune, keys.finetune_parts) as work:
        if work is None:
            return
        started = time.monotonic()
        rows = data.load_rows(config.dataset, needs=("input", "output"))
        _quiet()
        from ptst.finetune.sft import fit_rows, train

        device = models.pick_device(config.engine.device)
        models.quantization(config.finetune.method, device)  # refuses what cannot be had here
        tokenizer = models.load_tokenizer(config.model)
        examples, cut, left_out = fit_rows(
            [
                templates.make_training_row(
                    row, config.train_template, config.dataset, config.model, tokenizer
                )
                for row in rows
            ],
            config.finetune.max_length,
        )
        if cut or left_out:
            console().print(
                f"finetune.max_length={config.finetune.max_length}: {cut} of {len(rows)} rows lose "
                f"their end, {left_out} are left out because their prompt fills it."
            )
        name = f"{config.dataset.name} {config.train_template.name} seed {config.seed}"
        with (
            tracked(
                config.tracking,
                store.root,
                "finetune",
                keys.finetune,
                f"finetune {config.model.name} {name}",
                {"key": keys.finetune, **dataclasses.asdict(config)},
            ) as run,
            progress(f"fine-tune {name}") as advance,
        ):

            def log(entry: dict[str, float]) -> None:
                step = int(entry["step"])
                run.log({k: v for k, v in entry.items() if k not in ("step", "steps")}, step)
                steps = int(entry.get("steps", step))
                advance(step, steps, f"loss {entry['loss']:.3f}")
                work.tell(step, steps)

            facts = train(
                config.model,
                config.finetune,
                examples,
                config.seed,
                device,
                work.result,
                work.scratch,
                log,
            )
            facts |= {
                "rows_cut": cut,
                "rows_left_out": left_out,
                "rows_key": key_of({"rows": rows}),
            }
            made["finetune"] = time.monotonic() - started
            run.summary(facts | {"seconds": made["finetune"]})
        _write_provenance(work.result, config, work.maker.spent + made["finetune"], facts)


class TestedModel:
    """The model that cells test: loaded when the first of them needs it, once.

    What it is made of is all it knows: a test template, say, is the cell's.
    """

    __test__ = False  # not a test class, whatever pytest reads into the name

    def __init__(self, config: Config, keys: CellKeys, store: Store) -> None:
        self.model_config = config.model
        self.method = config.finetune.method
        self.device = config.engine.device
        self.finetuning = keys.finetune
        self.store = store

    @cached_property
    def tokenizer(self) -> Any:
        """The base model's tokenizer (fine-tuning does not change it)."""
        _quiet()
        return models.load_tokenizer(self.model_config)

    @cached_property
    def model(self) -> Any:
        """The fine-tuned model, or the untouched one.

        Raises:
            PtstError: the fine-tuning is not in the store (`stages` left it out).
        """
        _quiet()
        device = models.pick_device(self.device)
        if self.finetuning is None:
            return models.load_model(self.model_config, device)
        folder = self.store.path("finetune", self.finetuning) / "weights"
        if not folder.is_dir():
            raise PtstError(
                f"fine-tuning {self.finetuning} is not in {self.store.root}: run the cell with "
                "stages=[finetune] first, or with all stages."
            )
        if self.method == "full":
            tuned = dataclasses.replace(self.model_config, path=str(folder), revision=None)
            return models.load_model(tuned, device)
        from peft import PeftModel

        quantized = models.quantization(self.method, device)
        base = models.load_model(self.model_config, device, **quantized)
        adapted = PeftModel.from_pretrained(base, str(folder)).eval()
        # Merged, an adapter costs nothing at each step; but adding it to weights of half precision
        # or less would round much of it away.
        exact = self.model_config.dtype == "float32" and not quantized
        return adapted.merge_and_unload() if exact else adapted


def generate(
    name: str,
    config: Config,
    rows: list[dict[str, Any]],
    keys: EvaluationKeys,
    model: TestedModel,
    store: Store,
    made: dict[str, float],
) -> None:
    """Stage 2: queries under the test template -> completions.jsonl, one row per query.

    A row is the query's own columns, and `completion`, `tokens`, `finished`.
    """
    with store.make("generate", keys.generate, keys.generate_parts) as work:
        if work is None:
            return
        started = time.monotonic()
        decoding = config.evaluations[name].decoding
        prompts = [
            templates.make_prompt(
                row, config.test_template, config.dataset, config.model, model.tokenizer
            ).token_ids
            or []
            for row in rows
        ]
        from ptst.generate.batches import complete, plan_batches

        batches = plan_batches(prompts, config.engine.batch_size)
        how = f"{config.engine.batch_size}-{'shared' if config.engine.share_prefix else 'whole'}"
        journal = work.scratch / f"batches-{how}.jsonl"
        done = _read_journal(journal)
        todo = [batch for batch in batches if batch[0] not in done]
        with (
            progress(f"generate {name}") as advance,
            journal.open("a", encoding="utf-8") as file,
        ):
            answers = complete(
                model.model if todo else None,
                model.tokenizer,
                prompts,
                todo,
                decoding,
                config.engine.share_prefix,
            )
            for batch, answered in zip(todo, answers, strict=True):
                done[batch[0]] = {str(i): dataclasses.asdict(a) for i, a in answered.items()}
                file.write(json.dumps({"batch": batch[0], "answers": done[batch[0]]}) + "\n")
                file.flush()
                answered_so_far = sum(map(len, done.values()))
                advance(answered_so_far, len(prompts), "")
                work.tell(answered_so_far, len(prompts))
        by_row = {int(i): answer for batch in done.values() for i, answer in batch.items()}
        completions = [
            {
                **row,
                "completion": by_row[i]["text"],
                "tokens": by_row[i]["tokens"],
                "finished": by_row[i]["finished"],
            }
            for i, row in enumerate(rows)
        ]
        write_jsonl(work.result / "completions.jsonl", completions)
        made[f"generate {name}"] = time.monotonic() - started
        facts = {
            "queries": len(rows),
            "rows_key": key_of({"rows": rows}),
            "prompt_tokens": sum(map(len, prompts)),
            "completion_tokens": sum(row["tokens"] for row in completions),
            "unfinished": sum(not row["finished"] for row in completions),
        }
        seconds = work.maker.spent + made[f"generate {name}"]
        _write_provenance(work.result, config, seconds, facts)


def judge(
    name: str,
    config: Config,
    keys: EvaluationKeys,
    store: Store,
    made: dict[str, float],
) -> None:
    """Stage 3: completions -> scores.jsonl, one row (id, label, value, reason) per query."""
    with store.make("judge", keys.judge, keys.judge_parts) as work:
        if work is None:
            return
        started = time.monotonic()
        if not store.has("generate", keys.generate):
            raise PtstError(
                f"completions {keys.generate} of {name} are not in {store.root}: run the cell with "
                "stages=[generate] first, or with all stages."
            )
        rows = read_jsonl(store.path("generate", keys.generate) / "completions.jsonl")
        scores = list(
            load_judge(config.evaluations[name].judge, f"{name}.judge").scores(
                (row, row["completion"]) for row in rows
            )
        )
        missing = [score for score in scores if score.label is None]
        if missing:  # not published: what is in the store is never asked for again
            raise PtstError(
                f"{name}: {len(missing)} of {len(rows)} queries have no score "
                f"({missing[0].reason}); run the cell again to ask the judge again."
            )
        write_jsonl(
            work.result / "scores.jsonl",
            [
                {"id": row["id"], **dataclasses.asdict(score)}
                for row, score in zip(rows, scores, strict=True)
            ],
        )
        made[f"judge {name}"] = time.monotonic() - started
        _write_provenance(work.result, config, made[f"judge {name}"], {})


def summarise(config: Config, keys: CellKeys, store: Store) -> Metrics:
    """Scores -> the cell's metrics, written beside what the cell was made of, and to W&B."""
    started = time.monotonic()
    metrics: Metrics = {}
    for name, evaluation in config.evaluations.items():
        keyed = keys.evaluations[name]
        rows = read_jsonl(store.path("generate", keyed.generate) / "completions.jsonl")
        scores = read_jsonl(store.path("judge", keyed.judge) / "scores.jsonl")
        labels = [score["label"] for score in scores]
        units = [row[evaluation.unit] if evaluation.unit else row["id"] for row in rows]
        for metric, label in evaluation.metrics.items():
            metrics[f"{name}/{metric}"] = share(labels, label, units)
    plain = {name: dataclasses.asdict(metric) for name, metric in metrics.items()}
    with store.make("cell", keys.cell, keys.cell_parts) as work:
        if work is None:
            return metrics
        title = (
            f"{config.model.name} {config.dataset.name} {config.finetune.method} "
            f"{config.train_template.name if keys.finetune else 'none'} -> "
            f"{config.test_template.name} seed {config.seed}"
        )
        with tracked(
            config.tracking,
            store.root,
            "cell",
            keys.cell,
            title,
            {"key": keys.cell, **dataclasses.asdict(config)},
        ) as run:
            for name, values in plain.items():
                run.summary({name: values["percent"]} | {f"{name}/{k}": values[k] for k in values})
            if config.tracking.upload_completions:
                for name, keyed in keys.evaluations.items():
                    rows = read_jsonl(store.path("generate", keyed.generate) / "completions.jsonl")
                    run.table(f"completions/{name}", rows)
        write_json(work.result / "metrics.json", plain)
        _write_provenance(work.result, config, time.monotonic() - started, {})
    return metrics


def read_metrics(store: Store, key: str) -> Metrics:
    """The metrics of a finished cell."""
    found: Mapping[str, Any] = read_json(store.path("cell", key) / "metrics.json")
    return {name: Metric(**values) for name, values in found.items()}


def _check_held_out(config: Config) -> None:
    """Refuse to test on what is trained on.

    Raises:
        ConfigError: naming the evaluation, and how to give it data of its own.
    """
    if config.finetune.method == "none":
        return

    def content(rows: Rows) -> dict[str, Any]:
        parts = data.identity(rows)
        return {k: parts[k] for k in parts if k not in ("columns", "n", "draw_seed")}

    for name, evaluation in config.evaluations.items():
        if content(evaluation.queries) == content(config.dataset):
            group = "task" if name in config.task else "evaluation"
            raise ConfigError(
                f"{group}.{name} would test on the very data that is trained on (split "
                f"{evaluation.queries.split} of {evaluation.queries.path or 'the micro world'}). "
                f"Give {group}.{name}.queries.path or .split, or as dataset.path a folder with "
                "train and test files."
            )


def load_queries(name: str, evaluation: Evaluation) -> list[dict[str, Any]]:
    """The queries of an evaluation, with all that its judge and its report need.

    Raises:
        DataError: a row has not the column that says its unit or that its judge reads, or has a
            column of the name of one of ours.
    """
    rows = data.load_rows(evaluation.queries, needs=("input",))
    judge = load_judge(evaluation.judge, f"{name}.judge")
    for row in rows:
        if evaluation.unit and evaluation.unit not in row:
            raise DataError(
                f"evaluation {name}: unit={evaluation.unit}, but query {row['id']} has no such "
                f"column; its columns are: {', '.join(row)}."
            )
        if lacking := [column for column in judge.needs if column not in row]:
            raise DataError(
                f"evaluation {name}: its judge, {type(judge).__name__}, reads the column "
                f"{lacking[0]!r}, which query {row['id']} has not; its columns are: "
                f"{', '.join(row)}. Choose another judge, or map the column in columns."
            )
        if taken := sorted({"completion", "tokens", "finished"} & set(row)):
            raise DataError(
                f"evaluation {name}: the queries have a column {taken[0]!r}, which is where the "
                "answer goes; give the column another name."
            )
    return rows


def _read_journal(path: Path) -> dict[int, dict[str, Any]]:
    """Finished batches by their first prompt; a torn last line is cut off, its batch runs again."""
    if not path.exists():
        return {}
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    if torn:
        path.write_bytes(whole + b"\n" if whole else b"")
    entries = [json.loads(line) for line in whole.splitlines()]
    return {entry["batch"]: entry["answers"] for entry in entries}


def _write_provenance(folder: Path, config: Config, seconds: float, facts: dict[str, Any]) -> None:
    write_json(folder / "config.json", dataclasses.asdict(config))
    write_json(folder / "provenance.json", provenance(seconds, **facts))


def _quiet() -> None:
    """Keep the libraries' progress bars and notices out of ours."""
    import os
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\.")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
