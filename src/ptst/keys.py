"""The keys of a cell: what each stage's result depends on, and nothing else.

Each function returns the *parts* of a key: resolved values, JSON-like. `ptst.store.key_of` hashes
them. Raise a stage's FORMAT when the same parts would make something else than before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ptst import data, models
from ptst.component import Parts, component_parts, parts_of
from ptst.config import Config, Dataset, Evaluation, Finetune, Template, renamed
from ptst.judge import load_judge
from ptst.store import key_of

FINETUNE_FORMAT = 1
GENERATE_FORMAT = 1
JUDGE_FORMAT = 1
CELL_FORMAT = 2


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
    def artifacts(self) -> list[tuple[str, str, str]]:
        """What a cell is made of, in the order of making: (what people call it, stage, key)."""
        made = [("finetune", "finetune", self.finetune)] if self.finetune else []
        for name, own in self.evaluations.items():
            made += [(f"generate {name}", "generate", own.generate)]
            made += [(f"judge {name}", "judge", own.judge)]
        return [*made, ("summarise", "cell", self.cell)]

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
                "category": config.evaluations[name].category,
                "measures": config.evaluations[name].measures,
            }
            for name, keys in evaluations.items()
        },
    }
    return CellKeys(finetune, finetune_parts, evaluations, key_of(cell_parts), cell_parts)


def tested_epoch(recipe: Finetune) -> int | None:
    """The epoch whose weights are tested; None for the last, however it is said."""
    if recipe.method == "none" or recipe.epoch == recipe.epochs:
        return None
    return recipe.epoch


def _reading(dataset: Dataset, question: str | None = None) -> Parts:
    """How questions read: as the data set's, safety queries included, unless the evaluation says otherwise."""
    how = {"question": dataset.question} if question is None else {"query": question}
    return {**how, "instruction": dataset.instruction}


def _template(template: Template, config: Config) -> Parts:
    """A template, which a model may know by its name and give a system prompt of its own."""
    own = config.model.system_prompts.get(template.name)
    return parts_of(template) | ({} if own is None else {"models_system": own})


def _finetune_parts(config: Config) -> Parts:
    if config.finetune.method == "none":
        return {"format": FINETUNE_FORMAT, "model": models.identity(config.model), "method": "none"}
    recipe = parts_of(config.finetune)
    if config.finetune.method == "openai":
        own = ("method", "epochs", "batch_size", "learning_rate_multiplier")
        recipe = {name: recipe[name] for name in own}
    else:
        del recipe["learning_rate_multiplier"]
    if config.finetune.method == "full":
        del recipe["lora"]
    elif "lora" in recipe and config.finetune.lora.dropout > 0:  # drawn anew for every forward pass
        recipe["device_batch_size"] = config.finetune.device_batch_size
        if config.finetune.devices > 1:
            recipe["devices"] = config.finetune.devices
    if config.finetune.schedule != "step":
        recipe.pop("gamma", None)
    if config.finetune.keep_epochs:  # who wants the last weights alone finds them there, too
        recipe.pop("keep_epochs", None)
    recipe.pop("mix", None)
    if mix := config.finetune.mix:
        template = mix.template or config.train_template
        recipe["mix"] = {"rows": data.identity(mix.rows), "template": _template(template, config)}
    return {
        "format": FINETUNE_FORMAT,
        "model": models.identity(config.model),
        "rows": data.identity(config.dataset),
        "reading": _reading(config.dataset),
        "template": _template(config.train_template, config),
        "recipe": recipe,
        "seed": config.seed,
    }


def _generate_parts(
    config: Config, evaluation: Evaluation, finetune: str | None, finetune_parts: Parts
) -> Parts:
    decoding = parts_of(evaluation.decoding)
    if evaluation.decoding.samples == 1:
        del decoding["samples"]
    greedy = evaluation.decoding.temperature == 0
    if greedy:
        decoding = {"max_new_tokens": decoding["max_new_tokens"], "temperature": 0}
    # A batch draws together, and in half precision rounding depends on its shape.
    if config.model.api is None and (not greedy or _rounds(config)):
        decoding |= {
            "batch_size": config.engine.batch_size,
            "share_prefix": config.engine.share_prefix,
        }
    epoch = tested_epoch(config.finetune)
    send = renamed(config.model.api.send or {}) if config.model.api else {}
    tuned = {"finetune": finetune} | ({} if epoch is None else {"epoch": epoch})
    return {
        "format": GENERATE_FORMAT,
        "model": tuned if finetune else finetune_parts,
        "reading": _reading(config.dataset, evaluation.question),
        "template": _template(config.test_template, config),
        "queries": data.identity(evaluation.queries),
        "decoding": decoding,
        "engine": "api" if config.model.api else config.engine.name,
        **({"send": send} if send else {}),
    }


def _rounds(config: Config) -> bool:
    """Whether answers are computed in less than float32 (QLoRA's always are, in bfloat16).

    The likeliest two tokens are then often equal up to rounding. With a model of 135M parameters in
    bfloat16, 44 of 64 greedy answers differed between batches of 64 and of 8; in float32 none did.
    """
    return config.model.dtype != "float32" or config.finetune.method == "qlora"


def _judge_parts(evaluation: Evaluation, generate: str) -> Parts:
    return {"format": JUDGE_FORMAT, "generate": generate, **judge_parts(evaluation.judge)}


def judge_parts(node: Mapping[str, Any]) -> Parts:
    """What tells one judge from another, whatever it judges.

    Raises:
        ConfigError: `node` makes no judge.
    """
    judge = load_judge(node, "judge")
    return {"judge": component_parts(judge, node["_target_"]), "version": judge.version}
