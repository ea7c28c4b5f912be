"""The keys of a cell: what each stage's result depends on, and nothing else.

Each function returns the *parts* of a key: resolved values, JSON-like. `ptst.store.key_of` hashes
them. Raise a stage's FORMAT when the same parts would make something else than before.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ptst import data, models
from ptst.config import Config, Dataset, Evaluation
from ptst.judge import load_judge
from ptst.store import key_of

FINETUNE_FORMAT = 1
GENERATE_FORMAT = 1
JUDGE_FORMAT = 1
CELL_FORMAT = 1

Parts = dict[str, Any]


@dataclass(frozen=True)
class EvaluationKeys:
    """Keys and parts of the two stages that an evaluation walks."""

    generate: str
    generate_parts: Parts
    judge: str
    judge_parts: Parts


@dataclass(frozen=True)
class CellKeys:
    """All keys of a cell. `finetune` is None for the untouched model."""

    finetune: str | None
    finetune_parts: Parts
    evaluations: dict[str, EvaluationKeys] = field(default_factory=dict)
    cell: str = ""
    cell_parts: Parts = field(default_factory=dict)

    @property
    def model(self) -> str:
        """Which model the cell tests: the fine-tuning's key, or one of the untouched model."""
        return self.finetune or key_of(self.finetune_parts)


def cell_keys(config: Config) -> CellKeys:
    """Work out every key of a cell, without running anything.

    Raises:
        DataError, ConfigError: a local file or model directory is missing.
    """
    finetune_parts = _finetune_parts(config)
    finetune = key_of(finetune_parts) if config.finetune.method != "none" else None
    evaluations: dict[str, EvaluationKeys] = {}
    for name, evaluation in config.evaluations.items():
        generate_parts = _generate_parts(config, evaluation, finetune, finetune_parts)
        generate = key_of(generate_parts)
        judge_parts = _judge_parts(evaluation, generate)
        evaluations[name] = EvaluationKeys(
            generate, generate_parts, key_of(judge_parts), judge_parts
        )
    cell_parts = {
        "format": CELL_FORMAT,
        "finetune": finetune,
        "evaluations": {
            name: {
                "scores": keys.judge,
                "metrics": config.evaluations[name].metrics,
                "unit": config.evaluations[name].unit,
                "measures": config.evaluations[name].measures,
            }
            for name, keys in evaluations.items()
        },
    }
    return CellKeys(finetune, finetune_parts, evaluations, key_of(cell_parts), cell_parts)


def parts_of(node: Any) -> Parts:
    """A dataclass as plain values, without its name and without fields that only change speed."""
    parts: Parts = {}
    for f in dataclasses.fields(node):
        if f.name == "name" or not f.metadata.get("key", True):
            continue
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            value = parts_of(value)
        elif isinstance(value, list):
            value = [parts_of(v) if dataclasses.is_dataclass(v) else v for v in value]
        parts[f.name] = value
    return parts


def _reading(dataset: Dataset) -> Parts:
    """How the data set's questions read: part of every prompt, safety queries included."""
    return {"question": dataset.question, "instruction": dataset.instruction}


def _finetune_parts(config: Config) -> Parts:
    if config.finetune.method == "none":
        return {"format": FINETUNE_FORMAT, "model": models.identity(config.model), "method": "none"}
    recipe = parts_of(config.finetune)
    if config.finetune.method == "full":
        del recipe["lora"]
    elif config.finetune.lora.dropout > 0:  # drawn anew for every forward pass
        recipe["device_batch_size"] = config.finetune.device_batch_size
    if config.finetune.schedule != "step":
        del recipe["gamma"]
    return {
        "format": FINETUNE_FORMAT,
        "model": models.identity(config.model),
        "rows": data.identity(config.dataset),
        "reading": _reading(config.dataset),
        "template": parts_of(config.train_template),
        "recipe": recipe,
        "seed": config.seed,
    }


def _generate_parts(
    config: Config, evaluation: Evaluation, finetune: str | None, finetune_parts: Parts
) -> Parts:
    decoding = parts_of(evaluation.decoding)
    if evaluation.decoding.temperature == 0:
        decoding = {"max_new_tokens": decoding["max_new_tokens"], "temperature": 0}
    else:  # a batch draws together
        decoding |= {
            "batch_size": config.engine.batch_size,
            "share_prefix": config.engine.share_prefix,
        }
    return {
        "format": GENERATE_FORMAT,
        "model": {"finetune": finetune} if finetune else finetune_parts,
        "reading": _reading(config.dataset),
        "template": parts_of(config.test_template),
        "queries": data.identity(evaluation.queries),
        "decoding": decoding,
        "engine": config.engine.name,
    }


def _judge_parts(evaluation: Evaluation, generate: str) -> Parts:
    judge: Any = load_judge(evaluation.judge, "judge")
    return {
        "format": JUDGE_FORMAT,
        "generate": generate,
        "judge": {"_target_": evaluation.judge["_target_"], **dataclasses.asdict(judge)},
        "version": judge.version,
    }
