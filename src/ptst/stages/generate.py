"""Stage 2: queries under the test template become completions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptst import data, models
from ptst.engine import Ask, Engine, Session, TooLong
from ptst.engine.chosen import engine_of
from ptst.engine.rounds import Rounds
from ptst.engine.spelling import Spelling
from ptst.guard import counted, guarded, prepared
from ptst.keys import EvaluationKeys
from ptst.metrics import known_sum
from ptst.progress import progress
from ptst.schema import Config
from ptst.stages.base import Stop, never, watched_stage, write_provenance
from ptst.stages.completions import is_cut_off
from ptst.stages.queries import Queries, dialogue_of, format_notes, guard_of
from ptst.stages.tested_model import TestedModel
from ptst.store import Store, Work, key_of, write_jsonl


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

    A row is the query's own columns, and `completion`, `tokens`, `finished`; what stood in a think
    block before the completion, as `thinking`; where there is no answer (an API does not give it,
    a think block did not end), why, as `withheld`; where each query is answered several times also
    `sample`, from 0: all answers of the first sample, then all of the second. A sample is what
    `decoding.seed` raised by its number gives by itself.
    """
    with store.make("generate", keys.generate, keys.generate_parts, stop) as work:
        if work is None:
            return
        started = time.monotonic()
        evaluation = config.evaluations[name]
        samples, rows = evaluation.decoding.samples, queries.rows
        engine, dialogue, guard = engine_of(config), dialogue_of(evaluation, name), guard_of(config)
        completions: list[dict[str, Any]] = []
        with (
            watched_stage("generate", keys.generate, name, config, store) as watch,
            progress(f"generate {name}") as advance,
        ):

            def tell(done: int, total: int) -> None:
                advance(done, total, "")
                work.tell(done, total)
                watch(work.maker)

            rounds = _rounds_of(name, config, engine, queries, model, work, tell, stop)
            if guard:
                guard.enter(config, evaluation.decoding)
            kept = _kept(name, config, engine, rounds, keys, store)
            prepares = prepared(guard, rounds, model, kept) if guard else {}
            for sample in range(samples):
                talks = [dialogue.talk(row) for row in rows]
                if guard:
                    pairs = zip(talks, rows, strict=True)
                    talks = [guarded(talk, guard, row) for talk, row in pairs]
                numbered = {"sample": sample} if samples > 1 else {}
                columns = zip(rows, rounds.run(talks, sample=sample), strict=True)
                completions += [{**row, **numbered, **own} for row, own in columns]
        write_jsonl(work.result / "completions.jsonl", completions)
        made[f"generate {name}"] = time.monotonic() - started
        facts = _facts(name, config, engine, queries, model, rounds, completions)
        if guard:
            facts["guard"] = {**counted(completions), **prepares}
        seconds = work.maker.spent + made[f"generate {name}"]
        write_provenance(work.result, config, seconds, facts)


def _facts(
    name: str,
    config: Config,
    engine: Engine,
    queries: Queries,
    model: TestedModel,
    rounds: Rounds,
    completions: list[dict[str, Any]],
) -> dict[str, Any]:
    """What the provenance of completions says, beside what a guard did."""
    evaluation = config.evaluations[name]
    notes = []
    if engine.reads == "tokens":
        notes = format_notes(config, config.test_template, model.tokenizer)
    return {
        "queries": len(queries.rows),
        "samples": evaluation.decoding.samples,
        "rows_key": key_of({"rows": queries.rows}),
        "rows_from": data.origin(evaluation.queries),
        "model_from": models.origin(config.model),
        "chat_format": notes,
        "prompt_tokens": known_sum(rounds.prompt_tokens),
        "completion_tokens": known_sum(rounds.completion_tokens),
        "unfinished": sum(bool(is_cut_off(row)) for row in completions),
        "withheld": sum("withheld" in row for row in completions),
        **engine.facts(config),
        **({"halved_for_memory": rounds.halved} if engine.reads == "tokens" else {}),
    }


def _kept(
    name: str, config: Config, engine: Engine, rounds: Rounds, keys: EvaluationKeys, store: Store
) -> Callable[[Sequence[Ask]], Path]:
    """Names the file of the store for the replies to what a guard asks before the queries.

    Most guards ask the untuned model about the same rows in every evaluation of every cell.
    """
    evaluation = config.evaluations[name]

    def asked(ask: Ask) -> list[Any]:
        decoding = ask.decoding or evaluation.decoding
        how = engine.parts(config, replace(evaluation, decoding=decoding))
        try:
            prompt = rounds.prompt(ask)
        except TooLong as error:
            prompt = str(error)
        return [ask.model, prompt, ask.ids, how]

    def path(asks: Sequence[Ask]) -> Path:
        own = {"untuned": models.identity(config.model), "tested": keys.generate_parts["model"]}
        named = {which: own[which] for which in sorted({ask.model for ask in asks})}
        parts = {"format": 1, "models": named, "asked": [asked(ask) for ask in asks]}
        return store.root / "preparing" / f"{key_of(parts)}.jsonl"

    return path


def _rounds_of(
    name: str,
    config: Config,
    engine: Engine,
    queries: Queries,
    model: TestedModel,
    work: Work,
    tell: Callable[[int, int], None],
    stop: Stop,
) -> Rounds:
    """The runner of an evaluation's conversations."""
    tokenizer = model.tokenizer if engine.reads == "tokens" else None
    context = model.held.context(config.model) if engine.has_weights else None
    spelling = Spelling(name, config, engine, tokenizer, context)
    place = {id(ask.row): n for n, ask in enumerate(queries.asks)}
    first = queries.messages or queries.prompts  # spelled before anything was trained

    def prompt(ask: Ask) -> Any:
        n = place.get(id(ask.row))
        asked = replace(ask, ids=False, watch=None)  # what no prompt depends on
        return spelling.prompt(ask) if n is None or asked != queries.asks[n] else first[n]

    # Another evaluation of the cell is not part of the key, and may not decide an answer.
    alone = replace(config, task={}, evaluation={name: config.evaluations[name]})

    def opened(which: str) -> Session:
        return engine.open(model if which == "tested" else model.untuned(), alone, stop)

    decoding = config.evaluations[name].decoding
    return Rounds(
        f"generate {name}",
        decoding,
        prompt,
        spelling.opens_think,
        opened,
        work.scratch,
        tell,
        stop,
    )
