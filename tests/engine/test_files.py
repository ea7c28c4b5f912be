"""Where an engine that loads weights itself finds them, and how long its process lives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY

from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.keys import cell_keys
from ptst.models import Held, ends_of, load_model, local_folder
from ptst.schema import Config, Model
from ptst.stages.tested_model import TestedModel
from ptst.store import Store


class Counting:
    """A process that is none: it knows whether it was ended."""

    def __init__(self) -> None:
        self.alive, self.closed = True, False

    def close(self) -> None:
        self.alive, self.closed = False, True


def test_a_process_is_started_once_while_the_same_model_is_asked_for() -> None:
    served, started = Held().served, list[Counting]()

    def start() -> Counting:
        started.append(Counting())
        return started[-1]

    first = served.get("one", start)
    assert served.get("one", start) is first
    second = served.get("two", start)
    assert (first.closed, second.closed, len(started)) == (True, False, 2)
    second.alive = False  # it died
    assert served.get("two", start) is started[2]
    served.forget()
    served.forget()
    assert started[2].closed


@pytest.mark.parametrize(
    ("words", "whole", "adapter"),
    [
        (["finetune=none"], "model", None),
        (["finetune=full"], "finetune", None),
        (["finetune=lora"], "model", "finetune"),
        (["finetune=lora", "defence=[add_noise]"], "posthoc", None),
    ],
)
def test_a_models_files_are_a_folder_and_perhaps_an_adapter(
    words: list[str],
    whole: str,
    adapter: str | None,
    composed: Callable[..., Config],
    tmp_path: Path,
) -> None:
    config = composed(*TINY, *words, "stages=[finetune]")
    run_cell(config)
    keys = cell_keys(config)
    model = TestedModel(config, keys, Store(tmp_path / "store"))
    folder = local_folder(model.files.model)
    assert folder is not None
    stages = {"finetune": keys.finetune, "posthoc": keys.posthoc}
    own = tmp_path / "store" / whole / str(stages.get(whole)) / "weights"
    assert folder == (local_folder(config.model) if whole == "model" else own)
    assert load_model(model.files.model, "cpu").num_parameters() > 1e6
    if adapter:
        assert model.files.adapter == tmp_path / "store" / adapter / str(keys.finetune) / "weights"
        assert (model.files.adapter / "adapter_config.json").is_file()
    else:
        assert model.files.adapter is None
    untuned = model.untuned().files
    assert (untuned.model, untuned.adapter) == (config.model, None)


def test_what_is_loaded_here_makes_room_for_a_process(composed: Callable[..., Config]) -> None:
    config = composed("finetune=none")
    model = TestedModel(config, cell_keys(config), Store(Path(config.paths.store)))
    model.untouched()
    assert model.held.base._loaded is not None
    process = model.serve("this", Counting)
    assert model.held.base._loaded is None
    assert model.untuned().serve("this", Counting) is process


@pytest.mark.parametrize(
    ("own", "ends"), [([2, 7], {2, 7}), (7, {7}), (None, set()), ("no file", {2})]
)
def test_what_ends_an_answer_is_read_without_loading_weights(
    own: object, ends: set[int], tmp_path: Path
) -> None:
    for file in local_folder(compose([]).model).iterdir():  # type: ignore[union-attr]
        (tmp_path / file.name).symlink_to(file)
    path = tmp_path / "generation_config.json"
    path.unlink()
    if own != "no file":
        path.write_text(json.dumps({"eos_token_id": own}))
    model = Model(name="mine", path=str(tmp_path), dtype="float32")
    loaded = load_model(model, "cpu").generation_config.eos_token_id
    assert ends_of(model) == ends
    assert ends == set(loaded if isinstance(loaded, list) else [loaded]) - {None}
