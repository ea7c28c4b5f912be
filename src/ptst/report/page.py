"""The report as one HTML file: what a sweep came to, its pictures, costs and provenance.

The page opens from disk and asks for nothing: pictures are data URIs, there is no script, and its
content security policy forbids the rest. What a number was counted from is one link away (rows.py).
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ptst.metrics import shown
from ptst.report.pictures import (
    LOSS,
    ROC,
    along_names,
    frontier_names,
    heatmap_name,
    named,
    on_ramp,
    point_names,
    scale_note,
    scatter_name,
    scatter_pairs,
)
from ptst.report.place import figures_of, place_in_words
from ptst.report.points import PointPicture
from ptst.report.provenance import configured, costs_of, counted, made_by, recorded
from ptst.report.results import Contrast, Entry, Results, Table
from ptst.report.rows import cut, render, rows_file
from ptst.report.tables import guard_lines, outcome_lines, protection_lines, wide_tables
from ptst.report.tables.captions import (
    about_contrasts,
    about_table,
    contrasts_of,
    corner_of,
    heading,
    world_of_all,
)
from ptst.status.states import STATES
from ptst.store import Store
from ptst.sweep.grid import Grid

TINT = {True: "215, 67, 43", False: "0, 114, 178"}
"""Red, green, blue of places that should be low, and high: the middle of the heat maps' ramps."""

DARK = {
    "#ffffff": "#14161a",
    "#1a1a1a": "#e8eaee",
    "#6b6b6b": "#a0a7b4",
    "#e6e6e6": "#333842",
    "#0072b2": "#3e9bdc",
    "#8c7a00": "#b8a41c",
    "#555555": "#9a9a9a",
}
"""A picture's ground, ink, soft ink and lines -> what they are on the dark page; and the train
templates' colours that are too dark on it."""

CONTRAST_FIGURES = ("n", "only A", "only B", "B − A", "95 % interval", "p", "Holm’s p")

