"""What a grid comes to before it runs: how much of each stage, what is done, and what the rest will
take.

Counting is exact: an artifact that cells share counts once, and what the store has is done. Time
and cost are estimates. The first choice is what this store's own artifacts took, for the same model
on the same hardware; else a formula over the figures of conf/estimates.yaml. What is not known is
None, never zero.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ptst.engine.chosen import engine_of
from ptst.estimates import BATCH_SHARE, ESTIMATES, Estimates, Price, read_estimates
from ptst.metrics import known_sum
from ptst.provenance import hardware as this_machine
from ptst.store import Store
from ptst.sweep.costs import cost_in_words, costs_of
from ptst.sweep.forecast import Job, Stage, forecast, parameters_in, queries_of
from ptst.sweep.formulas import Hardware, own_gpu
from ptst.sweep.grid import Grid, GridCell
from ptst.sweep.in_words import file_in_words
from ptst.sweep.measured import WORDS, Basis, Made, cpu_name, made_in, measure, model_of
from ptst.sweep.run import is_done


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
        stages: finetune, generate and judge; analyse where there are analyses.
        judge_calls, judge_calls_left: answers that judges score, here or at an endpoint (`paid` are
            the latter); None where the size of a set is not known.
        notes: what is not known or will not run, and why.
        defences: what each defence takes beside plain fine-tuning and answering, in words.
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
    defences: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """Of all stages on one device, one artifact after the other."""
        return known_sum(stage.seconds for stage in self.stages.values())

    @property
    def gpu_hours(self) -> float | None:
        """Of all but judging; 0 on a CPU."""
        if not self.hardware.gpu:
            return 0.0
        seconds = known_sum(own.seconds for name, own in self.stages.items() if name != "judge")
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
    everything: dict[str, dict[str, Job]] = {stage: {} for stage in WORDS}
    left: dict[str, dict[str, Job]] = {stage: {} for stage in WORDS}
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
    made = {stage: list(made_in(store, stage)) for stage in WORDS}
    hardware = _hardware(grid, _gpus_of(grid, made), estimates)
    basis = Basis(estimates, hardware, notes)
    measure(made, basis)
    stages = {}
    for stage, jobs in left.items():
        total = len(everything[stage])
        if stage == "analyse" and not total:
            continue
        stages[stage] = forecast(stage, total, list(jobs.values()), basis)
    return Plan(
        grid.name,
        hardware,
        len(grid.distinct),
        cells_done,
        stages,
        known_sum(queries_of(job, basis).n for job in everything["judge"].values()),
        known_sum(queries_of(job, basis).n for job in left["judge"].values()),
        _paid(left["judge"].values(), basis),
        tuple(notes),
        _defences(grid, basis),
    )


def _defences(grid: Grid, basis: Basis) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    for cell in grid.distinct:
        for name, cost in costs_of(cell.config):
            if words := cost_in_words(cost, cell.config, parameters_in(cell.config.model, basis)):
                found.setdefault(name, {})[words] = None
    return {name: "; or ".join(words) for name, words in found.items()}


def _jobs(cell: GridCell) -> Iterator[Job]:
    """What a cell's stages make."""
    for made in cell.keys.artifacts:
        if made.stage in WORDS and made.made_by in cell.config.stages:
            yield Job(made.stage, made.key, cell, made.name)


def _gpus_of(grid: Grid, made: Mapping[str, list[Made]]) -> Counter[str]:
    """The GPUs on which the grid's models ran before, by how often."""
    models = {model_of(c.keys.finetune_parts)[0] for c in grid.distinct if not c.problem}
    return Counter(
        gpu
        for stage in ("finetune", "generate")
        for artifact in made[stage]
        if artifact.model in models and (gpu := (artifact.facts.get("hardware") or {}).get("gpu"))
    )


def _hardware(grid: Grid, gpus: Counter[str], estimates: Estimates) -> Hardware:
    """What would run the grid; a scale that needs a GPU is not for CPUs, but for those that ask an
    API."""
    engines = [engine_of(cell.config) for cell in grid.distinct]
    devices = {engine.device for engine in engines if engine.has_weights} or {"cpu"}
    needs_gpu = any(cell.config.scale.gpu for cell in grid.distinct)
    name = None if devices == {"cpu"} else own_gpu()
    if name is not None:
        return _gpu(name, "this machine's", estimates)
    if devices == {"cpu"} or (not needs_gpu and devices != {"cuda"}):
        machine = this_machine()
        tflops = estimates.cpu.tflops_per_core * machine["cores"]
        return Hardware(cpu_name(machine), False, "this machine's", tflops, estimates.cpu.gb_per_s)
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


def _paid(left: Iterable[Job], basis: Basis) -> PaidCalls:
    """What the judges that name a `model` are still to be asked; the others run here and cost
    nothing.

    A price that the judge's settings name counts before that of conf/estimates.yaml; batch mode is
    half of it.
    """
    judging = basis.estimates.judging
    calls: list[int | None] = []
    usd: list[float | None] = [0.0]
    for job in left:
        model = job.keys.judge_parts["judge"].get("model")
        if model is None:
            continue
        n = queries_of(job, basis).n
        setting = job.setting.judge
        price = judging.prices.get(model)
        if setting.get("price"):
            price = Price(**setting["price"])
        if price is None:
            basis.notes[f"judge model {model}: its price is not in {file_in_words(ESTIMATES)}"] = (
                None
            )
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
