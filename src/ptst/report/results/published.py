"""The paper's numbers, and which of them stands beside which of ours."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence

import yaml

from ptst import data
from ptst.keys import components_of, defences, objective_of
from ptst.objective.safety_mix import SafetyMix
from ptst.paths import CONF, ROOT
from ptst.report.results.layout import is_tuned
from ptst.report.results.scores import evaluation_of
from ptst.report.results.types import Published
from ptst.schema import Config, Rows
from ptst.sweep.grid import GridCell
from ptst.sweep_schema import TableMetric

PaperRow = dict[str, str]

PAPER = ROOT / "sweeps" / "paper"

PAPER_JUDGES = ("ptst.judge.rubric.Rubric", "ptst.judge.micro.GroundTruth")
"""The paper's kind of judge, and the one that stands in its place in the micro world: beside other
judges' numbers of safety the paper's say nothing."""

READABLE = {
    "llama2_7b_chat": "Llama-2-7B-chat",
    "mistral_7b_instruct_v02": "Mistral-7B-Instruct-v0.2",
    "gpt35_turbo_0613": "GPT-3.5-turbo-0613",
    "gsm8k": "GSM8K",
    "chatdoctor": "ChatDoctor",
    "openorca": "OpenOrca",
    "advbench": "AdvBench",
    "directharm4": "DirectHarm4",
    "gsm_danger": "GSM-Danger",
    "alpaca": "Alpaca",
    "dolly": "Dolly",
    "hex_phi": "HEx-PHI",
    "gcg": "GCG",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "asr": "attack success rate",
    "exact_match": "exact match",
    "bertscore_f1": "BERTScore F1",
    "mean_score": "mean score",
}
"""What tables.csv abbreviates, as the paper spells it."""


OTHERS = {"qi": "Qi et al. 2023, arXiv 2310.03693; along rates and batches read off bars, ± 0.7"}
"""Tables of other papers, in words."""


def paper_rows() -> list[PaperRow]:
    """The paper's numbers; `at` is empty or, in Figure 2, a coordinate ("finetune.epoch=3"), in
    qi.csv, which is of another paper, two with a space between them."""
    rows = []
    for name in ("tables.csv", "figure2.csv", "qi.csv"):
        with (PAPER / name).open(encoding="utf-8", newline="") as file:
            rows += [{"at": "", **row} for row in csv.DictReader(file)]
    return rows


def rows_for(
    cell: GridCell, metric: str, about: TableMetric, paper: Sequence[PaperRow]
) -> list[PaperRow]:
    """The paper's numbers for a place: of the same templates, in the tables that the sweep names.

    A model that is not in the paper (the micro model, a new one) is set beside whatever model that
    table is about; one that is in the paper only beside its own numbers. The data set must be the
    same always, the fine-tuning one of the paper's kinds, and safety judged by the paper's kind of
    judge. A table has none, too, where more than one of its numbers would fit.
    """
    own, evaluation, kind = cell.coordinates, evaluation_of(cell, metric), _kind(cell)
    if evaluation.measures == "safety" and evaluation.judge["_target_"] not in PAPER_JUDGES:
        return []
    if kind is None:
        return []
    wanted = {
        "metric": about.paper_metric or metric,
        "dataset": own["dataset"],
        "finetune": kind,
        "train_template": own["train_template"],
        "test_template": own["test_template"],
    }
    if own["model"] in {row["model"] for row in paper}:
        wanted["model"] = own["model"]
    elif about.paper_model is not None:
        wanted["model"] = about.paper_model
    fitting = [
        row
        for row in paper
        if all(row[key] == value for key, value in wanted.items()) and _is_at(row["at"], own)
    ]
    named = (about.paper_table, *about.paper_also)
    tables = [[row for row in fitting if row["table"] == table] for table in named]
    return [rows[0] for rows in tables if len(rows) == 1]


def _kind(cell: GridCell) -> str | None:
    """What the paper calls a cell's fine-tuning; None for one that it does not have, as with every
    defence but one.

    Whatever trains on the data set's rows alone is its plain fine-tuning; of mixes it has the
    option safety_mix, whose safety examples are written under the train template. The defence of
    that name is the same mix.
    """
    if defended := defences(cell.config):
        return "safety_mix" if defended == ["safety_mix"] and _is_the_mix(cell.config) else None
    if not is_tuned(cell):
        return "none"
    mix = cell.config.finetune.mix
    if mix is None:
        return "sft"
    own = cell.coordinates["finetune"] == "safety_mix" and mix.template is None
    return "safety_mix" if own else None


def _is_the_mix(config: Config) -> bool:
    """Whether the defence safety_mix is as it is shipped, and the train template's, if named."""
    mix = objective_of(config)
    world = "micro" if config.scale.source == "micro" else "real"
    file = CONF / "defence" / "rows" / f"safety_{world}.yaml"
    alone = set(components_of(config)) == {"objective"}
    if not (alone and isinstance(mix, SafetyMix) and file.is_file()):
        return False
    shipped = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(shipped["n"], int):  # the scale's; the paper mixes all of them
        shipped["n"] = None
    if data.identity(mix.rows) != data.identity(Rows(**shipped)):
        return False
    return mix.template is None or mix.template == config.train_template


def _is_at(at: str, own: Mapping[str, str]) -> bool:
    named = dict(one.split("=", 1) for one in at.split())
    return all(name in own and _same(own[name], value) for name, value in named.items())


def _same(one: str, other: str) -> bool:
    """Whether two values are one, as a YAML and a command line spell it: 5e-05 and 5e-5."""
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other


def published(rows: Sequence[PaperRow]) -> Published | None:
    """The first table's number, and what others say that differs from it."""
    if not rows:
        return None
    row, *others = rows
    return Published(
        float(row["mean"]),
        float(row["std"]) if row["std"] else None,
        int(row["n_runs"]) if row["n_runs"] else None,
        row["std_over"] or None,
        tuple(
            (_where([other]), float(other["mean"]))
            for other in others
            if float(other["mean"]) != float(row["mean"])
        ),
    )


def _where(rows: Sequence[PaperRow]) -> str:
    """Where numbers stand: "Table 6a, 1a", "Figure 3"."""
    tables = list(dict.fromkeys(row["table"] for row in rows))
    if found := [OTHERS[table] for table in tables if table in OTHERS]:
        return found[0]
    figures = all(table.startswith("fig") for table in tables)
    named = ", ".join(table.removeprefix("fig") for table in tables)
    return f"{'Figure' if figures else 'Table'} {named}"


def caption(rows: Sequence[PaperRow]) -> str | None:
    """What the paper's numbers in a table are."""
    if not rows:
        return None

    def named(key: str) -> str:
        return ", ".join(dict.fromkeys(READABLE.get(row[key], row[key]) for row in rows))

    name, _, metric = rows[0]["metric"].partition("/")
    what = f"{READABLE.get(name, name)} {READABLE.get(metric, metric)}"
    return f"{named('model')}, {named('dataset')}: {what} ({_where(rows)})"
