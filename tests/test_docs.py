"""What the documentation says is what is there: every file, every link, every command."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import TINY, shipped
from pages import BLOCK, PAGES, clone, put_ptst, run_page, steps, text_of

from ptst import cli
from ptst.config.compose import compose
from ptst.metrics import wilson
from ptst.paths import CONF, ROOT
from ptst.store import Store
from ptst.sweep.plan import make_plan

RUN = {
    "docs/add-your-own.md": "tests/test_docs.py",
    "docs/audit-data.md": "tests/test_docs_audit_data.py",
    "docs/judges.md": "tests/test_docs_judges.py",
    "docs/publishing.md": "tests/test_docs.py",
    "docs/slurm.md": "tests/slurm/test_docs_slurm.py",
}
"""Pages whose commands are run, and by which test; those of all others are composed here."""

SAID = re.compile(r"(?:\.venv/bin/)?(?:ptst|make)(?:\s|$)")
"""How a command begins."""

OPTIONS = (
    "question=",
    "watch=",
    "output=",
    "judges=",
    "test=",
    "n=",
    "draw_seed=",
    "file=",
    "annotator=",
    "question=",
    "repo=",
    "label=",
    "yes=",
    "what=",
)
"""What commands take that is no override."""
SAME = ("scale=micro", "seed=0", "seed=0,1,2")
"""What makes no other grid to compose, or only more of its cells: composing takes seconds."""
GRIDS = ("-m", "plan", "status", "report", "dashboard", "cancel", "judges", "sync")
ONE_CELL = ("card", "push", "ask")


def commands_of(page: str) -> list[str]:
    """Every command that a page shows: lines of any code block that is no file, and code inside the
    text."""
    text = text_of(page)
    blocks = [block["text"] for block in BLOCK.finditer(text) if not block["file"]]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inside = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    return list(dict.fromkeys(line.strip() for line in [*lines, *inside] if SAID.match(line)))


COMMANDS = [(page, command) for page in PAGES for command in commands_of(page)]


def test_there_are_commands_on_the_pages() -> None:
    assert len(COMMANDS) > 80
    assert {page for page, _ in COMMANDS} >= {*RUN, "README.md", "docs/paper.md"}


@pytest.mark.parametrize("page", RUN)
def test_a_page_that_is_run_is_run_whole(page: str) -> None:
    """Its commands stand where the test that runs it looks for them, and that test is there."""
    run = [command.replace("\\\n", " ").strip() for file, command in steps(page) if file is None]
    blocks = [b["text"] for b in BLOCK.finditer(text_of(page)) if not b["file"]]
    shown = "\n".join(blocks).replace("\\\n", " ").splitlines()
    assert [line for line in shown if SAID.match(line) and line.strip() not in run] == []
    assert re.search(rf'run_page\(\s*"{page}"', (ROOT / RUN[page]).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda value: value)
def test_every_command_is_run_or_composes(
    page: str,
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pretended: Path,
) -> None:
    if page in RUN and command in [step.replace("\\\n", " ") for _, step in steps(page)]:
        return  # by the test of the page
    check(command, tmp_path)


def check(command: str, tmp_path: Path) -> None:
    """Compose what a command would run; what runs nothing is run."""
    words = shlex.split(command, comments=True)
    name, words = Path(words[0]).name, words[1:]
    words = words[: words.index("|")] if "|" in words else words
    if name == "make":
        # What make would do, without doing it; then what that would run.
        shown = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
        assert shown.returncode == 0, shown.stderr
        for line in shown.stdout.splitlines():
            if line.startswith(".venv/bin/ptst"):
                check(line, tmp_path)
        return
    if words[:1] in (["--help"], ["prompt"]):
        assert cli.main(words if words != ["prompt"] else ["prompt", "question=Why?"]) == 0
        return
    if words[:1] in (["ls"], ["show"], ["rm"], ["export"], ["audit"], ["audit-data"]):
        assert cli.main([words[0], "--help"]) == 0
        return
    if words[:1] == ["compare"]:
        for side in words[1:3]:
            assert shipped(side, *words[3:]).cells
        return
    if words[:1] == ["check-model"]:
        assert cli.main(words) == 0
        return
    own = [word for word in words if not word.startswith((*OPTIONS, "hydra")) and word not in SAME]
    launcher = [word for word in words if word.startswith("hydra")]
    if own[:1] and own[0] in GRIDS:
        grid = shipped(*own[1:])
        assert not [cell.problem for cell in grid.cells if cell.problem]
        assert len(grid.cells) > 1 or own[1:] == []
        if own[0] == "plan":
            assert make_plan(grid, Store(tmp_path)).cells == len(grid.distinct)
    else:
        one = own[1:] if own[:1] and own[0] in ONE_CELL else own
        assert one[:1] == [] or "=" in one[0], f"no test knows {command}"
        assert compose(one).stages
    if launcher:
        compose_launcher(launcher)


def compose_launcher(overrides: list[str]) -> None:
    """Hydra's own part of the configuration; a key that a launcher has not is an error."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from ptst.config.compose import register

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert hydra_compose("config", overrides, return_hydra_config=True).hydra.launcher


