"""The keys of a cell: what each stage's result depends on, and nothing else.

Each function returns the *parts* of a key: resolved values, JSON-like. `ptst.store.key_of` hashes
them. Raise a stage's FORMAT when the same parts would make something else than before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ptst import data, models, templates
from ptst.analysis import Analysis
from ptst.component import Component, Parts, component_parts, load, parts_of
from ptst.dialogue import Dialogue
from ptst.engine.chosen import engine_of
from ptst.guard import Guard
from ptst.judge import load_judge
from ptst.objective import Objective
from ptst.objective.safety_mix import SafetyMix
from ptst.posthoc import PostHoc
from ptst.schema import SLOTS, Config, Dataset, Evaluation, Finetune, Rows
from ptst.store import key_of

FINETUNE_FORMAT = 1
GENERATE_FORMAT = 1
JUDGE_FORMAT = 1
CELL_FORMAT = 2
POSTHOC_FORMAT = 1
ANALYSE_FORMAT = 1


@dataclass(frozen=True)
class EvaluationKeys:
    """Keys and parts of the two stages that an evaluation walks."""

    generate: str
    generate_parts: Parts
    judge: str
    judge_parts: Parts


@dataclass(frozen=True)
class Artifact:
    """One of the results that a cell is made of.

    Attributes:
        what: what people call it: "generate gsm8k".
        stage: its folder in the store.
        made_by: which of the configuration's `stages` makes it.
        name: of its evaluation, or of its analysis.
    """

    what: str
    stage: str
    key: str
    parts: Parts
    made_by: str
    name: str = ""


@dataclass(frozen=True)
class CellKeys:
    """All keys of a cell. `finetune` is None for the untouched model, `posthoc` where no step
    follows."""

    finetune: str | None
    finetune_parts: Parts
    evaluations: dict[str, EvaluationKeys] = field(default_factory=dict)
    cell: str = ""
    cell_parts: Parts = field(default_factory=dict)
    posthoc: str | None = None
    posthoc_parts: Parts = field(default_factory=dict)
    analyses: dict[str, tuple[str, Parts]] = field(default_factory=dict)
    """Key and parts of each; they are not part of the cell's key."""

    @property
    def artifacts(self) -> list[Artifact]:
        """What a cell is made of, in the order of making. The one enumeration that there is."""
        made = []
        if self.finetune:
            made += [
                Artifact("finetune", "finetune", self.finetune, self.finetune_parts, "finetune")
            ]
        if self.posthoc:
            made += [Artifact("posthoc", "posthoc", self.posthoc, self.posthoc_parts, "finetune")]
        for name, (key, parts) in self.analyses.items():
            made += [Artifact(f"analyse {name}", "analyse", key, parts, "generate", name)]
        for name, own in self.evaluations.items():
            answers = own.generate, own.generate_parts, "generate", name
            labels = own.judge, own.judge_parts, "judge", name
            made += [Artifact(f"generate {name}", "generate", *answers)]
            made += [Artifact(f"judge {name}", "judge", *labels)]
        return [*made, Artifact("summarise", "cell", self.cell, self.cell_parts, "judge")]

    @property
    def model(self) -> str:
        """Which model the cell tests: its weights' key, or one of the untouched model."""
        return self.posthoc or self.finetune or key_of(self.finetune_parts)


def cell_keys(config: Config) -> CellKeys:
    """Work out every key of a cell, without running anything.

    Raises:
        DataError, ConfigError: a local file or model directory is missing.
    """
    finetune_parts = _finetune_parts(config)
    finetune = key_of(finetune_parts) if config.finetune.method != "none" else None
    model = _tuned(config, finetune, finetune_parts)
    posthoc_parts = _posthoc_parts(config, model)
    posthoc = key_of(posthoc_parts) if posthoc_parts else None
    if posthoc:
        model = {"posthoc": posthoc}
    evaluations: dict[str, EvaluationKeys] = {}
    for name, evaluation in config.evaluations.items():
        generate_parts = _generate_parts(config, name, model)
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
                **_counted(config.evaluations[name]),
            }
            for name, keys in evaluations.items()
        },
    }
    analyses = {name: _analysis_parts(config, name, model) for name in config.analysis}
    return CellKeys(
        finetune,
        finetune_parts,
        evaluations,
        key_of(cell_parts),
        cell_parts,
        posthoc,
        posthoc_parts,
        {name: (key_of(parts), parts) for name, parts in analyses.items()},
    )


def _counted(evaluation: Evaluation) -> Parts:
    """Which queries metrics count, where they do not all count all."""
    parts = {
        "only": {metric: dict(where) for metric, where in evaluation.only.items()},
        "mean_of": {metric: list(others) for metric, others in evaluation.mean_of.items()},
    }
    return {name: part for name, part in parts.items() if part}


def slot(config: Config, name: str) -> tuple[str, Any] | None:
    """The defence that fills a slot, and its component's node; None where none does.

    Args:
        name: objective, posthoc or guard.
    """
    filled = ((own, getattr(defence, name)) for own, defence in config.defence.items())
    return next(((own, node) for own, node in filled if node is not None), None)


