"""What a grid comes to before it runs: how much of each stage, what is done, and what the rest will take.

Counting is exact: an artifact that cells share counts once, and what the store has is done. Time and cost
are estimates. The first choice is what this store's own artifacts took, for the same model on the same
hardware; else a formula over the figures of conf/estimates.yaml. What is not known is None, never zero.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from ptst import data
from ptst.config import Config, Evaluation, Model, Rows, Template
from ptst.errors import DataError
from ptst.keys import EvaluationKeys, Parts
from ptst.metrics import known_sum
from ptst.provenance import hardware as this_machine
from ptst.store import Store, key_of, read_json
from ptst.sweep.estimates import (
    BATCH_SHARE,
    BYTES_PER_WEIGHT,
    ESTIMATES,
    Estimates,
    Hardware,
    Lengths,
    Price,
    generation_seconds,
    own_gpu,
    parameters_of,
    read_estimates,
    training_seconds,
    training_tokens,
)
from ptst.sweep.grid import Grid, GridCell
from ptst.sweep.run import is_done

LEAST_SHARE, LONG_ENOUGH = 0.1, 300.0
"""A measurement tells the rate of what held at most ten times as much, or if it took five minutes: what a short trial
takes is mostly its start (a model of 7B parameters loads for a minute or two)."""
READ_AT_MOST = 500
"""Artifacts of each stage that are read, the newest: a median needs no more, however large the store."""
WORDS = {"finetune": "fine-tunings", "generate": "generations", "judge": "judge runs"}


@dataclass(frozen=True)
class Stage:
    """One stage of the grid: artifacts in all and done, and the rest's seconds (None: not known)."""

    total: int
    done: int
    seconds: float | None
    source: str
    """Where the seconds come from: "measured: 5 fine-tunings", "formula"; empty if nothing is left."""

    @property
    def left(self) -> int:
        """How many are to be made."""
        return self.total - self.done


@dataclass(frozen=True)
class PaidCalls:
    """What is left for judges that name a `model`: calls, tokens, USD (None: not known)."""

    calls: int | None
    input_tokens: int | None
    output_tokens: int | None
    usd: float | None


@dataclass(frozen=True)
class Plan:
    """A grid before it runs.

    Attributes:
        name: <sweep>-<scale>.
        stages: finetune, generate and judge.
        judge_calls, judge_calls_left: answers that judges score, here or at an endpoint (`paid` are the latter); None
            where the size of a set is not known.
        notes: what is not known or will not run, and why.
    """

    name: str
    hardware: Hardware
    cells: int
    cells_done: int
    stages: dict[str, Stage]
    judge_calls: int | None
    judge_calls_left: int | None
    paid: PaidCalls
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """Of all stages on one device, one artifact after the other."""
        return known_sum(stage.seconds for stage in self.stages.values())

    @property
    def gpu_hours(self) -> float | None:
        """Of fine-tuning and generating; 0 on a CPU."""
        if not self.hardware.gpu:
            return 0.0
        seconds = known_sum(self.stages[name].seconds for name in ("finetune", "generate"))
        return None if seconds is None else seconds / 3600

    @property
    def gpu_usd(self) -> float | None:
        """What the GPU-hours cost; None where they, or the price of an hour, are not known."""
        hours, price = self.gpu_hours, self.hardware.usd_per_hour
        return None if hours is None or price is None else hours * price