BETTER = {
    "lower": "lower is better",
    "higher": "higher is better",
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
    grid = results.grid
    return render(
        "page.html.j2",
        title=grid.sweep.title or grid.name,
        name=grid.report_name,
        world=world_of_all(results),
        about=_about(results),
        counts=_counts(results),
        contrasts=_contrasts(results),
        contrast_figures=CONTRAST_FIGURES,
        of_safety_prompts=all(contrast.kind in LEADS for contrast in results.contrasts),
        about_contrasts=[
            f"{heading(table)}: {' '.join(about_contrasts(table, chosen, world=False))}"
            for table in results.tables
            if (chosen := contrasts_of(results, table))
        ],
        tables=[
            _table(table, grid, store, pictures, world_of_all(results)) for table in results.tables
        ],
        scatters=[
            {"image": image, "title": ", ".join(safety.split.values())}
            for safety, _ in scatter_pairs(results)
            if (image := _image(pictures, scatter_name(safety.split)))
        ],
        protections=protection_lines(results.protections),
        frontiers=[
            {"image": _image(pictures, name), "missing": missing}
            for name, missing in frontier_names(results).items()
        ],
        guards=guard_lines(results.guards),
        roc=_image(pictures, ROC),
        analyses=wide_tables(results.analyses),
        outcomes=outcome_lines(results.relations),
        points=[
            {"image": image, "alt": _points_alt(picture), "about": _about_points(picture)}
            for name, picture in point_names(results, store)
            if (image := _image(pictures, name))
        ],
        along=[
            {"image": image, "axis": key}
            for key, name in along_names(results).items()
            if (image := _image(pictures, name))
        ],
        loss=_image(pictures, LOSS),
        judged={
            keys.judge
            for cell in grid.distinct
            for name, keys in cell.keys.evaluations.items()
            if rows_file(cell, name, store)
        },
        costs=costs_of(grid, store),
        made=made_by(grid, store),
        configured=configured(grid),
        recorded=recorded(grid, store),
        store=str(store.root),
        cells=[(cell, results.states.get(cell.keys.cell)) for cell in grid.distinct],
    )


def _image(pictures: Mapping[str, bytes], name: str) -> dict[str, Any] | None:
    """A picture as a data URI, and its own width in CSS pixels.

    As an image its ids cannot clash with another's, and it runs nothing. Where the page is dark, so
    is the picture.
    """
    content = pictures.get(f"{name}.svg")
    if content is None:
        return None
    dark = "".join(
        f'[style*="{what}: {light}"] {{ {what}: {colour} !important }}'
        for light, colour in DARK.items()
        for what in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark) {{ {dark} }}</style>"
    content = content.replace(b"<defs>", f"{style}<defs>".encode(), 1)
    width = re.search(rb'<svg [^>]*\bwidth="([\d.]+)pt"', content)
    return {
        "source": "data:image/svg+xml;base64," + base64.b64encode(content).decode("ascii"),
        "width": round(float(width[1]) * 96 / 72) if width else 800,
    }


def _points_alt(picture: PointPicture) -> str:
    """What a picture of points shows, for who does not see it."""
    lines = f"a line for each of {_listed(picture.lines)}" if len(picture.lines) > 1 else "a line"
    panels = counted(len(picture.panels), "panel")
    title = ", ".join([picture.title, *picture.split.values()])
    return (
        f"{picture.analysis}: {title}. {panels}, {lines}; its numbers are in analyses_points.csv."
    )


def _about_points(picture: PointPicture) -> str:
    """The caption of a picture of points."""
    said = [f"{picture.analysis}: {picture.title}."]
    if picture.rows:
        said.append("A row for each train template, a column for each test template.")
    said.append("All panels have the same axes, and a line its colour in all of them.")
    runs = {len(r) for panel in picture.panels.values() for r in panel.lines.values()}
    if max(runs, default=1) > 1:
        what = " and ".join(key.replace("_", " ") for key in picture.over)
        several = " or ".join(map(str, sorted(runs)))
        said.append(
            f"Lines are means over {several} runs ({what}); bands reach from the lowest to the "
            "highest. Runs whose points are not at the same x are drawn one by one."
        )
    return " ".join(said)


def _about(results: Results) -> str:
    def several(key: str) -> list[str]:
        values = (cell.coordinates.get(key, "none") for cell in results.grid.cells)
        return [value for value in dict.fromkeys(values) if value != "none"]

    models, datasets, seeds = several("model"), several("dataset"), several("seed")
    trains, tests = several("train_template"), several("test_template")
    untouched = any(cell.coordinates["train_template"] == "none" for cell in results.grid.cells)
    tested = f"tested with {counted(len(tests), 'test template')}"
    if not trains:
        return f"With the sizes of scale={results.grid.scale}: {_listed(models)}, {tested}."
    return (
        f"With the sizes of scale={results.grid.scale}: {_listed(models)}, fine-tuned on {_listed(datasets)} with "
        f"{counted(len(trains), 'train template')} and {counted(len(seeds), 'seed')} "
        f"({_listed(seeds)}), {tested}{', and so without fine-tuning' if untouched else ''}."
    )


def _counts(results: Results) -> dict[str, int]:
    found = Counter(state.state for state in results.states.values())
    return {state: found[state] for state in STATES if found[state]}


def _listed(words: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


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
                    "figures": _figures(contrast),
                    "partly": contrast.difference is not None and contrast.status != "done",
                    "significant": contrast.p_holm is not None and contrast.p_holm < 0.05,
                }
                for metric, of_metric in by_metric.items()
                for contrast in of_metric
            ],
        }
        for kind, by_metric in groups.items()
    ]


def _figures(contrast: Contrast) -> dict[str, str] | None:
    """A contrast's numbers under their names; None where it has none."""
    said = figures_of(contrast)
    if said is None:
        return None
    counts = (f"{count:,}" for count in (contrast.n, contrast.only_a, contrast.only_b))
    figures = (*counts, said.difference, said.interval, _p(contrast.p), _p(contrast.p_holm))
    return dict(zip(CONTRAST_FIGURES, figures, strict=True))


