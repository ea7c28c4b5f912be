"""What the artifacts of a store took: the rates that estimates rest on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import median
from typing import Any

from ptst.estimates import Estimates, Lengths
from ptst.keys import Parts
from ptst.store import Store, key_of, read_json
from ptst.sweep.formulas import Hardware

WORDS = {
    "finetune": "fine-tunings",
    "analyse": "analyses",
    "generate": "generations",
    "judge": "judge runs",
}

LEAST_SHARE, LONG_ENOUGH = 0.1, 300.0
"""A measurement tells the rate of what held at most ten times as much, or if it took five
minutes: what a short trial takes is mostly its start (a model of 7B parameters loads for a
minute or two)."""
READ_AT_MOST = 500
"""Artifacts of each stage that are read, the newest: a median needs no more, however large the
store."""


@dataclass(frozen=True)
class Made:
    """An artifact of the store: what it was made of, what its provenance says, which model it
    was."""

    key: str
    parts: Parts
    facts: Mapping[str, Any]
    model: str = ""
    method: str = ""


@dataclass(frozen=True)
class Rowset:
    """Rows or queries: how many, and mean tokens of each; None where not known."""

    n: int | None
    lengths: Lengths | None


@dataclass
class Basis:
    """What estimates rest on. `measured` are seconds, and the units that they were for, of
    artifacts by their keys."""

    estimates: Estimates
    hardware: Hardware
    notes: dict[str, None]
    measured: dict[tuple[str, ...], dict[str, tuple[float, float]]] = field(default_factory=dict)
    row_tokens: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    sets: dict[str, Rowset] = field(default_factory=dict)
    parameters: dict[str, float | None] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    """Weights for which an engine's own process is started already."""


def made_in(store: Store, stage: str) -> Iterator[Made]:
    """The newest artifacts of a stage; what an older version or another hand left is passed
    over."""
    folder = store.root / stage
    found = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
    tuned: dict[str, tuple[str, str]] = {}
    for path in found[:READ_AT_MOST]:
        try:
            parts, facts = read_json(path / "key.json"), read_json(path / "provenance.json")
            if stage == "judge":
                scored = read_json(store.path("generate", parts["generate"]) / "provenance.json")
                asked = {"queries": scored["queries"], "samples": scored.get("samples", 1)}
                yield Made(path.name, parts, facts | asked)
                continue
            if stage == "analyse":
                if parts["model"]:  # else what the analyses of several models share
                    yield Made(path.name, parts, facts, key_of(parts["base"]))
                continue
            if stage == "finetune":  # each of several devices was busy all the time
                facts["seconds"] *= facts.get("devices", 1)
            model = parts["model"] if stage == "generate" else parts
            if "finetune" in model:
                key = model["finetune"]
                if key not in tuned:
                    tuned[key] = model_of(read_json(store.path("finetune", key) / "key.json"))
                yield Made(path.name, parts, facts, *tuned[key])
            else:
                yield Made(path.name, parts, facts, *model_of(model))
        except (OSError, ValueError, KeyError, TypeError):
            continue


def model_of(finetune_parts: Parts) -> tuple[str, str]:
    """Which model, and how it was tuned (the untouched one is as quick as one tuned in full)."""
    method = finetune_parts.get("method") or finetune_parts["recipe"]["method"]
    return key_of(finetune_parts["model"]), "full" if method == "none" else method


def cpu_name(machine: Mapping[str, Any]) -> str:
    return f"{machine['cpu'] or 'CPU'}, {machine['cores']} cores"