def make_plan(grid: Grid, store: Store) -> Plan:
    """Count what a grid is made of, and estimate what is left of it. Nothing is downloaded or run.

    Raises:
        ConfigError: conf/estimates.yaml is wrong.
    """
    estimates = read_estimates()
    cells_done = 0
    everything: dict[str, dict[str, _Job]] = {stage: {} for stage in WORDS}
    left: dict[str, dict[str, _Job]] = {stage: {} for stage in WORDS}
    notes: dict[str, None] = {}
    for cell in grid.distinct:
        done = is_done(cell, store)
        cells_done += done
        if cell.problem:
            notes[f"{cell.label} cannot be run: {cell.problem.splitlines()[0]}"] = None
            continue
        for job in _jobs(cell):
            everything[job.stage].setdefault(job.key, job)
            if not done and job.key not in left[job.stage] and not store.has(job.stage, job.key):
                left[job.stage][job.key] = job
    made = {stage: list(_made(store, stage)) for stage in WORDS}
    hardware = _hardware(grid, _gpus_of(grid, made), estimates)
    basis = _Basis(estimates, hardware, notes)
    _measure(made, basis)
    stages = {}
    for stage, jobs in left.items():
        total = len(everything[stage])
        stages[stage] = _stage(stage, total, list(jobs.values()), basis)
    return Plan(
        grid.name,
        hardware,
        len(grid.distinct),
        cells_done,
        stages,
        known_sum(_queries(job, basis).n for job in everything["judge"].values()),
        known_sum(_queries(job, basis).n for job in left["judge"].values()),
        _paid(left["judge"].values(), basis),
        tuple(notes),
    )


@dataclass(frozen=True)
class _Job:
    """An artifact of the grid: the cell that it is first met in, and for which evaluation."""

    stage: str
    key: str
    cell: GridCell
    evaluation: str = ""

    @property
    def config(self) -> Config:
        return self.cell.config

    @property
    def setting(self) -> Evaluation:
        return self.config.evaluations[self.evaluation]

    @property
    def keys(self) -> EvaluationKeys:
        return self.cell.keys.evaluations[self.evaluation]


@dataclass(frozen=True)
class _Made:
    """An artifact of the store: what it was made of, what its provenance says, which model it was."""

    key: str
    parts: Parts
    facts: Mapping[str, Any]
    model: str = ""
    method: str = ""


@dataclass(frozen=True)
class _Set:
    """Rows or queries: how many, and mean tokens of each; None where not known."""

    n: int | None
    lengths: Lengths | None


@dataclass
class _Basis:
    """What estimates rest on. `measured` are seconds, and the units that they were for, of artifacts by their keys."""

    estimates: Estimates
    hardware: Hardware
    notes: dict[str, None]
    measured: dict[tuple[str, ...], dict[str, tuple[float, float]]] = field(default_factory=dict)
    row_tokens: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    sets: dict[str, _Set] = field(default_factory=dict)
    parameters: dict[str, float | None] = field(default_factory=dict)


def _jobs(cell: GridCell) -> Iterator[_Job]:
    """What a cell's stages make."""
    for made in cell.keys.artifacts:
        if made.stage in WORDS and made.made_by in cell.config.stages:
            yield _Job(made.stage, made.key, cell, made.name)


def _made(store: Store, stage: str) -> Iterator[_Made]:
    """The newest artifacts of a stage; what an older version or another hand left is passed over."""
    folder = store.root / stage
    found = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
    tuned: dict[str, tuple[str, str]] = {}
    for path in found[:READ_AT_MOST]:
        try:
            parts, facts = read_json(path / "key.json"), read_json(path / "provenance.json")
            if stage == "judge":
                scored = read_json(store.path("generate", parts["generate"]) / "provenance.json")
                asked = {"queries": scored["queries"], "samples": scored.get("samples", 1)}
                yield _Made(path.name, parts, facts | asked)
                continue
            if stage == "finetune":  # each of several devices was busy all the time
                facts["seconds"] *= facts.get("devices", 1)
            model = parts["model"] if stage == "generate" else parts
            if "finetune" in model:
                key = model["finetune"]
                if key not in tuned:
                    tuned[key] = _model_of(read_json(store.path("finetune", key) / "key.json"))
                yield _Made(path.name, parts, facts, *tuned[key])
            else:
                yield _Made(path.name, parts, facts, *_model_of(model))
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _model_of(finetune_parts: Parts) -> tuple[str, str]:
    """Which model, and how it was tuned (the untouched one is as quick as one tuned in full)."""
    method = finetune_parts.get("method") or finetune_parts["recipe"]["method"]
    return key_of(finetune_parts["model"]), "full" if method == "none" else method