def _in_a_sentence(title: str, contrasts: Sequence[Contrast]) -> str:
    """ "“ASR” is lower in 3 of 4 comparisons, by 9.6 to 92.1 points (3 with Holm’s p < 0.05)"."""
    there = [c for c in contrasts if c.difference is not None]
    absent = len(contrasts) - len(there)
    waits = f" {counted(absent, 'comparison')} cannot be made yet." if absent else ""
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
                f"{word} in {len(moved)} of {counted(len(there), 'comparison')}, by {span} {points} "
                f"({tested})"
            )
    same = sum(c.difference == 0 for c in there)
    if same:
        parts.append(f"without a difference in {same} of {counted(len(there), 'comparison')}")
    return f"“{title}” is {'; '.join(parts)}.{waits}"


def _p(p: float | None) -> str:
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _table(
    table: Table, grid: Grid, store: Store, pictures: Mapping[str, bytes], world: str | None
) -> dict[str, Any]:
    """A table as the page shows it; what `world` says of all tables is not repeated."""
    safe = set(grid.sweep.safety_templates)
    low = table.better == "lower"
    return {
        "id": heatmap_name(table),
        "title": ", ".join([table.title, *table.split.values()]),
        "scale": scale_note(table.scale),
        "low": low,
        "better": BETTER[table.better],
        "about": " ".join(about_table(table, world=world is None)),
        "picture": f"{heatmap_name(table)}.svg" in pictures,
        "bold": bool(safe & {*table.rows, *table.columns}),
        "corner": corner_of(grid.sweep),
        "columns": [(named(column), column in safe) for column in table.columns],
        "rows": [
            {
                "name": named(row),
                "safe": row in safe,
                "places": [_place(table, row, column, low, store) for column in table.columns],
            }
            for row in table.rows
        ],
        "categories": _categories(table.by_category, low, store, world)
        if table.by_category
        else None,
    }


def _categories(table: Table, low: bool, store: Store, world: str | None) -> dict[str, Any]:
    """A metric by category: a row for each place of its table."""
    return {
        "columns": table.columns,
        "rows": [
            (row, [_place(table, row, c, low, store) for c in table.columns]) for row in table.rows
        ],
        "about": " ".join(about_table(table, world=world is None)),
    }


def _place(table: Table, row: str, column: str, low: bool, store: Store) -> dict[str, Any] | None:
    """The words of a place, with its colour, and what leads to the rows behind it."""
    place = place_in_words(table, row, column)
    if place is None:
        return None
    entry = table.entries[row, column]
    tint = None
    if entry.mean is not None:
        # At most 0.62, so that the text's own colour stays readable on it, light or dark.
        tint = f"{TINT[low]}, {0.03 + 0.59 * on_ramp(entry.mean, entry.scale):.3f}"
    return {
        "said": place,
        "spread": place.short_spread.strip("()"),
        "tint": tint,
        "reasons": [] if place.number else _reasons(entry),
        "progress": None if place.number else _progress(entry),
        "rows": _rows_of(entry, store),
    }


def _reasons(entry: Entry) -> list[str]:
    """What went wrong with the runs of an entry."""
    states = [run.state for run in entry.runs]
    went_wrong = ("damaged", "failed", "blocked")
    reasons = {state.reason for state in states if state.state in went_wrong and state.reason}
    return sorted(cut(reason, 160)[0] for reason in reasons)


def _rows_of(entry: Entry, store: Store) -> list[tuple[str, str]]:
    """("seed 0", its page) of the runs behind an entry whose rows are there."""
    name = entry.metric.partition("/")[0]
    return [
        (f"seed {run.cell.coordinates.get('seed', 'none')}", file)
        for run in entry.runs
        if (file := rows_file(run.cell, name, store))
    ]


def _progress(entry: Entry) -> str | None:
    """What is being made for an entry, and how far: "generate gsm8k, 120 of 500"."""
    for run in entry.runs:
        if run.state.state == "running" and run.state.stage:
            so_far = f", {run.state.done or 0} of {run.state.total}" if run.state.total else ""
            return f"{run.state.stage}{so_far}"
    return None
