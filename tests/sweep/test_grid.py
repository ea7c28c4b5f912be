"""A sweep file and a command line become exactly the cells that they say, or an error that says
where."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise, product
from pathlib import Path

import pytest

from ptst.config.compose import compose
from ptst.config.many import compose_many
from ptst.config.plain import from_dict
from ptst.errors import ConfigError
from ptst.keys import cell_keys
from ptst.multirun.launch import multirun
from ptst.paths import ROOT
from ptst.sweep import frozen
from ptst.sweep.grid import Grid, expand
from ptst.sweep.run import freeze

TEMPLATES = ("text_vanilla", "text_alpaca", "chat_vanilla", "chat_alpaca", "chat_llama")


def ends(grid: Grid) -> list[tuple[str, str]]:
    return [(c.coordinates["train_template"], c.coordinates["test_template"]) for c in grid.cells]


@pytest.fixture
def sweep_file(request: pytest.FixtureRequest):
    """write(text) -> name of a sweep file that is there for one test."""
    path = ROOT / "sweeps" / f"test_{os.getpid()}_{request.node.name[:30].strip('[]')}.yaml"

    def write(text: str) -> str:
        path.write_text("# @package _global_\n" + text, encoding="utf-8")
        return path.stem

    yield write
    path.unlink(missing_ok=True)


def test_table_1_is_five_fine_tunings_and_thirty_cells() -> None:
    grid = expand(["+sweeps=table1"])
    assert grid.name == "table1-micro"
    assert set(ends(grid)) == {(a, b) for a in ("none", *TEMPLATES) for b in TEMPLATES}
    assert len(grid.cells) == len(grid.distinct) == 30
    assert len({cell.keys.finetune for cell in grid.cells} - {None}) == 5
    # What is run follows its fine-tuning: no model is left and taken up again.
    models = [cell.keys.model for cell in grid.distinct]
    assert sum(a != b for a, b in pairwise(models)) == 5


def test_seeds_multiply_the_fine_tunings_and_not_the_untouched_model() -> None:
    grid = expand(["+sweeps=quick", "seed=0,1,2"])
    assert len(grid.cells) == 2 * 2 * 3 + 2
    none = [cell for cell in grid.cells if cell.coordinates["train_template"] == "none"]
    assert [cell.coordinates["test_template"] for cell in none] == ["chat_vanilla", "chat_llama"]
    assert all("seed" not in cell.coordinates for cell in none)
    assert {cell.keys.finetune for cell in none} == {None}


def test_every_cell_is_what_composing_it_alone_gives() -> None:
    fixed = ["scale=micro", "dataset.n=24"]
    axes = ["dataset=gsm8k,chatdoctor", "finetune=full,lora", "finetune.epochs=1,2.5", "seed=3,4"]
    for cell in expand(
        [*fixed, *axes, "finetune.lora.target_modules=[q_proj],[k_proj,v_proj]"]
    ).cells:
        alone = compose([*fixed, *cell.overrides])
        alone.tracking.group = cell.config.tracking.group
        assert asdict(cell.config) == asdict(alone)
        assert cell.keys == cell_keys(alone)


@pytest.mark.parametrize(
    "axes",
    [
        ["template@train_template=chat_vanilla,self_reminder", "template@test_template=text_alpaca,in_context_defense", "model=micro,llama2_7b_chat"],
        # Meet in one part of the configuration, or through a file of conf/ (task: ${dataset})
        ["finetune=full,lora", "evaluation=[hazards],[hazards,lookalikes]", "dataset=gsm8k,openorca"],
        ["finetune=none,full", "finetune.lora.target_modules=[q_proj],[v_proj]", "judge=micro,keywords"],
    ],
)  # fmt: skip
def test_choices_that_are_composed_apart_are_what_composing_them_together_gives(
    axes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [list(point) for point in product(*[_choices(axis) for axis in axes])]
    for point, found in zip(points, compose_many(["seed=3"], points), strict=True):
        assert not isinstance(found, ConfigError), found
        assert asdict(found) == asdict(compose(["seed=3", *point])), point


def _choices(axis: str) -> list[str]:
    key, _, values = axis.partition("=")
    return [f"{key}={value}" for value in re.findall(r"\[.*?\]|[^,]+", values)]


def test_a_choice_that_depends_on_another_by_a_file_of_ones_own_is_composed_with_it(
    own_conf: Path,
) -> None:
    for judge, epochs in (("micro", 1), ("keywords", 2)):
        (own_conf / "finetune" / "recipe" / f"mine_{judge}.yaml").write_text(
            f"defaults: [full_micro, _self_]\nepochs: {epochs}\n"
        )
    (own_conf / "finetune" / "mine.yaml").write_text(
        "defaults:\n  - recipe@_here_: mine_${judge}\n  - _self_\nmethod: full\n"
    )
    points = [[f"judge={j}", f"finetune={f}"] for j in ("micro", "keywords") for f in ("full", "mine")]  # fmt: skip
    found = compose_many([], points)
    assert [c if isinstance(c, ConfigError) else c.finetune.epochs for c in found] == [3, 1, 3, 2]


@pytest.mark.parametrize("more", [[], ["judge=micro,keywords"]])
def test_table_1_is_composed_once_for_each_choice(
    more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import hydra

    composed: list[object] = []
    real = hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda *a, **k: composed.append(k) or real(*a, **k))
    expand(["+sweeps=table1", "tracking=none", *more])
    # With the sweep file's, a grid's own, and the untouched model's
    assert len(composed) <= 1 + 1 + 4 + 4 + 1 + 4 + 1 + 3 * len(more)


def test_values_are_set_before_anything_is_resolved() -> None:
    """A value that others interpolate reaches them, as in Hydra itself."""
    (one, two) = compose_many([], [["scale.max_new_tokens=7"], ["scale.max_new_tokens=9"]])
    assert not isinstance(one, ConfigError) and not isinstance(two, ConfigError)
    assert one.evaluation["hazards"].decoding.max_new_tokens == 7
    assert two.evaluation["hazards"].decoding.max_new_tokens == 9


def test_a_value_is_of_its_cell_alone() -> None:
    """Also where it was wrong, and where a cell says nothing of it."""
    points = [["seed=3", "finetune.epochs=2"], ["seed=x"], [], ["finetune.epochs=0"], ["seed=4"]]
    found = compose_many([], points)
    assert [c if isinstance(c, ConfigError) else (c.seed, c.finetune.epochs) for c in found][::2] == [(3, 2), (0, 3), (4, 3)]  # fmt: skip
    assert [isinstance(c, ConfigError) for c in found] == [False, True, False, True, False]


def test_rows_without_fine_tuning_do_not_multiply_over_what_only_training_has() -> None:
    grid = expand(
        [
            "finetune=none,full",
            "template@train_template=chat_vanilla,chat_llama",
            "template@test_template=chat_vanilla,chat_llama",
            "finetune.learning_rate=1e-4,2e-4",
            "seed=0,1",
        ]
    )
    assert len(grid.cells) == 2 + 2 * 2 * 2 * 2
    assert len(grid.distinct) == len(grid.cells)
    none = [cell for cell in grid.cells if cell.coordinates["finetune"] == "none"]
    assert all(set(cell.coordinates) == {"model", "dataset", "finetune", "train_template", "test_template"} for cell in none)  # fmt: skip
    tuned = [cell for cell in grid.cells if cell.coordinates["finetune"] == "full"]
    assert {cell.coordinates["finetune.learning_rate"] for cell in tuned} == {"0.0001", "0.0002"}


def test_the_same_template_under_two_names_is_two_rows_and_one_piece_of_work(
    tmp_path: Path,
) -> None:
    grid = expand(["engine.batch_size=8,16", "template@test_template=chat_vanilla"])
    assert len(grid.cells) == 2
    assert len(grid.distinct) == 1  # the batch size changes speed only


def test_a_part_of_a_table_is_taken_by_naming_its_values() -> None:
    grid = expand(["+sweeps=table1", "template@test_template=chat_llama"])
    assert ends(grid) == [*((t, "chat_llama") for t in TEMPLATES), ("none", "chat_llama")]
    grid = expand(["+sweeps=table1", "template@train_template=chat_mpt,chat_llama"])
    assert {train for train, _ in ends(grid)} == {"none", "chat_mpt", "chat_llama"}


def test_grids_are_a_union_so_that_values_can_be_paired(sweep_file) -> None:
    name = sweep_file(
        """
