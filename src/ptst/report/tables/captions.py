"""The sentences around a report's tables: titles, what the numbers are, and caveats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePath

from ptst.metrics import scale_in_words
from ptst.report.place import answers_of_a_run
from ptst.report.results import Contrast, Published, Results, Run, Table, cut_off_note, flaws_note
from ptst.status.states import STATES
from ptst.sweep_schema import Sweep

SEEDS = {"train_seed": "training seeds", "decoding_seed": "sampling seeds"}

TEST_NOTE = (
    "Each query is asked of both cells; “only a” counts queries that are a hit in a and not in b. In brackets: "
    "95 % interval of the difference (Newcombe's for pairs, over units). p: exact two-sided sign-flip test "
    "over units, which is McNemar's exact test where each unit is one query under one seed; it speaks about "
    "queries, of these fine-tunings. Holm: corrected for all contrasts of the sweep that are tested, in one "
    "metric of each evaluation."
)

MEAN_NOTE = (
    " Of a mean, “only a” counts queries with the higher value in a; its interval is Student's, and it has a test "
    "where all values are whole numbers."
)


def title(results: Results) -> str:
    """The sweep's title, with what the command line set otherwise."""
    settings = "; ".join(f"{key}={value}" for key, value in results.grid.settings.items())
    title = results.grid.sweep.title or results.grid.sweep.name
    return f"{title} [{settings}]" if settings else title


def heading(table: Table) -> str:
    """A table's title: "Attack success rate, hazards (seed 0)"."""
    split = ", ".join(f"{key} {value}" for key, value in table.split.items())
    return f"{table.title} ({split})" if split else table.title


def corner_of(sweep: Sweep) -> str:
    """What rows and columns are: "train \\ test"."""
    rows, columns = (
        " → ".join(key.removesuffix("_template") for key in sweep.side(side))
        for side in ("rows", "columns")
    )
    return f"{rows} \\ {columns}"


def name_of(table: Table, side: int, value: str) -> str:
    """A row (side 0) or column (side 1) in words."""
    untouched = all(
        entry.coordinates["finetune"] == "none"
        for place, entry in table.entries.items()
        if place[side] == value
    )
    return "no fine-tuning" if value == "none" and untouched else value


def about_table(table: Table, world: bool = True) -> list[str]:
    """What the numbers of a table are: sentences on ours, on the paper's, and caveats.

    Args:
        world: whether what is of the micro world in them is said here.
    """
    warned = [*table.audit, *([table.world] if world and table.world else [])]
    entries = list(table.entries.values())
    numbers = [entry for entry in entries if entry.mean is not None]
    kinds = []
    evaluation = entries[0].runs[0].cell.config.evaluations[table.metric.partition("/")[0]]
    for over, seeds in (
        ("train_seed", "seeds"),
        ("run", "runs (models and seeds)"),
        ("decoding_seed", "sampling seeds"),
    ):
        if counts := sorted({entry.repeats for entry in numbers if entry.std_over == over}):
            kinds.append(f"mean ± standard deviation of {' or '.join(map(str, counts))} {seeds}")
    if any(entry.std is None for entry in numbers):
        interval = "Wilson" if table.scale is None else "Student's t"
        if parts := evaluation.mean_of.get(table.metric.partition("/")[2]):
            interval = f"of a mean of {len(parts)} numbers from theirs, {interval}"
        kinds.append(f"one run (95 % interval: {interval}, by {evaluation.unit or 'query'})")
    words = scale_in_words(table.scale).capitalize()
    said = [f"{words}. Ours: {_made_with(table)}", *([", or ".join(kinds)] if kinds else [])]
    n, units = answers_of_a_run(table), {entry.units for entry in numbers}
    if n is not None:
        asked = "queries" if evaluation.decoding.samples == 1 else "answers"
        several = evaluation.unit is not None or units != {n}
        of = f" in {units.pop()} units" if len(units) == 1 and several else ""
        said.append(f"n = {n} {asked}{of} a run")
    if numbers:
        said.append(f"missing: {sum(entry.missing for entry in numbers) or 'none'}")
    said += [note for note in (cut_off_note(table), flaws_note(table)) if note]
    ours = f"{'; '.join(said)}."
    if table.paper is None:
        return [ours, *warned]
    theirs = sorted({_runs_of(entry.paper) for entry in entries if entry.paper})
    return [ours, f"Paper: {table.paper}; {'; '.join(theirs)}.", *warned]


