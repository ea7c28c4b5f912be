"""What guards share that act while a model writes, once a probability reaches tau: where they can
be used, and how tau is calibrated on answers to harmless questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ptst import data
from ptst.engine import Ask, question
from ptst.engine.chosen import engine_of
from ptst.errors import ConfigError, PtstError
from ptst.probe import tau_at
from ptst.schema import Config, Rows
from ptst.store import key_of

INPUT = ("input",)


def check_numbers(tau: float | None, fpr: float, prefixes: Sequence[int], min_tokens: int) -> None:
    """Refuse numbers out of range.

    Raises:
        ConfigError: naming the field.
    """
    if tau is not None and tau < 0:
        raise ConfigError(f"tau={tau} must be a probability, or above 1 for none to reach it.")
    if not 0 <= fpr < 100:
        raise ConfigError(f"fpr={fpr} per cent must be at least 0 and less than 100.")
    if not prefixes or min(prefixes) < 1:
        raise ConfigError(f"prefixes={prefixes} must be numbers of tokens, from 1 on.")
    if len(set(prefixes)) < len(prefixes):
        raise ConfigError(f"prefixes={prefixes} names a number twice.")
    if min_tokens < 1:
        raise ConfigError(f"min_tokens={min_tokens} must be at least 1.")


def check_engine(config: Config, does: str) -> None:
    """Refuse engines without a place for a watch or a steer, and sampling.

    Args:
        does: what the guard does, for messages: "looks into the model while it writes".

    Raises:
        ConfigError: naming the model, the engine or the evaluation.
    """
    if config.model.api is not None:
        raise ConfigError(
            f"it {does}, and model {config.model.name} is behind an API; choose a model with "
            "weights, or defence=[repeat_back]."
        )
    engine = engine_of(config)
    if not engine.watches:
        raise ConfigError(
            f"it {does}, which engine {type(engine).__name__} has no place for; choose "
            "engine=transformers."
        )
    for name, evaluation in config.evaluations.items():
        if evaluation.decoding.temperature > 0:
            raise ConfigError(
                f"{name}.decoding.temperature={evaluation.decoding.temperature}: its answers are "
                "greedy; set temperature=0, or leave the evaluation out."
            )


def harmless_asks(asked: Iterable[Rows], fitted_on: Iterable[Rows], where: str) -> list[Ask]:
    """The harmless questions of some rows, without those that a probe was fitted on.

    Args:
        where: the guard's place in the configuration, for messages.

    Raises:
        PtstError: none is left.
    """
    known = {row["input"] for rows in fitted_on for row in data.load_rows(rows, INPUT)}
    texts = [str(row["input"]) for rows in asked for row in data.load_rows(rows, INPUT)]
    asks = [question(text) for text in texts if text not in known]
    if not asks:
        raise PtstError(
            f"{where}: the probe is fitted on all {len(texts)} questions of calibration and "
            "calibration_sums, so that no tau can be calibrated on them; choose other rows, or set "
            "tau."
        )
    return asks


def calibrated(
    scores: Sequence[float], fpr: float, asked: Mapping[str, Rows], did: str
) -> tuple[float, dict[str, Any]]:
    """The smallest tau that at most `fpr` per cent of harmless answers reach, and facts about it.

    Args:
        scores: the highest probability of each answer.
        asked: where the questions are from.
        did: what happens to an answer that reaches tau, for the facts' names: "nudged".
    """
    tau = tau_at(scores, fpr / 100)
    fired = sum(score >= tau for score in scores)
    return tau, {
        "calibration_answers": len(scores),
        f"calibration_{did}": fired,
        "calibration_rate": 100 * fired / len(scores),
        "calibration_key": key_of({"scores": scores}),
        "calibration_from": {name: data.origin(rows) for name, rows in asked.items()},
    }
