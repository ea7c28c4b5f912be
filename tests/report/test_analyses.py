"""The values of analyses in a grid's report: one line for each model."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from conftest import TINY

from ptst.cli import main


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
    assert 'id="analyses"' in (folder / "index.html").read_text(encoding="utf-8")
