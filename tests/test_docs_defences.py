"""docs/defences.md has every defence and names tests that exist; it shows what others measured as
sweeps/paper/defences.csv has it, and our reports show none of it beside ours."""

from __future__ import annotations

import csv
import re

from pages import text_of

from ptst.paths import CONF, ROOT
from ptst.report.results import paper_rows
from ptst.report.results.published import PAPER

HEAD = (
    "| source | model, fine-tuned on | test prompt | measured | untuned | plain | with a defence |"
)


def rows() -> list[dict[str, str]]:
    with (PAPER / "defences.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def lines_of(rows: list[dict[str, str]]) -> list[str]:
    """The lines of the page's table: one for all numbers of a source that may be compared."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        names = ("source", "arxiv", "model", "dataset", "template", "metric")
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    lines = []
    for (source, arxiv, model, dataset, template, metric), own in groups.items():
        tables = ", ".join(sorted({row["table"] for row in own} - {""}))
        place = f"{source}, Table {tables}" if tables else source
        untuned = [row["mean"] for row in own if row["finetune"] == "none"]
        plain = [row["mean"] for row in own if (row["finetune"], row["defence"]) == ("sft", "none")]
        defended = [f"{row['defence']} {row['mean']}" for row in own if row["defence"] != "none"]
        assert len(untuned) <= 1 and len(plain) == 1, (source, dataset, metric)
        cells = [
            f"[{place}](https://arxiv.org/abs/{arxiv})",
            f"{model}, {dataset}",
            template,
            metric,
        ]
        cells += [*(untuned or [""]), *plain, ", ".join(defended)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_the_page_has_every_number_of_the_file_and_no_other() -> None:
    page = text_of("docs/defences.md").splitlines()
    first = page.index(HEAD) + 2
    assert page[first : page.index("", first)] == lines_of(rows())


def test_none_of_them_can_stand_beside_ours() -> None:
    """A number stands beside ours in tables.csv and figure2.csv alone, under templates of ours."""
    templates = {path.stem for path in (CONF / "template").glob("*.yaml")}
    metrics = {row["metric"] for row in paper_rows()}
    for row in rows():
        assert row["template"] not in templates and row["metric"] not in metrics
    places = {(row["train_template"], row["test_template"]) for row in paper_rows()}
    assert {end for ends in places for end in ends} - {"none"} <= templates


def test_numbers_are_numbers() -> None:
    assert all(float(row["mean"]) >= 0 and row["source"] and row["arxiv"] for row in rows())
    assert {row["finetune"] for row in rows()} == {"none", "sft"}


def test_the_page_has_every_defence_and_every_control() -> None:
    named = set(re.findall(r"`(\w+)`", text_of("docs/defences.md")))
    assert {path.stem for path in (CONF / "defence").glob("*.yaml")} <= named


def test_every_test_that_the_page_names_is_there() -> None:
    """It names `FILE::TEST`, or tests and then the file that has them."""
    page = text_of("docs/defences.md")
    found, names = 0, list[str]()
    for file, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::)?(test_\w+)?`", page):
        if not file:
            names += [name] if name else []
            continue
        text = (ROOT / file).read_text(encoding="utf-8")
        for wanted in [name] if name else names:
            assert f"\ndef {wanted}(" in text, (file, wanted)
            found += 1
        names = names if name else []
    assert found > 20 and not names
