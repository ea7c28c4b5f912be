"""Dashboards of a real small sweep, sent to an endpoint on this machine that stands where W&B's
server does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, outside
from test_tracking import read_run
from wandb_endpoint import Endpoint

from ptst.cell import run_cell
from ptst.cli import main
from ptst.dashboard.definition import HEATMAP, Dashboard, as_json, define
from ptst.errors import ConfigError
from ptst.report.results import Results, load_results
from ptst.status.states import states_of
from ptst.store import Store, read_json, read_jsonl
from ptst.sweep.grid import Grid, expand
from ptst.sweep.run import freeze

KEY = "0123456789abcdef" * 2 + "deadbeef"
SWEEP = ("+sweeps=quick", *TINY, "tracking.entity=me")
FIRST = ("none → chat_vanilla", "none → chat_llama", "chat_vanilla → chat_llama seed 0")
"""The cells that are done at first; the others are still to come."""


def own(folder: Path) -> list[str]:
    return [*SWEEP, f"paths.store={folder}/store", f"paths.reports={folder}/reports"]


def run(grid: Grid, *labels: str) -> None:
    """Run cells of a grid, their W&B runs offline."""
    for cell in grid.cells:
        if cell.label in labels:
            run_cell(cell.config)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store has the first cells of the sweep."""
    folder = tmp_path_factory.mktemp("begun")
    grid = expand(own(folder))
    freeze(grid)  # as ptst -m does; the tests need not compose it again
    run(grid, *FIRST)
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """What W&B is for this test, with the project of the sweep's runs, and a key for it."""
    with Endpoint(projects={"me/ptst"}) as endpoint:
        monkeypatch.setenv("WANDB_BASE_URL", endpoint.base_url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield endpoint


def results_of(folder: Path, *overrides: str) -> Results:
    grid = expand([*own(folder), *overrides])
    store = Store(Path(grid.store))
    return load_results(grid, store, states_of(grid, store))


def defined(*overrides: str) -> tuple[Results, Dashboard]:
    """The dashboard of a sweep of which nothing is done."""
    grid = expand([*overrides, "paths.store=/nowhere"])
    store = Store(Path(grid.store))
    results = load_results(grid, store, states_of(grid, store))
    return results, define(results)


def panels_of(view: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of a workspace's or report's spec."""
    if "section" in view:
        return [p for s in view["section"]["panelBankConfig"]["sections"] for p in s["panels"]]
    grids = [block for block in view["blocks"] if block["type"] == "panel-grid"]
    return [p for g in grids for p in g["metadata"]["panelBankSectionConfig"]["panels"]]


def runs_of(filters: dict[str, Any]) -> list[str]:
    """The ids of the runs that a run set is limited to."""
    (only,) = filters["filters"]
    assert (only["key"], only["op"]) == ({"section": "run", "name": "name"}, "IN")  # W&B's run.id
    found: list[str] = only["value"]
    return found


def test_a_dashboard_is_made_once_and_then_left_alone(
    begun: Path, server: Endpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["dashboard", *own(begun)]) == 0
    assert [name for name, _ in server.mutations] == [
        "CreateCustomChart",
        "upsertView",
        "upsertView",
    ]
    assert {kind for kind, _ in server.views} == {"project-view", "runs"}
    assert server.keys == {KEY}
    first, server.asked = server.mutations, []
    assert main(["dashboard", *own(begun)]) == 0
    assert server.asked
    assert server.mutations == []
    assert main(["dashboard", *own(begun), "output=json"]) == 0
    printed = capfd.readouterr()
    assert KEY not in printed.out + printed.err
    *said, last = printed.out.splitlines()
    assert [line.split(":")[0] for line in said] == [
        "workspace made",
        "report made",
        "workspace unchanged",
        "report unchanged",
    ]
    assert said[0].split()[-1] == said[2].split()[-1]
    for line in said:
        assert f" {server.base_url}/me/ptst" in line
    # What it prints is what was sent: each spec went as a string.
    sent = [given | {"spec": json.loads(given["spec"])} for _, given in first]
    shown = json.loads(last)
    assert [shown["createCustomChart"], *shown["upsertView"]] == sent


def test_what_changed_is_sent_under_the_id_that_it_has(
    begun: Path, server: Endpoint, tmp_path: Path
) -> None:
    shutil.copytree(begun / "store", tmp_path / "store")
    assert main(["dashboard", *own(tmp_path)]) == 0
    ids = {kind: view["id"] for (kind, _), view in server.views.items()}
    assert len(set(ids.values())) == 2
    # Another cell is done: the tables have a number more. The workspace reads it from the run.
    server.asked = []
    run(expand(own(tmp_path)), "chat_vanilla → chat_vanilla seed 0")
    assert main(["dashboard", *own(tmp_path)]) == 0
    ((name, given),) = server.mutations
    assert (name, given["type"], given["id"]) == ("upsertView", "runs", ids["runs"])
    # Another seed: other numbers, in a workspace and a report of their own.
    server.asked = []
    assert main(["dashboard", *own(tmp_path), "seed=0,1"]) == 0
    others = {view["id"] for view in server.views.values()} - set(ids.values())
    assert len(others) == 2
    assert [name for name, _ in server.mutations].count("upsertView") == 2
    server.asked = []
    assert main(["dashboard", *own(tmp_path), "seed=0,1"]) == 0
    assert server.mutations == []


def test_what_the_app_and_people_add_stays_and_what_is_defined_is_restored(
    begun: Path, server: Endpoint
) -> None:
    assert main(["dashboard", *own(begun)]) == 0
    report = next(view for (kind, _), view in server.views.items() if kind == "runs")
    workspace = next(view for (kind, _), view in server.views.items() if kind == "project-view")
    spec = json.loads(report["spec"])
    thread = {"id": "t", "comments": ["why?"]}
    spec |= {"discussionThreads": [thread], "ref": {"viewID": "v", "type": "t", "id": "i"}}
    report["spec"] = json.dumps(spec)
    opened = json.loads(workspace["spec"])
    opened["section"]["workspaceSettings"] = {"shouldAutoGeneratePanels": False}
    workspace["spec"] = json.dumps(opened)
    server.asked = []
    assert main(["dashboard", *own(begun)]) == 0
    assert server.mutations == []
    defined_there = spec["blocks"][1]["content"]
    spec["blocks"][1]["content"] = "by hand"
    report["spec"] = json.dumps(spec)
    opened["section"]["panelBankConfig"]["sections"].pop()
    workspace["spec"] = json.dumps(opened)
    assert main(["dashboard", *own(begun)]) == 0
    assert len(server.mutations) == 2
    restored = json.loads(server.views["runs", report["name"]]["spec"])
    assert restored["blocks"][1]["content"] == defined_there
    assert restored["discussionThreads"] == [thread]


@pytest.mark.parametrize("status", [409, 200])  # GraphQL's errors may come with either
def test_a_chart_that_another_sweep_made_is_the_same(
    begun: Path, server: Endpoint, tmp_path: Path, status: int
) -> None:
    server.conflict = status
    assert main(["dashboard", *own(begun)]) == 0
    server.asked = []
    assert main(["dashboard", *own(tmp_path), "sweep.name=another"]) == 0
    assert [name for name, _ in server.mutations] == [
        "CreateCustomChart",
        "upsertView",
        "upsertView",
    ]
    assert len(server.charts) == 1
    assert len(server.views) == 4


def test_the_package_s_models_read_what_is_sent_as_it_was_meant(begun: Path) -> None:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.reports.v2.internal as reports
    import wandb_workspaces.workspaces as ws
    import wandb_workspaces.workspaces.internal as workspaces

    made = define(results_of(begun))
    assert made == define(results_of(begun))  # ids included
    read = workspaces.View(
        entity="me",
        project="ptst",
        display_name=made.workspace.title,
        name=made.workspace.name,
        id="",
        spec=workspaces.WorkspaceViewspec.model_validate(made.workspace.spec),
    )
    workspace = ws.Workspace._from_model(read)
    assert [section.name for section in workspace.sections] == [
        "Safety",
        "Helpfulness",
        "Safety against helpfulness",
        "Fine-tuning",
        "Costs",
    ]
    again = workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    assert json.loads(again) == made.workspace.spec
    assert re.fullmatch(r"nw-[0-9a-f]{11}-v", made.workspace.name)
    report = wr.Report._from_model(
        reports.ReportViewspec.model_validate(
            {
                "displayName": made.report.title,
                "description": made.report.description,
                "project": {"name": "ptst", "entityName": "me"},
                "spec": json.dumps(made.report.spec),
            }
        )
    )
    kinds = [type(block).__name__ for block in report.blocks]
    assert kinds == ["MarkdownBlock", *["H2", "PanelGrid"] * 3]
    unknown = [*workspace.sections, *(b for b in report.blocks if isinstance(b, wr.PanelGrid))]
    assert {type(panel).__name__ for holder in unknown for panel in holder.panels} == {
        "CustomChart",
        "ScatterPlot",
        "LinePlot",
        "BarPlot",
    }


def test_panels_and_columns_ask_for_what_the_runs_log(begun: Path) -> None:
    logged = [read_run(f) for f in (begun / "store/wandb/wandb").glob("offline-run-*")]
    cells = [r for r in logged if r["id"].startswith("cell-")]
    (tuning,) = [r for r in logged if r["id"].startswith("finetune-")]
    assert len(cells) == len(FIRST)
    made = define(results_of(begun))
    ((runs,), everything) = made.workspace.spec["section"]["runSets"], {r["id"] for r in logged}
    assert everything < set(runs_of(runs["filters"]))
    assert len(runs_of(runs["filters"])) == 6 + 2
    there: dict[str, set[str]] = {"config": set(), "summary": set()}
    for r in logged:
        there["summary"] |= set(r["summary"])
        there["config"] |= {key if not isinstance(v, dict) else f"{key}.{k}" for key, v in r["config"].items() for k in (v if isinstance(v, dict) else [""])}  # fmt: skip
    for view in (made.workspace.spec, made.report.spec):
        text = json.dumps(view)
        asked = set(re.findall(r'"(config|summary):([^"]+)"', text))
        assert {"hazards/asr", "seconds", "completion_tokens"} <= {n for s, n in asked if s == "summary"}  # fmt: skip
        for section, name in asked:
            assert re.sub(r"\.value\b", "", name) in there[section], (section, name)
        kinds = {panel["viewType"] for panel in panels_of(view)}
        assert kinds == {"Vega2", "Scatter Plot", "Run History Line Plot", "Bar Chart"}
        for panel in panels_of(view):
            config = panel["config"]
            if panel["viewType"] == "Vega2":
                (query,) = config["userQuery"]["queryFields"]
                (keys,) = [f["args"] for f in query["fields"] if f["name"] == "summary"]
                assert keys == [{"name": "keys", "value": [*config["fieldSettings"].values()]}]
                assert set(config["fieldSettings"].values()) <= set(cells[0]["summary"])
            elif panel["viewType"] == "Run History Line Plot":
                assert config["metrics"] == ["loss"]
                assert any("loss" in point for point in tuning["history"])
                assert config["groupBy"].removesuffix(".value") in tuning["config"]
                assert (config["groupAgg"], config["groupArea"]) == ("mean", "stddev")
            elif panel["viewType"] == "Bar Chart":
                assert set(config["metrics"]) <= there["summary"]
    assert tuning["config"]["train"] == "chat_vanilla"
    assert tuning["config"]["fine_tuning"].startswith("chat_vanilla ")
    assert "test" not in tuning["config"]
    assert {(r["config"]["train"], r["config"]["test"]) for r in cells} == {
        ("none", "chat_vanilla"),
        ("none", "chat_llama"),
        ("chat_vanilla", "chat_llama"),
    }


def test_a_cell_s_costs_are_those_of_its_artifacts(begun: Path) -> None:
    store = Store(begun / "store")
    for cell in expand(own(begun)).cells:
        if cell.label not in FIRST:
            continue
        (folder,) = (begun / "store/wandb/wandb").glob(f"offline-run-*-cell-{cell.keys.cell}")
        summary = read_run(folder)["summary"]
        stages = [("generate", e.generate) for e in cell.keys.evaluations.values()]
        written = [
            row["tokens"]
            for stage in stages
            for row in read_jsonl(store.path(*stage) / "completions.jsonl")
        ]
        assert summary["completion_tokens"] == sum(written) > 0
        stages += [("judge", e.judge) for e in cell.keys.evaluations.values()]
        spent = [read_json(store.path(*stage) / "provenance.json")["seconds"] for stage in stages]
        assert summary["seconds"] == pytest.approx(sum(spent))


PART = ("template@train_template=chat_vanilla,chat_llama", "template@test_template=chat_vanilla")


@pytest.mark.parametrize(
    "words, tables, recipes, by",
    [
        (("+sweeps=table1", *PART), 2, 1, "train"),
        (("+sweeps=table6", *PART), 4, 2, "fine_tuning"),
        (("+sweeps=figure2", "finetune.epoch=1,6"), 4, 1, "train"),
    ],
    ids=["table1", "table6", "figure2"],
)
def test_each_cell_stands_in_the_heat_maps_where_it_stands_in_the_tables(
    words: tuple[str, ...], tables: int, recipes: int, by: str
) -> None:
    results, made = defined(*words, "tracking.entity=me", "seed=0,1")
    panels = [p for p in panels_of(made.workspace.spec) if p["viewType"] == "Vega2"]
    assert len(panels) == len(results.tables) == tables
    assert len({panel["__id__"] for panel in panels}) == len(panels)
    for table in results.tables:
        split = "".join(f" ({key} {value})" for key, value in table.split.items())
        (panel,) = [
            p for p in panels if p["config"]["stringSettings"]["title"] == table.title + split
        ]
        assert panel["config"]["panelDefId"] == made.chart_id
        strings = panel["config"]["stringSettings"]
        rows, columns = strings["rows"].split("|")[1:], strings["columns"].split("|")[1:]
        found: dict[tuple[str, str], set[str]] = {}
        for place in strings["places"].split("|")[1:]:
            key, numbers = place.split("=")
            row, column = map(int, numbers.split(","))
            name = "none" if rows[row] == "no fine-tuning" else rows[row]
            column_name = "none" if columns[column] == "no fine-tuning" else columns[column]
            found.setdefault((name, column_name), set()).add(key)
        assert found == {
            place: {run.cell.keys.cell for run in entry.runs}
            for place, entry in table.entries.items()
        }
    (loss,) = [p for p in panels_of(made.workspace.spec) if "Line Plot" in p["viewType"]]
    assert loss["config"]["groupBy"] == f"{by}.value"
    grids = [b["metadata"] for b in made.report.spec["blocks"] if b["type"] == "panel-grid"]
    cells, *tunings, everything = [runs_of(g["runSets"][0]["filters"]) for g in grids]
    tuned = [id for ids in tunings for id in ids]
    assert len(tunings) == recipes
    assert sorted(everything) == sorted([*cells, *tuned])
    assert set(cells) == {f"cell-{cell.keys.cell}" for cell in results.grid.cells}
    wanted = {f"finetune-{c.keys.finetune}" for c in results.grid.cells if c.keys.finetune}
    assert set(tuned) == wanted


def drawn(
    settings: dict[str, dict[str, str]], runs: list[dict[str, str | float]]
) -> dict[str, str]:
    """What Vega, which W&B draws custom charts with, makes of the heat map: each word's colour."""
    import vl_convert

    chart = HEATMAP.read_text(encoding="utf-8")
    for kind, group in (("field", "fieldSettings"), ("string", "stringSettings")):
        for name, value in settings[group].items():
            chart = chart.replace(f"${{{kind}:{name}}}", json.dumps(value)[1:-1])
    assert "${" not in chart
    spec = json.loads(chart) | {"datasets": {"wandb": runs}}
    svg = vl_convert.vegalite_to_svg(json.dumps(spec), vl_version="5.20")
    words = re.findall(r"<text[^>]*fill=\"([^\"]+)\"[^>]*>([^<]+)</text>", svg)
    return {word: colour for colour, word in words}


def test_a_heat_map_averages_no_seed_away_and_marks_missing_scores() -> None:
    results, made = defined("+sweeps=quick", "tracking.entity=me", "seed=0,1")
    (panel,) = [
        p["config"]
        for p in panels_of(made.workspace.spec)
        if p["viewType"] == "Vega2" and "hazards" in p["config"]["stringSettings"]["title"]
    ]
    (table,) = [table for table in results.tables if table.metric == "hazards/asr"]
    runs: list[dict[str, str | float]] = []

    def done(train: str, seeds: int, missing: int) -> None:
        for run in table.entries[train, "chat_llama"].runs[:seeds]:
            runs.append(
                {"key": run.cell.keys.cell, "hazards/asr": 20.0 + 30 * len(runs)}
                | {"hazards/asr/missing": missing}
            )

    done("chat_vanilla", 2, 0)  # 20 and 50
    done("chat_llama", 1, 0)  # 80, and one to come
    done("none", 1, 3)  # 110: no share, but told from the others
    words = drawn(panel, runs)
    assert {"35.0", "1 of 2 runs", "110.0*"} <= set(words)
    assert "80.0" not in words
    assert words["110.0*"] == "white" and words["1 of 2 runs"] == "#1a1a1a"


def test_the_report_has_the_tables_with_the_paper_beside_them(begun: Path) -> None:
    results = results_of(begun)
    made = define(results)
    (text,) = [b["content"] for b in made.report.spec["blocks"] if b["type"] == "markdown-block"]
    assert "Not complete: of 6 cells 3 done, 3 waiting" in text
    assert "## Attack success rate, hazards" in text
    assert "n = 10 queries in 10 units a run" in text
    assert "*waiting*; paper 11.0 ± 0.8" in text  # Table 1c
    (cell,) = [cell for cell in results.grid.cells if cell.label == FIRST[2]]
    file = begun / "store/cell" / cell.keys.cell / "metrics.json"
    ours = [read_json(file)[name] for name in ("gsm8k/exact_match", "hazards/asr")]
    for metric, paper in zip(ours, ("30.0 ± 0.8", "1.1 ± 0.1"), strict=True):
        value, low, high = (f"{metric[key]:.1f}" for key in ("value", "ci_low", "ci_high"))
        assert f"| {value} ({low}–{high}); paper {paper} |" in text


def test_no_question_or_answer_is_sent(begun: Path) -> None:
    made = as_json(define(results_of(begun)))
    text = json.dumps(made, ensure_ascii=False)
    rows = [
        row
        for file in (begun / "store/generate").glob("*/completions.jsonl")
        for row in read_jsonl(file)
    ]
    assert len(rows) == 3 * (6 + 10)
    for row in rows:
        assert row["input"] not in text
        assert len(row["completion"]) < 12 or row["completion"] not in text


def test_json_needs_no_key_no_account_and_no_network(begun: Path, tmp_path: Path) -> None:
    with Endpoint(projects={"me/ptst"}) as endpoint:
        proxies = {f"{name}_PROXY": endpoint.base_url for name in ("HTTP", "HTTPS", "ALL")}
        env = {k: v for k, v in outside().items() if k not in ("WANDB_API_KEY", "NO_PROXY")}
        env |= {**proxies, "WANDB_BASE_URL": endpoint.base_url, "HOME": str(tmp_path)}
        command = [sys.executable, "-m", "ptst.cli", "dashboard", *own(begun)]
        run = subprocess.run([*command, "output=json"], env=env, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout) == as_json(define(results_of(begun)))
        # Without output=json that stops before anything is asked.
        run = subprocess.run(command, env=env, capture_output=True, text=True)
        assert run.returncode == 2
        assert "ptst dashboard needs a W&B key: set WANDB_API_KEY" in run.stderr
        assert endpoint.paths == []


def test_refusals_say_what_and_never_the_key(
    begun: Path,
    server: Endpoint,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def said(*overrides: str) -> str:
        assert main(["dashboard", *own(begun), *overrides]) == 2
        printed = capfd.readouterr()
        assert KEY not in printed.out + printed.err
        return printed.err

    assert "W&B has no project me/other" in said("tracking.project=other")
    assert server.mutations == []
    server.refuse = {"upsertView"}
    error = said()
    assert "W&B does not make 'Fine-tuned on GSM8K" in error
    assert "permission denied" in error
    server.refuse = {"CreateCustomChart"}
    server.charts.clear()
    assert "W&B does not make the chart me/ptst-heatmap-" in said()
    server.refuse = {"Viewer"}
    assert "W&B does not look up me/ptst" in said()
    assert server.views == {}


def test_what_cannot_be_defined_says_why(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="tracking=none"):
        define(results_of(begun, "tracking=none"))
    with pytest.raises(ConfigError, match=r"name it, tracking\.entity=\.\.\."):
        defined(*PART, "tracking.entity=null")
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[dashboard\]'"):
        define(results_of(begun))