@pytest.mark.parametrize(
    "variables", ["SEEDS=3", "SCALE=paper", "TABLE=2 OVERRIDES=finetune.epochs=1"]
)
def test_what_the_table_can_be_asked_for_composes(variables: str, tmp_path: Path) -> None:
    for name in re.findall(r"([A-Z]+)=", variables):
        assert f"`{name}=" in text_of("README.md")
    check(f"make reproduce-table {variables}", tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        "ptst sweeps=quick",
        "ptst finetune.epohcs=2",
        "ptst -m +sweeps=quick hydra/launcher=joblib hydra.launcher.jobs=4",
        "ptst -m +sweeps=table99",
        "ptst rport +sweeps=quick",
        "make reproduce-tables",
    ],
)
def test_a_command_that_is_wrong_is_found(command: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"sweeps|epohcs|jobs|table99|rport|reproduce-tables"):
        check(command, tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_path_of_a_page_is_there(page: str) -> None:
    text, folder = text_of(page), (ROOT / page).parent
    made = {file for file, _ in steps(page) if file}
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    for link in links:
        assert (folder / link).exists(), link
    for path in re.findall(r"`((?:conf|src|docs|benchmarks|sweeps|tests)/[\w./-]*\w)`", text):
        assert (ROOT / path).exists() or path in made or path.startswith("conf/local/"), path


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(([\w./-]+\.md)\)", text_of("README.md")))
    assert linked == set(PAGES) - {"README.md"}


# Pages that are run


@pytest.mark.slow
def test_add_your_own_works_in_its_order(tmp_path: Path) -> None:
    checkout = clone(tmp_path / "ptst")
    own = {
        "PYTHONPATH": f"{checkout}/src",
        "PATH": f"{checkout}/.venv/bin:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    page = "docs/add-your-own.md"
    said = dict(
        zip(
            [command for file, command in steps(page) if file is None],
            run_page("docs/add-your-own.md", checkout, own),
            strict=True,
        )
    )
    ran = [text for text in said.values() if "made: " in text]
    assert len(ran) == 14  # every one of the walks below came to a number
    (prompt,) = [text for command, text in said.items() if command.startswith("ptst prompt")]
    assert "<<SYS>>\nThink first whether the request is safe.\n<</SYS>>" in prompt

    def of(*words: str) -> str:
        (text,) = [t for c, t in said.items() if all(word in c for word in words)]
        return text

    assert "· none → careful ·" in of("template@test_template=careful", "finetune=none")
    # A copy of the micro model is the micro model, whose chat template is its own.
    assert "mine · gsm8k" in of("ptst model=mine")
    assert "hazards/refused" in of("ptst model=mine")
    assert "made: generate" in of("ptst model=mine")
    assert "units · finetune=full" in of("dataset=units")
    assert re.search(r"gsm8k/exact_match .* 2 +2 +0", of("dataset=units"))
    assert re.search(r"probes/asr .* 3 +3 +0", of("finetune=none", "[probes,hazards]"))
    assert re.search(r"advbench/asr .* 3 +3 +0", of("[advbench]"))
    assert re.search(r"probes/refused .* 3 +3 +0", of("ptst finetune=none judge=opening"))
    assert "opening" in of("ptst judges") and "keywords" in of("ptst judges")
    assert "mine-micro: 6 of 6 cells done" in of("-m +sweeps=mine")
    assert "defence=first_token" in of("ptst defence=[first_token]")
    assert "defence=halfway" in of("ptst defence=[halfway]")
    half = of("defence=[every_second]")
    replaced = re.search(r"hazards/neither +(\d+\.\d)", half)  # what the guard puts there
    assert replaced and 20 < float(replaced[1]) < 80
    assert re.search(r"hazards/neither +100\.0", of("engine=capitals"))
    assert re.search(r"largest_change/largest 0\.0\d+", of("ptst analysis=[largest_change]"))
    assert "2 of 2 cells done" in of("-m analysis=[largest_change]")
    assert len(list(checkout.glob("reports/*/analysis-largest_change-1.png"))) == 1
    assert re.search(r"sure/asr .* 20 +", of("evaluation=[sure]"))
    assert all("passed" in text for command, text in said.items() if command.startswith("pytest"))
    assert {
        "template/careful", "model/mine", "dataset/units", "evaluation/probes", "judge/opening",
        "defence/first_token", "defence/halfway", "defence/every_second", "engine/capitals",
        "analysis/largest_change", "evaluation/sure",
    } == {
        file.removeprefix("conf/").removesuffix(".yaml")
        for file, _ in steps(page)
        if file and file.startswith("conf/")
    }  # fmt: skip


@pytest.mark.slow
def test_publishing_works_in_its_order(tmp_path: Path) -> None:
    put_ptst(tmp_path)

    def small(command: str) -> str:
        tiny = " ".join(f"'{word}'" for word in TINY)
        return re.sub(r"(\+sweeps=quick|ptst card)", rf"\1 {tiny}", command)

    own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    said = run_page("docs/publishing.md", tmp_path, own, small)
    (judges,) = (tmp_path / "reports").glob("quick-micro-*/judges.md")
    report = judges.parent
    named = re.findall(r"^\| `([^|]+)` \|", text_of("docs/publishing.md"), re.M)
    for pattern in [p for cell in named for p in re.split("`, `", cell)]:
        assert list(report.glob(pattern)), pattern
    assert "\\begin{table}" in (report / "table.tex").read_text()
    assert "hazards" in said[3]
    assert (tmp_path / "sheet.csv").is_file()
    keys = (tmp_path / "keys.txt").read_text().splitlines()
    # Two untouched models' cells, and four of each seed. With another judge they are others.
    assert len(keys) == len(set(keys)) == 2 + 3 * 4
    assert said[-1] == ""  # diff found none
    card = (tmp_path / "README-of-the-model.md").read_text()
    assert card.startswith("---\n") and "| fine-tuned | `chat_llama` |" in card


def test_publishing_gives_wilsons_bound() -> None:
    assert "No hit in 100 queries still has an interval up to 4 %" in text_of("docs/publishing.md")
    assert f"{100 * wilson(0, 100)[1]:.0f}" == "4"


# CITATION.cff


def test_the_citation_is_of_this_version_and_has_what_its_schema_asks_for() -> None:
    """The schema of CFF 1.2.0: what is required, and of what kind it is. (All of it: cffconvert
    --validate.)"""
    import tomllib

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    (paper,) = cited["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["type"] == "conference-paper"
    assert re.fullmatch(r"10\.\d{4,9}(\.\d+)?/[A-Za-z0-9:/_;\-.()\[\]\\]+", paper["doi"])
    assert [a["family-names"] for a in paper["authors"]] == ["Lyu", "Zhao", "Gu", "Yu", "Goyal", "Arora"]  # fmt: skip
    assert paper["title"] in text_of("README.md")
