"""What a report's numbers cost and what made them: seconds, tokens, versions, settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ptst.keys import components_of, slot
from ptst.metrics import known_sum
from ptst.store import Store, read_json
from ptst.sweep.grid import Grid, GridCell
from ptst.wording import (
    component_in_words,
    evaluation_in_words,
    judge_in_full,
    known_judges,
    recipe_in_words,
    rows_in_words,
)

STAGES = ("finetune", "posthoc", "analyse", "generate", "judge")
"""Whose artifacts have a provenance, in the order of making."""
OF_ALL = ("seconds", "finished_at", "git", "python", "packages", "hardware")
"""What the provenance of every artifact says; what else one says is its stage's, or its
component's."""
FEW = 5


def _artifacts(grid: Grid) -> dict[tuple[str, str], tuple[str, GridCell]]:
    """(stage, key) of every artifact of the grid, once: what people call it, and a cell of it."""
    found: dict[tuple[str, str], tuple[str, GridCell]] = {}
    for cell in grid.distinct:
        for made in cell.keys.artifacts:
            if made.stage in STAGES:
                called = "fine-tune" if made.stage == "finetune" else made.what
                found.setdefault((made.stage, made.key), (called, cell))
    return found


def _provenances(grid: Grid, store: Store) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(what it is called, stage, provenance) of the artifacts that are there."""
    for (stage, key), (called, _) in _artifacts(grid).items():
        path = store.path(stage, key) / "provenance.json"
        if path.is_file():
            yield called, stage, read_json(path)


def costs_of(grid: Grid, store: Store) -> dict[str, Any]:
    """Seconds and tokens by stage; None where an artifact does not say (some APIs)."""
    rows: dict[str, dict[str, Any]] = {}
    order: dict[str, tuple[int, str]] = {}
    for called, stage, facts in _provenances(grid, store):
        order[called] = STAGES.index(stage), called
        row = rows.setdefault(called, {"artifacts": 0, "seconds": 0.0, "read": 0, "written": 0})
        row["artifacts"] += 1
        row["seconds"] += facts.get("seconds", 0.0)
        if stage == "finetune":
            row["read"] = known_sum((row["read"], facts.get("trained_tokens")))
        elif stage == "generate":
            row["read"] = known_sum((row["read"], facts["prompt_tokens"]))
            row["written"] = known_sum((row["written"], facts["completion_tokens"]))
    total = {
        key: known_sum(row[key] for row in rows.values())
        for key in ("artifacts", "read", "written")
    }
    seconds = sum(row["seconds"] for row in rows.values())
    return {
        "rows": [
            (called, {**rows[called], "time": _time(rows[called]["seconds"])})
            for called in sorted(rows, key=order.__getitem__)
        ],
        "total": {**total, "time": _time(seconds)},
    }


def _time(seconds: float) -> str:
    """ "9.3 s", "4 min 05 s", "3 h 20 min"."""
    whole = round(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def made_by(grid: Grid, store: Store) -> list[tuple[str, list[tuple[str, str]]]]:
    """What made the artifacts: each fact's distinct values, with how many artifacts have it."""
    facts: dict[str, Counter[str]] = {}
    times: list[str] = []

    def count(name: str, value: str) -> None:
        facts.setdefault(name, Counter())[value] += 1

    for _, _, found in _provenances(grid, store):
        git = found.get("git")
        if git:
            state = "with uncommitted changes" if git.get("dirty") else "clean"
            count("git commit", f"{git.get('commit')}, {state}")
        else:
            count("git commit", "not recorded (no git checkout)")
        hardware = found.get("hardware") or {}
        cpu, cores, gpu = (hardware.get(name) for name in ("cpu", "cores", "gpu"))
        count("hardware", f"{cpu or 'unknown CPU'}, {cores} cores, {gpu or 'no GPU'}")
        count("python", str(found.get("python")))
        for line in found.get("chat_format") or []:
            count("chat format", line)
        for package, version in (found.get("packages") or {}).items():
            count(package, str(version or "not installed"))
        if found.get("finished_at"):
            times.append(found["finished_at"])
    listed = [
        (name, [(value, counted(number, "artifact")) for value, number in sorted(values.items())])
        for name, values in facts.items()
    ]
    if times:
        span = min(times) if len(set(times)) == 1 else f"{min(times)} to {max(times)}"
        listed.insert(1, ("made", [(span, counted(len(times), "artifact"))]))
    return listed


def configured(grid: Grid) -> list[tuple[str, list[str]]]:
    """The models, data, recipes and judges of the grid: each distinct value."""
    facts: dict[str, dict[str, None]] = {}
    known = known_judges()

    def note(name: str, value: str) -> None:
        facts.setdefault(name, {})[value] = None

    for cell in grid.distinct:
        config = cell.config
        revision = f"@{config.model.revision}" if config.model.revision else ""
        note("model", f"{config.model.name}: {config.model.path}{revision}")
        if config.finetune.method != "none":
            note("trained on", rows_in_words(config.dataset))
            note("fine-tuning", recipe_in_words(config.finetune))
        for filled, component in components_of(config).items():
            if filled != "objective" or config.finetune.method != "none":
                note(component.where, component_in_words(component))
        for name, evaluation in config.evaluations.items():
            note(f"evaluation {name}", evaluation_in_words(evaluation))
            note(f"judge of {name}", judge_in_full(evaluation.judge, known))
    for key, value in grid.settings.items():
        note("set on the command line", f"{key}={value}")
    return [(name, list(values)) for name, values in facts.items()]


def recorded(grid: Grid, store: Store) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the defences recorded, by their place: of each artifact what it is, and its facts."""
    found: dict[str, list[tuple[str, str]]] = {}
    slots = {"finetune": "objective", "posthoc": "posthoc", "generate": "guard"}
    for (stage, key), (called, cell) in _artifacts(grid).items():
        path = store.path(stage, key) / "provenance.json"
        if stage not in slots or not cell.config.defence or not path.is_file():
            continue
        if (filled := slot(cell.config, slots[stage])) is None:
            continue
        facts = read_json(path)
        own = facts.get(slots[stage], {})
        if stage == "posthoc":  # all that it says beside what every artifact does
            own = {name: value for name, value in facts.items() if name not in OF_ALL}
        if own:
            entry = f"{called} [{key[:8]}]", facts_in_words(own)
            found.setdefault(f"defence.{filled[0]}.{slots[stage]}", []).append(entry)
    return list(found.items())


def facts_in_words(facts: Mapping[str, Any]) -> str:
    """A component's facts on a line: of many numbers the range, the mean and how many; of other
    collections how many, but a few named values are said."""
    return ", ".join(f"{name} {_in_words(value)}" for name, value in facts.items())


def _in_words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if not isinstance(value, Mapping | list | tuple):
        return str(value)
    values = list(value.values() if isinstance(value, Mapping) else value)
    if values and all(isinstance(v, int | float) for v in values):
        least, mean, most = min(values), sum(values) / len(values), max(values)
        return f"{least:.4g} to {most:.4g}, mean {mean:.4g} ({len(values)})"
    if isinstance(value, Mapping) and len(value) <= FEW:
        return f"({', '.join(f'{name} {_in_words(v)}' for name, v in value.items())})"
    return f"({len(values)})"


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
