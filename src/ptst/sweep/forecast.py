"""How long an artifact will take, and how many queries and tokens it has."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ptst import data
from ptst.component import load
from ptst.engine.chosen import engine_of
from ptst.errors import DataError
from ptst.estimates import ESTIMATES, Lengths, Utilisation
from ptst.guard import Guard
from ptst.keys import EvaluationKeys, Parts, objective_of, slot
from ptst.metrics import known_sum
from ptst.schema import Config, Evaluation, Model, Rows, Template
from ptst.store import key_of
from ptst.sweep.formulas import (
    BYTES_PER_WEIGHT,
    generation_seconds,
    parameters_of,
    training_flops,
    training_seconds,
    training_tokens,
)
from ptst.sweep.grid import GridCell
from ptst.sweep.in_words import counted_in_words, file_in_words
from ptst.sweep.measured import (
    WORDS,
    Basis,
    Rowset,
    analysis_kind,
    engine_in,
    judge_kind,
    kind_of,
    model_of,
    plain_kind,
    row_key,
    speed_of,
)


@dataclass(frozen=True)
class Stage:
    """One stage of the grid: artifacts in all and done, and the rest's seconds (None: not
    known)."""

    total: int
    done: int
    seconds: float | None
    source: str
    """Where the seconds come from: "measured: 5 fine-tunings", "formula"; empty if nothing is
    left."""

    @property
    def left(self) -> int:
        """How many are to be made."""
        return self.total - self.done


@dataclass(frozen=True)
class Job:
    """An artifact of the grid: the cell that it is first met in, and for which evaluation, or which
    analysis it is."""

    stage: str
    key: str
    cell: GridCell
    name: str = ""

    @property
    def config(self) -> Config:
        return self.cell.config

    @property
    def setting(self) -> Evaluation:
        return self.config.evaluations[self.name]

    @property
    def keys(self) -> EvaluationKeys:
        return self.cell.keys.evaluations[self.name]


def forecast(stage: str, total: int, left: list[Job], basis: Basis) -> Stage:
    estimates = {"finetune": _finetune, "analyse": _analyse, "generate": _generate, "judge": _judge}
    estimate = estimates[stage]
    found = [estimate(job, basis) for job in left]
    measured = {key for _, keys in found for key in keys}
    formula = sum(seconds is not None and not keys for seconds, keys in found)
    said = [f"measured: {counted_in_words(len(measured), WORDS[stage])}"] if measured else []
    if formula:
        said.append(f"formula for {formula}" if formula < len(left) else "formula")
    if any(seconds is None for seconds, _ in found):
        said.append("see below")
    return Stage(total, total - len(left), known_sum(s for s, _ in found), "; ".join(said))


Estimate = tuple[float | None, Iterable[str]]
"""Seconds, and the keys of the artifacts that they were measured on (none: by formula)."""


def _finetune(job: Job, basis: Basis) -> Estimate:
    config, parts = job.config, job.cell.keys.finetune_parts
    rows = _set(config.dataset, parts["rows"], ("input", "output"), basis)
    per_row = basis.row_tokens.get(row_key(parts))
    if per_row is None and rows.lengths is not None:
        template = _template_tokens(config.train_template, config, basis)
        per_row = rows.lengths.input + rows.lengths.output + template
    if per_row is None:
        return _no_lengths(config.dataset, basis)
    seen, cost = rows.n, objective_of(config).cost(config)
    if seen is not None and cost.rows is not None:  # taken to be as long
        more = _set(cost.rows, data.identity(cost.rows), ("input", "output"), basis)
        seen = None if more.n is None else seen + round(more.n * cost.seen)
    tokens = training_tokens(config.finetune, seen, per_row)
    if tokens is None:
        return None, ()
    model, method = model_of(parts)
    own = speed_of(kind_of("finetune", model, method, parts), tokens, basis)
    if own.rate is not None:
        return own.seconds(tokens), own.keys
    forward = 2 / training_flops(method == "full") * cost.reads * (rows.n or 0) * per_row
    tokens = tokens * cost.passes + forward
    speed = speed_of(("finetune", model, method), tokens, basis)
    if speed.rate is not None:
        return speed.seconds(tokens), speed.keys
    parameters = _parameters(config.model, basis)
    tflops = basis.hardware.tflops
    if parameters is None or tflops is None:
        return None, ()
    once = _once_a_batch(config, basis) / per_row
    share = _shares(parameters, basis).training
    whole = training_seconds(parameters, tokens * (1 - once), method == "full", tflops, share)
    return speed.fixed + whole, ()


def _shares(parameters: float, basis: Basis) -> Utilisation:
    """What is reached of the peaks."""
    cpu = basis.estimates.cpu
    large = not basis.hardware.gpu and parameters >= cpu.large
    return cpu.utilisation if large else basis.estimates.utilisation


def _once_a_batch(config: Config, basis: Basis) -> float:
    """Tokens of a row that its batch computes once for all rows (`ptst.train.forward`)."""
    recipe = config.finetune
    dropout = recipe.method != "full" and recipe.lora.dropout > 0
    if basis.hardware.gpu or dropout or recipe.activation_checkpointing or recipe.devices > 1:
        return 0.0
    rows = min(recipe.device_batch_size, recipe.batch_size)
    return _template_tokens(config.train_template, config, basis) * (1 - 1 / rows)


def _analyse(job: Job, basis: Basis) -> Estimate:
    speed = speed_of(analysis_kind(job.cell.keys.analyses[job.name][1]), 1, basis)
    if speed.rate is None:
        basis.notes[f"analysis {job.name}: what it takes is not known before it has run once"] = (
            None
        )
    return speed.seconds(1), speed.keys


def _generate(job: Job, basis: Basis) -> Estimate:
    config, evaluation = job.config, job.setting
    queries = queries_of(job, basis)
    if queries.n is None:
        return None, ()
    model, method = model_of(job.cell.keys.finetune_parts)
    most = evaluation.decoding.max_new_tokens
    identity = key_of(job.keys.generate_parts["queries"])
    own, times = kind_of("generate", model, method, job.keys.generate_parts), _asks(config)
    plain = plain_kind("generate", model, method, job.keys.generate_parts)
    tokens = None
    if queries.lengths is not None:
        asked = queries.n * queries.lengths.input
        template = _template_tokens(config.test_template, config, basis)
        tokens = asked + queries.n * template + queries.n * min(queries.lengths.output, most)
    for kind, factor in {own: 1.0, plain: 1.0 if own == plain else times}.items():
        same = speed_of((*kind, identity, str(most)), queries.n * factor, basis)
        if same.rate is not None:
            return same.seconds(queries.n * factor), same.keys
        if tokens is None:
            continue
        alike = speed_of(kind, tokens * factor, basis)
        if alike.rate is not None:
            return alike.seconds(tokens * factor), alike.keys
    if tokens is None:
        return _no_lengths(evaluation.queries, basis)
    parameters, batching = _parameters(config.model, basis), engine_of(config).batching()
    if parameters is None or basis.hardware.tflops is None or batching is None:
        return None, ()
    engine = basis.estimates.engines.get(engine_in(job.keys.generate_parts))
    return alike.fixed + _start(job, basis) + times * generation_seconds(
        parameters,
        0.5 if method == "qlora" else BYTES_PER_WEIGHT[config.model.dtype],
        queries.n,
        asked + template * (1 if batching.shares_prefix else queries.n),
        batching.size,
        most,
        basis.hardware,
        engine or _shares(parameters, basis),
    ), ()


def _start(job: Job, basis: Basis) -> float:
    """Seconds until an engine's own process has loaded the model: of each whole weights once."""
    engine = basis.estimates.engines.get(engine_in(job.keys.generate_parts))
    keys = job.cell.keys
    adapted = keys.posthoc is None and job.config.finetune.method == "lora"
    whole = key_of(keys.finetune_parts["model"]) if adapted else keys.model
    if engine is None or whole in basis.started:
        return 0.0
    basis.started.add(whole)
    return engine.start


