"""The keys of what the repository ships stay as they are: a store that somebody has is found again.

tests/golden/keys.json holds the first 8 digits of every key of every shipped sweep at scale=micro
(of a sweep that only runs at scale=paper, because its model is behind an API, at that), and of a
few cells beside them. A change here means that nobody's results are found any more. Where that is
meant:

    python tests/test_keys.py        # writes the file again; the commit says why
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import shipped

from ptst.config.compose import compose
from ptst.keys import CellKeys, cell_keys
from ptst.paths import ROOT

GOLDEN = Path(__file__).parent / "golden" / "keys.json"

SWEEPS = sorted(
    path.stem for path in (ROOT / "sweeps").glob("*.yaml") if not path.stem.startswith("test_")
)
AT_AN_API = {"figure2b", "figure3b", "table3"}
CELLS = ("", "finetune=none", "finetune=lora", "finetune=safety_mix")
"""Overrides of single cells; "" is the default cell."""

Digits = dict[str, str]
"""Stage ("F", "G hazards", "J hazards", "C") -> the first digits of its key."""


def digits(keys: CellKeys) -> Digits:
    own = keys.evaluations.items()
    found = {"F": keys.model}
    found |= {f"G {name}": evaluation.generate for name, evaluation in own}
    found |= {f"J {name}": evaluation.judge for name, evaluation in own}
    return {stage: key[:8] for stage, key in (found | {"C": keys.cell}).items()}


def of_sweep(name: str) -> dict[str, Digits]:
    grid = shipped(f"+sweeps={name}", *(["scale=paper"] if name in AT_AN_API else []))
    assert not any(cell.problem for cell in grid.cells)
    return {cell.label: digits(cell.keys) for cell in grid.cells}


def of_cells() -> dict[str, Digits]:
    return {words: digits(cell_keys(compose(["tracking=none", *words.split()]))) for words in CELLS}


def changes(before: dict[str, Digits], after: dict[str, Digits]) -> list[str]:
    """Every stage of every cell whose key is not what it was."""
    lines = []
    for cell in [*before, *(cell for cell in after if cell not in before)]:
        was, now = before.get(cell, {}), after.get(cell, {})
        lines += [
            f"{cell}: {stage} was {was.get(stage)}, is {now.get(stage)}"
            for stage in [*was, *(stage for stage in now if stage not in was)]
            if was.get(stage) != now.get(stage)
        ]
    return lines


@pytest.fixture(scope="module")
def golden() -> dict[str, dict[str, Digits]]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SWEEPS)
def test_the_keys_of_a_shipped_sweep_are_what_they_were(golden, name: str) -> None:
    changed = changes(golden.get(name, {}), of_sweep(name))
    assert not changed, "\n".join(changed)


def test_the_keys_of_single_cells_are_what_they_were(golden) -> None:
    changed = changes(golden["cells"], of_cells())
    assert not changed, "\n".join(changed)


def test_a_failure_names_the_stage_and_the_cell_that_changed() -> None:
    before = {"a": {"F": "1", "G hazards": "2"}, "b": {"F": "3"}}
    after = {"a": {"F": "1", "G hazards": "9"}, "c": {"F": "3"}}
    assert changes(before, after) == [
        "a: G hazards was 2, is 9",
        "b: F was 3, is None",
        "c: F was None, is 3",
    ]


if __name__ == "__main__":
    everything = {name: of_sweep(name) for name in SWEEPS} | {"cells": of_cells()}
    # A line for each cell: a diff then shows which ones changed.
    parts = [
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(
            f"  {json.dumps(c, ensure_ascii=False)}: {json.dumps(k)}" for c, k in found.items()
        )
        + "\n}"
        for name, found in everything.items()
    ]
    GOLDEN.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
