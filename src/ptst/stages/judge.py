"""Stage 3: completions become scores."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ptst import models
from ptst.engine.chosen import engine_of
from ptst.errors import PtstError
from ptst.judge import JudgeContext, Score, checked, load_judge
from ptst.keys import EvaluationKeys
from ptst.progress import progress
from ptst.schema import Config, Evaluation
from ptst.stages.base import Stop, never, watched_stage, write_provenance
from ptst.stages.completions import read_completions
from ptst.store import Store, write_jsonl


def judge(
    name: str,
    config: Config,
    keys: EvaluationKeys,
    store: Store,
    made: dict[str, float],
    stop: Stop = never,
    held: models.Held | None = None,
) -> None:
    """Stage 3: completions -> scores.jsonl, one row (id, label, value, reason[, values]) per query.

    A label is null where the judge was asked and has no score to give; see `ptst.judge.Score`. What
    an API withheld says nothing of the model: it is missing, and no judge is asked.

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
            watched_stage("judge", keys.judge, name, config, store) as watch,
            progress(f"judge {name}") as advance,
        ):

            def tell(done: int, total: int) -> None:
                advance(done, total, "")
                work.tell(done, total)
                watch(work.maker)

            device = engine_of(config).device
            held = held or models.Held()
            if load_judge(config.evaluations[name].judge, f"{name}.judge").needs_gpu:
                held.served.forget()  # what an engine's process takes of a GPU, the judge needs
            context = JudgeContext(store.root / "judging", device, tell, stop, held.judge)
            scores = _scores(name, config.evaluations[name], rows, context)
        missing = [score for score in scores if score.label is None and not score.final]
        if missing:  # not published: what is in the store is never asked for again
            raise PtstError(
                f"{name}: {len(missing)} of {len(rows)} queries have no score "
                f"({missing[0].reason}); run the cell again to ask the judge again."
            )
        judged = zip(rows, scores, strict=True)
        write_jsonl(work.result / "scores.jsonl", [_row(row, score) for row, score in judged])
        made[f"judge {name}"] = time.monotonic() - started
        seconds = work.maker.spent + made[f"judge {name}"]
        write_provenance(work.result, config, seconds, _judge_facts(name, config.evaluations[name]))


def _scores(
    name: str, evaluation: Evaluation, rows: Sequence[Mapping[str, Any]], context: JudgeContext
) -> list[Score]:
    """What the judge gives every completion; what was withheld it is not asked."""
    asked = load_judge(evaluation.judge, f"{name}.judge")
    items = [(row, row["completion"]) for row in rows if "withheld" not in row]
    try:
        given = iter(list(checked(asked, items, asked.scores(items, context))))
    except PtstError as error:
        raise type(error)(f"{name}: {error}") from error
    return [
        Score(None, reason=f"no answer: {row['withheld']}", final=True)
        if "withheld" in row
        else next(given)
        for row in rows
    ]


def _row(row: Mapping[str, Any], score: Score) -> dict[str, Any]:
    return {
        "id": row["id"],
        "label": score.label,
        "value": score.value,
        "reason": score.reason,
        **({"values": dict(score.values)} if score.values else {}),
    }


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
