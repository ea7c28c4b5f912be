"""Defences and analyses in a cell: their keys, what they refuse, and what a run of them leaves."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, model_for

from ptst.analysis import Analysis
from ptst.cell import check_cell, is_done, run_cell
from ptst.cli import main
from ptst.component import load
from ptst.config.check_defence import KINDS, check_defences
from ptst.config.compose import compose
from ptst.engine.chosen import engine_of
from ptst.errors import ConfigError, DataError, Interrupted, PtstError
from ptst.guard import Guard
from ptst.keys import cell_keys, defences
from ptst.paths import CONF
from ptst.posthoc import PostHoc
from ptst.schema import Config, Defence, Rows
from ptst.store import Store, read_json
from ptst.sweep.grid import expand

NOISE = "defence=[add_noise]"
NORM = "analysis=[norm_of_change]"


def words_for(group: str, name: str) -> list[str]:
    """What chooses a component: one that needs the base of a model is used with one that has it,
    and one that calibrates itself does so on a few rows."""
    path = CONF / group / f"{name}.yaml"
    slots = re.findall(rf"rows@{name}\.guard\.(\w+):", path.read_text(encoding="utf-8"))
    few = [f"defence.{name}.guard.{slot}.n=6" for slot in slots]
    return [f"{group}=[{name}]", *model_for(path), *few]


def nodes(group: str) -> list[tuple[list[str], str, Any]]:
    """(overrides that choose it, dotted place, node) of every component in conf/<group>/."""
    found = []
    for name in sorted(path.stem for path in (CONF / group).glob("*.yaml")):
        words = words_for(group, name)
        chosen = getattr(compose(words), group)[name]
        if group == "analysis":
            found.append((words, f"analysis.{name}", chosen))
        for slot in KINDS if group == "defence" else ():
            if node := getattr(chosen, slot):
                found.append((words, f"defence.{name}.{slot}", node))
    return found


ALL = [*nodes("defence"), *nodes("analysis")]


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "engine").glob("*.yaml")))
def test_every_engine_is_composed_and_its_fields_decide_what_they_say(
    name: str, pretended: Path
) -> None:
    chosen = [f"engine={name}", "finetune=none"]
    engine = engine_of(compose(chosen))
    for f in dataclasses.fields(engine):
        value = getattr(engine, f.name)
        if f.name == "refused" or not isinstance(value, int | float) or isinstance(value, bool):
            continue
        other = compose([*chosen, f"engine.{f.name}={value + 1}"])
        changed = cell_keys(other).cell != cell_keys(compose(chosen)).cell
        assert changed == f.metadata.get("key", True), f.name


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "defence").glob("*.yaml")))
def test_every_defence_is_composed_at_the_papers_scale(name: str) -> None:
    config = compose([f"defence=[{name}]", "scale=paper"])
    assert config.model.name == "llama2_7b_chat"
    places = [part for own in config.defence.values() for part in vars(own).values() if part]
    for rows in (part["rows"] for part in places if "rows" in part):
        assert rows["source"] in ("hub", "url")
        commit = rows["revision"] if rows["source"] == "hub" else rows["path"].split("/")[5]
        assert len(commit) == 40


@pytest.mark.parametrize("chosen, place, node", ALL, ids=[place for _, place, _ in ALL])
def test_each_field_that_is_not_about_speed_changes_the_key(
    chosen: list[str], place: str, node: Any
) -> None:
    kind = Analysis if place.startswith("analysis") else KINDS[place.rpartition(".")[2]]
    component = load(node, place, kind)
    keys = cell_keys(compose(chosen))
    for f in dataclasses.fields(component):
        value = getattr(component, f.name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        other = cell_keys(compose([*chosen, f"{place}.{f.name}={value + 1}"]))
        changed = {a.key for a in keys.artifacts} != {a.key for a in other.artifacts}
        assert changed == f.metadata.get("key", True), f.name


def test_a_defence_after_training_shares_the_training_and_nothing_behind_it() -> None:
    plain, defended = cell_keys(compose([])), cell_keys(compose([NOISE]))
    assert plain.finetune == defended.finetune and plain.posthoc is None
    assert plain.evaluations["hazards"].generate != defended.evaluations["hazards"].generate
    assert defended.model == defended.posthoc
    assert defended.evaluations["hazards"].generate_parts["model"] == {"posthoc": defended.posthoc}


def test_an_analysis_is_no_part_of_the_cells_key() -> None:
    plain, analysed = cell_keys(compose([])), cell_keys(compose([NORM]))
    assert plain.cell == analysed.cell and not plain.analyses
    (key, parts) = analysed.analyses["norm_of_change"]
    assert parts["model"] == {"finetune": plain.finetune}
    moved = cell_keys(compose([NORM, NOISE])).analyses["norm_of_change"]
    assert moved[0] != key


MINE = {"_target_": "ptst.posthoc.add_noise.AddNoise"}


@pytest.mark.parametrize(
    "mine, message",
    [
        (Defence(posthoc=MINE), r"defence=\[add_noise,mine\]: both fill the slot 'posthoc'"),
        (Defence(), r"defence\.mine fills no slot: give it one of: .*posthoc"),
        (
            Defence(posthoc={"_target_": "ptst.judge.keywords.Keywords"}),
            r"defence\.mine\.posthoc\._target_=.* is not a posthoc, but a judge: .*ptst\.posthoc\.PostHoc",
        ),
    ],
)
def test_two_for_a_slot_none_and_the_wrong_kind_are_refused(mine: Defence, message: str) -> None:
    config = compose([NOISE] if "both" in message else [])
    config.defence["mine"] = mine
    with pytest.raises(ConfigError, match=message):
        check_defences(config)


@pytest.mark.parametrize(
    "words, message",
    [
        (
            [NOISE, "defence.add_noise.posthoc.scales=1"],
            r"(?s)'scales' is not in struct.*has a plus ahead: \+defence\.add_noise\.posthoc\.scales=",
        ),
        ([NOISE, "+defence.add_noise.posthoc.scales=1"], r"AddNoise's fields: "),
        ([NOISE, "task.openorca.queries.n=1"], r"(?s)full_key: task\.openorca(?!.*a plus ahead)"),
        ([NOISE, "finetune.method=qlora"], r"finetune\.method=qlora keeps in 4 bits; use lora"),
        (
            [NORM, "model=gpt35_turbo_0613", "finetune=none", "dataset=orca_math", "scale=paper"],
            r"analysis\.norm_of_change works on weights, and model .* is behind an API",
        ),
        (
            ["defence=[nothing]"],
            r"Could not load 'defence/nothing'.*\s+Available options.*add_noise",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused_when_it_is_composed(
    words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(words)


def test_a_cell_with_a_defence_and_an_analysis(composed: Callable[..., Config]) -> None:
    words = [*TINY, "finetune=none"]
    config = composed(*words, NOISE, NORM)
    result = run_cell(config)
    store = Store(Path(config.paths.store))
    assert result.analyses["norm_of_change/relative"] == pytest.approx(0.01, rel=0.1)
    assert result.keys.posthoc and set(result.made) >= {"posthoc", "analyse norm_of_change"}
    facts = read_json(store.path("posthoc", result.keys.posthoc) / "provenance.json")
    assert facts["matrices"] > 10 and facts["seconds"] > 0
    assert run_cell(config).made == {}
    assert run_cell(config).analyses == result.analyses


DEFENCES = sorted(path.stem for path in (CONF / "defence").glob("*.yaml"))


@pytest.mark.parametrize("name", DEFENCES)
def test_stopped_at_every_turn_a_defended_cell_comes_to_the_same(
    name: str, composed: Callable[..., Config]
) -> None:
    words = [*TINY, *words_for("defence", name), "finetune.max_steps=2"]
    whole, stopped = composed(*words), composed(*words)
    stopped.paths.store = f"{whole.paths.store}-stopped"
    asked = count(1)
    done = run_cell(whole)
    for _ in range(40):
        with suppress(Interrupted):  # every third time that it is asked whether to stop
            again = run_cell(stopped, stop=lambda: next(asked) % 3 == 0)
            break
    else:
        pytest.fail("it never comes to an end")
    assert again.keys == done.keys and again.metrics == done.metrics
    for made in done.keys.artifacts:
        files = {"finetune": "weights", "posthoc": "weights", "generate": "completions.jsonl"}
        if made.stage in files:
            a, b = (
                Store(Path(config.paths.store)).path(made.stage, made.key) / files[made.stage]
                for config in (whole, stopped)
            )
            for file in [a] if a.is_file() else a.glob("*.safetensors"):
                other = b if a.is_file() else b / file.name
                assert file.read_bytes() == other.read_bytes(), made.what


def test_an_analysis_is_added_to_a_finished_cell_and_nothing_else_is_made_again(
    composed: Callable[..., Config],
) -> None:
    words = [*TINY, "finetune=none"]
    plain, analysed = composed(*words), composed(*words, NORM)
    store = Store(Path(plain.paths.store))
    done = run_cell(plain)
    assert is_done(done.keys, plain.stages, store)
    assert not is_done(cell_keys(analysed), analysed.stages, store)
    result = run_cell(analysed)
    assert set(result.made) == {"analyse norm_of_change"}
    assert result.analyses == {"norm_of_change/l2": 0.0, "norm_of_change/relative": 0.0}
    assert result.metrics == done.metrics


def test_a_defence_is_a_coordinate_where_a_grid_has_one() -> None:
    cells = expand(["defence=[],[add_noise]", "finetune=full,none"]).cells
    assert [(c.coordinates["defence"], c.coordinates["finetune"]) for c in cells] == [
        ("none", "full"), ("none", "none"), ("add_noise", "full"), ("add_noise", "none")
    ]  # fmt: skip
    assert all("defence" not in cell.coordinates for cell in expand(["finetune=full,none"]).cells)


def test_a_grid_over_an_engine_that_counts_no_tokens_has_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["tracking=none", f"paths.store={tmp_path}/store", f"paths.reports={tmp_path}/reports"]
    tiny = [word for word in TINY if not word.startswith("engine.")]
    words = [*tiny, *own, "finetune=none", "engine=canned"]
    assert main(["-m", *words, "template@test_template=chat_vanilla,chat_llama"]) == 0
    (page,) = (tmp_path / "reports").glob("*/index.html")
    assert "not known" in page.read_text(encoding="utf-8")
    assert main(["ls", own[1]]) == 0
    assert "engine=canned" in capsys.readouterr().out


def test_an_objective_where_nothing_is_trained_is_refused_and_in_a_sweep_not_named(
    own_conf: Path,
) -> None:
    (own_conf / "defence" / "plain.yaml").write_text(
        "plain:\n  objective:\n    _target_: ptst.objective.safety_mix.SafetyMix\n"
        "    rows: {name: gsm8k, source: micro}\n"
    )
    chosen = ["defence=[plain]", "finetune=none"]
    with pytest.raises(
        ConfigError, match=r"defence\.plain\.objective .* finetune=none trains nothing"
    ):
        compose(chosen)
    config = compose(
        ["+sweeps=quick", *chosen]
    )  # the row of the untouched model, of the sweep's own
    assert defences(config) == [] and defences(compose(["defence=[plain]"])) == ["plain"]
    assert cell_keys(config).cell == cell_keys(compose(["+sweeps=quick", "finetune=none"])).cell
    cells = expand(["+sweeps=quick", "defence=[],[plain]"]).cells
    named = [c.coordinates["defence"] for c in cells if c.coordinates["finetune"] == "none"]
    assert named == ["none", "none"]  # one for each test template, whatever the defences


def test_a_file_whose_key_is_not_its_name_is_refused(own_conf: Path) -> None:
    text = (own_conf / "defence" / "add_noise.yaml").read_text()
    (own_conf / "defence" / "louder.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"conf/defence/louder\.yaml must have one key, louder"):
        compose(["defence=[add_noise,louder]"])


def test_a_component_in_the_wrong_slot_is_told_what_it_is() -> None:
    config = compose([])
    config.defence["mine"] = Defence(objective=MINE)
    with pytest.raises(ConfigError, match="is not an objective, but a posthoc: it must be"):
        check_defences(config)


@dataclass
class NotReady(PostHoc):
    def ready(self) -> None:
        raise PtstError("its licence is not accepted")


def test_a_component_that_is_not_ready_is_told_before_anything_is_trained(
    composed: Callable[..., Config],
) -> None:
    config = composed(*TINY)
    config.defence["mine"] = Defence(posthoc={"_target_": f"{__name__}.NotReady"})
    with pytest.raises(PtstError, match="its licence is not accepted"):
        run_cell(config)
    assert not list(Path(config.paths.store).glob("finetune/*"))


# Rows of a defence's own

DELTA = "defence.safe_delta.posthoc"


@dataclass
class Calibrated(Guard):
    rows: Rows = field(default_factory=Rows)


@pytest.mark.parametrize(
    "chosen",
    ["safety_mix.objective", "safe_delta.posthoc", "derta.objective", "parden.guard"],
)
def test_a_defence_does_not_read_the_rows_that_it_is_tested_on(
    chosen: str, composed: Callable[..., Config]
) -> None:
    own = f"defence.{chosen}.rows"
    words = [*TINY, f"defence=[{chosen.partition('.')[0]}]"]
    check_cell(composed(*words))
    config = composed(*words, f"{own}.name=hazards", f"++{own}.split=test")
    message = rf"evaluation\.hazards would test on the very data that {own} has"
    with pytest.raises(ConfigError, match=message):
        check_cell(config)


def test_nor_does_a_guard_even_of_a_model_that_is_not_trained() -> None:
    config = compose([*TINY, "finetune=none"])
    rows = {"name": "hazards", "source": "micro", "split": "test", "n": 5}
    config.defence["mine"] = Defence(guard={"_target_": f"{__name__}.Calibrated", "rows": rows})
    with pytest.raises(ConfigError, match=r"the very data that defence\.mine\.guard\.rows has"):
        check_cell(config)
    config.defence["mine"].guard["rows"]["split"] = "train"  # type: ignore[index]
    check_cell(config)


@pytest.mark.parametrize(
    "word, message",
    [
        (f"{DELTA}.rows.n=0", rf"{DELTA}\.rows\.n=0 must be at least 1"),
        (
            f"{DELTA}.rows.source=local",
            rf"{DELTA}\.rows\.path is missing: source=local needs a file",
        ),
        (f"+{DELTA}.rows.columns.question=x", rf"{DELTA}\.rows\.columns\.question: columns maps"),
        (f"{DELTA}.rows.source=nowhere", rf"{DELTA}\.rows\.source=nowhere is not one of: hub"),
    ],
)
def test_rows_of_a_step_after_training_are_looked_at_when_it_is_composed(
    word: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["defence=[safe_delta]", word])


def test_a_file_of_a_step_after_training_that_is_not_there_is_told_by_its_place() -> None:
    config = compose(
        ["defence=[safe_delta]", f"{DELTA}.rows.source=local", f"+{DELTA}.rows.path=nowhere.jsonl"]
    )
    with pytest.raises(DataError, match=rf"{DELTA}\.rows: there is no file or folder nowhere"):
        cell_keys(config)
