"""A plan for people, and for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from ptst.estimates import ESTIMATES
from ptst.sweep.in_words import duration, file_in_words
from ptst.sweep.measured import WORDS
from ptst.sweep.plan import PaidCalls, Plan


def as_json(plan: Plan) -> dict[str, Any]:
    """For machines: totals by name, `done` cells, and about what is left the rest; null is not
    known."""
    stages, analyses = plan.stages, plan.stages.get("analyse")
    return {
        "sweep": plan.name,
        "cells": plan.cells,
        "finetunings": stages["finetune"].total,
        **({"analyses": analyses.total} if analyses else {}),
        "generations": stages["generate"].total,
        "judge_runs": stages["judge"].total,
        "judge_calls": plan.judge_calls,
        "done": plan.cells_done,
        "left": {
            "cells": plan.cells - plan.cells_done,
            "finetunings": stages["finetune"].left,
            **({"analyses": analyses.left} if analyses else {}),
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
        "defences": dict(plan.defences),
        "notes": list(plan.notes),
    }


def show(plan: Plan, out: Console) -> None:
    """For people: a table of stages, then the sum, on what hardware, at what cost, and what is not
    known."""
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
    defences = [f"{', '.join(names)}: {words}." for words, names in _alike(plan).items()]
    for line in [*_sums(plan), *defences, *(f"Note: {note}." for note in plan.notes)]:
        out.print(line, markup=False)


def _alike(plan: Plan) -> dict[str, list[str]]:
    """What defences take, and the names of those that take the same."""
    names: dict[str, list[str]] = {}
    for name, words in plan.defences.items():
        names.setdefault(words, []).append(name)
    return names


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
        yield f"Formulas are rough; what they assume is in {file_in_words(ESTIMATES)}."


def _judging(plan: Plan) -> str:
    """What judging costs: of the answers left, those that a language model is asked about, and
    those judged here."""
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
