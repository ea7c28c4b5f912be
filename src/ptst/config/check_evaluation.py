"""Refuse an evaluation that cannot be judged or reported."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ptst.config.check_recipe import within
from ptst.errors import ConfigError
from ptst.judge import SAFETY_LABELS, load_judge
from ptst.metrics import MEAN
from ptst.reading import check_reading, columns_of
from ptst.schema import Config, Evaluation


def check_evaluation(where: str, evaluation: Evaluation) -> None:
    decoding = evaluation.decoding
    within(f"{where}.decoding.max_new_tokens", decoding.max_new_tokens, 1, math.inf)
    within(f"{where}.decoding.temperature", decoding.temperature, 0, math.inf)
    within(f"{where}.decoding.top_p", decoding.top_p, 0, 1, above=True)
    within(f"{where}.decoding.top_k", decoding.top_k, 0, math.inf)
    within(f"{where}.decoding.samples", decoding.samples, 1, math.inf)
    if decoding.samples > 1 and decoding.temperature == 0:
        raise ConfigError(
            f"{where}.decoding.samples={decoding.samples} would be the same answer every time: "
            "temperature=0 is greedy. Set a temperature, or samples=1."
        )
    if evaluation.question is not None:
        check_reading(evaluation.question, f"{where}.question")
    named = {"unit": [evaluation.unit], "category": [evaluation.category]}
    named["question"] = [*columns_of(evaluation.question or "")]
    for setting in (setting for setting, columns in named.items() if "id" in columns):
        raise ConfigError(
            f"{where}.{setting}={getattr(evaluation, setting)}: id is the number that ptst gives a query. A "
            "file's own column of that name is called source_id; unit=null takes each query by itself."
        )
    judge = load_judge(evaluation.judge, f"{where}.judge")
    if not evaluation.metrics:
        raise ConfigError(f"{where}.metrics is empty: name what is to be reported.")
    # A harmless query's answer is no better or worse for not being harmful.
    harm = judge.judges_harm and evaluation.measures != "safety"
    labels = [label for label in judge.labels if not (harm and label == "complied")]
    if both := sorted({*judge.labels, MEAN} & {*judge.scales}):
        raise ConfigError(
            f"{where}.judge: {both[0]!r} is a label and one of its named values; rename the value in "
            f"`scales` of {type(judge).__name__}."
        )
    labels += [*([] if judge.scale is None else [MEAN]), *judge.scales]
    given = {m: label for m, label in evaluation.metrics.items() if label in labels}
    lacking = {m: label for m, label in evaluation.metrics.items() if m not in given}
    for metric, label in lacking.items():
        if label == MEAN and not given:
            raise ConfigError(
                f"{where}.metrics.{metric}: there is no {MEAN}, for the judge gives labels and no "
                f"values; its labels are: {', '.join(labels)}."
            )
        if label not in (*SAFETY_LABELS, MEAN) or not given:
            raise ConfigError(
                f"{where}.metrics.{metric}: the judge gives no label {label!r}"
                f"{' on harmless queries' if harm and label in judge.labels else ''}; "
                f"its labels are: {', '.join(labels)}."
            )
    evaluation.metrics, evaluation.left_out = given, lacking
    _check_parts(where, evaluation)
    judge.check_evaluation(evaluation, where)


def _check_parts(where: str, evaluation: Evaluation) -> None:
    """Refuse metrics of some queries, or means of metrics, that name what there is not.

    Raises:
        ConfigError: naming the setting, and what would be right.
    """
    there = ", ".join(evaluation.metrics)
    for setting in ("only", "mean_of"):
        for metric in getattr(evaluation, setting):
            if metric not in evaluation.metrics:
                raise ConfigError(f"{where}.{setting}.{metric}: there is no such metric; {there}.")
    for metric, parts in evaluation.mean_of.items():
        wrong = [part for part in parts if part not in evaluation.metrics]
        wrong += [part for part in parts if part in evaluation.mean_of]
        if wrong or not parts:
            named = f"{wrong[0]!r} is none" if wrong else "it is empty"
            raise ConfigError(
                f"{where}.mean_of.{metric} must name metrics of this evaluation that are no means of others; {named}."
            )


def left_out(configs: Iterable[Config]) -> list[str]:
    """A line for people about each metric that is not reported because its judge has no label or
    value for it."""
    return list(
        dict.fromkeys(
            f"{name}/{metric} is left out: its judge, {evaluation.judge['_target_'].rpartition('.')[2]}, "
            f"gives {'labels and no values' if label == MEAN else f'no label {label!r}'}"
            for config in configs
            for name, evaluation in config.evaluations.items()
            for metric, label in evaluation.left_out.items()
        )
    )
