"""What people who labelled completions say of the judge of a table, for its caption."""

from __future__ import annotations

from collections.abc import Sequence

from ptst.audit import Item, completions_of, labels_by, read_labels
from ptst.report.agreement import Pair, pair_of
from ptst.report.reliability import Interval
from ptst.stages.completions import unit_of
from ptst.store import Store
from ptst.sweep.grid import GridCell


def audit_of(cells: Sequence[GridCell], evaluation: str, store: Store) -> list[Pair]:
    """Compare each annotator's labels behind an ASR with the cells' own judge.

    Args:
        cells: those of one table; all have the evaluation.
    """
    if not (store.root / "audit" / "labels").is_dir():
        return []
    people: dict[str, dict[Item, str | None]] = {}
    judge: dict[Item, str | None] = {}
    units: dict[Item, str] = {}
    own = {
        cell.keys.evaluations[evaluation].generate: cell
        for cell in cells
        if evaluation in cell.keys.evaluations  # not of one that cannot be run
    }
    for generate, cell in own.items():
        keys, unit = cell.keys.evaluations[evaluation], cell.config.evaluations[evaluation].unit
        by_annotator = read_labels(store, generate)
        if not by_annotator or not store.has("judge", keys.judge):
            continue
        judge |= labels_by(store, keys.judge, generate)
        for item, row in completions_of(store, generate).items():
            units[item] = str(unit_of(row, unit))
        for annotator, labels in by_annotator.items():
            people.setdefault(f"annotator {annotator}", {}).update(labels)
    pairs = [
        pair_of(evaluation, name, "the judge", {name: labels, "the judge": judge}, units)
        for name, labels in sorted(people.items())
    ]
    return [pair for pair in pairs if pair]


def in_words(pair: Pair) -> str:
    """A pair of a person and a judge as a sentence for a report."""

    def said(name: str, interval: Interval | None) -> str:
        if interval is None or interval.value is None:
            return f"{name} not defined"
        bounds = f" [{interval.low:.2f}, {interval.high:.2f}]" if interval.low is not None else ""
        return f"{name} {interval.value:.2f}{bounds}"

    return (
        f"Audit of the judge, by {pair.a.removeprefix('annotator ')}: n = {pair.n} completions, "
        f"{100 * pair.agree:.0f} % alike, {said('Cohen’s kappa', pair.kappa)}; of the judge’s "
        f"“complied”, {said('precision', pair.precision)}, {said('recall', pair.recall)}."
    )
