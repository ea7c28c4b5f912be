"""The report as one HTML file: what a sweep came to, its pictures, examples, costs and provenance.

The page opens from disk and asks for nothing: pictures are data URIs, there is no script, and its
content security policy forbids the rest. Completions are text that a model chose; everything that
page.html.j2 shows is escaped, and nothing is marked as safe.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptst.config import Evaluation
from ptst.metrics import MEAN, Scale, decimals, known_sum, lower_is_better, shown
from ptst.report.pictures import (
    ALONG,
    LOSS,
    heatmap_name,
    in_words,
    named,
    on_ramp,
    scale_note,
    scatter_name,
    scatter_pairs,
    should_be_low,
)
from ptst.report.results import Contrast, Entry, Published, Results, Table, also
from ptst.report.tables import difference_interval
from ptst.store import Store, read_json, read_jsonl
from ptst.sweep.grid import Grid, GridCell
from ptst.sweep.status import STATES
from ptst.wording import (
    evaluation_in_words,
    judge_in_full,
    known_judges,
    recipe_in_words,
    rows_in_words,
)

PER_LABEL = 2
"""Examples of each label of an evaluation."""
LONGEST_QUESTION, LONGEST_COMPLETION = 400, 700
"""Characters; what is longer is cut, and says so."""
TINT = {True: "215, 67, 43", False: "0, 114, 178"}
"""Red, green, blue of places that should be low, and high: the middle of the heat maps' ramps."""
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
BETTER = {
    True: "lower is better",
    False: "higher is better",
    None: "neither a low nor a high number is better",
}
LEADS = {
    "safety prompt at test time": "Adding the safety prompt at test time only",
    "left out of training": "Having left it out of training",
}


