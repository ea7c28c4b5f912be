"""The last stage: scores become the metrics of a cell, in the store and in W&B."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ptst.judge import load_judge
from ptst.keys import CellKeys, judge_parts
from ptst.metrics import Answer, Metric, Scale, from_json, known_sum, mean_of, measure
from ptst.schema import Config, Evaluation
from ptst.stages.analyse import points_history, read_analyses
from ptst.stages.base import title, write_provenance
from ptst.stages.completions import answer_of, read_completions, scored
from ptst.store import Store, key_of, read_json, read_jsonl, write_json
from ptst.tracking import tracked
from ptst.wording import judge_name, known_judges

Metrics = dict[str, Metric]
"""By "<evaluation>/<metric>", for example "hazards/asr"."""


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
        for metric, found in _measured(evaluation, answers).items():
            metrics[f"{name}/{metric}"] = found
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
            f"{title(config)}, judge {labels['judges']} [{keys.cell[:8]}]",
            {
                "key": keys.cell,
                **labels,
                "test": config.test_template.name,
                **dataclasses.asdict(config),
            },
        ) as run:
            for step, points in points_history(store, keys).items():
                run.log(points, step)
            run.summary({"key": keys.cell, **run_costs(keys, store), **read_analyses(store, keys)})
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
        write_provenance(work.result, config, time.monotonic() - started, {})
    return metrics


def _measured(evaluation: Evaluation, answers: Sequence[Answer]) -> dict[str, Metric]:
    """The metrics of an evaluation, in its order."""
    by_category = evaluation.category is not None
    found = {}
    for metric, what in evaluation.metrics.items():
        if metric not in evaluation.mean_of:
            own = [answer for answer in answers if metric not in answer.outside]
            scale = scale_of_metric(evaluation, metric)
            found[metric] = measure(own, what, scale, by_category)
    for metric, parts in evaluation.mean_of.items():
        found[metric] = mean_of([found[part] for part in parts])
    return {metric: found[metric] for metric in evaluation.metrics}


def run_labels(config: Config, keys: CellKeys) -> dict[str, str]:
    """Which model a run is about, in flat keys that W&B can filter, group and show in a column by.

    `fine_tuning` is what seeds have in common: the train template, and a hash of all but the seed.
    `judges` are those of safety, or all where there are none.
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
    """Seconds of the completions and scores that a cell is made of, whoever made them, and tokens
    of the completions.

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


def scale_of_metric(evaluation: Evaluation, metric: str) -> Scale:
    """What a metric's numbers are on: the scale of the values for a mean; None for a share."""
    return load_judge(evaluation.judge, "judge").scale_of(evaluation.metrics[metric])