def _asks(config: Config) -> float:
    """How often a model is asked about a question."""
    filled = slot(config, "guard")
    return 1.0 if filled is None else load(filled[1], "guard", Guard).cost(config).asks


def _judge(job: Job, basis: Basis) -> Estimate:
    n = queries_of(job, basis).n
    if n is None:
        return None, ()
    speed = speed_of(judge_kind(job.keys.judge_parts), n, basis)
    if speed.rate is not None:
        return speed.seconds(n), speed.keys
    judging, path = basis.estimates.judging, job.setting.judge.get("path")
    if path is not None:  # a model that runs here
        basis.notes[f"judge {path}: what it takes is not known before it has run once"] = None
        return None, ()
    asked = job.keys.judge_parts["judge"].get("model") is not None
    return speed.fixed + n * (judging.seconds if asked else judging.local_seconds), ()


def queries_of(job: Job, basis: Basis) -> Rowset:
    """The queries of a job, one for each answer: several where they are sampled several times."""
    identity = job.keys.generate_parts["queries"]
    asked = _set(job.setting.queries, identity, ("input",), basis)
    return replace(asked, n=None if asked.n is None else asked.n * job.setting.decoding.samples)


def _set(rows: Rows, identity: Parts, needs: tuple[str, ...], basis: Basis) -> Rowset:
    """Count rows: by reading them where they are at hand, else as the store or the publisher
    says."""
    key = key_of(identity)
    if key not in basis.sets:
        basis.sets[key] = _counted_set(rows, key, needs, basis)
    return basis.sets[key]