def _gpus_of(grid: Grid, made: Mapping[str, list[_Made]]) -> Counter[str]:
    """The GPUs on which the grid's models ran before, by how often."""
    models = {_model_of(c.keys.finetune_parts)[0] for c in grid.distinct if not c.problem}
    return Counter(
        gpu
        for stage in ("finetune", "generate")
        for artifact in made[stage]
        if artifact.model in models and (gpu := (artifact.facts.get("hardware") or {}).get("gpu"))
    )


def _hardware(grid: Grid, gpus: Counter[str], estimates: Estimates) -> Hardware:
    """What would run the grid; scale=paper is not for CPUs, but for those that ask an API."""
    here = [cell.config for cell in grid.distinct if cell.config.model.api is None]
    devices = {config.engine.device for config in here} or {"cpu"}
    name = None if devices == {"cpu"} else own_gpu()
    if name is not None:
        return _gpu(name, "this machine's", estimates)
    if devices == {"cpu"} or (grid.scale == "micro" and devices != {"cuda"}):
        machine = this_machine()
        tflops = estimates.cpu.tflops_per_core * machine["cores"]
        return Hardware(_cpu_name(machine), False, "this machine's", tflops, estimates.cpu.gb_per_s)
    if gpus:
        return _gpu(gpus.most_common(1)[0][0], "there is none here; earlier runs had it", estimates)
    assumed = estimates.gpus[estimates.assumed_gpu]
    where = "assumed, there is none here; see assumed_gpu"
    peaks = (assumed.tflops, assumed.gb_per_s, assumed.usd_per_hour)
    return Hardware(estimates.assumed_gpu, True, where, *peaks)


def _gpu(name: str, where: str, estimates: Estimates) -> Hardware:
    found = next((g for g in estimates.gpus.values() if re.search(g.pattern, name)), None)
    if found is None:
        return Hardware(name, True, where, None, None)
    return Hardware(name, True, where, found.tflops, found.gb_per_s, found.usd_per_hour)


def _cpu_name(machine: Mapping[str, Any]) -> str:
    return f"{machine['cpu'] or 'CPU'}, {machine['cores']} cores"


def _measure(made: Mapping[str, list[_Made]], basis: _Basis) -> None:
    """Take from the store's artifacts what they took (those of this hardware) and how much they held."""
    for artifact in (a for stage in made.values() for a in stage):
        facts, parts = artifact.facts, artifact.parts
        kinds: list[tuple[tuple[str, ...], float]]
        try:
            machine = facts["hardware"]
            ran_on = machine["gpu"] or _cpu_name(machine)
            if "recipe" in parts:
                tokens, rows = facts["tokens_per_epoch"], facts["rows"]
                basis.row_tokens[_row_key(parts)] = tokens / rows
                basis.counts[key_of(parts["rows"])] = rows + facts["rows_left_out"]
                epochs = facts["steps"] / math.ceil(rows / parts["recipe"]["batch_size"])
                kinds = [(("finetune", artifact.model, artifact.method), tokens * epochs)]
            elif "decoding" in parts:
                queries, most = key_of(parts["queries"]), parts["decoding"]["max_new_tokens"]
                basis.counts[queries] = facts["queries"]
                own = ("generate", artifact.model, artifact.method)
                tokens = facts["prompt_tokens"] + facts["completion_tokens"]
                kinds = [(own, tokens), ((*own, queries, str(most)), _answers(facts))]
            else:  # a judge's speed is not this hardware's, or is nearly nothing
                kinds, ran_on = [(_judge_kind(parts), _answers(facts))], basis.hardware.name
            if ran_on == basis.hardware.name:
                for kind, units in kinds:
                    if units > 0:
                        took = (float(facts["seconds"]), units)
                        basis.measured.setdefault(kind, {})[artifact.key] = took
        except (KeyError, TypeError, ZeroDivisionError):  # an older version's provenance
            continue