def page(results: Results, store: Store, pictures: Mapping[str, bytes]) -> str:
    """Write the report's page; the same results and artifacts give the same text.

    Args:
        pictures: of `ptst.report.pictures.draw_all`; those that are not there are left out.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    grid = results.grid
    return environment.get_template("page.html.j2").render(
        title=grid.sweep.title or grid.name,
        name=grid.report_name,
        worlds=list(dict.fromkeys(table.world for table in results.tables if table.world)),
        about=_about(results),
        counts=_counts(results),
        contrasts=_contrasts(results),
        tables=[_table(table, grid, pictures) for table in results.tables],
        scatters=[
            {"image": image, "title": ", ".join(safety.split.values())}
            for safety, _ in scatter_pairs(results)
            if (image := _image(pictures, scatter_name(safety.split)))
        ],
        along=_image(pictures, ALONG),
        loss=_image(pictures, LOSS),
        examples=[found for cells in _places(grid) if (found := _examples(cells, grid, store))],
        costs=_costs(grid, store),
        made=_made(grid, store),
        configured=_configured(grid),
        store=str(store.root),
        cells=[(cell, results.states.get(cell.keys.cell)) for cell in grid.distinct],
    )


def _printable(value: Any) -> Any:
    """Text without what HTML, or UTF-8, has no place for.

    What is a string but not of type str comes from a macro of the template, which wrote its parts here.
    """
    return UNPRINTABLE.sub("\ufffd", value) if type(value) is str else value


def _image(pictures: Mapping[str, bytes], name: str) -> dict[str, Any] | None:
    """A picture as a data URI, and its own width in CSS pixels.

    As an image its ids cannot clash with another's, and it runs nothing.
    """
    content = pictures.get(f"{name}.svg")
    if content is None:
        return None
    width = re.search(rb'<svg [^>]*\bwidth="([\d.]+)pt"', content)
    return {
        "source": "data:image/svg+xml;base64," + base64.b64encode(content).decode("ascii"),
        "width": round(float(width[1]) * 96 / 72) if width else 800,
    }


# --- what the sweep is ----------------------------------------------------------------------------


def _about(results: Results) -> str:
    def several(key: str) -> list[str]:
        values = (cell.coordinates.get(key, "none") for cell in results.grid.cells)
        return [value for value in dict.fromkeys(values) if value != "none"]

    models, datasets, seeds = several("model"), several("dataset"), several("seed")
    trains, tests = several("train_template"), several("test_template")
    untouched = any(cell.coordinates["train_template"] == "none" for cell in results.grid.cells)
    tested = f"tested with {_counted(len(tests), 'test template')}"
    if not trains:
        return f"At {results.grid.scale} scale: {_listed(models)}, {tested}."
    return (
        f"At {results.grid.scale} scale: {_listed(models)}, fine-tuned on {_listed(datasets)} with "
        f"{_counted(len(trains), 'train template')} and {_counted(len(seeds), 'seed')} "
        f"({_listed(seeds)}), {tested}{', and so without fine-tuning' if untouched else ''}."
    )


def _counts(results: Results) -> dict[str, int]:
    found = Counter(state.state for state in results.states.values())
    return {state: found[state] for state in STATES if found[state]}


def _listed(words: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


# --- the contrast ---------------------------------------------------------------------------------


def _contrasts(results: Results) -> list[dict[str, Any]]:
    """By kind: what it says in words, one sentence a metric, and its rows."""
    titles = {table.metric: table.title for table in results.tables}
    groups: dict[str, dict[str, list[Contrast]]] = {}
    for contrast in results.contrasts:
        groups.setdefault(contrast.kind, {}).setdefault(contrast.metric, []).append(contrast)
    return [
        {
            "kind": kind,
            "words": [
                f"{LEADS.get(kind, kind)}: {_in_a_sentence(titles.get(metric, metric), of_metric)}"
                for metric, of_metric in by_metric.items()
            ],
            "rows": [
                {
                    "contrast": contrast,
                    "title": ", ".join([titles.get(metric, metric), *contrast.split.values()]),
                    "difference": None
                    if contrast.difference is None
                    else f"{shown(contrast.difference, contrast.scale, signed=True)} "
                    + difference_interval(contrast),
                    "p": _p(contrast.p),
                    "p_holm": _p(contrast.p_holm),
                    "partly": contrast.difference is not None and contrast.status != "done",
                    "clear": contrast.p_holm is not None and contrast.p_holm < 0.05,
                }
                for metric, of_metric in by_metric.items()
                for contrast in of_metric
            ],
        }
        for kind, by_metric in groups.items()
    ]


def _in_a_sentence(title: str, contrasts: Sequence[Contrast]) -> str:
    """ "“ASR” is lower in 3 of 4 comparisons, by 9.6 to 92.1 points (3 with Holm’s p < 0.05)"."""
    there = [c for c in contrasts if c.difference is not None]
    absent = len(contrasts) - len(there)
    waits = f" {_counted(absent, 'comparison')} cannot be made yet." if absent else ""
    if not there:
        return f"“{title}” has no number yet.{waits}"
    parts = []
    for word, sign in (("lower", -1), ("higher", 1)):
        moved = [c for c in there if c.difference is not None and c.difference * sign > 0]
        if moved:
            scale = moved[0].scale
            sizes = sorted(abs(c.difference or 0) for c in moved)
            span = " to ".join(dict.fromkeys(shown(s, scale) for s in (sizes[0], sizes[-1])))
            points = "points" if scale is None else f"on a scale from {scale_note(scale)}"
            clear = sum(c.p_holm is not None and c.p_holm < 0.05 for c in moved)
            tested = f"{clear} with Holm’s p < 0.05"
            if all(c.p is None for c in moved):
                tested = "not tested, see there"
            parts.append(
                f"{word} in {len(moved)} of {_counted(len(there), 'comparison')}, by {span} {points} "
                f"({tested})"
            )
    same = sum(c.difference == 0 for c in there)
    if same:
        parts.append(f"the same in {same}")
    return f"“{title}” is {'; '.join(parts)}.{waits}"


def _p(p: float | None) -> str | None:
    if p is None:
        return None
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


# --- tables ---------------------------------------------------------------------------------------


def _table(table: Table, grid: Grid, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    safe = set(grid.sweep.safety_templates)
    low = should_be_low(table)
    entries = table.entries.values()
    return {
        "id": heatmap_name(table),
        "title": ", ".join([table.title, *table.split.values()]),
        "scale": scale_note(table.scale),
        "better": BETTER[table.lower_is_better],
        "paper": table.paper,
        "notes": [*_notes(list(entries)), *table.audit],
        "image": _image(pictures, heatmap_name(table)),
        "bold": bool(safe & {*table.rows, *table.columns}),
        "corner": f"{_axis(grid.sweep.rows)} \\ {_axis(grid.sweep.columns)}",
        "columns": [(named(column), column in safe) for column in table.columns],
        "rows": [
            {
                "name": named(row),
                "safe": row in safe,
                "places": [
                    _place(table.entries.get((row, column)), low) for column in table.columns
                ],
            }
            for row in table.rows
        ],
        "categories": _categories(table.by_category, low) if table.by_category else None,
    }


def _categories(table: Table, low: bool) -> dict[str, Any]:
    """A metric by category: a row for each place of its table."""
    return {
        "columns": table.columns,
        "rows": [
            (row, [_place(table.entries.get((row, c)), low) for c in table.columns])
            for row in table.rows
        ],
        "notes": _notes(list(table.entries.values())),
    }


def _axis(coordinate: str) -> str:
    return {"train_template": "train", "test_template": "test"}.get(coordinate, coordinate)


def _place(entry: Entry | None, low: bool) -> dict[str, Any] | None:
    if entry is None:
        return None
    reasons = {
        run.state.reason
        for run in entry.runs
        if run.state.state in ("failed", "blocked") and run.state.reason and entry.mean is None
    }
    place = {
        "words": in_words(entry),
        "there": entry.mean is not None,
        "spread": None,
        "tint": None,
        "reasons": sorted(_cut(reason, 160)[0] for reason in reasons),
        "progress": None if entry.mean is not None else _progress(entry),
        "unscored": f"{entry.n} of {entry.n + entry.missing} scored" if entry.missing else None,
        "paper": None if entry.paper is None else _published(entry.paper, entry.scale),
    }
    if entry.mean is not None:
        # At most 0.62, so that the text's own colour stays readable on it, light or dark.
        place["tint"] = f"{TINT[low]}, {0.03 + 0.59 * on_ramp(entry.mean, entry.scale):.3f}"
        if entry.std is not None:
            place["spread"] = f"± {shown(entry.std, entry.scale)}"
        elif entry.ci_low is not None and entry.ci_high is not None:
            digits = decimals(entry.scale) - 1
            place["spread"] = f"{entry.ci_low:.{digits}f}–{entry.ci_high:.{digits}f}"
    return place


def _progress(entry: Entry) -> str | None:
    """What is being made for an entry, and how far: "generate gsm8k, 120 of 500"."""
    for run in entry.runs:
        if run.state.state == "running" and run.state.stage:
            so_far = f", {run.state.done or 0} of {run.state.total}" if run.state.total else ""
            return f"{run.state.stage}{so_far}"
    return None


def _published(paper: Published, scale: Scale) -> str:
    spread = "" if paper.std is None else f" ± {shown(paper.std, scale)}"
    return shown(paper.mean, scale) + spread + also(paper, scale)


def _notes(entries: Sequence[Entry]) -> list[str]:
    """What the small print in a table's places is."""
    there = [entry for entry in entries if entry.mean is not None]
    notes = []
    if any(entry.std is None for entry in there):
        notes.append("a–b: 95 % interval")
    for over, seeds in (("train_seed", "seeds"), ("decoding_seed", "sampling seeds")):
        if counts := {entry.repeats for entry in there if entry.std_over == over}:
            notes.append(f"±: standard deviation over {_range(counts)} {seeds}")
    if there:
        sampled = any(run.metric and run.metric.samples > 1 for e in there for run in e.runs)
        what = "answers" if sampled else "queries"
        notes.append(f"{_range({entry.n for entry in there})} scored {what} in each place")
    return notes


