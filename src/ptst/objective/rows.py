"""The rows that an objective trains on, and how it comes to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ptst import data
from ptst.component import Parts
from ptst.schema import Config, Rows, Template
from ptst.templates import Row, TrainingRow, identity


@dataclass(frozen=True)
class TrainingSet:
    """The rows of a whole training.

    Attributes:
        rows: the data set's; an epoch is as long as they are.
        mixed: the objective's own.
        order: numbers of rows in `all`, for the whole training. None: all rows, shuffled anew in
            every epoch.
        ends: with `order`, how many rows have been seen when each whole epoch ends.
    """

    rows: Sequence[TrainingRow]
    mixed: Sequence[TrainingRow] = ()
    order: Sequence[int] | None = None
    ends: Sequence[int] = ()

    @property
    def all(self) -> list[TrainingRow]:
        """`rows`, and `mixed` behind them."""
        return [*self.rows, *self.mixed]


def parts_of_rows(rows: Rows, template: Template | None, config: Config) -> Parts:
    """What of an objective's own rows is part of its key.

    Rows count by their content and a template by its text, not by places and names; without one it
    is the train template.
    """
    written = identity(template or config.train_template, config.model)
    return {"rows": data.identity(rows), "template": written}


class Reader(Protocol):
    """Reads rows and spells them for the model that is trained."""

    @property
    def config(self) -> Config: ...

    @property
    def tokenizer(self) -> Any:
        """The model's."""

    def rows(
        self,
        source: Rows,
        template: Template,
        called: str = "",
        needs: Sequence[str] = ("input", "output"),
        change: Callable[[Row], Row] | None = None,
    ) -> list[TrainingRow]:
        """Rows under a template, cut to the recipe's length.

        Args:
            called: what they are called in the provenance ("mixed" gives mixed_rows_key); empty for
                the data set's.
            needs: columns that every row must have.
            change: makes the row that is spelled from the one that was read.

        Raises:
            DataError: naming file, row and column.
            TemplateError: the model's format cannot spell a row.
        """