def defences(config: Config) -> list[str]:
    """The names of the defences that count: an objective does not, where nothing is trained."""
    tuned = config.finetune.method != "none"
    return [
        name
        for name, own in config.defence.items()
        if own.posthoc is not None or own.guard is not None or tuned
    ]


def objective_of(config: Config) -> Objective:
    """What a fine-tuning trains on, and how: a defence's objective, the recipe's mix, or plain
    rows."""
    if filled := slot(config, "objective"):
        return load(filled[1], f"defence.{filled[0]}.objective", Objective)
    if mix := config.finetune.mix:
        return SafetyMix(mix.rows, mix.template)
    return Objective()


def components_of(config: Config) -> dict[str, Component]:
    """The components of the chosen defences, by the slot that each fills."""
    found = {name: slot(config, name) for name in SLOTS}
    return {
        name: load(filled[1], f"defence.{filled[0]}.{name}", Component)
        for name, filled in found.items()
        if filled
    }


def analyses_of(config: Config) -> dict[str, Component]:
    """The chosen analyses by name."""
    return {
        name: load(node, f"analysis.{name}", Analysis) for name, node in config.analysis.items()
    }


def rows_of(component: Component) -> list[Rows]:
    """The rows that a component's fields name, beside the data set's."""
    values = (getattr(component, f.name) for f in fields(component))  # type: ignore[arg-type]
    return [value for value in values if isinstance(value, Rows)]


def named_parts(node: Mapping[str, Any], where: str, kind: type[Component]) -> Parts:
    """What tells one component from another in a key.

    Raises:
        ConfigError: `node` makes none.
    """
    return _named(load(node, where, kind), node)


def _named(component: Component, node: Mapping[str, Any]) -> Parts:
    return {**component_parts(component, node["_target_"]), "version": component.version}


def _tuned(config: Config, finetune: str | None, finetune_parts: Parts) -> Parts:
    """The fine-tuned weights, or the untouched model's, as part of a key."""
    if finetune is None:
        return finetune_parts
    epoch = tested_epoch(config.finetune)
    return {"finetune": finetune} | ({} if epoch is None else {"epoch": epoch})


def _posthoc_parts(config: Config, model: Parts) -> Parts:
    if (filled := slot(config, "posthoc")) is None:
        return {}
    own = named_parts(filled[1], f"defence.{filled[0]}.posthoc", PostHoc)
    return {"format": POSTHOC_FORMAT, "model": model, "posthoc": own}


def _analysis_parts(config: Config, name: str, model: Parts) -> Parts:
    node = config.analysis[name]
    analysis = load(node, f"analysis.{name}", Analysis)
    own, base = _named(analysis, node), models.identity(config.model)
    parts = {"format": ANALYSE_FORMAT, "model": model, "base": base, "analysis": own}
    cell = analysis.parts(config)
    return {**parts, "cell": cell} if cell else parts


def tested_epoch(recipe: Finetune) -> int | None:
    """The epoch whose weights are tested; None for the last, however it is said."""
    if recipe.method == "none" or recipe.epoch == recipe.epochs:
        return None
    return recipe.epoch


def _reading(dataset: Dataset, question: str | None = None) -> Parts:
    """How questions read: as the data set's, safety queries included, unless the evaluation says
    otherwise."""
    how = {"question": dataset.question} if question is None else {"query": question}
    return {**how, "instruction": dataset.instruction}


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
    recipe.pop("mix", None)  # an objective, see there
    recipe |= objective_of(config).parts(config)
    return {
        "format": FINETUNE_FORMAT,
        "model": models.identity(config.model),
        "rows": data.identity(config.dataset),
        "reading": _reading(config.dataset),
        "template": templates.identity(config.train_template, config.model),
        "recipe": recipe,
        "seed": config.seed,
    }


def _generate_parts(config: Config, name: str, model: Parts) -> Parts:
    evaluation = config.evaluations[name]
    parts = {
        "format": GENERATE_FORMAT,
        "model": model,
        "reading": _reading(config.dataset, evaluation.question),
        "template": templates.identity(config.test_template, config.model),
        "queries": data.identity(evaluation.queries),
        **engine_of(config).parts(config, evaluation),
    }
    if evaluation.dialogue is not None:
        parts["dialogue"] = named_parts(evaluation.dialogue, f"{name}.dialogue", Dialogue)
    if filled := slot(config, "guard"):
        guard = load(filled[1], f"defence.{filled[0]}.guard", Guard)
        parts["guard"] = {**_named(guard, filled[1]), **guard.parts(config)}
    return parts


def _judge_parts(evaluation: Evaluation, generate: str) -> Parts:
    return {"format": JUDGE_FORMAT, "generate": generate, **judge_parts(evaluation.judge)}


def judge_parts(node: Mapping[str, Any]) -> Parts:
    """What tells one judge from another, whatever it judges.

    Raises:
        ConfigError: `node` makes no judge.
    """
    judge = load_judge(node, "judge")
    return {"judge": component_parts(judge, node["_target_"]), "version": judge.version}
