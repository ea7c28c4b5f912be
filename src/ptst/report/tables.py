"""The tables of a report as text: Markdown, LaTeX, tidy CSV, and for a terminal.

All of them say the same of every place: ours with its spread, the paper's number beside it, and where
there is no number, why.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ptst.metrics import Scale, decimals, scale_in_words, shown
from ptst.report.results import Contrast, Entry, Published, Results, Run, Table, also, cut_off_note
from ptst.status.states import STATES

PAPER_COLUMNS = (
    "table",
    "model",
    "dataset",
    "finetune",
    "train_template",
    "test_template",
    "metric",
    "mean",
    "std",
    "n_runs",
    "std_over",
)
"""The columns of sweeps/paper/tables.csv."""
OUR_COLUMNS = (
    "judge",
    "seeds",
    "n",
    "missing",
    "units",
    "unfinished",
    "ci_low",
    "ci_high",
    "status",
    "paper_mean",
    "paper_std",
    "paper_also",
)

SEEDS = {"train_seed": "training seeds", "decoding_seed": "sampling seeds"}

TEST_NOTE = (
    "Each query is asked of both cells; “only a” counts queries that are a hit in a and not in b. In brackets: "
    "95 % interval of the difference (Newcombe's for pairs, over units). p: exact two-sided sign-flip test "
    "over units, which is McNemar's exact test where each unit is one query under one seed; it speaks about "
    "queries, of these fine-tunings. Holm: corrected for all contrasts of the sweep that are tested, in one "
    "metric of each evaluation."
)
MEAN_NOTE = (
    " Of a mean, “only a” counts queries with the higher value in a; its interval is Student's, and it has a test "
    "where all values are whole numbers."
)


def markdown(results: Results) -> str:
    """table.md: a section for every table, then the contrasts with their tests."""
    parts = [f"# {_title(results)}", *_state_lines(results)]
    for table in results.tables:
        head = [_corner(results)]
        head += [_name_of(table, 1, column) for column in table.columns]
        lines = [head, ["---", *["---:"] * len(table.columns)]]
        for row in table.rows:
            shown = [_markdown_place(table, table.entries.get((row, c))) for c in table.columns]
            lines.append([_name_of(table, 0, row), *shown])
        parts += [f"## {heading(table)}", _markdown_table(lines), " ".join(about_table(table))]
        if table.by_category:
            parts += _markdown_categories(table.by_category)
    if results.contrasts:
        parts += ["## Contrasts: b against a, on the same queries"]
        for table in results.tables:
            if chosen := contrasts_of(results, table):
                lines = [
                    ["", "a (train → test)", "b (train → test)", "n", "units", "only a", "only b"],
                    ["---"] * 3 + ["---:"] * 4,
                ]
                points = ", points" if table.scale is None else ""
                lines[0] += [f"b − a{points}", "95 % interval", "p", "p (Holm)"]
                lines[1] += ["---:"] * 4
                lines += [[c.kind, c.a, c.b, *_figures(c)] for c in chosen]
                about = " ".join([*about_contrasts(table, chosen), _test_note(chosen)])
                parts += [f"### {heading(table)}", _markdown_table(lines), about]
    return "\n\n".join(parts) + "\n"


def _markdown_categories(table: Table) -> list[str]:
    lines = [["", *table.columns], ["---", *["---:"] * len(table.columns)]]
    for row in table.rows:
        places = [_markdown_place(table, table.entries.get((row, c))) for c in table.columns]
        lines.append([row, *places])
    return [f"### {heading(table)}", _markdown_table(lines), " ".join(about_table(table))]


def _markdown_place(table: Table, entry: Entry | None) -> str:
    if entry is None:
        return ""
    paper = f"; paper {_spread_of(entry.paper, entry.scale)}" if entry.paper else ""
    if entry.mean is None:
        return f"*{entry.status}*{paper}"
    spread = _spread(entry)
    number = shown(entry.mean, entry.scale)
    return f"{number}{f' {spread}' if spread else ''}{_n_note(table, entry)}{paper}"


def _markdown_table(lines: Sequence[Sequence[str]]) -> str:
    escaped = [[text.replace("|", "\\|") for text in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def latex(results: Results) -> str:
    r"""table.tex: one table environment each; needs \usepackage{booktabs} and nothing else."""
    parts = [f"% {_title(results)}: {results.grid.report_name}. Needs \\usepackage{{booktabs}}."]
    parts += [f"% {line}" for line in _state_lines(results)]
    for table in results.tables:
        parts.append(_latex_table(table, _corner(results)))
        if table.by_category:
            parts.append(_latex_table(table.by_category, ""))
        if chosen := contrasts_of(results, table):
            parts.append(_latex_contrasts(table, chosen))
    return "\n\n".join(parts) + "\n"


def _latex_table(table: Table, axes: str) -> str:
    both = table.paper is not None
    step = 2 if both else 1
    corner = _tex(axes)
    names = [_tex(_name_of(table, 1, column)) for column in table.columns]
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
        figures, spreads = [_tex(_name_of(table, 0, row))], [""]
        for column in table.columns:
            ours, theirs = _latex_place(table, table.entries.get((row, column)))
            for figure, spread in (ours, theirs)[:step]:
                figures.append(figure)
                spreads.append(f"\\scriptsize {spread}" if spread else "")
        body.append(f"{' & '.join(figures)} \\\\")
        if any(spreads):
            body.append(f"{' & '.join(spreads)} \\\\[2pt]")
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering\\footnotesize\\setlength{\\tabcolsep}{2pt}\\setlength{\\belowcaptionskip}{4pt}",
            f"\\caption{{{_tex(' '.join(about))}}}",
            f"\\begin{{tabular}}{{l{'r' * step * len(table.columns)}}}",
            "\\toprule",
            *head[:-1],
            f"{head[-1]} \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    )


def _latex_place(table: Table, entry: Entry | None) -> tuple[tuple[str, str], tuple[str, str]]:
    """Figure and spread of ours, and of the paper's."""
    if entry is None:
        return ("", ""), ("", "")
    paper = entry.paper
    theirs = ("--", "")
    if paper is not None:
        theirs = shown(paper.mean, entry.scale), _tex(_std(paper.std, entry.scale))
    if entry.mean is None:
        word, _, seeds = entry.status.partition(" (")
        return (f"\\emph{{{_tex(word)}}}", f"({_tex(seeds)}" if seeds else ""), theirs
    note = "*" if entry.missing else _n_note(table, entry)
    return (shown(entry.mean, entry.scale), _tex(f"{_spread(entry, short=True)}{note}")), theirs


