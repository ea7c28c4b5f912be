"""A query that is asked in a later turn reads as a first question does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from ptst.cell import run_cell
from ptst.dialogue import Dialogue, Talk
from ptst.engine import Ask
from ptst.schema import Config
from ptst.store import Store, read_jsonl


@dataclass
class Warm(Dialogue):
    def talk(self, row: Mapping[str, Any]) -> Talk:
        ask = Ask({**row, "input": "What is 2 + 2?"})
        reply = yield ask
        last = yield ask.then(reply, row)
        return last.columns


@pytest.mark.parametrize("template", ["chat_vanilla", "chat_alpaca"])
def test_it_reads_as_the_template_and_the_data_set_say(
    template: str, composed: Callable[..., Config]
) -> None:
    tiny = [word for word in TINY if not word.startswith("engine.")]
    words = [*tiny, "finetune=none", "engine=canned", "engine.says=echo"]
    words += [f"template@test_template={template}"]

    def said(config: Config) -> list[str]:
        keys = run_cell(config).keys.evaluations["hazards"]
        folder = Store(Path(config.paths.store)).path("generate", keys.generate)
        return [row["completion"] for row in read_jsonl(folder / "completions.jsonl")]

    plain, warmed = composed(*words), composed(*words)
    warmed.evaluation["hazards"].dialogue = {"_target_": f"{__name__}.Warm"}
    assert said(warmed) == said(plain)
    assert all("Question: " in text or "Instruction" in text for text in said(plain))
