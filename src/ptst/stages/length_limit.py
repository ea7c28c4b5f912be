"""Answers that the length limit cut off, and the setting that lifts it."""

from __future__ import annotations

from ptst.metrics import many_cut_off
from ptst.schema import Config
from ptst.stages.summarise import Metrics


def cut_off_warnings(config: Config, metrics: Metrics) -> list[str]:
    """A line for each evaluation of a cell of whose answers many were cut off, with the setting
    that lifts the limit."""
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