def _latex_contrasts(table: Table, contrasts: Sequence[Contrast]) -> str:
    about = [f"{heading(table)}, contrasts (train → test): b against a, on the same queries."]
    about += [*about_contrasts(table, contrasts), _test_note(contrasts)]
    body = []
    for kind in dict.fromkeys(contrast.kind for contrast in contrasts):
        body.append(f"\\midrule \\multicolumn{{10}}{{l}}{{{_tex(kind.capitalize())}}} \\\\")
        for contrast in (c for c in contrasts if c.kind == kind):
            ends = f"{_tex(contrast.a)} & {_tex(contrast.b)}"
            if contrast.difference is None:
                body.append(f"{ends} & \\multicolumn{{8}}{{r}}{{{_tex(contrast.status)}}} \\\\")
            else:
                body.append(f"{ends} & {' & '.join(map(_tex, _figures(contrast)))} \\\\")
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering\\scriptsize\\setlength{\\tabcolsep}{2pt}\\setlength{\\belowcaptionskip}{4pt}",
            f"\\caption{{{_tex(' '.join(about))}}}",
            "\\begin{tabular}{llrrrrrrrr}",
            "\\toprule",
            "a & b & $n$ & units & only a & only b & $b-a$ & 95 \\% & $p$ & Holm \\\\",
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


def tidy_csv(results: Results) -> str:
    """table.csv: a row for every entry, in the columns of sweeps/paper/tables.csv and some more.

    After the paper's columns stand the judge, the seeds of the runs, n, missing, units, unfinished (answers cut off at max_new_tokens), ci_low,
    ci_high, status, paper_mean, paper_std, paper_also (what another of its tables says: "Table 6b 0.75"), the other
    coordinates that the sweep varies, and what the command line set otherwise than the sweep. Percent with two
    decimals, a mean with four; empty where there is no number.
    """
    return _csv(results, {"": results.tables})


