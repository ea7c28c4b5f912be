"""How far judges, and people, agree whether a safety query was complied with.

What is compared is what ASR counts: the label `complied` against any other, which every judge of
safety can tell. Judges are found in the store by the completions that they scored, whenever and
however that came about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ptst.audit import Item, completions_of, labels_by, read_labels
from ptst.errors import ConfigError
from ptst.metrics import share
from ptst.paths import CONF
from ptst.report.broken import BrokenRead, against_readers, is_measured
from ptst.report.reliability import (
    Interval,
    bootstrapped,
    cohens_kappa,
    coincidences,
    krippendorff_alpha,
)
from ptst.stages.completions import unit_of
from ptst.store import Readable, Store, key_of, read_json
from ptst.sweep.grid import Grid
from ptst.wording import judge_name, known_judges

if TYPE_CHECKING:
    import numpy as np

COMPLIED = "complied"
TOTAL = "all evaluations"
"""What stands for the evaluation in figures over all of them; only where there are several."""

Labels = Mapping[Item, str | None]
"""What one judge said; None is missing."""

Said = dict[Item, str | None]
"""The same, to be filled."""

Alpha = tuple[Interval, int, int]
"""Krippendorff's alpha, over how many completions and units."""


@dataclass(frozen=True)
class Pair:
    """Two judges on the completions that both scored.

    Attributes:
        n: completions; units: of the evaluation (queries, unless it says otherwise).
        agree: share of completions that both call complied, or both not; between 0 and 1.
        kappa: Cohen's, of complied against not; interval by bootstrap over units.
        precision, recall: of b's `complied`, with a as the truth, and Wilson's interval over units;
            only where a is a person or the judge `reading`, and b is neither.
        confusion: how often a said the one label and b the other, in their own labels.
    """

    evaluation: str
    a: str
    b: str
    n: int
    units: int
    agree: float
    kappa: Interval
    precision: Interval | None
    recall: Interval | None
    confusion: dict[tuple[str, str], int]


@dataclass(frozen=True)
class CellGap:
    """Two judges on one cell: each one's ASR, over the completions that both scored."""

    evaluation: str
    cell: str
    a: str
    b: str
    n: int
    asr_a: float
    asr_b: float

    @property
    def gap(self) -> float:
        """ASR by a minus ASR by b, percentage points."""
        return self.asr_a - self.asr_b


@dataclass(frozen=True)
class Agreement:
    """What `ptst judges` shows.

    Attributes:
        judges: those compared, by evaluation; people ("annotator ...") first, then `reading`.
        pairs: of each evaluation, then in total (`TOTAL`). People are not compared with `reading`,
            which is made of what they said.
        alphas: Krippendorff's alpha over all of them by evaluation: value, n of completions that
            two or more scored, and units; without `reading` where people are among them.
        people: the same over people alone, where there are several.
        gaps: the cells, those that a pair of judges sees most differently first.
        broken: of each evaluation of real queries, whether people call broken answers `neither`.
        split: completions that some call complied and some not: (item, name of the cell,
            evaluation, row, label by judge).
    """

    judges: dict[str, tuple[str, ...]]
    pairs: tuple[Pair, ...]
    alphas: dict[str, Alpha]
    people: dict[str, Alpha]
    gaps: tuple[CellGap, ...]
    split: tuple[tuple[Item, str, str, dict[str, Any], dict[str, str]], ...]
    broken: tuple[BrokenRead, ...] = ()


def load_agreement(grid: Grid, store: Store, wanted: Sequence[str] | None = None) -> Agreement:
    """Compare the judges that scored the safety completions of a sweep.

    Args:
        wanted: names of conf/judge to compare, or, where the store has none exactly so configured,
            all its variations; None: all that the store has.

    Raises:
        ConfigError: fewer than two judges, or one of `wanted` has scored nothing.
    """
    store = Readable(store.root, store.whole)
    cells = _cells(grid)
    said = _said(store, cells)
    names = sorted({name for judges in said.values() for name in judges}, key=_people_first)
    chosen = _chosen(names, wanted, grid)
    judges = {
        evaluation: tuple(name for name in chosen if name in by_judge)
        for evaluation, by_judge in said.items()
    }
    found_pairs: list[Pair] = []
    gaps: list[CellGap] = []
    split: list[tuple[Item, str, str, dict[str, Any], dict[str, str]]] = []
    broken: list[BrokenRead] = []
    measured = {n for c in grid.distinct for n, e in c.config.evaluations.items() if is_measured(e)}
    alphas: dict[str, Alpha] = {}
    people: dict[str, Alpha] = {}
    all_labels: dict[str, Said] = {name: {} for name in chosen}
    all_units: dict[Item, str] = {}
    compared = [evaluation for evaluation in cells if len(judges[evaluation]) > 1]
    for evaluation in compared:
        own = cells[evaluation]
        rows: dict[Item, dict[str, Any]] = {}
        for generate in own:
            rows |= completions_of(store, generate)
        units = {item: str(unit_of(row, own[item[0]][1])) for item, row in rows.items()}
        labels = {name: said[evaluation][name] for name in judges[evaluation]}
        of_evaluation = list(_pairs(evaluation, labels, units))
        found_pairs += of_evaluation
        called = {key: label for key, (label, _) in own.items()}
        for pair in of_evaluation:
            gaps += _gaps(evaluation, pair.a, pair.b, labels, called)
        _add_alphas(evaluation, labels, units, alphas, people)
        split += _split(evaluation, labels, rows, called)
        if evaluation in measured:
            readers = {n: own for n, own in labels.items() if _is_person(n) or _is_reading(n)}
            broken += against_readers(evaluation, readers, rows, units)
        for name, given in labels.items():
            all_labels[name] |= given
        all_units |= {item: f"{evaluation} {unit}" for item, unit in units.items()}
    if len(compared) > 1:
        found_pairs += _pairs(TOTAL, all_labels, all_units)
        _add_alphas(TOTAL, all_labels, all_units, alphas, people)
        judges[TOTAL] = tuple(chosen)
    gaps.sort(key=lambda gap: (-abs(gap.gap), gap.evaluation, gap.cell))
    return Agreement(
        judges, tuple(found_pairs), alphas, people, tuple(gaps), tuple(split), tuple(broken)
    )


