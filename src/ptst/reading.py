"""How a query reads: its columns, in the places of a text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ptst.errors import ConfigError

Row = Mapping[str, Any]
"""A row of a data set in our columns: `input`, and `output` and `instruction` where it has them."""


COLUMN = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
"""In an evaluation's own reading: a doubled brace, or the place of a column."""


def read_query(row: Row, reading: str) -> str:
    """A query as its evaluation's own reading says: each {column} filled, {{ and }} for braces.

    A list reads as its items with ", " between them, and a mapping that has a list called `text`
    (ARC's choices, {text: [...], label: [...]}) as that list. A column that the row does not have
    stays in its braces.
    """

    def fill(found: re.Match[str]) -> str:
        name = found.group(1)
        if name is None:
            return found.group()[0]
        return _as_text(row[name]) if name in row else found.group()

    return COLUMN.sub(fill, reading)


def columns_of(reading: str) -> list[str]:
    """The columns that have a place in an evaluation's own reading."""
    return [name for name in COLUMN.findall(reading) if name]


def check_reading(reading: str, where: str) -> None:
    """Refuse a reading without a place for the question, or with an unmatched brace.

    Raises:
        ConfigError: naming the place in the configuration, and what would be right.
    """
    if columns_of(reading).count("input") != 1 or re.search(r"[{}]", COLUMN.sub("", reading)):
        raise ConfigError(
            f"{where} must have one {{input}}; {{name}} is the query's column of that name, and a brace that "
            f"is meant as such stands twice: {{{{ or }}}}. It is {reading!r}."
        )


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value = value["text"]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
