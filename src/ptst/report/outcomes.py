"""Whether what analyses found goes with what came of the cells: Spearman's correlations.

Every value of every analysis is set against every metric of the tables, over the cells that have
both. Untouched models are left out: compared with themselves they have not changed, and that alone
would correlate with what fine-tuning does. Nothing is tested: with many values some correlations
are large by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ptst.report.analyses import Found
from ptst.report.reliability import DRAWS, Interval, percentile_interval
from ptst.store import csv_text, key_of
from ptst.sweep.grid import Grid, GridCell

if TYPE_CHECKING:
    import numpy as np

FEWEST = 5
"""Models below which there is no interval: a bootstrap of fewer is far too narrow."""
DIGITS = 9
"""Significant digits in which two numbers must differ: further ones are rounding."""


@dataclass(frozen=True)
class Relation:
    """A value of an analysis and a metric, over the cells that have both.

    Attributes:
        value: "<analysis>/<value>".
        metric: "<evaluation>/<metric>"; title: what the tables call it.
        rho: Spearman's, from -1 to 1, with its 95 % interval; None with fewer than three cells, or
            where one of the two does not vary.
        cells: how many; models: how many fine-tunings of a base model (or untouched ones) they
            test.
    """

    value: str
    metric: str
    title: str
    rho: Interval
    cells: int
    models: int


def relations_of(
    grid: Grid,
    found: Sequence[Found],
    outcomes: dict[str, dict[str, float]],
    titles: dict[str, str],
) -> list[Relation]:
    """Every value with every metric, in the order of the analyses and of the tables.

    Untouched models count only where the grid has no others.

    Args:
        found: of `ptst.report.analyses.analyses_of`.
        outcomes: by metric and cell key, what cells came to.
        titles: by metric.
    """
    numbers = {(one.value, one.key): one.number for one in found if one.number is not None}
    changed = [cell for cell in grid.distinct if cell.keys.finetune or cell.keys.posthoc]
    relations = []
    for value in dict.fromkeys(value for value, _ in numbers):
        name = value.partition("/")[0]
        for metric, of_cell in outcomes.items():
            pairs = [
                (number, of_cell[cell.keys.cell], _model(cell))
                for cell in changed or grid.distinct
                if name in cell.keys.analyses and cell.keys.cell in of_cell
                if (number := numbers.get((value, cell.keys.analyses[name][0]))) is not None
            ]
            x, y, fine_tunings = zip(*pairs, strict=True) if pairs else ((), (), ())
            rho = spearman(x, y, fine_tunings)
            models = len(set(fine_tunings))
            relations.append(Relation(value, metric, titles[metric], rho, len(pairs), models))
    return relations


NONE = Interval(None, None, None)


def _model(cell: GridCell) -> str:
    """The fine-tuning that a cell tests: one under several templates, or with several steps after
    it, is one."""
    return cell.keys.finetune or key_of(cell.keys.finetune_parts)


def spearman(
    x: Sequence[float], y: Sequence[float], clusters: Sequence[str], seed: int = 0
) -> Interval:
    """Spearman's correlation (1904): Pearson's of the ranks, equal values sharing a mean rank.

    Its interval is the 95 % percentile interval of the bootstrap, with whole clusters drawn anew.
    Numbers that differ by rounding alone are equal.

    Args:
        x, y, clusters: one entry for each cell.
    """
    import numpy as np
    from scipy.stats import spearmanr

    x, y = ([float(f"{number:.{DIGITS}g}") for number in numbers] for numbers in (x, y))
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return NONE
    rho = float(spearmanr(x, y).statistic)
    names = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    if len(names) < FEWEST:
        return Interval(rho, None, None)
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=DRAWS
    )
    counts = drawn[:, [names[name] for name in clusters]]
    return percentile_interval(rho, counted_spearman(np.array(x), np.array(y), counts))


def counted_spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's correlation of many samples at once.

    Args:
        x, y: (n,).
        counts: (samples, n), how often each sample has each pair.

    Returns:
        (samples,); NaN where x or y does not vary in a sample.
    """
    import numpy as np

    n = counts.sum(1)
    a, b = (_ranks(values, counts) - (n[:, None] + 1) / 2 for values in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        together = (counts * a * b).sum(1)
        return together / np.sqrt((counts * a**2).sum(1) * (counts * b**2).sum(1))


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean ranks in every sample: (samples, n)."""
    import numpy as np

    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    last = np.searchsorted(group[order], np.arange(group.max() + 1), side="right") - 1
    up_to = counts[:, order].cumsum(1)[:, last]
    before = np.hstack([np.zeros((len(counts), 1)), up_to[:, :-1]])
    return ((before + up_to + 1) / 2)[:, group]


def outcomes_csv(relations: Sequence[Relation]) -> str | None:
    """analyses_outcomes.csv: a line for each value and metric; None where there are none."""
    if not relations:
        return None
    columns = ("value", "metric", "spearman", "ci_low", "ci_high", "cells", "models")
    rows = []
    for one in relations:
        rho = (one.rho.value, one.rho.low, one.rho.high)
        numbers = ["" if n is None else f"{n:.4f}" for n in rho]
        row = (one.value, one.metric, *numbers, one.cells, one.models)
        rows.append(dict(zip(columns, row, strict=True)))
    return csv_text(columns, rows)