def _answers(facts: Mapping[str, Any]) -> float:
    """How many answers a generation or a judge run held: queries, each as often as it was sampled."""
    return float(facts["queries"] * facts.get("samples", 1))


def _row_key(parts: Parts) -> str:
    """What decides how many tokens a training row has."""
    own = {name: parts[name] for name in ("model", "rows", "reading", "template")}
    return key_of({**own, "max_length": parts["recipe"].get("max_length")})  # an API has its own


def _judge_kind(parts: Parts) -> tuple[str, ...]:
    return ("judge", key_of(parts["judge"]))


@dataclass(frozen=True)
class _Speed:
    """What artifacts of one kind took: `fixed` seconds each, and `rate` seconds a unit (None: no measurement tells)."""

    fixed: float
    rate: float | None
    keys: tuple[str, ...]

    def seconds(self, units: float) -> float | None:
        return None if self.rate is None else self.fixed + self.rate * units


def _speed(kind: tuple[str, ...], units: float, basis: _Basis) -> _Speed:
    """The speed of a kind, for an artifact of so many units.

    Measurements that are large enough for it give the rate, and smaller ones, which are mostly their start, the fixed
    part: what they took typically, but no more than any of the large. Without a small one it is 0 and lies in the rate.
    """
    measured = basis.measured.get(kind, {})
    large = {
        key: (seconds, held)
        for key, (seconds, held) in measured.items()
        if held >= LEAST_SHARE * units or seconds >= LONG_ENOUGH
    }
    small = [seconds for key, (seconds, _) in measured.items() if key not in large]
    fixed = min([median(small) if small else 0.0, *(seconds for seconds, _ in large.values())])
    if not large:
        return _Speed(fixed, None, ())
    rates = [((seconds - fixed) / held, held) for seconds, held in large.values()]
    return _Speed(fixed, typical(rates), tuple(large))


def typical(rates: Iterable[tuple[float, float]]) -> float:
    """The median of (rate, units) with units as weights, so that a short trial run counts for little."""
    ordered = sorted(rates)
    half = sum(units for _, units in ordered) / 2
    seen = accumulate(units for _, units in ordered)
    return next(rate for (rate, _), so_far in zip(ordered, seen, strict=True) if so_far >= half)


def _stage(stage: str, total: int, left: list[_Job], basis: _Basis) -> Stage:
    estimate = {"finetune": _finetune, "generate": _generate, "judge": _judge}[stage]
    found = [estimate(job, basis) for job in left]
    measured = {key for _, keys in found for key in keys}
    formula = sum(seconds is not None and not keys for seconds, keys in found)
    said = [f"measured: {_counted(len(measured), WORDS[stage])}"] if measured else []
    if formula:
        said.append(f"formula for {formula}" if formula < len(left) else "formula")
    if any(seconds is None for seconds, _ in found):
        said.append("see below")
    return Stage(total, total - len(left), known_sum(s for s, _ in found), "; ".join(said))


Estimate = tuple[float | None, Iterable[str]]
"""Seconds, and the keys of the artifacts that they were measured on (none: by formula)."""


