"""The house: nothing imports upwards, there is no circle, and a room stays small enough to be
read."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"

ROOMS = [
    "redact", "errors", "progress", "paths", "quiet", "hub", "metrics", "wandb_file", "micro", "known_words", "rules", "download", "estimates", "provenance",
    "store", "component", "sweep_schema", "schema", "reading",
    "chat", "models", "alignment", "geometry", "templates", "data", "model_check", "probe",
    "api", "engine", "contrast", "dialogue", "guard",
    "objective", "train", "posthoc", "judge", "analysis",
    "keys", "wording", "upload", "tracking",
    "stages", "cell",
    "config",
    "sweep", "slurm", "status",
    "audit", "report", "dashboard", "inventory", "push", "audit_data",
    "multirun", "prompt", "ask", "sync", "cli",
]  # fmt: skip
"""From the ground up: a room imports those before it. The package itself stands above them all."""

LONGEST_MODULE, LONGEST_FUNCTION = 400, 60
"""Lines that a reader can hold in mind: some 400 and 60."""
SLACK = 1.05


def rooms_of(modules: dict[str, Path]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for module in modules:
        if module != "ptst":
            found.setdefault(module.split(".")[1], []).append(module)
    return found


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


@pytest.fixture(scope="module")
def modules() -> dict[str, Path]:
    found = {}
    for path in (SRC / "ptst").rglob("*.py"):
        parts = path.relative_to(SRC).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@pytest.fixture(scope="module")
def graph(modules: dict[str, Path]) -> dict[str, set[str]]:
    return {name: imports(path, name, set(modules)) for name, path in modules.items()}


def test_every_room_has_a_place_and_imports_only_those_below_it(
    modules: dict[str, Path], graph: dict[str, set[str]]
) -> None:
    assert sorted(rooms_of(modules)) == sorted(ROOMS)
    place = {room: number for number, room in enumerate(ROOMS)}
    upwards = [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if module != "ptst" and place[other.split(".")[1]] > place[module.split(".")[1]]
    ]
    assert not upwards


def test_no_module_imports_itself_round_a_circle(graph: dict[str, set[str]]) -> None:
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_what_a_circle_would_be_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ptst.b\n"
        "def f():\n    from ptst import c\n"
    )
    assert imports(file, "ptst.a", {"ptst.b", "ptst.c"}) == {"ptst.c"}


def test_a_report_is_drawn_without_torch(modules: dict[str, Path]) -> None:
    heavy = {"torch", "transformers", "trl", "peft"}
    for module, path in modules.items():
        if module.startswith(("ptst.report", "ptst.dashboard", "ptst.sweep")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {
                name.split(".")[0]
                for node in ast.walk(tree)
                for name in (
                    [a.name for a in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
            }
            assert not names & heavy, module


def test_a_module_and_a_function_can_be_read_at_once(modules: dict[str, Path]) -> None:
    too_long = []
    for module, path in modules.items():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > LONGEST_MODULE * SLACK:
            too_long.append(f"{module}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LONGEST_FUNCTION * SLACK:
                    too_long.append(f"{module}.{node.name}: {lines} lines")
    assert not too_long