def measure(made: Mapping[str, list[Made]], basis: Basis) -> None:
    """Take from the store's artifacts what they took (those of this hardware) and how much they
    held."""
    for artifact in (a for stage in made.values() for a in stage):
        facts, parts = artifact.facts, artifact.parts
        kinds: list[tuple[tuple[str, ...], float]]
        try:
            machine = facts["hardware"]
            ran_on = machine["gpu"] or cpu_name(machine)
            if "recipe" in parts:
                tokens, rows = facts["tokens_per_epoch"], facts["rows"]
                basis.row_tokens[row_key(parts)] = tokens / rows
                basis.counts[key_of(parts["rows"])] = rows + facts["rows_left_out"]
                epochs = facts["steps"] / math.ceil(rows / parts["recipe"]["batch_size"])
                kinds = [
                    (kind_of("finetune", artifact.model, artifact.method, parts), tokens * epochs)
                ]
            elif "decoding" in parts:
                queries, most = key_of(parts["queries"]), parts["decoding"]["max_new_tokens"]
                basis.counts[queries] = facts["queries"]
                own = kind_of("generate", artifact.model, artifact.method, parts)
                tokens = facts["prompt_tokens"] + facts["completion_tokens"]
                kinds = [(own, tokens), ((*own, queries, str(most)), answers_in(facts))]
            elif "analysis" in parts:
                kinds = [(analysis_kind(parts), 1.0)]
            else:  # a judge's speed is not this hardware's, or is nearly nothing
                kinds, ran_on = [(judge_kind(parts), answers_in(facts))], basis.hardware.name
            if ran_on == basis.hardware.name:
                for kind, units in kinds:
                    if units > 0:
                        took = (float(facts["seconds"]), units)
                        basis.measured.setdefault(kind, {})[artifact.key] = took
        except (KeyError, TypeError, ZeroDivisionError):  # an older version's provenance
            continue


def answers_in(facts: Mapping[str, Any]) -> float:
    """How many answers a generation or a judge run held: queries, each as often as it was
    sampled."""
    return float(facts["queries"] * facts.get("samples", 1))


def row_key(parts: Parts) -> str:
    """What decides how many tokens a training row has."""
    own = {name: parts[name] for name in ("model", "rows", "reading", "template")}
    return key_of({**own, "max_length": parts["recipe"].get("max_length")})  # an API has its own


def kind_of(stage: str, model: str, method: str, parts: Parts) -> tuple[str, ...]:
    """What is as quick as each other: an objective and a guard have a speed of their own."""
    own = parts["recipe"].get("objective") if stage == "finetune" else parts.get("guard")
    plain = plain_kind(stage, model, method, parts)
    return (*plain, *([own["_target_"]] if own else []))


def plain_kind(stage: str, model: str, method: str, parts: Parts) -> tuple[str, ...]:
    """The kind of what has neither an objective nor a guard; each engine answers at its own
    speed."""
    return (stage, model, method, *([engine_in(parts)] if stage == "generate" else []))


def engine_in(parts: Parts) -> str:
    """The name of the engine in the parts of a generation's key."""
    engine = parts["engine"]
    return str(engine["_target_"] if isinstance(engine, Mapping) else engine)


def analysis_kind(parts: Parts) -> tuple[str, ...]:
    """What is as quick as each other: one analysis of one model, under any test template."""
    return ("analyse", key_of(parts["base"]), key_of(parts["analysis"]))


def judge_kind(parts: Parts) -> tuple[str, ...]:
    return ("judge", key_of(parts["judge"]))


@dataclass(frozen=True)
class Speed:
    """What artifacts of one kind took: `fixed` seconds each, and `rate` seconds a unit (None: no
    measurement tells)."""

    fixed: float
    rate: float | None
    keys: tuple[str, ...]

    def seconds(self, units: float) -> float | None:
        return None if self.rate is None else self.fixed + self.rate * units


def speed_of(kind: tuple[str, ...], units: float, basis: Basis) -> Speed:
    """The speed of a kind, for an artifact of so many units.

    Measurements that are large enough for it give the rate, and smaller ones, which are mostly
    their start, the fixed part: what they took typically, but no more than any of the large.
    Without a small one it is 0 and lies in the rate.
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
        return Speed(fixed, None, ())
    rates = [((seconds - fixed) / held, held) for seconds, held in large.values()]
    return Speed(fixed, typical(rates), tuple(large))


def typical(rates: Iterable[tuple[float, float]]) -> float:
    """The median of (rate, units) with units as weights, so that a short trial run counts for
    little."""
    ordered = sorted(rates)
    half = sum(units for _, units in ordered) / 2
    seen = accumulate(units for _, units in ordered)
    return next(rate for (rate, _), so_far in zip(ordered, seen, strict=True) if so_far >= half)
