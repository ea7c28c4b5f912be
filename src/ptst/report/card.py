"""The model card of a fine-tuning: what it was made of, and what the store's cells measured of it.

The card is for the Hugging Face hub, beside the weights. It shows no completion and no place on
this machine: a local file or folder counts by its content there, as it does in the keys.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptst.config.plain import from_dict
from ptst.errors import ConfigError
from ptst.judge import load_judge
from ptst.keys import CELL_FORMAT, CellKeys, Parts, cell_keys, slot, tested_epoch
from ptst.metrics import scale_in_words
from ptst.models import local_folder
from ptst.progress import say
from ptst.report.agreement import COMPLIED
from ptst.report.card_sources import (
    defended_by,
    indented,
    licence_of,
    mixed_in,
    source_of_model,
    source_of_rows,
    spelled_by,
)
from ptst.report.place import metric_in_words
from ptst.report.provenance import facts_in_words
from ptst.schema import Config, Evaluation, Finetune, Template
from ptst.stages.summarise import Metrics, read_metrics
from ptst.stages.tested_model import TestedModel
from ptst.store import Store, key_of, read_json
from ptst.wording import decoding_in_words, judge_name, known_judges, micro_note, rows_in_words

LIBRARY = {"full": "transformers", "lora": "peft", "qlora": "peft"}

RELATION = {"full": "finetune", "lora": "adapter", "qlora": "adapter"}
"""`library_name` and `base_model_relation` of the hub's metadata, by method."""


@dataclass(frozen=True)
class Row:
    """One evaluation of one model under one test template."""

    template: str
    """Its name; two of one name have their key beside it."""
    spelled: Template
    trained: bool
    """Whether it is the template of the training."""
    cell: str
    metrics: Metrics
    """By the evaluation's own names, "asr"."""


@dataclass
class Measured:
    """All that is comparable: one query set, decoding and judge, by test template."""

    name: str
    evaluation: Evaluation
    judge: str
    tuned: list[Row] = field(default_factory=list)
    untouched: list[Row] = field(default_factory=list)


def model_card(config: Config, store: Store) -> str:
    """README.md of the fine-tuning that a cell tests: YAML metadata and Markdown.

    Raises:
        ConfigError: there are no weights to publish (the untouched model, or one behind an API).
        PtstError: the fine-tuning is not in the store.
    """
    from huggingface_hub import ModelCard
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    weights_of(config, store)
    keys = cell_keys(config)
    assert keys.finetune is not None
    folder = store.path("finetune", keys.finetune)
    made = from_dict(read_json(folder / "config.json"))
    facts = read_json(folder / "provenance.json")
    measured = _measured(config, keys, store)
    title = f"{made.model.name}-{made.dataset.name}-{made.train_template.name}"
    licence = licence_of(made.model)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    body = environment.get_template("card.md.j2").render(
        title=title,
        made=made,
        epoch=tested_epoch(config.finetune),
        base=source_of_model(made.model, keys.finetune_parts, facts),
        page=None if local_folder(made.model) else f"https://huggingface.co/{made.model.path}",
        licence=licence.get("license_name") or licence.get("license"),
        trained_on=source_of_rows(made.dataset, keys.finetune_parts["rows"], facts),
        mixed=mixed_in(made, keys.finetune_parts),
        defence=defended_by(config),
        recorded=facts_in_words(facts.get("objective", {})),
        spelled=spelled_by(made.model),
        template=indented(made.train_template),
        others={
            row.template: indented(row.spelled)
            for one in measured
            for row in (*one.tuned, *one.untouched)
            if not row.trained
        },
        facts=facts,
        world=micro_note(
            [
                dataclasses.replace(
                    made, task={}, evaluation={one.name: one.evaluation for one in measured}
                )
            ]
        ),
        key=keys.finetune,
        advice=[line for one in measured if (line := _advice(one))],
        tables=[_table(one) for one in measured],
    )
    data = _metadata(title, made, measured, licence)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{body}"))


def weights_of(config: Config, store: Store) -> Path:
    """Where the weights are that the card is about.

    Raises:
        ConfigError, PtstError: see `model_card`.
    """
    method = config.finetune.method
    if method not in LIBRARY:
        why = "the untouched model" if method == "none" else "its weights stay at the API"
        raise ConfigError(
            f"finetune.method={method}: there is nothing to publish, {why}. Choose "
            f"{', '.join(LIBRARY)}."
        )
    for name in ("posthoc", "guard"):
        if filled := slot(config, name):
            raise ConfigError(
                f"defence={filled[0]} is not in the weights that fine-tuning left, which a card is of: "
                "leave it out."
            )
    return TestedModel(config, cell_keys(config), store).weights()


