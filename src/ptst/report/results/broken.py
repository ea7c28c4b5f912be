"""How many answers behind a table are broken (`ptst.judge.broken`): read off the completions.

Of real queries about safety and over-refusal alone: the micro world's language is none of those
that the measure was tried on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from ptst.judge.broken import BROKEN, OFF_TOPIC, flaw
from ptst.report.broken import is_measured
from ptst.report.results.types import Entry, Flaws, Table
from ptst.stages.completions import read_completions
from ptst.store import Store
from ptst.sweep.grid import GridCell

ReadFlaws = Callable[[GridCell, str], Flaws | None]
"""read(cell, evaluation); None where the measure does not apply, or there are no completions."""


def flaws_reader(store: Store) -> ReadFlaws:
    """A function that counts what is wrong with a cell's answers; it reads no answers twice."""
    known: dict[str, Flaws] = {}

    def read(cell: GridCell, name: str) -> Flaws | None:
        keys = cell.keys.evaluations.get(name)  # a cell that cannot run has none
        if keys is None or not is_measured(cell.config.evaluations[name]):
            return None
        if keys.generate not in known:
            if not store.has("generate", keys.generate):
                return None
            rows = [row for row in read_completions(store, keys) if "withheld" not in row]
            found = Counter(flaw(str(row["input"]), row["completion"]) for row in rows)
            counts = {kind: found[kind] for kind in (*BROKEN, OFF_TOPIC) if found[kind]}
            known[keys.generate] = Flaws(len(rows), counts)
        return known[keys.generate]

    return read


def with_flaws(table: Table, read: ReadFlaws) -> Table:
    """A table whose entries say how many of their runs' answers are broken."""
    name = table.metric.partition("/")[0]

    def measured(entry: Entry) -> Entry:
        if entry.mean is None:
            return entry
        found = [read(run.cell, name) for run in entry.runs]
        return (
            replace(entry, flaws=_sum(flaws for flaws in found if flaws)) if all(found) else entry
        )

    return replace(table, entries={place: measured(e) for place, e in table.entries.items()})


def _sum(several: Iterable[Flaws]) -> Flaws:
    of = list(several)
    counts = sum((Counter(flaws.counts) for flaws in of), Counter[str]())
    return Flaws(sum(flaws.n for flaws in of), dict(counts))


def flaws_note(table: Table) -> str | None:
    """ "broken answers: 0 to 20 % (3 loop); off topic, by their words: 2 %"; None where none are
    counted."""
    found = [entry.flaws for entry in table.entries.values() if entry.flaws and entry.flaws.n]
    if not found:
        return None
    whole = _sum(found)
    kinds = ", ".join(f"{whole.counts[kind]} {kind}" for kind in BROKEN if kind in whole.counts)
    said = f"broken answers: {_range([f.broken / f.n for f in found])}"
    said += f" ({kinds})" if kinds else ""
    off = _range([flaws.counts.get(OFF_TOPIC, 0) / flaws.n for flaws in found])
    return f"{said}; off topic, by their words: {off}"


def _range(shares: Iterable[float]) -> str:
    """ "0 to 20 %"."""
    percent = sorted(round(100 * share) for share in shares)
    return f"{' to '.join(dict.fromkeys(map(str, (percent[0], percent[-1]))))} %"