sweep:
  name: pairs
  grids:
    - template@train_template: chat_vanilla
      template@test_template: [chat_vanilla, chat_llama]
    - template@train_template: chat_llama
      template@test_template: chat_llama
      finetune.epochs: [1, 2]
"""
    )
    grid = expand([f"+sweeps={name}"])
    assert ends(grid) == [
        ("chat_vanilla", "chat_vanilla"),
        ("chat_vanilla", "chat_llama"),
        ("chat_llama", "chat_llama"),
        ("chat_llama", "chat_llama"),
    ]
    assert [c.config.finetune.epochs for c in grid.cells] == [3, 3, 1, 2]


def test_a_value_from_the_command_line_reaches_the_grids_that_do_not_vary_it(sweep_file) -> None:
    name = sweep_file(
        """
sweep:
  name: two
  grids:
    - template@train_template: [chat_vanilla]
    - template@train_template: [chat_llama]
      template@test_template: [chat_vanilla, chat_llama]
"""
    )
    grid = expand([f"+sweeps={name}", "template@test_template=chat_llama"])
    assert ends(grid) == [("chat_vanilla", "chat_llama"), ("chat_llama", "chat_llama")]


def test_defaults_are_not_checked_where_an_axis_gives_the_value() -> None:
    grid = expand(["finetune.device_batch_size=24", "finetune.batch_size=48,72"])
    assert [cell.config.finetune.batch_size for cell in grid.cells] == [48, 72]


def test_labels_tell_cells_apart() -> None:
    cells = expand(["dataset=gsm8k,chatdoctor", "finetune=full,lora"]).cells
    assert len({cell.label for cell in cells}) == 4
    assert cells[0].label == "gsm8k full chat_vanilla → chat_vanilla seed 0"


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ([], "quick-micro"),
        # What the sweep has of its own, what changes no result, and where things lie make no other
        # table
        (["judge=micro", "finetune=full", "model=micro", "seed=0", "scale=micro", "evaluation=[hazards]"], "quick-micro"),
        (["template@test_template=chat_vanilla,chat_llama", "finetune.epochs=3"], "quick-micro"),
        (["engine.batch_size=8", "engine.device=cpu", "finetune.devices=1", "paths.reports=/r", "tracking=none"], "quick-micro"),
        (["judge=keywords"], "quick-micro-judge=keywords"),
        (["judge=keywords", "judge.list=qi2023"], "quick-micro-judge=keywords-judge.list=qi2023"),
        (["finetune=safety_mix"], "quick-micro-finetune=safety_mix"),
        (["seed=0,1,2"], "quick-micro-seed=0,1,2"),
        (["finetune.epochs=2", "evaluation.hazards.queries.n=9"], "quick-micro-finetune.epochs=2-hazards.queries.n=9"),
        (["evaluation.hazards.queries.n=9", "finetune.epochs=2"], "quick-micro-finetune.epochs=2-hazards.queries.n=9"),
        (["scale.max_new_tokens=32"], "quick-micro-scale.max_new_tokens=32"),
        (["template@test_template=chat_llama"], "quick-micro-test_template=chat_llama"),
        # A batch draws together, and rounds in half precision: there its size is part of a result
        (["evaluation.hazards.decoding.temperature=0.7", "engine.batch_size=8"], "quick-micro-engine.batch_size=8-hazards.decoding.temperature=0.7"),
    ],
)  # fmt: skip
def test_what_makes_another_table_gives_its_report_another_name(own: list[str], name: str) -> None:
    grid = expand(["+sweeps=quick", *own])
    assert grid.report_name == name
    assert {cell.config.tracking.group for cell in grid.cells} == {name}
    assert grid.name == "quick-micro"


def test_values_that_no_file_can_be_called_by_are_hashed(tmp_path: Path) -> None:
    names = [
        expand(["+sweeps=quick", f"model.completion_prefix='{text}'"]).report_name
        for text in ("a b", "a/b", "x" * 300)
    ]
    assert len(set(names)) == 3
    for name in names:
        assert re.fullmatch(r"quick-micro-model\.completion_prefix=[\w-]+-[0-9a-f]{8}", name)
        assert len(name) <= 90


def test_a_grid_without_a_file_is_called_by_its_engine_too() -> None:
    one, two = (expand(["seed=0,1", f"engine.batch_size={size}", "model.dtype=bfloat16"]) for size in (8, 16))  # fmt: skip
    assert one.name != two.name
    assert {one.report_name, two.report_name} == {one.name, two.name}


def test_the_option_s_name_is_the_coordinate() -> None:
    """Not its method: `lora` and a recipe of one's own are two rows, `safety_mix` is no `full`."""
    for own, name in (("safety_mix", "safety_mix"), ("lora_gsm8k", "lora_gsm8k"), ("full", "full")):
        cells = expand(["+sweeps=quick", f"finetune={own}"]).cells
        assert {cell.coordinates["finetune"] for cell in cells} == {name, "none"}
    assert compose(["finetune=qlora"]).finetune.name == "qlora"
    assert compose(["scale=paper"]).finetune.name == "lora_gsm8k"
    assert compose_many([], [["finetune=lora", "seed=1"]])[0].finetune.name == "lora"  # type: ignore[union-attr]


