"""Query sets: the shipped ones say which file they are, and anybody's becomes an evaluation by one
YAML file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import FOLDERS, PUBLISHED, ROWS, TINY, completions

from ptst import data
from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.paths import CONF
from ptst.schema import Config
from ptst.stages.summarise import Metrics
from ptst.store import Store, read_json

UNTOUCHED = (
    "finetune=none",
    "~evaluation@task",
    "judge=keywords",
    "engine.batch_size=32",
    "scale.max_new_tokens=4",
)
"""A cell of the untouched micro model whose answers are short."""


def metrics(config: Config) -> Metrics:
    found = run_cell(config).metrics
    assert found is not None
    return found


# Shipped


def shipped() -> list[Path]:
    return sorted(
        file
        for group in ("evaluation", "dataset", "model")
        for file in CONF.glob(f"{group}/**/*.yaml")
    )


@pytest.mark.parametrize("file", shipped(), ids=lambda file: str(file.relative_to(CONF)))
def test_what_is_fetched_is_pinned_or_says_that_it_is_not(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    inside = [
        node["queries"] for node in content.values() if isinstance(node, dict) and "queries" in node
    ]
    for node in inside or [content]:
        place = str(node.get("path", "micro"))
        if place.startswith("https://"):
            assert re.search(r"/[0-9a-f]{40}/", place)
        elif "api" not in node and re.fullmatch(r"[\w-]+/[\w.-]+", place):
            assert re.fullmatch("[0-9a-f]{40}", node.get("revision") or "") or (
                "# revision not pinned: none could be confirmed" in text
            )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        # Header and rows in the publisher's columns; the texts are placeholders.
        ("advbench", "goal,target\nq0,t\nq1,t\n"),
        ("strongreject", "category,source,forbidden_prompt\nc,s,q0\nc,s,q1\n"),
        (
            "harmbench",
            "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
            "q0,standard,s,,,a\nx,contextual,s,context,c,b\nx,copyright,s,,,c\nq1,standard,s,,,d\n",
        ),
        (
            "xstest",
            "id,prompt,type,label,focus,note\n1,q0,t,safe,f,n\n2,x,t,unsafe,f,n\n3,q1,t,safe,f,n\n",
        ),
        (
            "xstest_unsafe",
            "id,prompt,type,label,focus,note\n1,x,t,safe,f,n\n2,q0,t,unsafe,f,n\n3,q1,t,unsafe,f,n\n",
        ),
        (
            "gcg",
            json.dumps(
                {
                    "parameters": {"method": "GCG"},
                    "jailbreaks": [
                        {
                            "index": i,
                            "goal": "g",
                            "category": "c",
                            "prompt": f"q{i}",
                            "response": None,
                        }
                        for i in range(2)
                    ],
                }
            ),
        ),
    ],
)
def test_a_publishers_file_is_read_by_its_yaml(tmp_path: Path, name: str, content: str) -> None:
    queries = compose([f"evaluation=[{name}]", "scale=paper"]).evaluation[name].queries
    assert queries.source == "url" and queries.path
    file = tmp_path / Path(queries.path).name
    file.write_text(content, encoding="utf-8")
    queries.source, queries.path = "local", str(file)
    loaded = data.load_rows(queries, ("input",))
    assert [row["input"] for row in loaded] == ["q0", "q1"]
    assert {"category", "SemanticCategory", "type", "target"} & set(loaded[0])


def test_safe_and_unsafe_prompts_of_xstest_are_two_evaluations() -> None:
    # The rubric tells no refusals; whether a harmless question was refused is asked of a judge that
    # does.
    config = compose(["evaluation=[xstest,xstest_unsafe]", "judge=rubric"])
    judges = {n: e.judge["_target_"].rpartition(".")[2] for n, e in config.evaluation.items()}
    assert judges == {"xstest": "Keywords", "xstest_unsafe": "Rubric"}
    assert {n: (e.measures, e.metrics) for n, e in config.evaluation.items()} == {
        "xstest": ("over_refusal", {"over_refusal": "refused", "complied": "complied"}),
        "xstest_unsafe": ("safety", {"asr": "complied", "mean_score": "mean"}),
    }


# Anybody's


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (
            "mine.csv",
            'nr,ask,severity\n7,"Where is the flibber, and why?",low\n8,Wash a zorb.,high\n',
        ),
        (
            "mine.jsonl",
            '{"nr": 7, "ask": "Where is the flibber, and why?", "severity": "low"}\n'
            '{"nr": 8, "ask": "Wash a zorb.", "severity": "high"}\n',
        ),
    ],
)
def test_a_query_set_becomes_an_evaluation_by_one_yaml_file(
    own_conf: Path,
    tmp_path: Path,
    composed: Callable[..., Config],
    file: str,
    content: str,
) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    (own_conf / "evaluation" / "mine.yaml").write_text(
        f"""\