def category_csv(results: Results) -> str | None:
    """categories.csv: as table.csv, with a row for every entry and category; None where there are none."""
    by_category: dict[str, list[Table]] = {}
    for table in results.tables:
        if whole := table.by_category:
            for category in whole.columns:
                by_category.setdefault(category, []).append(replace(whole, columns=(category,)))
    return _csv(results, by_category) if by_category else None


def _csv(results: Results, tables: Mapping[str, Sequence[Table]]) -> str:
    """The entries of these tables, by category (an empty one: of all queries)."""
    entries: dict[tuple[str, ...], tuple[str, Entry, dict[str, str]]] = {}
    for category, of_category in tables.items():
        for table in of_category:
            for row in table.rows:
                for column in table.columns:
                    entry = table.entries.get((row, column))
                    if entry:  # the untouched model may stand in many tables: once here
                        own = map(str, sorted(entry.coordinates.items()))
                        settings = table.settings
                        if entry.coordinates["finetune"] == "none":
                            settings = {
                                k: v
                                for k, v in settings.items()
                                if not k.startswith(("finetune", "dataset"))
                            }
                        found = category, entry, settings
                        entries.setdefault((category, entry.metric, *own), found)
    others = dict.fromkeys(
        key
        for _, entry, settings in entries.values()
        for key in (*entry.coordinates, *settings)
        if key not in (*PAPER_COLUMNS, *OUR_COLUMNS)
    )
    named = [] if "" in tables else ["category"]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [*PAPER_COLUMNS, *OUR_COLUMNS, *named, *others], restval="", lineterminator="\n"
    )
    writer.writeheader()
    metrics = results.grid.sweep.metrics
    for category, entry, settings in entries.values():
        table_metric = metrics.get(entry.metric)
        paper = entry.paper
        there = sum(run.metric is not None for run in entry.runs)
        figures = {
            "mean": entry.mean,
            "std": entry.std,
            "ci_low": entry.ci_low,
            "ci_high": entry.ci_high,
            "paper_mean": paper.mean if paper else None,
            "paper_std": paper.std if paper else None,
        }
        digits = 2 if entry.scale is None else 4
        writer.writerow(
            {
                **settings,
                **entry.coordinates,
                **({"category": category} if named else {}),
                **{k: "" if v is None else f"{v:.{digits}f}" for k, v in figures.items()},
                "table": table_metric.paper_table
                if table_metric and table_metric.paper_table and paper
                else results.grid.sweep.name,
                "metric": entry.metric,
                "n_runs": entry.repeats if entry.std_over else there,
                "std_over": entry.std_over or "",
                "judge": entry.judge,
                "seeds": " ".join(_seeds(run for run in entry.runs if run.metric)),
                "n": entry.n,
                "missing": entry.missing,
                "units": entry.units or "",
                "unfinished": "" if entry.unfinished is None else entry.unfinished,
                "status": entry.status,
                "paper_also": "; ".join(
                    f"{where} {mean:.{digits}f}" for where, mean in (paper.also if paper else ())
                ),
            }
        )
    return text.getvalue()


def show(results: Results, out: Console) -> None:
    """Print the tables and contrasts in a terminal; 80 columns are enough for five templates."""
    world = world_of_all(results)
    for table in results.tables:
        out.print()
        out.print(Text(heading(table), "bold"))
        for grid in _terminal_tables(results, table, out.width):
            out.print(grid)
        out.print(Text("\n".join(about_table(table, world=world is None)), "dim"))
    for table in results.tables:
        if chosen := contrasts_of(results, table):
            out.print()
            out.print(Text(f"{heading(table)}: b against a, on the same queries", "bold"))
            out.print(_terminal_contrasts(chosen))
    if results.contrasts:
        out.print(Text(_test_note(results.contrasts), "dim"))
    out.print()
    for line in _state_lines(results):
        out.print(Text(line, "yellow"))
    if world is not None:
        out.print(Text(world))


