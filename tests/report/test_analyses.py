"""The values of analyses in a grid's report: one line for each model."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from conftest import TINY

from ptst.cli import main
from ptst.report.analyses import Found, analysis_tables
from ptst.report.tables.analyses import ranges_note, short_tables, wide_tables


def test_a_report_lists_each_models_values_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["tracking=none", f"paths.store={tmp_path}/store", f"paths.reports={tmp_path}/reports"]
    grid = ["defence=[],[add_noise]", "template@test_template=chat_vanilla,chat_llama"]
    words = [*TINY, *own, *grid, "finetune=none", "analysis=[norm_of_change]"]
    assert main(["-m", *words]) == 0
    assert "Analyses" in capsys.readouterr().out
    (folder,) = (tmp_path / "reports").iterdir()
    with (folder / "analyses.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {(row["defence"], row["value"]): float(row["number"]) for row in rows}
    assert len(rows) == len(found) == 4  # two models of two values; two test templates share each
    assert found["none", "norm_of_change/relative"] == found["none", "norm_of_change/l2"] == 0
    assert found["add_noise", "norm_of_change/relative"] == pytest.approx(0.01, rel=0.1)
    assert "## Analyses" in (folder / "table.md").read_text(encoding="utf-8")
    with (folder / "analyses_outcomes.csv").open(encoding="utf-8") as file:
        related = {(row["value"], row["metric"]): row for row in csv.DictReader(file)}
    one = related["norm_of_change/l2", "hazards/asr"]
    assert (one["cells"], one["models"]) == (
        "2",
        "1",
    )  # the model with noise; the untouched one is left out
    assert not (folder / "analyses_points.csv").exists()
    assert 'id="analyses"' in (folder / "index.html").read_text(encoding="utf-8")


def found(models: int, values: int) -> list[Found]:
    """Values 0, 1, 2, ... of the untouched model, and each 10 more of every other model."""
    names = ["none", *(f"t{i}" for i in range(1, models))]
    return [
        Found({"finetune": "full" if i else "none", "train_template": name}, f"own/v{v}", 10 * i + v, name)
        for i, name in enumerate(names)
        for v in range(values)
    ]  # fmt: skip


def test_of_many_values_a_terminal_shows_the_range_over_models() -> None:
    (table,) = short_tables(found(4, 30))
    assert len(table) == 31
    assert table[0] == ("own", "no fine-tuning", "lowest", "median", "highest")
    assert table[3] == ("v2", "2", "12", "22", "32")
    assert ranges_note(found(4, 30)).endswith("analyses.csv has each.")
    few = found(4, 3)
    assert short_tables(few) == wide_tables(few) == analysis_tables(few)
    assert ranges_note(few) == ""
    lacking = [*found(4, 30), Found({"train_template": "t4"}, "own", None, "t4")]
    assert "1 result is missing" in ranges_note(lacking)


def test_more_values_than_models_are_lines_and_not_columns() -> None:
    (table,) = wide_tables(found(3, 30))
    assert table[:2] == [("own", "none", "t1", "t2"), ("v0", "0", "10", "20")]
    assert len(table) == 31


def test_values_have_a_range_where_all_models_are_untouched() -> None:
    untouched = [
        Found({"finetune": "none", "test_template": t}, f"own/v{v}", n, t)
        for n, t in ((0.5, "a"), (0.25, "b"))
        for v in range(8)
    ]
    (table,) = short_tables(untouched)
    assert table[1] == ("v0", "0.25 to 0.5", "", "", "")
