"""The tables of a report as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from ptst.report.place import PlaceInWords, figures_of, place_in_words
from ptst.report.results import Contrast, Results, Table
from ptst.report.tables.captions import (
    about_contrasts,
    about_table,
    contrasts_of,
    corner_of,
    heading,
    name_of,
    state_lines,
    test_note,
    title,
)
from ptst.report.tables.guards import lines_of
from ptst.report.tables.protection import Lines


def latex(results: Results) -> str:
    r"""table.tex: one table environment each; needs \usepackage{booktabs} and nothing else."""
    parts = [f"% {title(results)}: {results.grid.report_name}. Needs \\usepackage{{booktabs}}."]
    parts += [f"% {line}" for line in state_lines(results)]
    parts += [_lines(lines) for lines in lines_of(results)]
    for table in results.tables:
        parts.append(_table(table, corner_of(results.grid.sweep)))
        if table.by_category:
            parts.append(_table(table.by_category, ""))
        if chosen := contrasts_of(results, table):
            parts.append(_contrasts(table, chosen))
    return "\n\n".join(parts) + "\n"


def _table(table: Table, axes: str) -> str:
    both = table.paper is not None
    step = 2 if both else 1
    corner = _tex(axes)
    names = [_tex(name_of(table, 1, column)) for column in table.columns]
    if both:
        head = [" & ".join([corner, *(f"\\multicolumn{{2}}{{c}}{{{name}}}" for name in names)])]
        rules = [f"\\cmidrule(lr){{{i}-{i + 1}}}" for i in range(2, 2 + 2 * len(names), 2)]
        head += [" ".join(["\\\\", *rules]), " & ".join(["", *["ours & paper"] * len(names)])]
    else:
        head = [" & ".join([corner, *names])]
    about = [f"{heading(table)}.", *about_table(table)]
    if any(entry.missing and entry.mean is not None for entry in table.entries.values()):
        about.append("*: not every query has a score.")
    body = []
    for row in table.rows:
        figures, spreads = [_tex(name_of(table, 0, row))], [""]
        for column in table.columns:
            ours, theirs = _place(place_in_words(table, row, column))
            for figure, spread in (ours, theirs)[:step]:
                figures.append(figure)
                spreads.append(f"\\scriptsize {spread}" if spread else "")
        body.append(f"{' & '.join(figures)} \\\\")
        if any(spreads):
            body.append(f"{' & '.join(spreads)} \\\\[2pt]")
    caption = _tex(" ".join(about))
    columns = f"l{'r' * step * len(table.columns)}"
    return _environment("footnotesize", caption, columns, head, ["\\midrule", *body])


def _place(place: PlaceInWords | None) -> tuple[tuple[str, str], tuple[str, str]]:
    """Figure and spread of ours, and of the paper's."""
    if place is None:
        return ("", ""), ("", "")
    theirs = (place.paper, _tex(place.paper_std)) if place.paper else ("--", "")
    if not place.number:
        word, _, seeds = place.status.partition(" (")
        return (f"\\emph{{{_tex(word)}}}", f"({_tex(seeds)}" if seeds else ""), theirs
    note = "*" if place.scored else f", {place.note}" if place.note else ""
    note += f", {place.broken}" if place.broken else ""
    return (place.number, _tex(f"{place.short_spread}{note}")), theirs


def _contrasts(table: Table, contrasts: Sequence[Contrast]) -> str:
    about = [f"{heading(table)}, contrasts (train → test): b against a, on the same queries."]
    about += [*about_contrasts(table, contrasts), test_note(contrasts)]
    body = []
    for kind in dict.fromkeys(contrast.kind for contrast in contrasts):
        body.append(f"\\midrule \\multicolumn{{10}}{{l}}{{{_tex(kind.capitalize())}}} \\\\")
        for contrast in (c for c in contrasts if c.kind == kind):
            ends = f"{_tex(contrast.a)} & {_tex(contrast.b)}"
            if figures := figures_of(contrast):
                body.append(f"{ends} & {' & '.join(map(_tex, astuple(figures)))} \\\\")
            else:
                body.append(f"{ends} & \\multicolumn{{8}}{{r}}{{{_tex(contrast.status)}}} \\\\")
    head = ["a & b & $n$ & units & only a & only b & $b-a$ & 95 \\% & $p$ & Holm"]
    return _environment("scriptsize", _tex(" ".join(about)), "llrrrrrrrr", head, body)


def _lines(lines: Lines) -> str:
    """A table of lines in words."""
    head = [" & ".join(map(_tex, lines.heads))]
    body = [f"{' & '.join(map(_tex, row))} \\\\" for row in lines.rows]
    caption = _tex(f"{lines.title} {lines.about}")
    columns = f"l{'r' * (len(lines.heads) - 1)}"
    return _environment("scriptsize", caption, columns, head, ["\\midrule", *body])


def _environment(
    size: str, caption: str, columns: str, head: Sequence[str], body: Sequence[str]
) -> str:
    """A table environment around lines of LaTeX."""
    return "\n".join(
        [
            "\\begin{table}",
            f"\\centering\\{size}\\setlength{{\\tabcolsep}}{{2pt}}\\setlength{{\\belowcaptionskip}}{{4pt}}",
            f"\\caption{{{caption}}}",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            *head[:-1],
            f"{head[-1]} \\\\",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    )


TEX = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "“": "``",
    "”": "''",
    "→": "$\\to$",
    "±": "$\\pm$",
    "×": "$\\times$",
    "−": "$-$",
    "–": "--",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}


def _tex(text: str) -> str:
    return "".join(TEX.get(char, char) for char in text)
