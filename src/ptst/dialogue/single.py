"""One question, one answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ptst.dialogue import Dialogue, Talk
from ptst.engine import Ask


@dataclass
class Single(Dialogue):
    """Asks the query. What an evaluation does that names no dialogue."""

    key_name: ClassVar[str] = "single"
    turns: ClassVar[int | None] = 1

    def talk(self, row: Mapping[str, Any]) -> Talk:
        """The query and its answer."""
        reply = yield Ask(row)
        return reply.columns