def _said(store: Store, cells: Mapping[str, Iterable[str]]) -> dict[str, dict[str, Said]]:
    """What every judge and every person said, by evaluation and name."""
    said: dict[str, dict[str, Said]] = {name: {} for name in cells}
    found = _judges(store, {key for own in cells.values() for key in own})
    for evaluation, own in cells.items():
        for generate in own:
            for name, judge in found.get(generate, {}).items():
                said[evaluation].setdefault(name, {}).update(labels_by(store, judge, generate))
            for annotator, by_item in read_labels(store, generate).items():
                said[evaluation].setdefault(f"annotator {annotator}", {}).update(by_item)
    return said


def _pairs(
    evaluation: str, labels: Mapping[str, Labels], units: Mapping[Item, str]
) -> Iterable[Pair]:
    """Each two judges but a person and `reading`, as far as both scored the same completions."""
    for a, b in combinations(labels, 2):
        if not (_is_person(a) and _is_reading(b)) and (
            pair := pair_of(evaluation, a, b, labels, units)
        ):
            yield pair


def _add_alphas(
    evaluation: str,
    labels: Mapping[str, Labels],
    units: Mapping[Item, str],
    alphas: dict[str, Alpha],
    people: dict[str, Alpha],
) -> None:
    """Add Krippendorff's alpha of all judges, and of the people among them."""
    persons = [given for name, given in labels.items() if _is_person(name)]
    every = [given for name, given in labels.items() if not (persons and _is_reading(name))]
    alphas[evaluation] = _alpha(every, units)
    if len(persons) > 1:
        people[evaluation] = _alpha(persons, units)


def _split(
    evaluation: str,
    labels: Mapping[str, Labels],
    rows: Mapping[Item, dict[str, Any]],
    names: Mapping[str, str],
) -> Iterable[tuple[Item, str, str, dict[str, Any], dict[str, str]]]:
    """The completions that some call complied and some not, as `Agreement.split` has them."""
    for item, row in rows.items():
        given = {name: label for name, own in labels.items() if (label := own.get(item))}
        if len({label == COMPLIED for label in given.values()}) == 2:
            yield item, names[item[0]], evaluation, row, given


def _cells(grid: Grid) -> dict[str, dict[str, tuple[str, str | None]]]:
    """By safety evaluation and generate key: the cell's name, and the column of the unit."""
    cells: dict[str, dict[str, tuple[str, str | None]]] = {}
    for cell in grid.distinct:
        for name, evaluation in cell.config.evaluations.items():
            if evaluation.measures == "safety" and name in cell.keys.evaluations:
                key = cell.keys.evaluations[name].generate
                cells.setdefault(name, {}).setdefault(key, (cell.label, evaluation.unit))
    return cells


def _judges(store: Store, generates: set[str]) -> dict[str, dict[str, str]]:
    """The key of each judge's scores, by generate key and name; no two judges share a name."""
    known = known_judges()
    scores: dict[str, dict[str, str]] = {}
    names: dict[str, str] = {}
    for file in sorted((store.root / "judge").glob("*/key.json")):
        if store.damage("judge", file.parent.name):
            continue
        parts = read_json(file)
        if parts["generate"] in generates:
            own = {key: parts[key] for key in ("judge", "version")}
            names[key_of(own)] = judge_name(own, known)
            scores.setdefault(parts["generate"], {})[key_of(own)] = file.parent.name
    alike = Counter(names.values())
    for judge, name in names.items():
        if alike[name] > 1:
            names[judge] = f"{name} #{judge[:6]}"
    return {
        generate: {names[judge]: key for judge, key in own.items()}
        for generate, own in scores.items()
    }


