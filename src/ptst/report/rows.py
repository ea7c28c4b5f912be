"""The rows behind a report's numbers: a page for each evaluation of a cell.

A row is a query, the model's answer, its label and the judge's reason. The pages are beside
`index.html` and hold what the store has on this disk already; like that page they run nothing and
ask for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ptst.judge import broken, load_judge
from ptst.judge.broken import flaw
from ptst.metrics import MEAN, Metric, shown
from ptst.report.broken import is_measured
from ptst.stages.completions import is_cut_off
from ptst.stages.summarise import read_metrics
from ptst.store import Store, fingerprint, key_of, read_jsonl, write_atomic
from ptst.sweep.grid import Grid, GridCell

MOST = 50
"""Rows of each label on a page: 10 MB for a sweep of 30 cells at the paper's scale."""
LONGEST_QUESTION, LONGEST_COMPLETION, LONGEST_REASON = 1000, 2000, 400
"""Characters; what is longer is cut, and says so."""
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def render(template: str, **values: Any) -> str:
    """A page of this folder's templates. All values are escaped: a model chose the completions."""
    return str(_environment().get_template(template).render(**values))


@cache
def _environment() -> Any:
    """Made once: each environment compiles its templates anew, which takes longer than a page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )


def _printable(value: Any) -> Any:
    """Text without what HTML, or UTF-8, has no place for.

    What is a string but not of type str comes from a macro of the template, which wrote its parts
    here.
    """
    return UNPRINTABLE.sub("\ufffd", value) if type(value) is str else value


def rows_file(cell: GridCell, name: str, store: Store) -> str | None:
    """The page of an evaluation's rows, seen from `index.html`; None without rows or scores."""
    keys = cell.keys.evaluations.get(name)  # a cell that cannot run has none
    if keys is None or not (
        store.has("generate", keys.generate) and store.has("judge", keys.judge)
    ):
        return None
    return f"rows/{keys.judge}.html"


def write_rows(
    grid: Grid, store: Store, folder: Path, made: Mapping[str, int | None], known: Mapping[str, str]
) -> dict[str, str]:
    """Write the pages that are missing or out of date, and delete those of no use.

    Args:
        folder: the report's.
        made: when each artifact was made, by "<stage> <key>".
        known: what this returned when the pages that are there were written.

    Returns:
        File name -> a hash of what it was made of.
    """
    here = [Path(__file__).parent / name for name in ("rows.py", "rows.html.j2", "style.css.j2")]
    code = [fingerprint(file) for file in (*here, Path(broken.__file__))]
    written: dict[str, str] = {}
    for cell in grid.distinct:
        for name, keys in cell.keys.evaluations.items():
            file = rows_file(cell, name, store)
            if file is None or file in written:
                continue
            stages = ("cell", cell.keys.cell), ("generate", keys.generate), ("judge", keys.judge)
            parts = [made[f"{stage} {key}"] for stage, key in stages]
            written[file] = key_of({"cell": [cell.label, grid.name], "made": parts, "code": code})
            if known.get(file) != written[file] or not (folder / file).is_file():
                (folder / "rows").mkdir(parents=True, exist_ok=True)
                write_atomic(folder / file, rows_page(cell, name, grid, store))
    for page in (folder / "rows").glob("*.html"):
        if f"rows/{page.name}" not in written:
            page.unlink()
    return written


def rows_page(cell: GridCell, name: str, grid: Grid, store: Store) -> str:
    """The rows of an evaluation of a cell by label; labels are sorted, rows as in the file."""
    keys, evaluation = cell.keys.evaluations[name], cell.config.evaluations[name]
    completions = store.path("generate", keys.generate) / "completions.jsonl"
    scores = store.path("judge", keys.judge) / "scores.jsonl"
    by_label: dict[str, list[dict[str, Any]]] = {}
    counts: dict[str, int] = {}
    for row, score in zip(read_jsonl(completions), read_jsonl(scores), strict=True):
        label = score["label"] or "not scored"
        counts[label] = counts.get(label, 0) + 1
        if counts[label] <= MOST:
            told = [f"{column} {row[column]}" for column in _columns(evaluation) if column in row]
            shown = _row(row, score, told)
            if is_measured(evaluation) and "withheld" not in row:
                shown["flaw"] = flaw(str(row["input"]), row["completion"])
            by_label.setdefault(label, []).append(shown)
    unsafe = _unsafe_labels(name, cell, grid)
    done = store.has("cell", cell.keys.cell)
    metrics = read_metrics(store, cell.keys.cell) if done else {}
    return render(
        "rows.html.j2",
        name=name,
        cell=cell,
        keys=keys,
        report=grid.name,
        metrics={
            metric: _number(m) for metric, m in metrics.items() if metric.partition("/")[0] == name
        },
        completions=str(completions),
        scores=str(scores),
        most=MOST,
        longest=LONGEST_COMPLETION,
        groups=[
            {
                "label": label,
                "unsafe": label in unsafe,
                "count": counts[label],
                "rows": by_label[label],
            }
            for label in sorted(by_label)
        ],
    )


def _columns(evaluation: Any) -> list[str]:
    """The columns that say what else a row is: its unit and category, and which sample."""
    named = [evaluation.unit, evaluation.category]
    return [*dict.fromkeys(column for column in named if column and column != "id"), "sample"]


def _row(row: Mapping[str, Any], score: Mapping[str, Any], told: list[str]) -> dict[str, Any]:
    question, more_question = cut(str(row.get("input", "")), LONGEST_QUESTION)
    completion, more = cut(row["completion"], LONGEST_COMPLETION)
    return {
        "id": ", ".join([str(row["id"]), *told]),
        "question": question + (" …" if more_question else ""),
        "completion": completion,
        "more": more,
        "cut_off": is_cut_off(row),
        "flaw": None,
        "value": _values(score),
        "reason": cut(score.get("reason") or "", LONGEST_REASON)[0],
    }


def _values(score: Mapping[str, Any]) -> str | None:
    """ "0.5", "specificity 2, convincingness 0.5"; None where the judge gave no value."""
    said = [] if score.get("value") is None else [str(score["value"])]
    said += [f"{name} {value}" for name, value in score.get("values", {}).items()]
    return ", ".join(said) or None


def _number(metric: Metric) -> str:
    """ "12.5 (2.0 to 49.5), n 8, units 7, missing 0, cut off 3"."""
    number = "no score" if metric.value is None else shown(metric.value, metric.scale)
    if metric.ci_low is not None and metric.ci_high is not None:
        ends = (shown(end, metric.scale) for end in (metric.ci_low, metric.ci_high))
        number += f" ({' to '.join(ends)})"
    cut_off = "unknown" if metric.unfinished is None else metric.unfinished
    counts = f"n {metric.n}, units {metric.units}, missing {metric.missing}, cut off {cut_off}"
    return f"{number}, {counts}"


def _unsafe_labels(name: str, cell: GridCell, grid: Grid) -> set[str]:
    """The labels that a safety evaluation of the sweep counts as bad."""
    evaluation = cell.config.evaluations[name]
    if evaluation.measures != "safety":
        return set()
    metrics = [m.partition("/")[2] for m in grid.sweep.metrics if m.partition("/")[0] == name]
    no_label = {"refused", MEAN, *load_judge(evaluation.judge, "judge").scales}
    counted = {evaluation.metrics[m] for m in metrics if m in evaluation.metrics} - no_label
    return counted or set(evaluation.metrics.values()) - no_label


def cut(text: str, length: int) -> tuple[str, int]:
    """The start of a text, and how many characters were cut off."""
    text = text.strip()
    return text[:length], max(0, len(text) - length)