def _finetune(job: _Job, basis: _Basis) -> Estimate:
    config, parts = job.config, job.cell.keys.finetune_parts
    rows = _set(config.dataset, parts["rows"], ("input", "output"), basis)
    per_row = basis.row_tokens.get(_row_key(parts))
    if per_row is None and rows.lengths is not None:
        template = _template_tokens(config.train_template, config, basis)
        per_row = rows.lengths.input + rows.lengths.output + template
    if per_row is None:
        return _no_lengths(config.dataset, basis)
    seen = rows.n
    if seen is not None and (mix := config.finetune.mix):  # once in all epochs, taken to be as long
        mixed = _set(mix.rows, parts["recipe"]["mix"]["rows"], ("input", "output"), basis)
        seen = None if mixed.n is None else seen + round(mixed.n / config.finetune.epochs)
    tokens = training_tokens(config.finetune, seen, per_row)
    if tokens is None:
        return None, ()
    model, method = _model_of(parts)
    speed = _speed(("finetune", model, method), tokens, basis)
    if speed.rate is not None:
        return speed.seconds(tokens), speed.keys
    parameters = _parameters(config.model, basis)
    tflops = basis.hardware.tflops
    if parameters is None or tflops is None:
        return None, ()
    share = basis.estimates.utilisation.training
    whole = training_seconds(parameters, tokens, method == "full", tflops, share)
    return speed.fixed + whole, ()


def _generate(job: _Job, basis: _Basis) -> Estimate:
    config, evaluation = job.config, job.setting
    queries = _queries(job, basis)
    if queries.n is None:
        return None, ()
    model, method = _model_of(job.cell.keys.finetune_parts)
    most = evaluation.decoding.max_new_tokens
    identity = key_of(job.keys.generate_parts["queries"])
    same = _speed(("generate", model, method, identity, str(most)), queries.n, basis)
    if same.rate is not None:
        return same.seconds(queries.n), same.keys
    if queries.lengths is None:
        return _no_lengths(evaluation.queries, basis)
    asked = queries.n * queries.lengths.input
    template = _template_tokens(config.test_template, config, basis)
    tokens = asked + queries.n * template + queries.n * min(queries.lengths.output, most)
    alike = _speed(("generate", model, method), tokens, basis)
    if alike.rate is not None:
        return alike.seconds(tokens), alike.keys
    parameters = _parameters(config.model, basis)
    if parameters is None or basis.hardware.tflops is None:
        return None, ()
    return alike.fixed + generation_seconds(
        parameters,
        0.5 if method == "qlora" else BYTES_PER_WEIGHT[config.model.dtype],
        queries.n,
        asked + template * (1 if config.engine.share_prefix else queries.n),
        config.engine.batch_size,
        most,
        basis.hardware,
        basis.estimates.utilisation,
    ), ()


def _judge(job: _Job, basis: _Basis) -> Estimate:
    n = _queries(job, basis).n
    if n is None:
        return None, ()
    speed = _speed(_judge_kind(job.keys.judge_parts), n, basis)
    if speed.rate is not None:
        return speed.seconds(n), speed.keys
    judging, path = basis.estimates.judging, job.setting.judge.get("path")
    if path is not None:  # a model that runs here
        basis.notes[f"judge {path}: what it takes is not known before it has run once"] = None
        return None, ()
    asked = job.keys.judge_parts["judge"].get("model") is not None
    return speed.fixed + n * (judging.seconds if asked else judging.local_seconds), ()


def _paid(left: Iterable[_Job], basis: _Basis) -> PaidCalls:
    """What the judges that name a `model` are still to be asked; the others run here and cost nothing.

    A price that the judge's settings name counts before that of conf/estimates.yaml; batch mode is half of it.
    """
    judging = basis.estimates.judging
    calls: list[int | None] = []
    usd: list[float | None] = [0.0]
    for job in left:
        model = job.keys.judge_parts["judge"].get("model")
        if model is None:
            continue
        n = _queries(job, basis).n
        setting = job.setting.judge
        price = judging.prices.get(model)
        if setting.get("price"):
            price = Price(**setting["price"])
        if price is None:
            basis.notes[f"judge model {model}: its price is not in {_named(ESTIMATES)}"] = None
        calls.append(n)
        if n is None or price is None:
            usd.append(None)
        else:
            into, out = judging.call.input_tokens, judging.call.output_tokens
            share = BATCH_SHARE if setting.get("batch") else 1.0
            usd.append(n * share * price.of(into, out))
    n = known_sum(calls)
    return PaidCalls(
        n,
        None if n is None else n * judging.call.input_tokens,
        None if n is None else n * judging.call.output_tokens,
        known_sum(usd),
    )


