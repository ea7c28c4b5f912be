"""What a number was made with, in words: judge, queries, decoding, fine-tuning, world.

Reports, model cards and W&B say these things of every number. They are said here, from the resolved
configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from ptst import data
from ptst.component import Component, load, parts_of
from ptst.dialogue import Dialogue
from ptst.download import content_hash
from ptst.errors import ConfigError, DataError
from ptst.judge import load_judge
from ptst.keys import Parts, judge_parts
from ptst.metrics import MEAN
from ptst.models import local_folder
from ptst.paths import CONF, MICRO
from ptst.schema import Config, Decoding, Evaluation, Finetune, Model, Rows, Template

LONGEST_VALUE = 100
"""Characters of a judge's field; a longer text (a prompt) is named by its hash."""


def judge_name(parts: Parts, known: Mapping[str, Parts]) -> str:
    """What a judge is called: its name in conf/judge, and in brackets what differs from it."""
    if exact := [name for name, own in known.items() if own == parts]:
        return exact[0]
    alike = {
        name: {
            key: value
            for key, value in parts["judge"].items()
            if own["judge"].get(key, own) != value
        }
        for name, own in known.items()
        if own["judge"]["_target_"] == parts["judge"]["_target_"]
    }
    if not alike:
        alike = {parts["judge"]["_target_"].rpartition(".")[2]: dict(parts["judge"])}
        next(iter(alike.values())).pop("_target_")
    name, differs = min(alike.items(), key=lambda entry: (len(entry[1]), entry[0]))
    shown = [f"{key}={_short(value)}" for key, value in sorted(differs.items())]
    if parts["version"] != known.get(name, parts)["version"]:
        shown.append(f"version {parts['version']}")
    return f"{name} ({', '.join(shown)})" if shown else name


def _short(value: Any) -> str:
    text = ", ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def known_judges() -> dict[str, Parts]:
    """The judges of conf/judge that can be told apart without anything of the user's, by name."""
    known = {}
    for path in sorted((CONF / "judge").glob("*.yaml")):
        try:
            parts = judge_parts(yaml.safe_load(path.read_text(encoding="utf-8")))
        except ConfigError:  # it needs a value of the user's, an endpoint's model say
            continue
        known[path.stem] = parts
    return known


def judge_in_full(node: Mapping[str, Any], known: Mapping[str, Parts]) -> str:
    """A judge with all that decides its scores.

    "keywords: ptst.judge.keywords.Keywords version 1, list=qi2023".

    Args:
        known: of `known_judges`.
    """
    parts = judge_parts(node)
    own = {key: value for key, value in parts["judge"].items() if key != "_target_"}
    said = [f"{node['_target_']} version {parts['version']}"]
    said += [f"{key}={_whole_or_hash(value)}" for key, value in own.items() if value is not None]
    return f"{judge_name(parts, known)}: {', '.join(said)}"


def _whole_or_hash(value: Any) -> str:
    text = str(value)
    if len(text) <= LONGEST_VALUE and "\n" not in text:
        return text
    return f"a text of {len(text):,} characters (SHA-256 {sha256(text.encode()).hexdigest()[:16]})"


def rows_in_words(rows: Rows) -> str:
    """Where rows come from, which of them, and how many.

    "gsm8k: openai/gsm8k main at 7403..., split train, all rows".

    A file of this machine is called by its name and its content, and has a split only in a folder
    of splits.
    """
    said = [_place(rows)]
    said += [f"where {column}={value}" for column, value in sorted(rows.where.items())]
    drawn = "all rows" if rows.first is None else f"the first {rows.first:,} rows"
    if rows.n is not None:
        of = "" if rows.first is None else f" from {drawn}"
        drawn = f"{rows.n:,} rows drawn with seed {rows.draw_seed}{of}"
    return f"{rows.name}: {', '.join([*said, drawn])}"


def _place(rows: Rows) -> str:
    if rows.source == "micro":
        return f"the micro world, version {data.identity(rows)['world']}, split {rows.split}"
    if rows.source == "rules":
        return f"ptst's own cases of rules, version {data.identity(rows)['rules']}"
    if rows.source == "hub":
        subset = f" {rows.subset}" if rows.subset else ""
        at = f"at {rows.revision}" if rows.revision else "at no pinned commit"
        return f"{rows.path}{subset} {at}, split {rows.split}"
    if rows.source == "url":
        return f"{rows.path} (SHA-256 {rows.sha256 or 'not pinned'})"
    path = Path(rows.path or "").expanduser()
    split = f", split {rows.split}" if path.is_dir() else ""
    try:
        hashes = [content_hash(file)[:16] for file in data.local_files(rows)]
        content = f"SHA-256 {', '.join(hashes)}"
    except DataError:
        content = "not there"
    return f"local {'folder' if path.is_dir() else 'file'} {path.name} ({content}){split}"


def decoding_in_words(decoding: Decoding) -> str:
    """ "greedy, at most 64 tokens", or how answers are sampled."""
    most = f"at most {decoding.max_new_tokens:,} tokens"
    if decoding.temperature == 0:
        return f"greedy, {most}"
    said = [f"temperature {decoding.temperature:g}", f"top_p {decoding.top_p:g}"]
    said += [f"top_k {decoding.top_k}"] if decoding.top_k else []
    said += [f"{decoding.samples} samples a query"] if decoding.samples > 1 else []
    return ", ".join([*said, f"seed {decoding.seed}", most])