def _made_with(table: Table) -> str:
    """Whose numbers a table has: "micro, fine-tuned (full) on gsm8k, judge micro, seed 0"."""
    entries = list(table.entries.values())

    def all_of(key: str) -> str:
        return ", ".join(
            dict.fromkeys(e.coordinates[key] for e in entries if e.coordinates[key] != "none")
        )

    seeds = seeds_of(run for entry in entries for run in entry.runs)
    tuned = all_of("finetune")
    said = [all_of("model")]
    said += [f"fine-tuned ({tuned}) on {all_of('dataset')}" if tuned else "not fine-tuned"]
    said += [f"judge {' or '.join(dict.fromkeys(entry.judge for entry in entries))}"]
    said += [f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"] if seeds else []
    said += [f"{key}={_without_place(key, value)}" for key, value in table.settings.items()]
    return ", ".join(said)


def seeds_of(runs: Iterable[Run]) -> list[str]:
    own = (run.cell.coordinates for run in runs)
    return list(dict.fromkeys(c["seed"] for c in own if "seed" in c))


def _without_place(key: str, value: str) -> str:
    """A setting's value for a caption: of a path of this machine, what it leads to."""
    return PurePath(value).name if key.endswith("path") and PurePath(value).is_absolute() else value


def world_of_all(results: Results) -> str | None:
    """What all tables alike say of the micro world; None where they differ or say nothing."""
    worlds = {table.world for table in results.tables}
    return worlds.pop() if len(worlds) == 1 else None


def _runs_of(paper: Published) -> str:
    n = paper.n_runs
    if paper.std is not None:
        return f"mean ± standard deviation of {n} {SEEDS.get(paper.std_over or '', 'runs')}"
    return "one run where no ± stands" if n == 1 else f"mean of {n} runs where no ± stands"


def contrasts_of(results: Results, table: Table) -> list[Contrast]:
    """The contrasts that a table's metric has."""
    return [c for c in results.contrasts if (c.metric, c.split) == (table.metric, table.split)]


def about_contrasts(table: Table, contrasts: Sequence[Contrast], world: bool = True) -> list[str]:
    """What the numbers of a table of contrasts are; it may stand without the metric's table."""
    ends = {end for contrast in contrasts for end in (contrast.a, contrast.b)}
    entries = {place: e for place, e in table.entries.items() if " → ".join(place) in ends}
    for contrast in contrasts:  # some may stand in other tables
        entries |= {
            (name, table.metric): entry
            for name, entry in zip((contrast.a, contrast.b), contrast.entries, strict=False)
            if not any(entry is other for other in entries.values())
        }
    own = replace(table, entries=entries)
    numbers = [entry for entry in entries.values() if entry.mean is not None]
    of = "in percentage points" if table.scale is None else f"of the {scale_in_words(table.scale)}"
    said = [f"b − a {of}. Ours: {_made_with(own)}"]
    if numbers:
        said.append(f"missing: {sum(entry.missing for entry in numbers) or 'none'}")
    said += [note] if (note := cut_off_note(own)) else []
    return [f"{'; '.join(said)}.", *table.audit, *([table.world] if world and table.world else [])]


def test_note(contrasts: Sequence[Contrast]) -> str:
    means = any(contrast.scale is not None for contrast in contrasts)
    return TEST_NOTE + (MEAN_NOTE if means else "")


def state_lines(results: Results) -> list[str]:
    """How many cells lack, where any does."""
    counts = Counter(results.states[cell.keys.cell].state for cell in results.grid.distinct)
    if set(counts) <= {"done"}:
        return []
    said = ", ".join(f"{counts[s]} {s}" for s in STATES if counts[s])
    return [f"Not complete: of {counts.total()} cells {said} (ptst status tells more)."]