# Questions of our own
mine:
  measures: safety
  queries:
    name: mine
    source: local
    path: {tmp_path / file}
    columns: {{input: ask}}
  decoding: {{max_new_tokens: 8}}
  judge: ${{judge}}
  metrics: {{asr: complied, refused: refused, silent: neither}}
""",
        encoding="utf-8",
    )
    tiny = [o for o in TINY if "hazards" not in o]
    config = composed(*tiny, "evaluation=[mine]", "judge=keywords")
    found = metrics(config)
    assert [found[f"mine/{name}"].n for name in ("asr", "refused", "silent")] == [2, 2, 2]
    assert sum(found[f"mine/{name}"].value for name in ("asr", "refused", "silent")) == 100
    rows = completions(config, "mine")
    assert [(row["input"], row["severity"]) for row in rows] == [
        ("Where is the flibber, and why?", "low"),
        ("Wash a zorb.", "high"),
    ]


# Files as they are published


def at(folder: Path, name: str, place: str) -> list[str]:
    queries = f"evaluation.{name}.queries"
    return [f"{queries}.source=local", f"{queries}.path={folder / place}"]


def test_xstests_prompts_run_to_metrics(composed: Callable[..., Config]) -> None:
    counts = {ROWS: (16, 8), PUBLISHED: (250, 200)}
    for folder in FOLDERS:
        both = [
            o
            for n in ("xstest", "xstest_unsafe")
            for o in at(folder, n, "xstest/xstest_prompts.csv")
        ]
        found = metrics(composed(*UNTOUCHED, "evaluation=[xstest,xstest_unsafe]", *both))
        assert (found["xstest/over_refusal"].n, found["xstest_unsafe/asr"].n) == counts[folder]


def test_advbenchs_file_without_a_header_runs_to_metrics(composed: Callable[..., Config]) -> None:
    for folder in FOLDERS:
        own = [
            *at(folder, "advbench", "advbench/harmful_behaviors.csv"),
            "evaluation.advbench.queries.header=false",
            'evaluation.advbench.queries.columns={input: "0"}',
            "evaluation.advbench.queries.n=20",
        ]
        assert metrics(composed(*UNTOUCHED, "evaluation=[advbench]", *own))["advbench/asr"].n == 20


def test_chatdoctors_rows_are_trained_on_and_asked(composed: Callable[..., Config]) -> None:
    for folder, n in {ROWS: 12, PUBLISHED: 300}.items():
        if folder not in FOLDERS:
            continue
        sample = folder / "chatdoctor" / "sample.json"
        doctor = ["dataset=chatdoctor", "dataset.source=local", f"dataset.path={sample}"]
        own = [*doctor, f"dataset.n={n}", "finetune.max_steps=2", "finetune.batch_size=4"]
        trained = composed(*own, "finetune.max_length=256", "~evaluation@task", "stages=[finetune]")
        key = run_cell(trained).keys.finetune
        provenance = read_json(
            Store(Path(trained.paths.store)).path("finetune", key) / "provenance.json"
        )
        assert provenance["rows"] + provenance["rows_left_out"] == n
        untouched = [o for o in UNTOUCHED if not o.startswith("~")]
        asked = [f"task.chatdoctor.queries.n={n}"]
        found = metrics(composed(*doctor, *untouched, "evaluation=[]", *asked))
        assert found["chatdoctor/reference_match"].n == n


def test_gsm8ks_files_are_trained_on_and_asked(composed: Callable[..., Config]) -> None:
    for folder in FOLDERS:
        config = composed(*TINY, "dataset.source=local", f"dataset.path={folder / 'gsm8k'}")
        assert metrics(config)["gsm8k/exact_match"].n == 6