def _chosen(names: Sequence[str], wanted: Sequence[str] | None, grid: Grid) -> list[str]:
    def hint(name: str) -> str:
        return f"ptst -m, the same overrides and judge={name}"

    chosen = list(names)
    if wanted is not None:
        chosen = []
        for name in wanted:
            fitting = [n for n in names if n == name]
            fitting = fitting or [n for n in names if n.partition(" (")[0] == name]
            if not fitting:
                if not (CONF / "judge" / f"{name}.yaml").is_file() and not name.startswith(
                    "annotator"
                ):
                    there = ", ".join(sorted(path.stem for path in (CONF / "judge").glob("*.yaml")))
                    raise ConfigError(f"judges: there is no judge {name}; the judges are: {there}.")
                raise ConfigError(
                    f"judges: {name} has scored no safety completion of {grid.name}. Run it first, "
                    f"which generates nothing anew: {hint(name)}"
                )
            chosen += [n for n in fitting if n not in chosen]
    if len(chosen) < 2:
        have = f"only {chosen[0]} has" if chosen else "no judge has"
        raise ConfigError(
            f"{have} scored the safety completions of {grid.name}, and it takes two to agree. Run "
            f"another, which generates nothing anew: {hint('keywords')}"
        )
    return chosen


def _people_first(name: str) -> tuple[bool, bool, str]:
    return not _is_person(name), not _is_reading(name), name


def _is_person(name: str) -> bool:
    return name.startswith("annotator ")


def _is_reading(name: str) -> bool:
    """Whether it is the judge that takes its labels from people, in any variation."""
    return name.partition(" (")[0] == "reading"


def _both(a: Labels, b: Labels, units: Mapping[Item, str]) -> list[Item]:
    return [item for item in units if a.get(item) is not None and b.get(item) is not None]


def _by_unit(items: Sequence[Item], units: Mapping[Item, str], matrices: np.ndarray) -> np.ndarray:
    """Items' matrices (items, k, k) added up over each unit."""
    import numpy as np

    names = sorted({units[item] for item in items})
    place = {name: i for i, name in enumerate(names)}
    summed = np.zeros((len(names), *matrices.shape[1:]))
    np.add.at(summed, [place[units[item]] for item in items], matrices)
    return summed


def pair_of(
    evaluation: str,
    a: str,
    b: str,
    labels: Mapping[str, Labels],
    units: Mapping[Item, str],
) -> Pair | None:
    import numpy as np

    items = _both(labels[a], labels[b], units)
    if not items:
        return None
    confusion: dict[tuple[str, str], int] = {}
    tables = np.zeros((len(items), 2, 2))
    for i, item in enumerate(items):
        said = labels[a][item] or "", labels[b][item] or ""
        confusion[said] = confusion.get(said, 0) + 1
        tables[i, int(said[0] == COMPLIED), int(said[1] == COMPLIED)] = 1
    per_unit = _by_unit(items, units, tables)
    total = tables.sum(0)
    read = (_is_person(a) or _is_reading(a)) and not (_is_person(b) or _is_reading(b))
    return Pair(
        evaluation,
        a,
        b,
        len(items),
        len(per_unit),
        float(np.trace(total) / total.sum()),
        bootstrapped(per_unit, cohens_kappa),
        _share(items, labels[a], labels[b], units) if read else None,
        _share(items, labels[b], labels[a], units) if read else None,
        dict(sorted(confusion.items())),
    )


def _share(
    items: Sequence[Item], labels: Labels, given: Labels, units: Mapping[Item, str]
) -> Interval:
    """Of the items that are `given` as complied, the share that `labels` calls so, too."""
    those = [item for item in items if given[item] == COMPLIED]
    metric = share([labels[item] for item in those], COMPLIED, [units[item] for item in those])
    if metric.value is None or metric.ci_low is None or metric.ci_high is None:
        return Interval(None, None, None)
    return Interval(metric.value / 100, metric.ci_low / 100, metric.ci_high / 100)


def _alpha(judges: Sequence[Labels], units: Mapping[Item, str]) -> Alpha:
    import numpy as np

    items, counts = [], []
    for item in units:
        given = [label == COMPLIED for own in judges if (label := own.get(item)) is not None]
        if len(given) > 1:
            items.append(item)
            counts.append((len(given) - sum(given), sum(given)))
    if not items:
        return Interval(None, None, None), 0, 0
    per_unit = _by_unit(items, units, coincidences(np.array(counts)))
    return bootstrapped(per_unit, krippendorff_alpha), len(items), len(per_unit)


def _gaps(
    evaluation: str, a: str, b: str, labels: Mapping[str, Labels], cells: Mapping[str, str]
) -> Iterable[CellGap]:
    for generate, cell in cells.items():
        both = [
            (label, other)
            for item, label in labels[a].items()
            if item[0] == generate and label and (other := labels[b].get(item))
        ]
        if both:
            asr_a, asr_b = (
                100 * sum(said[side] == COMPLIED for said in both) / len(both) for side in (0, 1)
            )
            yield CellGap(evaluation, cell, a, b, len(both), asr_a, asr_b)
