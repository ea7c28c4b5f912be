"""What a sweep over defences says of the mismatch of templates, in words: a line for a defence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from ptst.metrics import decimals, shown
from ptst.report.results import Detection, Estimate, Protection
from ptst.report.results.protection import DRAWS
from ptst.store import csv_text

ESTIMATES = ("replaces", "still", "match", "helpful")
HEADS = ("replaces", "mismatch still", "match (log odds)", "helpful")

NOTE = (
    "Of the attack success rate (ASR), trained → tested. replaces: with the safety prompt at both ends, minus no defence trained "
    "without it and tested with it; at most 0: the defence gives what the mismatch gives. mismatch still: with it at both ends, "
    "minus the same defence trained without it and tested with it; above 0: the mismatch adds to the defence. match: log odds of the same "
    "template at both ends over different ones, minus that of no defence; below 0: it protects more in its own template. helpful: "
    "helpfulness minus that of no defence, mean over the four pairs; the last columns: other harmless questions, mean over the four pairs. In brackets: 95 % bootstrap interval over units and models "
    f"({DRAWS} draws, the same for all cells); behind a semicolon each model's own number."
)


@dataclass(frozen=True)
class Lines:
    """A table of protections: its title, what its numbers are, heads, and a line for each."""

    title: str
    about: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def protection_lines(protections: Sequence[Protection]) -> list[Lines]:
    """One table for each pair of templates."""
    tables = []
    for (split, pairs), group in groupby(protections, key=lambda one: (one.split, one.pairs)):
        found = list(group)
        (plain, _), (safe, _) = pairs[0], pairs[3]
        ends = {plain: "P", safe: "S"}
        heads = ["defence", *(f"{ends[a]} → {ends[b]}" for a, b in pairs), *HEADS]
        heads += next((list(one.beside) for one in found if one.status == "done"), [])
        first = found[0]
        counts = [f"P {plain}, S {safe}"]
        whole = [one for one in found if one.status == "done"]
        if whole:
            models = f"{len(whole[0].models)} models: {', '.join(whole[0].models)}"
            counts += [f"{whole[0].runs} trainings a number ({models})", f"{whole[0].units} units"]
        counts += [f"ASR {first.metric}, helpfulness {first.helpful_metric}"]
        if lacking := [f"{one.called} ({one.status})" for one in found if one.status != "done"]:
            counts += [f"without numbers: {', '.join(lacking)}"]
        title = ", ".join(
            [f"Does a defence replace the mismatch of {plain} and {safe}?", *split.values()]
        )
        about = f"{'; '.join(counts)}. {NOTE}"
        rows = tuple(_row(one, whole[0].runs) for one in whole)
        tables.append(Lines(title, about, tuple(heads), rows))
    return tables


def _row(one: Protection, runs: int) -> tuple[str, ...]:
    """A defence with other than `runs` trainings says so."""
    name = one.called + (f" (control of {one.control_of})" if one.control_of else "")
    name += f" ({one.runs} trainings)" if one.runs != runs else ""
    said = [_words(getattr(one, which), which) for which in ESTIMATES]
    said += [shown(fmean(values), None) for values in one.beside.values()]
    return (name, *(shown(rate, None) for rate in one.rates if rate is not None), *said)


def _words(estimate: Estimate | None, which: str) -> str:
    """ "−12.5 [−20, −3]; −14, −11"."""
    if estimate is None:
        return ""
    digits = 2 if which == "match" else decimals(None)
    low, high = (f"{end:.{digits}f}" for end in (estimate.low, estimate.high))
    said = f"{estimate.value:+.{digits}f} [{low}, {high}]"
    if len(estimate.of_models) > 1:
        said += f"; {', '.join(f'{value:+.{digits}f}' for value in estimate.of_models)}"
    return said.replace("-", "−")


def protections_csv(protections: Sequence[Protection]) -> str | None:
    """defences.csv: a line for each defence and pair of templates; None where there are none."""
    if not protections:
        return None
    ends = ("plain_plain", "plain_safe", "safe_plain", "safe_safe")
    columns = ["defence", "control_of", *protections[0].split, "plain", "safe", "metric"]
    columns += [
        "helpful_metric",
        "models",
        "runs",
        "units",
        "status",
        *(f"asr_{end}" for end in ends),
    ]
    columns += [f"helpfulness_{end}" for end in ends]
    beside = [*next((one.beside for one in protections if one.status == "done"), {})]
    columns += [f"{metric}_{end}" for metric in beside for end in ends]
    columns += estimate_columns(ESTIMATES)
    rows = []
    for one in protections:
        row = {
            "defence": one.defence,
            "control_of": one.control_of or "",
            **one.split,
            "plain": one.pairs[0][0],
            "safe": one.pairs[3][0],
            "metric": one.metric,
            "helpful_metric": one.helpful_metric,
            "models": " ".join(one.models),
            "runs": one.runs,
            "units": one.units,
            "status": one.status,
        }
        for what, values in {
            "asr": one.rates,
            "helpfulness": one.helpfulness,
            **one.beside,
        }.items():
            known = [(end, v) for end, v in zip(ends, values, strict=True) if v is not None]
            row |= {f"{what}_{end}": f"{v:.4f}" for end, v in known}
        rows.append(row | estimates_row(one, ESTIMATES))
    return csv_text(columns, rows)


def estimate_columns(names: Iterable[str]) -> list[str]:
    return [f"{name}{part}" for name in names for part in ("", "_low", "_high")]


def estimates_row(one: Protection | Detection, names: Iterable[str]) -> dict[str, str]:
    """The columns of these estimates; those that are not there are left out."""
    row: dict[str, str] = {}
    for name in names:
        estimate: Estimate | None = getattr(one, name)
        if estimate is not None:
            numbers = (estimate.value, estimate.low, estimate.high)
            columns = estimate_columns([name])
            row |= {c: f"{number:.4f}" for c, number in zip(columns, numbers, strict=True)}
    return row