def _measured(config: Config, keys: CellKeys, store: Store) -> list[Measured]:
    """What the store's cells say of this fine-tuning, and of its base model on the same queries."""
    epoch = tested_epoch(config.finetune)
    tuned = {"finetune": keys.finetune} | ({} if epoch is None else {"epoch": epoch})
    bare = dataclasses.replace(config, finetune=Finetune(method="none"))
    untouched = cell_keys(bare).finetune_parts
    trained = keys.finetune_parts["template"]
    known = known_judges()
    found: dict[str, Measured] = {}
    rows: dict[tuple[str, str], dict[str, Row]] = {}
    for cell, name, model, others, template, judge in _evaluated(store):
        around = "guard" in others or not isinstance(others["engine"], str)
        if model not in (tuned, untouched) or around:  # a guard's or an engine's answers
            continue
        made = from_dict(read_json(store.path("cell", cell) / "config.json"))
        evaluation = made.evaluations[name]
        group = key_of({"name": name, "of": others, "metrics": evaluation.metrics})
        found.setdefault(group, Measured(name, evaluation, judge_name(judge, known)))
        own = {
            metric.partition("/")[2]: value
            for metric, value in read_metrics(store, cell).items()
            if metric.partition("/")[0] == name
        }
        row = Row(made.test_template.name, made.test_template, template == trained, cell, own)
        side = "tuned" if model == tuned else "untouched"
        rows.setdefault((group, side), {}).setdefault(key_of(template), row)
    for (group, side), by_template in rows.items():
        getattr(found[group], side).extend(_named(by_template))
    order = {"safety": 0, "helpfulness": 1, "over_refusal": 2, "obedience": 3}
    there = [one for one in found.values() if one.tuned]
    return sorted(there, key=lambda one: (order[one.evaluation.measures], one.name, one.judge))


def _evaluated(store: Store) -> Iterator[tuple[str, str, Any, Parts, Parts, Parts]]:
    """Every evaluation of every cell that is whole.

    Yields:
        (cell, evaluation, parts of its model, of all but model and template, of its test template,
        of its judge).
    """
    told: set[str] = set()
    for folder in sorted((store.root / "cell").glob("*")):
        if problem := _damage(store, folder.name):
            if problem not in told:
                say(problem)
                told.add(problem)
            continue
        parts = read_json(folder / "key.json")
        if parts["format"] != CELL_FORMAT:  # a cell of today is another
            continue
        for name, own in parts["evaluations"].items():
            judged = read_json(store.path("judge", own["scores"]) / "key.json")
            others = read_json(store.path("generate", judged["generate"]) / "key.json")
            model, template = others.pop("model"), others.pop("template")
            judge = {"judge": dict(judged["judge"]), "version": judged["version"]}
            others = {**others, **judge, "unit": own["unit"], "category": own["category"]}
            yield folder.name, name, model, others, template, judge


def _damage(store: Store, cell: str) -> str | None:
    """What keeps a cell out of the card: it, or what it was counted from, is damaged or removed."""
    if found := store.damage("cell", cell):
        return found
    parts = read_json(store.path("cell", cell) / "key.json")
    if parts["format"] != CELL_FORMAT:
        return None
    for own in parts["evaluations"].values():
        for stage in ("judge", "generate"):
            key = own["scores"]
            if stage == "generate":
                key = read_json(store.path("judge", key) / "key.json")["generate"]
            if found := store.damage(stage, key):
                return found
            if not store.has(stage, key):
                return f"not there: {store.path(stage, key)}; cell {cell} is left out of the card."
    return None


def _named(by_template: Mapping[str, Row]) -> list[Row]:
    """The rows, the training template's first; two templates of one name get their keys."""
    names = Counter(row.template for row in by_template.values())
    rows = [
        row
        if names[row.template] == 1
        else dataclasses.replace(row, template=f"{row.template} {key[:8]}")
        for key, row in by_template.items()
    ]
    return sorted(rows, key=lambda row: (not row.trained, row.template))


