"""The study: which models are trained from which, and what is kept of each in a store.

A seed has one pretraining, and from it the safety fine-tunings and two ordinary ones. Each training
is an artifact (`finetune`), each measurement another (`analyse`), with keys of all that decides
them: a study that is run again goes on where it ended, within a training at its last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ptst.progress import Advance, progress, say
from ptst.provenance import provenance
from ptst.store import Store, key_of, read_json, write_json
from tools.pcfg.stages import Size, Stage

VERSION = 1
"""In every key; to be raised where the code changes what a training or a measurement gives."""
COSTS = {"pretraining": 1.0, "supervised": 1.0, "ordinary": 1.0, "unlearning": 2.0, "dpo": 2.7}
"""What a row costs, in forward and backward passes; for the time that is left."""


@dataclass(frozen=True)
class Measured:
    """What is known of one model of the study."""

    seed: int
    stage: Stage
    values: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A model to be trained: from nothing, or from the model that has the key `before`."""

    size: Size
    seed: int
    stage: Stage
    before: str | None

    @property
    def parts(self) -> dict[str, Any]:
        """What decides the weights."""
        model = {name: asdict(self.size)[name] for name in ("width", "layers", "length")}
        stage = asdict(self.stage)
        return {
            "pcfg": VERSION,
            "seed": self.seed,
            "stage": stage,
            "model": model,
            "before": self.before,
        }

    @property
    def key(self) -> str:
        """Where the weights are, in the stage `finetune` of the store."""
        return key_of(self.parts)


def jobs_of(size: Size, seeds: Sequence[int]) -> list[Job]:
    """All models of a study, each behind the one that it is made from."""
    jobs = []
    for seed in seeds:
        pretraining, *others = size.stages()
        first = Job(size, seed, pretraining, None)
        jobs += [first, *(Job(size, seed, stage, first.key) for stage in others)]
    return jobs


def run(size: Size, seeds: Sequence[int], store: Store) -> list[Measured]:
    """Train and measure what the store does not have, and read all of it."""
    store.prepare()
    found, jobs = [], jobs_of(size, seeds)
    pace = _Pace([job for job in jobs if not store.has("finetune", job.key)])
    for number, job in enumerate(jobs, 1):
        name = f"{number}/{len(jobs)} {job.stage.name}, seed {job.seed}"
        if store.has("finetune", job.key):
            say(f"{name}: found")
        else:
            with progress(name) as advance:
                _train(job, store, partial(pace.tell, advance, job))
        pace.costs.pop(job.key, None)
        values = _measure(job, store)
        found.append(Measured(job.seed, job.stage, values))
    return found


def _load(job: Job, store: Store, key: str) -> Any:
    from safetensors.torch import load_model

    from tools.pcfg.train import new_model

    model = new_model(job.seed, job.size.width, job.size.layers, job.size.length)
    load_model(model, store.path("finetune", key) / "model.safetensors")
    return model


def _train(job: Job, store: Store, tell: Callable[[int, float], None]) -> None:
    with store.make("finetune", job.key, job.parts) as work:
        if work is None:
            return
        from safetensors.torch import save_model

        from tools.pcfg.train import new_model, train

        started, size, before = time.monotonic(), job.size, None
        if job.before is None:
            model = new_model(job.seed, size.width, size.layers, size.length)
        else:
            model, before = (_load(job, store, job.before) for _ in range(2))
        checkpoint = work.scratch / "checkpoint.pt"
        loss = train(model, before, job.stage, job.seed, size.length, tell, checkpoint)
        save_model(model, str(work.result / "model.safetensors"))
        seconds = work.maker.spent + time.monotonic() - started
        write_json(work.result / "provenance.json", provenance(seconds, loss=loss))


def _measure(job: Job, store: Store) -> dict[str, Any]:
    parts = {"pcfg": VERSION, "of": job.key, "prompts": job.size.prompts}
    key = key_of(parts)
    with store.make("analyse", key, parts) as work:
        if work is not None:
            from tools.pcfg import measure

            model, length, count = _load(job, store, job.key), job.size.length, job.size.prompts
            values: dict[str, Any] = {
                "accuracy": measure.accuracy(model, count, length),
                "clusters": measure.clusters(model, count, length),
            }
            if job.before is not None:
                values["changes"] = measure.changes(_load(job, store, job.before), model)
            write_json(work.result / "values.json", values)
    made = read_json(store.path("finetune", job.key) / "provenance.json")
    kept = read_json(store.path("analyse", key) / "values.json")
    return {**kept, "seconds": made["seconds"], "loss": made["loss"]}


class _Pace:
    """How long the rest takes, at the pace of this run since its first step."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.costs = {job.key: _cost(job.stage) for job in jobs}
        self.began, self.worked = 0.0, 0.0

    def tell(self, advance: Advance, job: Job, step: int, loss: float) -> None:
        """One step of a job is done."""
        cost, steps = _cost(job.stage) / job.stage.steps, job.stage.steps
        text = f"loss {loss:.3f}"
        if self.began:
            self.worked += cost
            left = sum(self.costs.values()) - step * cost
            seconds = left * (time.monotonic() - self.began) / self.worked
            text += f", all: {seconds / 60:.0f} min left"
        else:
            self.began = time.monotonic()
        advance(step, steps, text)


def _cost(stage: Stage) -> float:
    return COSTS[stage.method] * stage.steps * stage.rows