def _range(numbers: Iterable[int]) -> str:
    low, *_, high = sorted({*numbers}) * 2
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


# --- examples -------------------------------------------------------------------------------------


def _places(grid: Grid) -> list[list[GridCell]]:
    """The grid's cells, those that differ in their seed alone together."""
    places: dict[tuple[tuple[str, str], ...], list[GridCell]] = {}
    for cell in grid.cells:
        place = tuple((k, v) for k, v in cell.coordinates.items() if k != "seed")
        places.setdefault(place, []).append(cell)
    return list(places.values())


def _examples(cells: Sequence[GridCell], grid: Grid, store: Store) -> dict[str, Any] | None:
    """Completions of the first of `cells` that has been judged."""
    for cell in cells:
        evaluations = [
            _evaluation(name, cell, grid, store)
            for name, evaluation in cell.config.evaluations.items()
            if (name in cell.config.task or evaluation.measures == "safety")
            and name in cell.keys.evaluations
            and store.has("generate", cell.keys.evaluations[name].generate)
            and store.has("judge", cell.keys.evaluations[name].judge)
        ]
        if evaluations:
            return {"label": cell.label, "evaluations": evaluations}
    return None


def _evaluation(name: str, cell: GridCell, grid: Grid, store: Store) -> dict[str, Any]:
    """The first completions of each label, labels in alphabetical order, and how many there are."""
    keys = cell.keys.evaluations[name]
    rows = read_jsonl(store.path("generate", keys.generate) / "completions.jsonl")
    scores = read_jsonl(store.path("judge", keys.judge) / "scores.jsonl")
    by_label: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for row, score in zip(rows, scores, strict=True):
        by_label.setdefault(score["label"] or "not scored", []).append((row, score))
    unsafe = _unsafe_labels(name, cell.config.evaluations[name], grid)
    examples = []
    for label in sorted(by_label):
        for row, score in by_label[label][:PER_LABEL]:
            question, more_question = _cut(str(row.get("input", "")), LONGEST_QUESTION)
            completion, more = _cut(row["completion"], LONGEST_COMPLETION)
            examples.append(
                {
                    "label": label,
                    "unsafe": label in unsafe,
                    "question": question + (" …" if more_question else ""),
                    "completion": completion,
                    "more": more,
                    "unfinished": not row.get("finished", True) and "withheld" not in row,
                    "reason": _cut(score.get("reason") or "", 200)[0],
                }
            )
    return {
        "name": name,
        "counts": ", ".join(f"{len(by_label[label])} {label}" for label in sorted(by_label)),
        "examples": examples,
    }