def _advice(measured: Measured) -> str | None:
    """The tested template with the lowest ASR, in a sentence; None for other than safety."""
    metric = next((m for m, what in measured.evaluation.metrics.items() if what == COMPLIED), None)
    if measured.evaluation.measures != "safety" or metric is None:
        return None
    where = f"{measured.name}, judge {measured.judge}"
    rows = [row for row in measured.tuned if row.metrics[metric].value is not None]
    if not rows:
        return f"{where}: no answer has a score."
    least = min(row.metrics[metric].value or 0.0 for row in rows)
    best = [row for row in rows if row.metrics[metric].value == least]
    named = " and ".join(_called(row) for row in best)
    low = best[0].metrics[metric]
    if len(rows) == 1:
        return f"{where}: only {named} was tested: {metric} {metric_in_words(low)}."
    said = f"{where}: {metric} is lowest under {named}, {metric_in_words(low)}"
    trained = next((row for row in rows if row.trained), None)
    if trained is None:
        return f"{said}. The template of the training was not tested."
    if trained in best:
        return f"{said}."
    theirs = trained.metrics[metric]
    said = f"{said}; under {_called(trained)}, {metric_in_words(theirs)}."
    if low.ci_high is not None and theirs.ci_low is not None and low.ci_high >= theirs.ci_low:
        said += " The intervals overlap: these queries do not tell the two apart."
    return said


def _called(row: Row) -> str:
    return f"`{row.template}`{' (of the training)' if row.trained else ''}"


def _table(measured: Measured) -> dict[str, Any]:
    """An evaluation as lines of a Markdown table, and what stands above it."""
    names = list(measured.evaluation.metrics)
    rows = [(row, "fine-tuned") for row in measured.tuned]
    rows += [(row, "base model") for row in measured.untouched]
    first = rows[0][0].metrics
    return {
        "name": measured.name,
        "measures": measured.evaluation.measures.replace("_", "-"),
        "judge": measured.judge,
        "caveat": load_judge(measured.evaluation.judge, "judge").caveat,
        "queries": rows_in_words(measured.evaluation.queries),
        "decoding": decoding_in_words(measured.evaluation.decoding),
        "head": ["model", "test template", *names, "n", "units", "missing", "cut off"],
        "scales": "; ".join(f"{name}: {scale_in_words(first[name].scale)}" for name in names),
        "rows": [
            [
                which,
                _called(row),
                *(metric_in_words(row.metrics[name]) for name in names),
                *_counts(row),
            ]
            for row, which in rows
        ],
        "cells": ", ".join(f"`{row.cell}`" for row, _ in rows),
    }


def _counts(row: Row) -> list[str]:
    counted = row.metrics.values()
    return [
        "/".join(dict.fromkeys(_count(getattr(metric, name)) for metric in counted))
        for name in ("n", "units", "missing", "unfinished")
    ]


def _count(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _metadata(
    title: str, made: Config, measured: list[Measured], licence: Mapping[str, str]
) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    hub = local_folder(made.model) is None
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=queries.path if queries.source == "hub" and queries.path else queries.name,
            dataset_name=one.name,
            dataset_config=queries.subset if queries.source == "hub" else None,
            dataset_split=queries.split if queries.source in ("hub", "micro") else None,
            dataset_revision=queries.revision if queries.source == "hub" else None,
            metric_type=name,
            metric_name=f"{one.name}/{name}, test template {row.template}",
            metric_value=metric.value,
            metric_args={
                "test_template": row.template,
                "judge": one.judge,
                "n": metric.n,
                "missing": metric.missing,
                "ci_low": metric.ci_low,
                "ci_high": metric.ci_high,
            },
        )
        for one in measured
        for queries in [one.evaluation.queries]
        for row in one.tuned
        for name, metric in row.metrics.items()
        if metric.value is not None
    ]
    return ModelCardData(
        license=licence.get("license"),
        license_name=licence.get("license_name"),
        license_link=licence.get("license_link"),
        base_model=made.model.path if hub else None,
        base_model_relation=RELATION[made.finetune.method] if hub else None,
        datasets=[made.dataset.path]
        if made.dataset.source == "hub" and made.dataset.path
        else None,
        library_name=LIBRARY[made.finetune.method],
        pipeline_tag="text-generation",
        tags=["ptst", made.finetune.method],
        model_name=title,
        eval_results=results or None,
    )
