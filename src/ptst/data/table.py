"""The rows of a source one at a time, and which of them are wanted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

Row = dict[str, Any]
Placed = tuple[int, str, Row]
"""A row's index in its source, how a person would find it ("train.jsonl:12"), and the row."""
Chosen = Sequence[int] | None
"""Indices of the rows that are wanted, ascending; None: all."""

T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """The rows of a source, none of which is held longer than it takes to hand it on.

    Attributes:
        where: what a person calls the source.
        count: how many rows it has; makes no row where that can be told without.
        read: makes the chosen rows, from the first again at every call.
        alike: columns that say which rows are of a kind: a draw takes as many of each kind, up to
            one. Empty: each row is drawn like any other.
    """

    where: str
    count: Callable[[], int]
    read: Callable[[Chosen], Iterator[Placed]]
    alike: tuple[str, ...] = ()


def joined(where: str, tables: Sequence[Table]) -> Table:
    """The rows of one table behind those of another."""

    def read(chosen: Chosen) -> Iterator[Placed]:
        first = 0
        for table in tables:
            end = first + table.count()
            part = None
            if chosen is not None:
                wanted = chosen[bisect_left(chosen, first) : bisect_left(chosen, end)]
                part = [index - first for index in wanted]
            for index, place, row in table.read(part):
                yield first + index, place, row
            first = end

    return Table(where, lambda: sum(table.count() for table in tables), read)


def listed(where: str, load: Callable[[], list[Row]], alike: tuple[str, ...] = ()) -> Table:
    """The table of rows that have to be loaded all at once."""
    rows = cache(load)

    def read(chosen: Chosen) -> Iterator[Placed]:
        for index, row in pick(rows(), chosen):
            yield index, f"{where}, row {index + 1}", row

    return Table(where, lambda: len(rows()), read, alike)


def pick(items: Iterable[T], chosen: Chosen) -> Iterator[tuple[int, T]]:
    """The chosen items with their indices; what comes behind the last of them is not looked at."""
    if chosen is None:
        yield from enumerate(items)
        return
    numbered = enumerate(items)
    for wanted in chosen:
        yield next(pair for pair in numbered if pair[0] == wanted)
