"""The files of a report, each written whole, and only when something changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptst.judge import broken
from ptst.report.analyses import analyses_csv, analysis_tables
from ptst.report.outcomes import outcomes_csv
from ptst.report.points import points_csv
from ptst.report.results import Results
from ptst.report.results.published import PAPER
from ptst.store import Store, fingerprint, key_of, read_json, write_atomic, write_bytes, write_json
from ptst.sweep.grid import Grid


def write_report(results: Results, store: Store) -> Path:
    """Write the tables, the pictures, index.html and rows/ to <reports>/<sweep>-<scale>/.

    Returns:
        The report's folder.
    """
    grid = results.grid
    folder = Path(grid.reports).expanduser() / grid.report_name
    made = _made(grid, store)
    key = _key(results, made)
    if _is_there(folder, key):
        return folder
    from ptst.report.page import page
    from ptst.report.pictures import draw_all
    from ptst.report.rows import write_rows
    from ptst.report.tables import (
        category_csv,
        guards_csv,
        latex,
        markdown,
        protections_csv,
        tidy_csv,
    )

    known = _record(folder).get("rows", {})
    (folder / "report.json").unlink(missing_ok=True)
    pictures = draw_all(results, store)
    for stale in {path.name for path in folder.glob("*.svg")} - set(pictures):
        (folder / stale).unlink()
    for stale in {path.name for path in folder.glob("*.png")} - set(pictures):
        (folder / stale).unlink()
    for name, content in pictures.items():
        write_bytes(folder / name, content)
    texts = {
        "table.md": markdown(results),
        "table.tex": latex(results),
        "table.csv": tidy_csv(results),
        "index.html": page(results, store, pictures),
    }
    optional = {
        "categories.csv": category_csv(results),
        "analyses.csv": analyses_csv(results.analyses),
        "analyses_outcomes.csv": outcomes_csv(results.relations),
        "analyses_points.csv": points_csv(results.analyses, store),
        "defences.csv": protections_csv(results.protections),
        "guards.csv": guards_csv(results.guards),
    }
    for name, text in optional.items():
        if text is None:
            (folder / name).unlink(missing_ok=True)
        else:
            texts[name] = text
    for name, text in texts.items():
        write_atomic(folder / name, text)
    rows = write_rows(grid, store, folder, made, known)
    files = sorted([*texts, *pictures, *rows])
    write_json(folder / "report.json", {"key": key, "files": files, "rows": rows})
    return folder


def _key(results: Results, made: Mapping[str, int | None]) -> str:
    """A hash of all that decides what the report says, and of the code that says it."""
    grid, here, guards = results.grid, Path(__file__).parent, results.guards
    code = sorted([*here.rglob("*.py"), *here.rglob("*.j2"), Path(broken.__file__)])
    return key_of(
        {
            "sweep": [dataclasses.asdict(grid.sweep), grid.scale],
            "cells": [
                [c.coordinates, c.keys.cell, dataclasses.asdict(c.config)] for c in grid.cells
            ],
            "made": made,
            "states": {cell: dataclasses.asdict(state) for cell, state in results.states.items()},
            "code": [fingerprint(file) for file in code],
            "audit": [table.audit for table in results.tables],
            "paper": fingerprint(PAPER),
            **({"analyses": found} if (found := analysis_tables(results.analyses)) else {}),
            # a guarded cell's twin may be no cell of the grid
            **({"guards": [dataclasses.asdict(one) for one in guards]} if guards else {}),
        }
    )


def _made(grid: Grid, store: Store) -> dict[str, int | None]:
    """When each artifact was made, in nanoseconds: made anew, it may differ under the same key."""
    made: dict[str, int | None] = {}
    for cell in grid.distinct:
        artifacts = [("cell", cell.keys.cell), ("finetune", cell.keys.finetune or "none")]
        for keys in cell.keys.evaluations.values():
            artifacts += [("generate", keys.generate), ("judge", keys.judge)]
        artifacts += [("analyse", key) for key, _ in cell.keys.analyses.values()]
        for stage, key in artifacts:
            file = store.path(stage, key) / "key.json"
            made[f"{stage} {key}"] = file.stat().st_mtime_ns if file.is_file() else None
    return made


def _is_there(folder: Path, key: str) -> bool:
    record = _record(folder)
    return record.get("key") == key and all((folder / name).is_file() for name in record["files"])


def _record(folder: Path) -> dict[str, Any]:
    """What report.json says of the report; nothing where it is missing or damaged."""
    try:
        record: dict[str, Any] = read_json(folder / "report.json")
    except (OSError, ValueError):
        return {}
    return record