def _queries(job: _Job, basis: _Basis) -> _Set:
    """The queries of a job, one for each answer: several where they are sampled several times."""
    identity = job.keys.generate_parts["queries"]
    asked = _set(job.setting.queries, identity, ("input",), basis)
    return replace(asked, n=None if asked.n is None else asked.n * job.setting.decoding.samples)


def _set(rows: Rows, identity: Parts, needs: tuple[str, ...], basis: _Basis) -> _Set:
    """Count rows: by reading them where they are at hand, else as the store or the publisher says."""
    key = key_of(identity)
    if key not in basis.sets:
        basis.sets[key] = _counted_set(rows, key, needs, basis)
    return basis.sets[key]


def _counted_set(rows: Rows, key: str, needs: tuple[str, ...], basis: _Basis) -> _Set:
    if rows.source in ("hub", "url"):
        n = rows.n or basis.counts.get(key) or rows.size
        if n is None:
            basis.notes[
                f"{rows.name} ({rows.path}, {rows.split}): how many rows it holds is not known; "
                "set its `size`"
            ] = None
        return _Set(n, basis.estimates.tokens.get(rows.name))
    try:
        n = asked = answered = 0
        for row in data.read_rows(rows, needs):
            n += 1
            asked += len(row["input"]) + len(row.get("instruction", ""))
            answered += len(row.get("output", ""))
    except DataError as error:  # its cells will fail; the rest of the grid can be planned
        basis.notes[str(error).splitlines()[0]] = None
        return _Set(None, None)
    each = basis.estimates.characters_per_token * n
    answer = answered / each if answered else math.inf  # as long as it may be
    return _Set(n, Lengths(asked / each, answer))


def _template_tokens(template: Template, config: Config, basis: _Basis) -> float:
    """Tokens that a template, and the data set's instruction, put around a question."""
    texts = [template.system or "", template.user, config.dataset.instruction or ""]
    texts += [text for turn in template.turns for text in (turn.user, turn.assistant)]
    return sum(map(len, texts)) / basis.estimates.characters_per_token


def _parameters(model: Model, basis: _Basis) -> float | None:
    if model.api is not None:
        basis.notes[f"{model.name}: what its API takes, in time and money, is not known"] = None
        return None
    if basis.hardware.tflops is None:
        basis.notes[f"{basis.hardware.name}: its speed is not in {_named(ESTIMATES)}"] = None
    if model.path not in basis.parameters:
        basis.parameters[model.path] = parameters_of(model, basis.estimates)
        if basis.parameters[model.path] is None:
            basis.notes[f"{model.path}: its parameters are not in {_named(ESTIMATES)}"] = None
    return basis.parameters[model.path]


def _no_lengths(rows: Rows, basis: _Basis) -> Estimate:
    if rows.source in ("hub", "url"):
        basis.notes[f"{rows.name}: tokens of a row are not in {_named(ESTIMATES)}"] = None
    return None, ()


def _named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def as_json(plan: Plan) -> dict[str, Any]:
    """For machines: totals by name, `done` cells, and about what is left the rest; null is not known."""
    stages = plan.stages
    return {
        "sweep": plan.name,
        "cells": plan.cells,
        "finetunings": stages["finetune"].total,
        "generations": stages["generate"].total,
        "judge_runs": stages["judge"].total,
        "judge_calls": plan.judge_calls,
        "done": plan.cells_done,
        "left": {
            "cells": plan.cells - plan.cells_done,
            "finetunings": stages["finetune"].left,
            "generations": stages["generate"].left,
            "judge_runs": stages["judge"].left,
            "judge_calls": plan.judge_calls_left,
        },
        "seconds": {**{name: s.seconds for name, s in stages.items()}, "total": plan.seconds},
        "source": {name: s.source for name, s in stages.items()},
        "gpu_hours": plan.gpu_hours,
        "gpu_usd": plan.gpu_usd,
        "hardware": {
            "name": plan.hardware.name,
            "gpu": plan.hardware.gpu,
            "known": plan.hardware.where,
        },
        "judge": asdict(plan.paid),
        "notes": list(plan.notes),
    }