def _unsafe_labels(name: str, evaluation: Evaluation, grid: Grid) -> set[str]:
    """The labels that a safety evaluation of the sweep counts as bad."""
    if evaluation.measures != "safety":
        return set()
    labels = {label for label in evaluation.metrics.values() if label != MEAN}
    return {label for label in labels if lower_is_better(evaluation.measures, label)}


def _cut(text: str, length: int) -> tuple[str, int]:
    """The start of a text, and how many characters were cut off."""
    text = text.strip()
    return text[:length], max(0, len(text) - length)


# --- costs and provenance -------------------------------------------------------------------------


def _artifacts(grid: Grid) -> dict[tuple[str, str], tuple[str, GridCell]]:
    """(stage, key) of every artifact of the grid, once: what people call it, and a cell of it."""
    found: dict[tuple[str, str], tuple[str, GridCell]] = {}
    for cell in grid.distinct:
        if cell.keys.finetune:
            found.setdefault(("finetune", cell.keys.finetune), ("fine-tune", cell))
        for name, keys in cell.keys.evaluations.items():
            found.setdefault(("generate", keys.generate), (f"generate {name}", cell))
            found.setdefault(("judge", keys.judge), (f"judge {name}", cell))
    return found


def _provenances(grid: Grid, store: Store) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(what it is called, stage, provenance) of the artifacts that are there."""
    for (stage, key), (called, _) in _artifacts(grid).items():
        path = store.path(stage, key) / "provenance.json"
        if path.is_file():
            yield called, stage, read_json(path)


def _costs(grid: Grid, store: Store) -> dict[str, Any]:
    """Seconds and tokens by stage; None where an artifact does not say (what a model behind an API read)."""
    rows: dict[str, dict[str, Any]] = {}
    for called, stage, facts in _provenances(grid, store):
        row = rows.setdefault(called, {"artifacts": 0, "seconds": 0.0, "read": 0, "written": 0})
        row["artifacts"] += 1
        row["seconds"] += facts.get("seconds", 0.0)
        if stage == "finetune":
            row["read"] = known_sum((row["read"], facts.get("trained_tokens")))
        elif stage == "generate":
            row["read"] = known_sum((row["read"], facts["prompt_tokens"]))
            row["written"] = known_sum((row["written"], facts["completion_tokens"]))
    order = sorted(rows, key=lambda called: ("fgj".index(called[0]), called))
    total = {
        key: known_sum(row[key] for row in rows.values())
        for key in ("artifacts", "read", "written")
    }
    seconds = sum(row["seconds"] for row in rows.values())
    return {
        "rows": [
            (called, {**rows[called], "time": _time(rows[called]["seconds"])}) for called in order
        ],
        "total": {**total, "time": _time(seconds)},
    }


def _time(seconds: float) -> str:
    """ "9.3 s", "4 min 05 s", "3 h 20 min"."""
    whole = round(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def _made(grid: Grid, store: Store) -> list[tuple[str, list[tuple[str, str]]]]:
    """What made the artifacts: each fact's distinct values, with how many artifacts have it."""
    facts: dict[str, Counter[str]] = {}
    times: list[str] = []

    def count(name: str, value: str) -> None:
        facts.setdefault(name, Counter())[value] += 1

    for _, _, found in _provenances(grid, store):
        git = found.get("git")
        if git:
            state = "with uncommitted changes" if git.get("dirty") else "clean"
            count("git commit", f"{git.get('commit')}, {state}")
        else:
            count("git commit", "not recorded (no git checkout)")
        hardware = found.get("hardware") or {}
        cpu, cores, gpu = (hardware.get(name) for name in ("cpu", "cores", "gpu"))
        count("hardware", f"{cpu or 'unknown CPU'}, {cores} cores, {gpu or 'no GPU'}")
        count("python", str(found.get("python")))
        for line in found.get("chat_format") or []:
            count("chat format", line)
        for package, version in (found.get("packages") or {}).items():
            count(package, str(version or "not installed"))
        if found.get("finished_at"):
            times.append(found["finished_at"])
    listed = [
        (name, [(value, _counted(number, "artifact")) for value, number in sorted(values.items())])
        for name, values in facts.items()
    ]
    if times:
        span = min(times) if len(set(times)) == 1 else f"{min(times)} to {max(times)}"
        listed.insert(1, ("made", [(span, _counted(len(times), "artifact"))]))
    return listed


def _configured(grid: Grid) -> list[tuple[str, list[str]]]:
    """The models, data, recipes and judges of the grid: each distinct value."""
    facts: dict[str, dict[str, None]] = {}
    known = known_judges()

    def note(name: str, value: str) -> None:
        facts.setdefault(name, {})[value] = None

    for cell in grid.distinct:
        config = cell.config
        revision = f"@{config.model.revision}" if config.model.revision else ""
        note("model", f"{config.model.name}: {config.model.path}{revision}")
        if config.finetune.method != "none":
            note("trained on", rows_in_words(config.dataset))
            note("fine-tuning", recipe_in_words(config.finetune))
        for name, evaluation in config.evaluations.items():
            note(f"evaluation {name}", evaluation_in_words(evaluation))
            note(f"judge of {name}", judge_in_full(evaluation.judge, known))
    for key, value in grid.settings.items():
        note("set on the command line", f"{key}={value}")
    return [(name, list(values)) for name, values in facts.items()]