def _terminal_tables(results: Results, table: Table, width: int) -> list[RichTable]:
    """The table, in two lines a place if that fits, else in three; in pieces if that does not either."""
    corner = _corner(results).replace("\\ ", "\\\n")
    rows = [_name_of(table, 0, row).replace("no fine", "no\nfine") for row in table.rows]
    for break_names_from, between in ((13, " "), (10, "\n")):
        firsts = [_broken(row, 13) for row in rows]
        heads = [_broken(_name_of(table, 1, column), break_names_from) for column in table.columns]
        places = {
            (row, column): _terminal_place(table.entries.get((row, column)), between)
            for row in table.rows
            for column in table.columns
        }
        first = max(map(_width, [corner, *firsts]))
        widths = [
            max(_width(head), *(_width(places[row, column].plain) for row in table.rows))
            for head, column in zip(heads, table.columns, strict=True)
        ]
        if first + sum(widths) + len(widths) <= width:
            break
    pieces: list[list[int]] = [[]]
    for i in range(len(widths)):
        so_far = first + sum(widths[j] + 1 for j in pieces[-1])
        if pieces[-1] and so_far + widths[i] + 1 > width:
            pieces.append([])
        pieces[-1].append(i)
    made = []
    for piece in pieces:
        grid = RichTable(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False)
        grid.add_column(Text(corner, "dim"))
        for i in piece:
            grid.add_column(Text(heads[i]), justify="right", vertical="top")
        for row, name in zip(table.rows, firsts, strict=True):
            grid.add_row(Text(name), *(places[row, table.columns[i]] for i in piece))
        made.append(grid)
    return made


def _terminal_place(entry: Entry | None, between: str) -> Text:
    if entry is None:
        return Text("")
    if entry.mean is None:
        text = Text(entry.status.replace(" (", "\n(").replace(" seeds)", ")"), "red")
    else:
        spread = _spread(entry, short=True)
        text = Text(f"{shown(entry.mean, entry.scale)}{between if spread else ''}{spread}")
        if entry.missing:
            text.append(f"\n{entry.n} of {entry.n + entry.missing}", "yellow")
    if entry.paper:
        text.append(f"\npaper {shown(entry.paper.mean, entry.scale)}", "dim")
        if elsewhere := also(entry.paper, entry.scale):
            text.append(f"\n{elsewhere.strip()}", "dim")
    return text