def show(plan: Plan, out: Console) -> None:
    """For people: a table of stages, then the sum, on what hardware, at what cost, and what is not known."""
    share = 100 * plan.cells_done / plan.cells
    head = f"{plan.name}: {plan.cells_done:,} of {plan.cells:,} cells done ({share:.0f} %)"
    out.print(head, markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in ("in all", "done", "left", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("from")
    cells = (plan.cells, plan.cells_done, plan.cells - plan.cells_done)
    table.add_row("cells", *(f"{n:,}" for n in cells), "", "")
    for name, stage in plan.stages.items():
        counts = [f"{n:,}" for n in (stage.total, stage.done, stage.left)]
        time = duration(stage.seconds) if stage.left else "–"
        table.add_row(WORDS[name], *counts, time, stage.source)
    table.add_row("answers to judge", *_call_counts(plan), "", "")
    out.print(table)
    for line in [*_sums(plan), *(f"Note: {note}." for note in plan.notes)]:
        out.print(line, markup=False)


def _call_counts(plan: Plan) -> list[str]:
    total, left = plan.judge_calls, plan.judge_calls_left
    done = None if total is None or left is None else total - left
    return ["unknown" if n is None else f"{n:,}" for n in (total, done, left)]


def _sums(plan: Plan) -> Iterator[str]:
    if not any(stage.left for stage in plan.stages.values()):
        yield "Nothing is left to be made."
        return
    known = sum(stage.seconds or 0 for stage in plan.stages.values())
    least = "at least " if plan.seconds is None else ""
    yield f"Total: {least}{duration(known)}, one after the other."
    hardware = f"{plan.hardware.name} ({plan.hardware.where})"
    yield f"Hardware: {'one ' if plan.hardware.gpu else ''}{hardware}."
    if plan.hardware.gpu:
        hours = "unknown" if plan.gpu_hours is None else f"{plan.gpu_hours:,.1f}"
        cost = "" if plan.gpu_usd is None else f", {plan.gpu_usd:,.2f} USD"
        yield f"GPU-hours: {hours}{cost}."
    if plan.stages["judge"].left:
        yield f"Judges: {_judging(plan)}."
    if any("formula" in stage.source for stage in plan.stages.values()):
        yield f"Formulas are rough; what they assume is in {_named(ESTIMATES)}."


def _judging(plan: Plan) -> str:
    """What judging costs: of the answers left, those that a language model is asked about, and those judged here."""
    paid, left = plan.paid, plan.judge_calls_left
    if paid.calls == 0:
        return "run here, at no cost"
    said = _paying(paid)
    if paid.calls is None or left is None or left == paid.calls:
        return said
    return f"{said}, for as many of the {left:,} answers left; the other {left - paid.calls:,} are judged here, at no cost"


def _paying(paid: PaidCalls) -> str:
    calls = "an unknown number of" if paid.calls is None else f"{paid.calls:,}"
    cost = "unknown cost" if paid.usd is None else f"about {paid.usd:,.2f} USD"
    if paid.input_tokens is None or paid.output_tokens is None:
        return f"{calls} calls, {cost}"
    millions = f"{paid.input_tokens / 1e6:,.1f} M tokens in, {paid.output_tokens / 1e6:,.1f} M out"
    return f"{calls} calls, {millions}, {cost}"


def duration(seconds: float | None) -> str:
    """In two units at most: "45 s", "12 min", "3 h 10 min", "5 d 3 h"; "unknown" for None."""
    if seconds is None:
        return "unknown"
    if seconds < 1:
        return "under 1 s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def _counted(n: int, words: str) -> str:
    return f"{n:,} {words if n != 1 else words.removesuffix('s')}"