def evaluation_in_words(evaluation: Evaluation) -> str:
    """The queries of an evaluation, how they read and are answered, and what is counted."""
    said = [rows_in_words(evaluation.queries), decoding_in_words(evaluation.decoding)]
    said += [f"asked as {evaluation.question!r}"] if evaluation.question is not None else []
    if evaluation.dialogue is not None:
        said.append(component_in_words(load(evaluation.dialogue, "dialogue", Dialogue)))
    scales = load_judge(evaluation.judge, "judge").scales
    counted = {metric: f"share of {what!r}" for metric, what in evaluation.metrics.items()}
    for metric, what in evaluation.metrics.items():
        if what == MEAN or what in scales:
            counted[metric] = "mean value" if what == MEAN else f"mean of {what}"
        if where := evaluation.only.get(metric):
            counted[metric] += f" where {' and '.join(f'{k}={v}' for k, v in where.items())}"
        if parts := evaluation.mean_of.get(metric):
            counted[metric] = f"mean of {' and '.join(parts)}"
    said += [", ".join(f"{metric} = {what}" for metric, what in counted.items())]
    said += [f"unit: {evaluation.unit or 'the query'}"]
    return "; ".join(said)


def recipe_in_words(recipe: Finetune) -> str:
    """A fine-tuning: its name, its method, the main settings, and what is mixed in."""
    said = [
        f"{recipe.name or recipe.method}: {recipe.method}",
        f"{recipe.epochs:g} epochs of batches of {recipe.batch_size}",
        f"learning rate {recipe.learning_rate:g} ({recipe.schedule})",
    ]
    if recipe.method in ("lora", "qlora"):
        lora = recipe.lora
        said.append(f"r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout:g}")
    said += [f"tested after epoch {recipe.epoch}"] if recipe.epoch is not None else []
    said += [f"at most {recipe.max_steps} steps"] if recipe.max_steps != -1 else []
    if mix := recipe.mix:
        under = f" under {mix.template.name}" if mix.template else ""
        said.append(f"mixed with {rows_in_words(mix.rows)}{under}")
    return ", ".join(said)


def component_in_words(component: Component, of_rows: Callable[[Rows], str] = rows_in_words) -> str:
    """A component with all that decides what it does.

    "ptst.objective.derta.Derta version 1, harmful=rejected, prefix=tokens".

    Args:
        of_rows: what is said of rows that a field names.
    """
    kind = type(component)
    said = [f"{kind.__module__}.{kind.__qualname__} version {component.version}"]
    for f in fields(component):  # type: ignore[arg-type]
        value = getattr(component, f.name)
        if value is None or not f.metadata.get("key", True):
            continue
        if isinstance(value, Rows):
            said.append(f"{f.name}: {of_rows(value)}")
        elif isinstance(value, Template):
            said.append(f"{f.name} {value.name}")
        elif is_dataclass(value):
            said.append(f"{f.name}: {_whole_or_hash(parts_of(value))}")
        else:
            said.append(f"{f.name}={_whole_or_hash(value)}")
    return ", ".join(said)


def is_micro_model(model: Model) -> bool:
    """Whether a model is the one that is shipped with the project."""
    folder = None if model.api is not None else local_folder(model)
    return folder is not None and folder.resolve().is_relative_to(MICRO)


def engine_in_words(engine: Any) -> str:
    """An engine of a configuration by the name of its module; empty for transformers."""
    target = str(engine.get("_target_", "")) if isinstance(engine, Mapping) else ""
    name = target.rpartition(".")[0].rpartition(".")[2]
    return "" if name == "transformers" else name


def micro_note(configs: Iterable[Config], evaluations: Sequence[str] | None = None) -> str | None:
    """What is of the micro world in these numbers; None where nothing is.

    It follows from the model and the data, whatever the scale: a real model may be asked the micro
    world's queries.

    Args:
        evaluations: those that the numbers are of; None for all of a configuration's.
    """
    models: set[bool] = set()
    queries: dict[str, bool] = {}
    trained: set[bool] = set()
    for config in configs:
        models.add(is_micro_model(config.model))
        for name, evaluation in config.evaluations.items():
            if evaluations is None or name in evaluations:
                queries[name] = evaluation.queries.source == "micro"
        if config.finetune.method != "none":
            trained.add(config.dataset.source == "micro")
    asked = [name for name, micro in queries.items() if micro]
    if models == {True} and trained <= {True} and len(asked) == len(queries):
        return "Ours are numbers of the micro world. Compare the pattern, not the size: docs/micro-world.md."
    said = []
    if True in models:
        said.append("the model is its toy" if models == {True} else "a model is its toy")
    if True in trained:
        said.append("the rows trained on are its own")
    if asked:
        some = "" if len(asked) == len(queries) else f" of {', '.join(asked)}"
        said.append(f"the queries{some} are its own")
    if not said:
        return None
    return (
        f"Of the micro world, an invented language with invented hazards: {', '.join(said)}. Such numbers "
        "say nothing about real requests, nor about a real model: docs/micro-world.md."
    )