def test_a_grid_that_was_frozen_before_options_had_names_is_read() -> None:
    config = asdict(compose([]))
    del config["finetune"]["name"]
    assert from_dict(config).finetune.method == "full"


def test_a_frozen_grid_is_read_only_under_the_same_configuration(
    tmp_path: Path, own_conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["seed=0,1", f"paths.store={tmp_path}/store"]
    composed = expand(own)
    freeze(composed)
    monkeypatch.setattr(frozen, "compose_many", lambda *_: pytest.fail("composed again"))
    assert [asdict(c) for c in expand(own).cells] == [asdict(c) for c in composed.cells]
    monkeypatch.undo()
    monkeypatch.setattr("ptst.paths.CONF", own_conf)
    recipe = own_conf / "finetune" / "recipe" / "full_micro.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("rate: 4.0e-4", "rate: 3.0e-4"))
    assert expand(own).cells[0].config.finetune.learning_rate == 3e-4
    # What an environment variable gives may change under the same text: it is composed anew.
    recipe.write_text(text.replace("rate: 4.0e-4", "rate: ${ oc.env:PTST_TEST_RATE}"))
    for rate in ("0.1", "0.2"):
        monkeypatch.setenv("PTST_TEST_RATE", rate)
        grid = expand(own)
        freeze(grid)
        assert grid.cells[0].config.finetune.learning_rate == float(rate)


def test_values_of_a_sweep_file_may_hold_any_character(sweep_file) -> None:
    name = sweep_file(
        """
sweep:
  name: odd
  grids:
    - dataset.question: ["Question, (odd): {input}", "It's = {input}", "a\\\\b {input}\\\\'", "{input}\\\\"]
"""
    )
    asked = [cell.config.dataset.question for cell in expand([f"+sweeps={name}"]).cells]
    assert asked == ["Question, (odd): {input}", "It's = {input}", "a\\b {input}\\'", "{input}\\"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["template@test_template=chat_vanila,chat_llama"], r"chat_vanila.*\n.*Available options"),
        (["+sweeps=tabel1"], r"(?s)tabel1.*Available options in 'sweeps': core, defences, defences_full, figure2"),
        (["finetune.learning_rat=1,2"], r"finetune.learning_rat(?s:.*)Did you mean finetune.learning_rate"),
        (["+sweeps=quick", "finetune.epoch_s=1"], r"Did you mean finetune.epochs"),
        (["seed=0", "seed=1"], r"seed is given twice: seed=0 and seed=1"),
        (["seed=0,1", "seed=2"], r"seed is given twice"),
        (["finetune.epochs=1,-1"], r"the command line: cell finetune.epochs=-1: finetune.epochs=-1"),
        (["seed=1,a"], r"cell seed=a: "),
        (["seed=1,"], r"'seed=1,' is not an override"),
        (["seed=range(0,0)"], r"seed=range\(0,0\) has no values"),
        (["template@test_template=glob(chat_*)"], r"name the values"),
        (["stages=[finetune],[judge]"], r"stages is the same for all cells of a sweep"),
        (["scale=micro,paper"], r"scale is the same for all cells"),
        (["+sweeps=table1,table2"], r"sweeps is the same for all cells"),
        (["analysis=[],[mechanism]"], r"analysis=.*: analyses are no part of a cell"),
        (
            ["analysis=[mechanism]", "analysis.mechanism.seed=0,1"],
            r"analysis\.mechanism\.seed=0,1: analyses are no part of a cell",
        ),
        (["paths.store=a,b"], r"paths is the same for all cells"),
        (["hydra/launcher=basic,joblib"], r"hydra is the same for all cells"),
        (["finetune=none", "finetune.learning_rate=nan"], r"finetune.learning_rate=nan"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_named(overrides: Sequence[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweep: {name: x, grids: [{template@test_template: [chat_lama]}]}", r"sweeps/.*yaml: cell template@test_template=chat_lama: (?s:.*)Available options"),
        ("sweep: {name: x, grids: [{finetune.epoch_s: [1]}]}", r"sweeps/.*yaml: cell finetune.epoch_s=1: (?s:.*)Did you mean finetune.epochs"),
        ("sweep: {name: x, grids: [{seed: []}]}", r"sweeps/.*yaml: grids\[0\]: seed has no values"),
        ("sweep: {name: x, grid: [{seed: [1]}]}", r"(?s)grid.*Did you mean sweep.grids"),
        ("sweep: {name: x, grids: [}", r"sweeps/.*yaml, line 2, column 26: "),
        ("sweep: {name: ../../evil}", r"sweeps/.*yaml: sweep.name=../../evil: a name has letters, digits"),
        ("sweep: {name: .x}", r"sweeps/.*yaml: sweep.name=.x: a name has letters, digits"),
        ("sweep: {name: ''}", r"sweeps/.*yaml: sweep.name=: a name has letters, digits"),
        ("sweep: {name: x, rows: seed}", r"sweeps/.*yaml: sweep.rows=seed"),
        ("sweep: {name: x, rows: model → seed}", r"sweep.rows=model → seed: runs that differ in their seed"),
        ("sweep: {name: x, rows: dataset, columns: test_template → dataset}", r"sweep.rows and sweep.columns are both dataset"),
        ("sweep: {name: x, over: [judge]}", r"sweep.over=judge is not one of: model, dataset, finetune"),
        ("sweep: {name: x, over: [model], rows: model}", r"sweep.rows=model: runs that differ in their model"),
        ("sweep: {name: x, rows: train_templat}", r"sweeps/.*yaml: sweep.rows=train_templat is not a coordinate"),
        ("sweep: {name: x, metrics: {hazard/asr: {title: ASR}}}", r"there is no evaluation 'hazard'"),
        ("sweep: {name: x, metrics: {hazards/ars: {title: ASR}}}", r"reports no 'ars', but: asr, neither, refused"),
        ("sweep: {name: x, grids: [{scale: [micro, paper]}]}", r"sweeps/.*yaml: grids\[0\]: scale: scale is the same"),
        ("sweep: {name: x, safety_templates: [chat_lama]}", r"there is no template chat_lama"),
        ("sweep: {name: x, contrasts: [{name: c, a: {templat: chat_llama}, b: {templat: chat_mpt}}]}", r"sweeps/.*yaml: sweep.contrasts\[0\].a.templat: there is no such coordinate .* are: model, dataset"),
        ("sweep: {name: x, contrasts: [{name: c, a: {test_template: chat_vanilla}, b: {test_template: chat_lama}}]}", r"sweep.contrasts\[0\].b.test_template=chat_lama: no cell .* are: chat_vanilla"),
        ("sweep: {name: x, contrasts: [{name: c, a: {seed: 0}, b: {seed: 1}}]}", r"sweep.contrasts\[0\].a.seed: there is no such coordinate"),
        ("sweep: {name: x, contrasts: [{name: c, a: {test_template: chat_vanilla}}]}", r"sweep.contrasts\[0\]: it needs a name, and two different values of the same"),
        ("sweep: {name: x, contrasts: [{a: {test_template: a}, b: {test_template: b}}]}", r"sweep.contrasts\[0\]: it needs a name"),
        ("sweep: {name: x, grids: [{seed: 1}]}", r"sweeps/.*yaml: grids\[0\]: seed is fixed to 1; seed=0 gives"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_sweep_file_is_named_with_file_and_key(
    sweep_file, text: str, message: str
) -> None:
    name = sweep_file(text)
    with pytest.raises(ConfigError, match=message):
        expand([f"+sweeps={name}", *(["seed=0"] if "fixed" in message else [])])


def test_a_contrast_of_defences_stands_when_the_command_line_leaves_one_out(sweep_file) -> None:
    contrast = "{name: c, a: {defence: none}, b: {defence: lookahead+safe_lora}}"
    grids = "[{defence: [[], [lookahead, safe_lora]]}]"
    name = sweep_file(f"sweep: {{name: x, grids: {grids}, contrasts: [{contrast}]}}")
    model = "model=micro_aligned"
    assert expand([f"+sweeps={name}", model]).sweep.contrasts
    assert expand([f"+sweeps={name}", model, "defence=[]"]).sweep.contrasts


def test_a_contrast_stands_when_the_command_line_leaves_out_one_of_its_sides(sweep_file) -> None:
    contrast = "{name: c, a: {test_template: chat_vanilla}, b: {test_template: chat_llama}}"
    grids = "[{template@test_template: [chat_vanilla, chat_llama]}]"
    name = sweep_file(f"sweep: {{name: x, grids: {grids}, contrasts: [{contrast}]}}")
    grid = expand([f"+sweeps={name}", "template@test_template=chat_vanilla"])
    (found,) = grid.sweep.contrasts
    assert found.b == {"test_template": "chat_llama"}
    assert {cell.coordinates["test_template"] for cell in grid.cells} == {"chat_vanilla"}


def test_two_different_cells_in_one_place_of_a_table_are_refused(own_conf: Path) -> None:
    (own_conf / "template" / "copy.yaml").write_text(
        "name: chat_llama\nmode: chat\nsystem: Be kind.\nuser: '{question}'\n"
    )
    with pytest.raises(ConfigError, match=r"two different cells .* chat_llama .*copy"):
        expand(["template@test_template=chat_llama,copy"])


def test_a_cell_whose_data_are_not_there_does_not_keep_the_others(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    (tmp_path / "test.jsonl").write_text('{"question": "1+2?", "answer": "#### 3"}\n')
    grid = expand(
        ["dataset.source=local", f"dataset.path={tmp_path},{tmp_path}/absent", "dataset.n=null"]
    )
    good, bad = grid.cells
    assert good.problem is None
    assert "absent" in (bad.problem or "")
    assert good.keys.cell != bad.keys.cell
    with pytest.raises(ConfigError, match="no cell can be run"):
        expand(["dataset.source=local", f"dataset.path={tmp_path}/absent", "dataset.n=null"])


def test_a_folder_linked_into_conf_is_part_of_what_was_frozen(
    tmp_path: Path, own_conf: Path
) -> None:
    """A lab's templates, say: Hydra follows the link."""
    shared = tmp_path / "lab"
    (own_conf / "template").rename(shared)
    (own_conf / "template").symlink_to(shared)
    own = ["seed=0,1", "template@test_template=chat_llama", f"paths.store={tmp_path}/store"]
    freeze(expand(own))
    file = shared / "chat_llama.yaml"
    file.write_text(re.sub("(?m)^system: .*", "system: Be blunt.", file.read_text()))
    assert expand(own).cells[0].config.test_template.system == "Be blunt."


def test_what_a_linked_file_takes_from_the_environment_is_composed_anew(
    tmp_path: Path, own_conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "lab"
    (own_conf / "template").rename(shared)
    (own_conf / "template").symlink_to(shared)
    (shared / "mine.yaml").write_text(
        "name: mine\nmode: chat\nsystem: ${oc.env:PTST_TEST_SYSTEM}\nuser: '{question}'\n"
    )
    own = ["seed=0,1", "template@test_template=mine", f"paths.store={tmp_path}/store"]
    for text in ("one", "two"):
        monkeypatch.setenv("PTST_TEST_SYSTEM", text)
        grid = expand(own)
        freeze(grid)
        assert grid.cells[0].config.test_template.system == text


JUDGE = """
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from ptst.judge import Judge, Score

@dataclass
class Mine(Judge):
    labels: ClassVar[tuple[str, ...]] = {labels}
    needs: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    def scores(self, items: Any, context: Any) -> Iterator[Score]:
        yield from ()
"""


def test_a_label_that_a_judge_learns_is_reported_of_a_frozen_grid_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    own = ["seed=0,1", f"paths.store={tmp_path}/store", "judge={_target_: ptst_test_judge.Mine}"]
    for labels in (("complied", "neither"), ("complied", "neither", "refused")):
        (tmp_path / "ptst_test_judge.py").write_text(JUDGE.format(labels=labels))
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        monkeypatch.delitem(sys.modules, "ptst_test_judge", raising=False)
        importlib.invalidate_caches()
        grid = expand(own)
        freeze(grid)
        for cell in grid.cells:
            alone = compose([*own[1:], *cell.overrides]).evaluations["hazards"]
            assert cell.config.evaluations["hazards"] == alone
            assert ("refused" in alone.metrics) == ("refused" in labels)
    assert len(list((tmp_path / "store").rglob("*.jsonl"))) == 2


def test_a_frozen_grid_that_is_cut_off_is_composed_again(tmp_path: Path) -> None:
    own = ["seed=0,1", f"paths.store={tmp_path}/store"]
    whole = expand(own)
    for size in (0, 100):
        freeze(whole)
        content = whole.frozen.read_bytes()
        whole.frozen.write_bytes(content[:size])
        again = expand(own)
        assert [asdict(c) for c in again.cells] == [asdict(c) for c in whole.cells]
        freeze(again)
        assert whole.frozen.read_bytes() == content


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A folder for hydra.searchpath."""
    for group, name, text in (
        ("template", "lab", "name: lab\nmode: chat\nsystem: Be kind.\nuser: '{question}'\n"),
        ("sweeps", "lab", "# @package _global_\nsweep:\n  name: lab\n  safety_templates: [lab]\n  grids: [{template@test_template: [lab, chat_llama]}]\n"),
    ):  # fmt: skip
        (tmp_path / "lab" / group).mkdir(parents=True)
        (tmp_path / "lab" / group / f"{name}.yaml").write_text(text)
    return tmp_path / "lab"


def test_what_is_on_the_search_path_is_composed_and_part_of_what_was_frozen(
    tmp_path: Path, lab: Path
) -> None:
    path = f"hydra.searchpath=[file://{lab}]"
    own = ["+sweeps=lab", path, f"paths.store={tmp_path}/store"]
    grid = expand(own)
    assert [cell.coordinates["test_template"] for cell in grid.cells] == ["lab", "chat_llama"]
    assert grid.report_name == "lab-micro"
    freeze(grid)
    file = lab / "template" / "lab.yaml"
    file.write_text(file.read_text().replace("kind", "blunt"))
    assert expand(own).cells[0].config.test_template.system == "Be blunt."
    with pytest.raises(ConfigError, match=r"hydra\.searchpath: there is no folder /nowhere"):
        expand([*own[:1], path.replace("]", ",/nowhere]")])
    with pytest.raises(ConfigError, match="there is no template other"):
        expand([*own, "sweep.safety_templates=[other]"])


def test_so_it_is_where_a_grid_runs(
    tmp_path: Path, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["+sweeps=lab", f"hydra.searchpath=[{lab}]", f"paths.store={tmp_path}/store"]
    own += ["finetune=none", "stages=[finetune]"]  # nothing to do
    assert multirun(own) == 0
    assert "lab-micro: 2 of 2 cells done" in capsys.readouterr().err
    assert expand(own).frozen.is_file()  # what `ptst status` reads, too


def test_what_a_sweep_chooses_at_a_scale_can_be_set() -> None:
    def asked(*overrides: str) -> set[int | None]:
        cells = expand(["+sweeps=rules", *overrides]).cells
        return {cell.config.evaluations["rules"].queries.n for cell in cells}

    assert asked("evaluation.rules.queries.n=57") == {57}
    assert asked("+evaluation.rules.queries.where.suite=basic") == {171}
    assert asked("evaluation=[rules,hazards]", "evaluation.rules.queries.n=57") == {57}
    assert asked("evaluation@task=gsm8k", "evaluation.rules.queries.n=57") == {57}


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ("+hydra.sweeper.params.seed=0", r"several values \(seed=0,1\)"),
        ("hydra/sweeper=basic", r"several values \(seed=0,1\)"),
        ("hydra.sweep.dir=out", r"paths\.store"),
        ("hydra.sweep.subdir=out", r"paths\.store"),
        ("hydra.run.dir=out", r"paths\.store"),
        ("hydra.output_subdir=out", r"paths\.store"),
        ("hydra.job.chdir=true", r"paths\.store"),
        ("hydra.mode=MULTIRUN", r"ptst -m"),
    ],
)
def test_what_hydra_would_do_and_ptst_does_itself_is_refused(override: str, instead: str) -> None:
    for make in (expand, multirun, compose):
        with pytest.raises(ConfigError, match=rf"^{re.escape(override)}: .*{instead}"):
            make([override])


def test_a_setting_of_one_defence_of_an_axis_is_for_the_cells_that_have_it() -> None:
    words = ["template@test_template=chat_vanilla,chat_llama", "defence=[],[panacea],[lookahead]"]
    own = "defence.panacea.objective.rho=0.25"
    grid = expand([*words, own])
    assert len(grid.cells) == 6
    rhos = {
        cell.coordinates["defence"]: [
            own.objective["rho"] for own in cell.config.defence.values() if "rho" in own.objective
        ]
        for cell in grid.cells
    }
    assert rhos == {"none": [], "panacea": [0.25], "lookahead": []}
    assert "defence.panacea.objective.rho" not in grid.cells[0].coordinates
    plain = {cell.label: cell.keys.cell for cell in expand(words).cells}
    changed = {cell.label for cell in grid.cells if cell.keys.cell != plain[cell.label]}
    assert changed == {cell.label for cell in grid.cells if "panacea" in cell.label}
    assert grid.report_name != expand(words).report_name
    core = ["+sweeps=core", "evaluation=[hazards]", "template@test_template=chat_llama"]
    some = [cell.config.defence for cell in expand([*core, own]).cells]
    assert [d["panacea"].objective["rho"] for d in some if "panacea" in d] == [0.25]
    with pytest.raises(ConfigError, match=r"no cell of this sweep has defence=\[lisa\]; add it"):
        expand([*words, "defence.lisa.objective.rho=0.25"])
