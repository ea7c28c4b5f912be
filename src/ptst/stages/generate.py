"""Stage 2: queries under the test template become completions."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ptst import chat, data, models, templates
from ptst.config import Config, Decoding
from ptst.errors import Interrupted
from ptst.keys import EvaluationKeys
from ptst.metrics import known_sum
from ptst.progress import progress
from ptst.store import Store, key_of, read_journal, read_jsonl, write_jsonl

if TYPE_CHECKING:
    from ptst.engine.batches import Completion
from ptst.stages.base import Stop, never, watched_stage, write_provenance
from ptst.stages.completions import is_cut_off, read_answer
from ptst.stages.queries import Queries, format_notes
from ptst.stages.tested_model import TestedModel


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
            watched_stage("generate", keys.generate, name, config, store) as watch,
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
        write_provenance(work.result, config, seconds, facts)


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
        halved: see `ptst.engine.batches.complete`.
    """
    if config.model.api is not None:
        from ptst.generate.at_api import complete_at_api

        def asked(todo: Sequence[Batch], decoding: Decoding) -> Iterator[dict[int, Completion]]:
            single = [batch[0] for batch in todo]
            name = model.name_at_api
            return complete_at_api(config.model, name, queries.messages, single, decoding, stop)

        return [[i] for i in range(len(queries.rows))], "api", asked

    from ptst.engine.batches import complete, plan_batches

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
