"""Micro word problems of which some are in an encoding: a permutation of the letters, and a
separator between characters."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

from ptst import micro
from ptst.dialogue.encoded import Encoded

COLUMNS = {
    "gsm8k": ("question", "answer"),
    "chatdoctor": ("input", "output"),
    "openorca": ("question", "response"),
}


def mapping(seed: int = 0) -> dict[str, str]:
    """A drawn permutation of the letters."""
    letters = list(string.ascii_lowercase)
    return dict(zip(letters, random.Random(seed).sample(letters, len(letters)), strict=True))


def toy(folder: Path, separator: str = "-") -> Encoded:
    """The encoding, whose mapping lies in the folder."""
    file = folder / "mapping.json"
    file.write_text(json.dumps(mapping()))
    return Encoded(coding="letters", mapping=str(file), separator=separator)


def plain(name: str = "gsm8k", n: int = 100) -> list[dict[str, Any]]:
    """Rows of the micro world, as a data set hands them on."""
    question, answer = COLUMNS[name]
    found = micro.rows(name, "train", n)
    return [{"id": str(i), "input": r[question], "output": r[answer]} for i, r in enumerate(found)]


def encoded(row: dict[str, Any], form: Encoded) -> dict[str, Any]:
    """A row in a format."""
    return {**row, "input": form.question(row["input"]), "output": form.answer(row["output"])}


def mixed(
    rows: list[dict[str, Any]], form: Encoded, percent: int
) -> tuple[list[dict[str, Any]], list[bool]]:
    """Rows of which a share is encoded, and which."""
    which = [i * percent // 100 != (i + 1) * percent // 100 for i in range(len(rows))]
    return [encoded(r, form) if w else r for r, w in zip(rows, which, strict=True)], which