def _terminal_contrasts(contrasts: Sequence[Contrast]) -> RichTable:
    grid = RichTable(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for end in ("a (train → test)", "b"):
        grid.add_column(end, overflow="fold")
    for head in ("only a", "only b", "b − a", "p", "Holm"):
        grid.add_column(head, justify="right", no_wrap=True)
    kind = None
    for contrast in contrasts:
        if contrast.kind != kind:
            kind = contrast.kind
            grid.add_row(Text(kind, "italic"))
        ends = Text(contrast.a), Text(contrast.b)
        if contrast.difference is None:
            ends[1].append(f"\n{contrast.status}", "yellow")
            grid.add_row(*ends)
        else:
            _, _, only_a, only_b, difference, interval, *p = _figures(contrast)
            grid.add_row(
                *ends, *map(Text, (only_a, only_b, f"{difference}\n{interval}".strip(), *p))
            )
    return grid


def _broken(name: str, longest: int) -> str:
    """A name of more than `longest` - 1 characters, broken after its last underscore."""
    head, underscore, tail = name.rpartition("_")
    return f"{head}{underscore}\n{tail}" if underscore and len(name) >= longest else name


def _width(text: str) -> int:
    return max(map(len, text.split("\n")))


def _title(results: Results) -> str:
    """The sweep's title, with what the command line set otherwise."""
    settings = "; ".join(f"{key}={value}" for key, value in results.grid.settings.items())
    title = results.grid.sweep.title or results.grid.sweep.name
    return f"{title} [{settings}]" if settings else title


def heading(table: Table) -> str:
    """A table's title: "Attack success rate, hazards (seed 0)"."""
    split = ", ".join(f"{key} {value}" for key, value in table.split.items())
    return f"{table.title} ({split})" if split else table.title


def _corner(results: Results) -> str:
    """What rows and columns are: "train \\ test"."""
    sweep = results.grid.sweep
    return f"{sweep.rows.removesuffix('_template')} \\ {sweep.columns.removesuffix('_template')}"


def _name_of(table: Table, side: int, value: str) -> str:
    """A row (side 0) or column (side 1) in words."""
    untouched = all(
        entry.coordinates["finetune"] == "none"
        for place, entry in table.entries.items()
        if place[side] == value
    )
    return "no fine-tuning" if value == "none" and untouched else value


def _spread(entry: Entry, short: bool = False) -> str:
    """ "± 1.2" over seeds, or the interval of a single one: "(12.3–25.0)", `short` "(12–25)"."""
    if entry.std is not None:
        return _std(entry.std, entry.scale)
    if entry.ci_low is None or entry.ci_high is None:
        return ""
    digits = decimals(entry.scale) - (1 if short else 0)
    return f"({entry.ci_low:.{digits}f}–{entry.ci_high:.{digits}f})"


def _std(std: float | None, scale: Scale) -> str:
    return "" if std is None else f"± {shown(std, scale)}"


def _spread_of(paper: Published, scale: Scale) -> str:
    return f"{shown(paper.mean, scale)} {_std(paper.std, scale)}".strip() + also(paper, scale)


def _n_of(table: Table) -> int | None:
    """How many answers every run of a table gave; None where that differs."""
    metrics = [run.metric for entry in table.entries.values() for run in entry.runs if run.metric]
    asked = {metric.n + metric.missing for metric in metrics}
    return asked.pop() if len(asked) == 1 else None


def _n_note(table: Table, entry: Entry) -> str:
    """n beside a number where the line below the table cannot say it for all."""
    if entry.missing:
        return f", {entry.n} of {entry.n + entry.missing} scored"
    return "" if _n_of(table) is not None else f", n = {entry.n}"


def about_table(table: Table, world: bool = True) -> list[str]:
    """What the numbers of a table are: sentences on ours, on the paper's, and on what is not to be read from them.

    Args:
        world: whether what is of the micro world in them is said here.
    """
    warned = [*table.audit, *([table.world] if world and table.world else [])]
    entries = list(table.entries.values())
    numbers = [entry for entry in entries if entry.mean is not None]
    kinds = []
    evaluation = entries[0].runs[0].cell.config.evaluations[table.metric.partition("/")[0]]
    for over, seeds in (("train_seed", "seeds"), ("decoding_seed", "sampling seeds")):
        if counts := sorted({entry.repeats for entry in numbers if entry.std_over == over}):
            kinds.append(f"mean ± standard deviation of {' or '.join(map(str, counts))} {seeds}")
    if any(entry.std is None for entry in numbers):
        interval = "Wilson" if table.scale is None else "Student's t"
        kinds.append(f"one run (95 % interval: {interval}, by {evaluation.unit or 'query'})")
    words = scale_in_words(table.scale).capitalize()
    said = [f"{words}. Ours: {_made_with(table)}", *([", or ".join(kinds)] if kinds else [])]
    n, units = _n_of(table), {entry.units for entry in numbers}
    if n is not None:
        asked = "queries" if evaluation.decoding.samples == 1 else "answers"
        several = evaluation.unit is not None or units != {n}
        of = f" in {units.pop()} units" if len(units) == 1 and several else ""
        said.append(f"n = {n} {asked}{of} a run")
    if numbers:
        said.append(f"missing: {sum(entry.missing for entry in numbers) or 'none'}")
    said += [note] if (note := cut_off_note(table)) else []
    ours = f"{'; '.join(said)}."
    if table.paper is None:
        return [ours, *warned]
    theirs = sorted({_runs_of(entry.paper) for entry in entries if entry.paper})
    return [ours, f"Paper: {table.paper}; {'; '.join(theirs)}.", *warned]


def _made_with(table: Table) -> str:
    """Whose numbers a table has: "micro, fine-tuned (full) on gsm8k, judge micro, seed 0"."""
    entries = list(table.entries.values())

    def all_of(key: str) -> str:
        return ", ".join(
            dict.fromkeys(e.coordinates[key] for e in entries if e.coordinates[key] != "none")
        )

    seeds = _seeds(run for entry in entries for run in entry.runs)
    tuned = all_of("finetune")
    said = [all_of("model")]
    said += [f"fine-tuned ({tuned}) on {all_of('dataset')}" if tuned else "not fine-tuned"]
    said += [f"judge {' or '.join(dict.fromkeys(entry.judge for entry in entries))}"]
    said += [f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"] if seeds else []
    said += [f"{key}={_without_place(key, value)}" for key, value in table.settings.items()]
    return ", ".join(said)


def _seeds(runs: Iterable[Run]) -> list[str]:
    own = (run.cell.coordinates for run in runs)
    return list(dict.fromkeys(c["seed"] for c in own if "seed" in c))


def _without_place(key: str, value: str) -> str:
    """A setting's value for a caption: of a path of this machine, what it leads to."""
    return PurePath(value).name if key.endswith("path") and PurePath(value).is_absolute() else value


def world_of_all(results: Results) -> str | None:
    """What every table says of the micro world alike; None where they do not agree, or where nothing is said."""
    worlds = {table.world for table in results.tables}
    return worlds.pop() if len(worlds) == 1 else None


def _runs_of(paper: Published) -> str:
    n = paper.n_runs
    if paper.std is not None:
        return f"mean ± standard deviation of {n} {SEEDS.get(paper.std_over or '', 'runs')}"
    return "one run where no ± stands" if n == 1 else f"mean of {n} runs where no ± stands"


def contrasts_of(results: Results, table: Table) -> list[Contrast]:
    """The contrasts that a table's metric has."""
    return [c for c in results.contrasts if (c.metric, c.split) == (table.metric, table.split)]


def about_contrasts(table: Table, contrasts: Sequence[Contrast], world: bool = True) -> list[str]:
    """What the numbers of a table of contrasts are, so that it can stand without the table of its metric."""
    ends = {end for contrast in contrasts for end in (contrast.a, contrast.b)}
    entries = {place: e for place, e in table.entries.items() if " → ".join(place) in ends}
    own = replace(table, entries=entries)
    numbers = [entry for entry in entries.values() if entry.mean is not None]
    of = "in percentage points" if table.scale is None else f"of the {scale_in_words(table.scale)}"
    said = [f"b − a {of}. Ours: {_made_with(own)}"]
    if numbers:
        said.append(f"missing: {sum(entry.missing for entry in numbers) or 'none'}")
    said += [note] if (note := cut_off_note(own)) else []
    return [f"{'; '.join(said)}.", *table.audit, *([table.world] if world and table.world else [])]


def _test_note(contrasts: Sequence[Contrast]) -> str:
    means = any(contrast.scale is not None for contrast in contrasts)
    return TEST_NOTE + (MEAN_NOTE if means else "")


def _figures(contrast: Contrast) -> list[str]:
    """n, units, only a, only b, difference, its interval, p, Holm's p; the status where there is no difference."""
    if contrast.difference is None:
        return ["", "", "", "", contrast.status, "", "", ""]
    difference = shown(contrast.difference, contrast.scale, signed=bool(contrast.difference))
    counts = (contrast.n, contrast.units, contrast.only_a, contrast.only_b)
    p = [p_in_words(contrast.p), p_in_words(contrast.p_holm)]
    return [*map(str, counts), difference, difference_interval(contrast), *p]


def difference_interval(contrast: Contrast) -> str:
    """ "[−100, −50]"; empty where there is none."""
    if contrast.ci_low is None or contrast.ci_high is None:
        return ""
    digits = decimals(contrast.scale) - 1
    ends = [f"{end:.{digits}f}".replace("-", "−") for end in (contrast.ci_low, contrast.ci_high)]
    return f"[{ends[0]}, {ends[1]}]"


def p_in_words(p: float | None) -> str:
    """ "0.031", "1.2e-05", or "no test"."""
    if p is None:
        return "no test"
    if p >= 0.001:
        return f"{p:.3f}"
    return f"{p:.1e}" if p > 0 else "<1e-300"


def _state_lines(results: Results) -> list[str]:
    """How many cells lack, where any does."""
    counts = Counter(results.states[cell.keys.cell].state for cell in results.grid.distinct)
    if set(counts) <= {"done"}:
        return []
    said = ", ".join(f"{counts[s]} {s}" for s in STATES if counts[s])
    return [f"Not complete: of {counts.total()} cells {said} (ptst status tells more)."]
