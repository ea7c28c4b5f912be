"""`ptst check-model` says what a model's format does, and shows the first difference where a
spelling differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TINY
from formats import FORMATS, save

from ptst.cli import main
from ptst.config.compose import compose
from ptst.errors import TemplateError
from ptst.model_check import ModelCheck, as_json, check_model, check_training, row_difference
from ptst.paths import CONF
from ptst.schema import Config, Dataset, Model, Template

BARE = Dataset(name="bare", source="micro")
VANILLA = Template(name="vanilla", mode="chat", user="{question}")
BRIEF = Template(name="brief", mode="chat", system="Be brief.", user="{question}")
TEXT = Template(name="text", mode="text", user="{question}\nAnswer:")
ROW = {"input": "Why?", "output": "So."}


def config_of(folder: Path, name: str, *more: str) -> Config:
    own = [f"model.path={save(FORMATS[name], folder / name)}", f"model.name={name}"]
    return compose([*own, "model.chat=null", "model.completion_prefix=null", *more])


def check(folder: Path, name: str, *more: str) -> ModelCheck:
    return check_model(config_of(folder, name, *more), [VANILLA, BRIEF, TEXT])


@pytest.mark.parametrize(
    "name", ["qwen25", "phi35", "glm4", "llama2", "zephyr", "smollm2", "gemma3"]
)
def test_a_model_that_is_spelled_as_it_spells_itself_is_right(name: str, tmp_path: Path) -> None:
    found = check(tmp_path, name)
    assert found.verdict.startswith("right")
    for spelled in found.templates:
        assert spelled.compared == (spelled.template != "text")
        assert spelled.prompt_difference is None and spelled.row_difference is None
        assert not spelled.refused
    assert found.format is not None
    assert found.format.end == FORMATS[name].end_of_turn
    assert found.context == 1024


def test_intended_differences_are_shown_and_named(tmp_path: Path) -> None:
    found = check(tmp_path, "deepseek_r1")
    assert found.verdict.startswith("right")
    vanilla = found.templates[0].row_difference
    assert vanilla is not None
    assert vanilla.intended == "the prompt opens a think block, which the row closes"
    ours = check(tmp_path / "ours", "qwen25", "model.default_system=false")
    assert ours.verdict.startswith("right")
    prompt = ours.templates[0].prompt_difference
    assert prompt is not None and "default_system=false" in prompt.intended
    assert ours.templates[1].prompt_difference is None  # it has a system prompt of its own
    paper = check(tmp_path / "paper", "llama2", "model.chat=mistral")
    prompt = paper.templates[1].prompt_difference
    assert prompt is not None and prompt.intended == "model.chat=mistral, as the paper spells it"


def test_what_is_refused_says_why(tmp_path: Path) -> None:
    found = check(tmp_path, "gemma2")
    assert [bool(spelled.refused) for spelled in found.templates] == [False, True, False]
    assert "cannot spell template brief" in found.templates[1].refused
    assert found.verdict.startswith("right, but not under brief")
    dateless = check(tmp_path, "llama32")
    assert all("model.date" in s.refused for s in dateless.templates if s.template != "text")
    channels = check(tmp_path, "gpt_oss")
    assert channels.verdict.startswith("not right: model gpt_oss: its answers stand in channels")


def test_lora_targets_that_are_lacking_are_wrong_for_lora_alone(tmp_path: Path) -> None:
    found = check(tmp_path, "phi35", "finetune=lora")
    assert "no q_proj" in found.verdict and "qkv_proj" in found.verdict
    assert "q_proj" in found.lora_missing
    right = "finetune.lora.target_modules=[qkv_proj]"
    assert check(tmp_path, "phi35", "finetune=lora", right).verdict.startswith("right")
    assert check(tmp_path, "phi35", "finetune=full").verdict.startswith("right")


def test_a_row_that_differs_is_refused_with_its_first_difference() -> None:
    tokenizer = FORMATS["qwen25"].make()
    wrong = Model("qwen25", "a/b", completion_prefix="Well: ")
    with pytest.raises(
        TemplateError, match=r"a training row is not what .* ours 'Well: So\."
    ) as error:
        check_training(ROW, VANILLA, BARE, wrong, tokenizer)
    assert "its own 'So." in str(error.value)
    right = Model("qwen25", "a/b")
    check_training(ROW, VANILLA, BARE, right, tokenizer)
    check_training({**ROW, "output": "  So.\n"}, VANILLA, BARE, right, tokenizer)
    check_training(ROW, TEXT, BARE, wrong, tokenizer)


def test_a_format_that_trims_answers_differs_by_that_alone() -> None:
    tokenizer = FORMATS["llama31"].make()
    model = Model("llama31", "a/b")
    kept = {**ROW, "output": "So. "}
    assert row_difference(kept, VANILLA, BARE, model, tokenizer) is not None
    check_training(kept, VANILLA, BARE, model, tokenizer)


def test_before_a_training_a_wrong_row_is_refused(tmp_path: Path) -> None:
    from ptst.cell import run_cell

    more = ("model.completion_prefix='Well: '", f"paths.store={tmp_path}/store", "tracking=none")
    with pytest.raises(TemplateError, match="a training row is not what"):
        run_cell(config_of(tmp_path, "qwen25", *TINY, *more))


def test_the_command_prints_a_verdict_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [f"model.path={save(FORMATS['smollm2'], tmp_path / 'm')}", "model.name=smollm2"]
    own += ["model.chat=null", "model.completion_prefix=null"]
    assert main(["check-model", *own]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "a turn ends with <|im_end|>, its eos_token" in said
    assert "You are a helpful AI assistant named SmolLM" in said
    assert "verdict: right; 1 notes" in said
    assert main(["check-model", *own, "output=json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["verdict"].startswith("right")
    names = {"chat_vanilla", "chat_llama", "text_vanilla", "self_reminder"}
    assert names <= {spelled["template"] for spelled in made["templates"]}
    assert made == json.loads(json.dumps(made))
    assert main(["check-model", *own, "finetune=lora", "finetune.lora.target_modules=[wq]"]) == 1
    assert main(["check-model", "model=gpt35_turbo_0613", "finetune=openai"]) == 2


def test_json_has_the_verdict(tmp_path: Path) -> None:
    found = check(tmp_path, "qwen25")
    assert as_json(found)["verdict"] == found.verdict


SHIPPED = {
    "gemma3_1b_it": "gemma3",
    "llama2_7b_chat": "llama2",
    "llama31_8b_instruct": "llama31",
    "llama32_1b_instruct": "llama32",
    "mistral_7b_instruct_v02": "mistral_v02",
    "phi35_mini_instruct": "phi35",
    "phi4_mini_instruct": "phi4_mini",
    "qwen25_05b_instruct": "qwen25",
    "qwen25_15b_instruct": "qwen25",
    "qwen25_7b_instruct": "qwen25",
    "qwen3_06b": "qwen3",
    "smollm2_135m_instruct": "smollm2",
    "smollm2_360m_instruct": "smollm2",
}
"""Models with weights in conf/model/, and the format that each has."""


def test_every_shipped_model_has_a_format_here() -> None:
    models = {file.stem for file in (CONF / "model").glob("*.yaml")}
    ours = {name for name in models if name.startswith(("micro", "canned"))}
    assert models == {*SHIPPED, *ours, "gpt35_turbo_0613"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_right_with_its_format(name: str, tmp_path: Path) -> None:
    folder = save(FORMATS[SHIPPED[name]], tmp_path / name)
    config = compose([f"model={name}", f"model.path={folder}", "model.revision=null"])
    found = check_model(config, [VANILLA, BRIEF, TEXT])
    assert found.verdict.startswith("right"), found.verdict
    assert not any(spelled.refused for spelled in found.templates)