def _counted_set(rows: Rows, key: str, needs: tuple[str, ...], basis: Basis) -> Rowset:
    if rows.source in ("hub", "url"):
        n = rows.known_count(basis.counts.get(key))
        if n is None:
            basis.notes[
                f"{rows.name} ({rows.path}, {rows.split}): how many rows it holds is not known; "
                "set its `size`"
            ] = None
        return Rowset(n, basis.estimates.tokens.get(rows.name))
    try:
        n = asked = answered = 0
        for row in data.read_rows(rows, needs):
            n += 1
            asked += len(row["input"]) + len(row.get("instruction", ""))
            answered += len(row.get("output", ""))
    except DataError as error:  # its cells will fail; the rest of the grid can be planned
        basis.notes[str(error).splitlines()[0]] = None
        return Rowset(None, None)
    each = basis.estimates.characters_per_token * n
    answer = answered / each if answered else math.inf  # as long as it may be
    return Rowset(n, Lengths(asked / each, answer))


def _template_tokens(template: Template, config: Config, basis: Basis) -> float:
    """Tokens that a template, and the data set's instruction, put around a question."""
    texts = [template.system or "", template.user, config.dataset.instruction or ""]
    texts += [text for turn in template.turns for text in (turn.user, turn.assistant)]
    return sum(map(len, texts)) / basis.estimates.characters_per_token


def _parameters(model: Model, basis: Basis) -> float | None:
    if model.api is not None:
        basis.notes[f"{model.name}: what its API takes, in time and money, is not known"] = None
        return None
    if basis.hardware.tflops is None:
        basis.notes[f"{basis.hardware.name}: its speed is not in {file_in_words(ESTIMATES)}"] = None
    found = parameters_in(model, basis)
    if found is None:
        basis.notes[f"{model.path}: its parameters are not in {file_in_words(ESTIMATES)}"] = None
    return found


def parameters_in(model: Model, basis: Basis) -> float | None:
    """`parameters_of`, counted once."""
    if model.path not in basis.parameters:
        basis.parameters[model.path] = parameters_of(model, basis.estimates)
    return basis.parameters[model.path]


def _no_lengths(rows: Rows, basis: Basis) -> Estimate:
    if rows.source in ("hub", "url"):
        basis.notes[f"{rows.name}: tokens of a row are not in {file_in_words(ESTIMATES)}"] = None
    return None, ()
