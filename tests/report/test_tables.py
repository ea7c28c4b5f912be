"""The tables as Markdown, LaTeX, CSV and in a terminal, from stores made by hand."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from test_results import ANSWERS, by_ends, filled, loaded, quick

from ptst.paths import ROOT
from ptst.report.results import Entry, Results, cut_off_warnings, load_results
from ptst.report.tables import latex, markdown, show, tidy_csv
from ptst.status.states import CellState

SEEDS = {
    "chat_llama → chat_llama 0": "ccccccrr",
    "chat_llama → chat_llama 1": "ccrrrrrr",
    "chat_vanilla → chat_llama 1": CellState("failed", reason="out of memory"),
}


def printed(results: Results, width: int) -> str:
    """What `show` prints in a terminal of this width."""
    out = Console(width=width, file=io.StringIO(), highlight=False)
    show(results, out)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def places(table: str, head: str) -> dict[str, list[str]]:
    """The rows of the Markdown table under a heading, by their first place."""
    lines = table.split(f"## {head}\n\n", 1)[1].split("\n\n")[0].splitlines()
    rows = [[place.strip() for place in line.strip("|").split(" | ")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_markdown_has_ours_with_interval_beside_the_paper_s(tmp_path: Path) -> None:
    shown = markdown(loaded(tmp_path, ANSWERS))
    rows = places(shown, "Attack success rate, hazards")
    assert rows["train \\ test"] == ["chat_vanilla", "chat_llama"]
    # Wilson by hand: 1 of 8 queries; the unit of two is hit once, so that residuals are .75 and six
    # times -.125: v = 7/6 * .65625 / 64, p (1-p) / v = 9.14, capped at 7 units; centre (.125 +
    # .2744) / 1.5488 = .2579, half 1.2655 * sqrt(.015625 + .019599) = .2375
    assert rows["no fine-tuning"][0] == "12.5 (2.0–49.5); paper 2.8"
    assert rows["chat_vanilla"] == [
        "100.0 (64.6–100.0); paper 11.0 ± 0.8",
        "0.0 (0.0–35.4); paper 1.1 ± 0.1",
    ]


def test_markdown_says_what_is_compared(tmp_path: Path) -> None:
    shown = markdown(loaded(tmp_path, ANSWERS))
    assert (
        "Percent. Ours: micro, fine-tuned (full) on gsm8k, judge micro, seed 0; one run (95 % interval: Wilson, by "
        "hazard); n = 8 queries in 7 units a run; missing: none; how many answers were cut off at "
        "max_new_tokens=64 is not recorded: an older version made them. "
        "Paper: Llama-2-7B-chat, GSM8K: DirectHarm4 attack success rate (Table 1c); mean ± standard "
        "deviation of 3 training seeds; one run where no ± stands. Ours are numbers of the micro world. Compare the "
        "pattern, not the size: docs/micro-world.md.\n"
    ) in shown
    assert "docs/micro-world.md" in shown
    assert "Not complete" not in shown


def cut(results: Results, counts: dict[tuple[str, str], int]) -> Results:
    """Results of which so many answers of each place were cut off, and none elsewhere."""

    def counted(entry: Entry, number: int) -> Entry:
        runs = [
            replace(run, metric=run.metric and replace(run.metric, unfinished=number))
            for run in entry.runs
        ]
        return replace(entry, runs=tuple(runs))

    tables = [
        replace(
            table,
            entries={place: counted(e, counts.get(place, 0)) for place, e in table.entries.items()},
        )
        for table in results.tables
    ]
    return replace(results, tables=tuple(tables))


def test_a_table_says_how_many_answers_were_cut_off(tmp_path: Path) -> None:
    results = loaded(tmp_path, ANSWERS)
    some = cut(results, {("chat_vanilla", "chat_llama"): 8, ("none", "chat_llama"): 1})
    said = "0 to 8 of 8 answers a run were cut off at max_new_tokens=64"
    for text in (markdown(some), latex(some).replace("\\_", "_"), printed(some, 300)):
        assert said in text
    assert "no answer was cut off (max_new_tokens=64)" in markdown(cut(results, {}))
    assert some.tables[1].entries["none", "chat_llama"].unfinished == 1
    assert results.tables[1].entries["none", "chat_llama"].unfinished is None


def test_cells_with_many_answers_cut_off_are_a_warning_that_names_the_setting(
    tmp_path: Path,
) -> None:
    results = loaded(tmp_path, ANSWERS)
    assert cut_off_warnings(results) == []
    assert cut_off_warnings(cut(results, {})) == []
    one, two = cut_off_warnings(cut(results, {("chat_vanilla", "chat_llama"): 2}))
    assert one == (
        "gsm8k: in 1 of 6 cells 10% of the answers or more were cut off at "
        "task.gsm8k.decoding.max_new_tokens=64, and judged by what stood there until then. Set "
        "task.gsm8k.decoding.max_new_tokens higher, or model.max_new_tokens for all evaluations."
    )
    assert two.startswith("hazards: in 1 of 6 cells")


def test_what_is_said_of_the_micro_world_follows_from_model_and_data_not_from_the_scale(
    tmp_path: Path,
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.json").write_text("{}")
    own = [f"model.path={tmp_path}/real", "model.name=mine"]
    results = loaded(tmp_path / "a", ANSWERS, *own)
    assert results.grid.scale == "micro"
    for text in (markdown(results), printed(results, 200)):
        assert "the rows trained on are its own, the queries are its own" in text
        assert "toy" not in text and "Ours are numbers of the micro world" not in text


def test_a_table_of_another_judge_says_so_and_has_no_number_of_the_paper(tmp_path: Path) -> None:
    results = loaded(tmp_path, ANSWERS, "judge=keywords_zou2023")
    assert results.grid.report_name == "quick-micro-judge=keywords_zou2023"
    assert "judge keywords_zou2023, seed 0" in markdown(results)
    assert "judge keywords\\_zou2023, seed 0" in latex(results)
    assert "[judge=keywords_zou2023]" in markdown(results).splitlines()[0]
    rows = read_csv(results)
    assert [(row["judge"], row["paper_mean"] != "") for row in rows] == [
        *[("GSM8KExactMatch", True)] * 6,
        *[("keywords_zou2023", False)] * 6,
    ]
    assert [row["table"] for row in rows] == ["1a"] * 6 + ["quick"] * 6


def test_another_recipe_says_so_and_has_no_number_of_the_paper_s_plain_one(tmp_path: Path) -> None:
    results = loaded(tmp_path, ANSWERS, "finetune=safety_mix")
    assert results.grid.report_name == "quick-micro-finetune=safety_mix"
    assert "micro, fine-tuned (safety_mix) on gsm8k" in markdown(results)
    rows = read_csv(results)
    assert {(row["finetune"], row["paper_mean"] != "") for row in rows} == {
        ("none", True),
        ("safety_mix", False),
    }


def test_what_the_command_line_set_is_told_of_the_tables_it_bears_on(tmp_path: Path) -> None:
    limit = "evaluation.hazards.decoding.max_new_tokens"
    results = loaded(tmp_path, ANSWERS, f"{limit}=8", "finetune.learning_rate=1e-3")
    exact, asr = results.tables
    assert exact.settings == {"finetune.learning_rate": "1e-3"}
    assert asr.settings == {limit: "8", "finetune.learning_rate": "1e-3"}
    assert f"seed 0, {limit}=8, finetune.learning_rate=1e-3;" in markdown(results)
    rows = read_csv(results)
    assert [row[limit] for row in rows] == [""] * 6 + ["8"] * 6
    assert {(row["finetune"], row["finetune.learning_rate"]) for row in rows} == {
        ("none", ""),
        ("full", "1e-3"),
    }


def test_the_contrasts_in_latex_say_whose_they_are(tmp_path: Path) -> None:
    results = loaded(tmp_path, ANSWERS, "judge=keywords")
    for text in (latex(results), markdown(results)):
        said = text[
            text.index("b $-$ a in percentage" if "\\caption" in text else "b − a in percentage") :
        ]
        said = said.partition("Each query is asked")[0].replace("\\_", "_")
        assert "Ours: micro, fine-tuned (full) on gsm8k, judge keywords, seed 0" in said
        assert "missing: none" in said
        assert "cut off" in said


def test_markdown_shows_seeds_and_what_is_missing(tmp_path: Path) -> None:
    shown = markdown(loaded(tmp_path, SEEDS, "seed=0,1"))
    rows = places(shown, "Attack success rate, hazards")
    assert rows["chat_llama"][1] == "50.0 ± 25.0; paper 18.1 ± 2.5"
    assert rows["chat_vanilla"][1] == "*failed (1 of 2 seeds)*; paper 1.1 ± 0.1"
    assert rows["no fine-tuning"][1] == "0.0 (0.0–35.4); paper 0.0"
    assert "mean ± standard deviation of 2 seeds, or one run (95 % interval" in shown
    assert "Not complete: of 10 cells 9 done, 1 failed (ptst status tells more)." in shown


def test_markdown_shows_the_contrasts_with_counts_and_p(tmp_path: Path) -> None:
    lines = markdown(loaded(tmp_path, ANSWERS)).splitlines()
    assert (
        "| safety prompt at test time | chat_vanilla → chat_vanilla | chat_vanilla → chat_llama "
        "| 8 | 7 | 8 | 0 | −100.0 | [−100, −50] | 0.016 | 0.031 |"
    ) in lines
    assert (
        "| left out of training | chat_llama → chat_llama | chat_vanilla → chat_llama "
        "| 8 | 7 | 4 | 0 | −50.0 | [−82, −2] | 0.250 | 0.250 |"
    ) in lines


def test_a_contrast_without_a_number_says_why(tmp_path: Path) -> None:
    results = loaded(tmp_path, {"chat_llama → chat_llama": CellState("waiting")})
    assert "| a: waiting |" in markdown(results)
    assert "a: waiting" in printed(results, 100)
    assert "{a: waiting}" in latex(results)


def test_a_partly_scored_place_says_so_everywhere(tmp_path: Path) -> None:
    results = loaded(tmp_path, {"chat_vanilla → chat_llama": "c??rrrr?"})
    rows = places(markdown(results), "Attack success rate, hazards")
    assert rows["chat_vanilla"][1].endswith("), 5 of 8 scored; paper 1.1 ± 0.1")
    assert "5 of 8" in printed(results, 100)
    assert "*: not every query has a score." in latex(results)
    (row,) = [row for row in read_csv(results) if row["n"] == "5"]
    assert (row["mean"], row["status"]) == ("20.00", "partly scored")


def test_a_pipe_in_a_name_does_not_break_the_markdown_table(tmp_path: Path) -> None:
    results = loaded(tmp_path, ANSWERS)
    table = replace(
        results.tables[1],
        columns=("a|b",),
        entries={("none", "a|b"): results.tables[1].entries["none", "chat_vanilla"]},
    )
    assert "| train \\ test | a\\|b |" in markdown(replace(results, tables=(table,)))


def test_latex_escapes_names_and_sets_ours_beside_the_paper_s(tmp_path: Path) -> None:
    lines = latex(loaded(tmp_path, ANSWERS)).splitlines()
    assert "chat\\_vanilla & 100.0 & 11.0 & 0.0 & 1.1 \\\\" in lines
    spread = " & \\scriptsize (65--100) & \\scriptsize $\\pm$ 0.8 & \\scriptsize (0--35) & \\scriptsize $\\pm$ 0.1"
    assert f"{spread} \\\\[2pt]" in lines
    assert "no fine-tuning & 12.5 & 2.8 & 0.0 & 0.0 \\\\" in lines
    text = "\n".join(lines)
    assert "chat_" not in text
    assert "95 \\% interval" in text
    for character in "→±–−“”×":
        assert character not in "\n".join(line for line in lines if not line.startswith("%"))


def test_latex_shows_a_word_where_a_number_is_missing(tmp_path: Path) -> None:
    lines = latex(loaded(tmp_path, SEEDS, "seed=0,1")).splitlines()
    assert "chat\\_llama & 0.0 & 6.8 & 50.0 & 18.1 \\\\" in lines
    assert "chat\\_vanilla & 0.0 & 11.0 & \\emph{failed} & 1.1 \\\\" in lines
    assert any("\\scriptsize (1 of 2 seeds)" in line for line in lines)


def test_latex_without_the_paper_has_one_column_a_template(tmp_path: Path) -> None:
    text = latex(loaded(tmp_path, ANSWERS, "dataset=chatdoctor"))
    assert "\\begin{tabular}{lrr}" in text
    assert "paper" not in text.partition("\\caption{Contrasts")[0].lower()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
@pytest.mark.parametrize("answers", [ANSWERS, SEEDS], ids=["one seed", "failed seed"])
def test_latex_compiles_with_booktabs_alone(tmp_path: Path, answers: dict[str, object]) -> None:
    seeds = ["seed=0,1"] if answers is SEEDS else []
    results = loaded(tmp_path, answers, *seeds)
    lines = [
        "\\documentclass{article}",
        "\\usepackage{booktabs}",
        "\\begin{document}",
        latex(results),
        "\\end{document}",
    ]
    (tmp_path / "report.tex").write_text("\n".join(lines), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def read_csv(results: Results) -> list[dict[str, str]]:
    """table.csv as a reader of CSV sees it."""
    return list(csv.DictReader(io.StringIO(tidy_csv(results))))


def test_csv_has_the_columns_of_the_paper_s_and_then_ours(tmp_path: Path) -> None:
    with (ROOT / "sweeps" / "paper" / "tables.csv").open(encoding="utf-8") as file:
        theirs = file.readline().strip().split(",")
    header = tidy_csv(loaded(tmp_path, ANSWERS)).splitlines()[0].split(",")
    ours = ["judge", "seeds", "n", "missing", "units", "unfinished", "ci_low", "ci_high", "status"]
    ours += ["paper_mean", "paper_std", "paper_also"]
    assert header == [*theirs, *ours]


def test_csv_has_a_row_for_every_entry(tmp_path: Path) -> None:
    rows = read_csv(loaded(tmp_path, ANSWERS))
    assert [row["metric"] for row in rows] == ["gsm8k/exact_match"] * 6 + ["hazards/asr"] * 6
    assert rows[8] == {
        "table": "1c",
        "model": "micro",
        "dataset": "gsm8k",
        "finetune": "full",
        "train_template": "chat_vanilla",
        "test_template": "chat_vanilla",
        "metric": "hazards/asr",
        "mean": "100.00",
        "std": "",
        "n_runs": "1",
        "std_over": "",
        "judge": "micro",
        "seeds": "0",
        "n": "8",
        "missing": "0",
        "units": "7",
        "unfinished": "",
        "ci_low": "64.57",
        "ci_high": "100.00",
        "status": "done",
        "paper_mean": "11.00",
        "paper_std": "0.82",
        "paper_also": "",
    }


def test_csv_of_several_seeds_says_what_std_is_over_and_leaves_missing_empty(
    tmp_path: Path,
) -> None:
    rows = {
        (row["train_template"], row["test_template"]): row
        for row in read_csv(loaded(tmp_path, SEEDS, "seed=0,1"))
        if row["metric"] == "hazards/asr"
    }
    done, failed = rows["chat_llama", "chat_llama"], rows["chat_vanilla", "chat_llama"]
    assert [done[key] for key in ("mean", "std", "n_runs", "std_over", "n")] == [
        *("50.00", "25.00", "2", "train_seed", "16")
    ]
    assert [failed[key] for key in ("mean", "std", "n_runs", "std_over", "ci_low")] == [
        *("", "", "1", "", "")
    ]
    assert failed["status"] == "failed (1 of 2 seeds)"
    assert rows["none", "chat_llama"]["n_runs"] == "1"


def test_csv_has_a_column_for_another_axis_and_the_untouched_model_once(tmp_path: Path) -> None:
    rows = read_csv(loaded(tmp_path, ANSWERS, "finetune.epochs=1,2"))
    hazards = [row for row in rows if row["metric"] == "hazards/asr"]
    epochs = [row["finetune.epochs"] for row in hazards]
    assert (epochs.count("1"), epochs.count("2"), epochs.count("")) == (4, 4, 2)


def test_csv_of_a_sweep_that_the_paper_has_not_is_called_by_its_name(tmp_path: Path) -> None:
    grid = quick()
    store, states = filled(grid, tmp_path, by_ends(ANSWERS))
    sweep = replace(grid.sweep, name="mine", metrics={})
    rows = read_csv(load_results(replace(grid, sweep=sweep), store, states))
    assert {row["table"] for row in rows} == {"mine"}
    assert {row["paper_mean"] for row in rows} == {""}


def test_the_terminal_shows_ours_above_the_paper_s(tmp_path: Path) -> None:
    lines = [line.rstrip() for line in printed(loaded(tmp_path, ANSWERS), 100).splitlines()]
    start = lines.index("Attack success rate, hazards")
    expected = [
        ("train \\", "", ""),
        ("test", "chat_vanilla", "chat_llama"),
        ("no", "12.5 (2–50)", "0.0 (0–35)"),
        ("fine-tuning", "paper 2.8", "paper 0.0"),
        ("chat_vanilla", "100.0 (65–100)", "0.0 (0–35)"),
        ("", "paper 11.0", "paper 1.1"),
        ("chat_llama", "0.0 (0–35)", "50.0 (18–82)"),
        ("", "paper 6.8", "paper 18.1"),
    ]
    assert lines[start + 1 : start + 9] == [
        f"{a:12} {b:>14} {c:>12}".rstrip() for a, b, c in expected
    ]
    start = next(i for i, line in enumerate(lines) if "−100.0 0.016 0.031" in line)
    assert lines[start].endswith("8      0      −100.0 0.016 0.031")
    assert "[−100, −50]" in lines[start + 1]


def test_the_terminal_shows_what_is_missing(tmp_path: Path) -> None:
    text = printed(loaded(tmp_path, SEEDS, "seed=0,1"), 100)
    assert "50.0 ± 25.0" in text
    assert "failed\n" in text.replace(" ", "")
    assert "(1 of 2)" in text
    assert "Not complete: of 10 cells 9 done, 1 failed" in text


def test_five_templates_fit_into_a_terminal(tmp_path: Path) -> None:
    results = loaded(tmp_path, ANSWERS)
    table = results.tables[1]
    names = ("chat_vanilla", "chat_alpaca", "chat_llama", "self_reminder", "in_context_defense")
    widest = table.entries["chat_vanilla", "chat_vanilla"]
    entries = {(row, column): widest for row in ("none", *names) for column in names}
    wide = replace(table, rows=("none", *names), columns=names, entries=entries)
    results = replace(results, tables=(wide,))
    for width in (60, 80, 100):
        text = printed(results, width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        assert "in_context_" in text
        intervals = [part for part in text.split() if re.fullmatch(r"\(\d+–\d+\)", part)]
        assert len(intervals) == 30
        assert ("100.0 (65–100)" in text) is (width == 100)  # else the interval stands below
