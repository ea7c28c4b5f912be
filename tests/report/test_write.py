"""The files of a report are those of the store as it is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from test_pictures import put, small_report

from ptst.report.write import write_report
from ptst.store import read_jsonl


def test_what_is_made_anew_under_the_same_key_makes_the_report_anew(tmp_path: Path) -> None:
    results, store = small_report(tmp_path / "store")
    results = replace(results, grid=replace(results.grid, reports=str(tmp_path / "reports")))
    folder = write_report(results, store)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_report(results, store)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    judged = results.grid.cells[0].keys.evaluations["hazards"].judge
    own = folder / "rows" / f"{judged}.html"
    (folder / "rows" / "0123456789abcdef.html").touch()  # of a cell that the sweep had
    key = results.grid.cells[0].keys.evaluations["hazards"].generate
    rows = read_jsonl(store.path("generate", key) / "completions.jsonl")
    shutil.rmtree(store.path("generate", key))
    facts = {"seconds": 1.5, "prompt_tokens": 77777, "completion_tokens": 40}
    put(store, "generate", key, {"completions.jsonl": rows}, facts)
    assert "78,0" not in (folder / "index.html").read_text()
    write_report(results, store)
    assert "78,0" in (folder / "index.html").read_text()  # 77,777 and the others' 300
    # Of the rows only those that were made anew are written anew; those of no cell are gone.
    rows = set((folder / "rows").iterdir())
    assert own in rows and len(rows) == 8
    assert {path for path in rows if path.stat().st_mtime_ns != times.get(path)} == {own}
    own.unlink()
    write_report(results, store)
    assert own.is_file()
