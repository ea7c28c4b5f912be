"""The house: nothing imports upwards, there is no circle, and a room stays small enough to be read."""

from __future__ import annotations

import ast
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"

FLOORS: list[list[str]] = [
    ["ptst.redact", "ptst.paths", "ptst.quiet", "ptst.download", "ptst.hub", "ptst.metrics"],
    ["ptst.errors", "ptst.micro"],
    ["ptst.progress", "ptst.provenance", "ptst.wandb_file"],
    ["ptst.component", "ptst.store"],
]
"""Rooms from the ground up; those of one floor know nothing of each other."""


def imports(path: Path, name: str, modules: set[str]) -> set[str]:
    """The modules that a module needs when it runs, wherever the import stands in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & modules) or {node.module}
            found |= {node.module} if whole - modules else set()
    return (found & modules) - {name}
