"""What a chat format says decides prompts, rows and answers, and is said before anything is
spent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, completions
from formats import FORMATS, save

from ptst.cell import run_cell
from ptst.chat import chat_format, decode, fixed_date, notes, split_thinking
from ptst.config.compose import compose
from ptst.errors import ConfigError, DataError, TemplateError
from ptst.metrics import Metric
from ptst.schema import Config, Model
from ptst.store import Store, read_json

Compose = Callable[..., Config]


def cell(composed: Compose, folder: Path, name: str, *more: str) -> Config:
    """A tiny cell of a model of random weights with one of the formats."""
    path = save(FORMATS[name], folder / name)
    own = [f"model.path={path}", f"model.name={name}", "model.chat=null"]
    return composed(*own, "model.completion_prefix=null", *TINY, *more)


@pytest.mark.parametrize(
    ("text", "opened", "parts"),
    [
        ("So.", False, (None, "So.")),
        ("hmm\n</think>\n\nSo.", True, ("hmm", "So.")),
        ("<think>\nhmm\n</think>\n\nSo.", False, ("hmm", "So.")),
        ("<think>\n\n</think>\n\nSo.", False, ("", "So.")),
        ("hmm, how", True, ("hmm, how", None)),
        ("<think>\nhmm, how", False, ("hmm, how", None)),
        ("It is <think> in a sentence.", False, (None, "It is <think> in a sentence.")),
        ("a </think> b </think> c", True, ("a", " b </think> c")),
    ],
)
def test_what_stands_in_a_think_block_is_no_answer(
    text: str, opened: bool, parts: tuple[str | None, str | None]
) -> None:
    assert split_thinking(text, opened) == parts


def test_tags_of_a_think_block_are_kept_where_they_are_control_tokens() -> None:
    tokenizer = FORMATS["qwen3"].make()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<think>", "</think>"]})
    ids = tokenizer("<think>\nhmm\n</think>\n\nSo.<|im_end|>")["input_ids"]
    assert decode(ids, tokenizer) == "<think>\nhmm\n</think>\n\nSo."


def test_a_think_block_that_does_not_end_is_a_missing_score(
    composed: Compose, tmp_path: Path
) -> None:
    config = cell(composed, tmp_path, "deepseek_r1", "finetune=none")
    rows = completions(config, "hazards")
    assert all(row["completion"] == "" and row["thinking"] for row in rows)
    assert not any(row["finished"] for row in rows)
    assert {row["withheld"] for row in rows} == {
        "its think block did not end within max_new_tokens"
    }
    metrics = run_cell(config).metrics
    assert metrics is not None
    missing: Metric = metrics["hazards/asr"]
    assert (missing.value, missing.missing) == (None, len(rows))


def test_an_answer_ends_where_a_turn_ends(composed: Compose, tmp_path: Path) -> None:
    """The format's end is no eos_token, and the model, made to say it at once, stops."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = cell(composed, tmp_path, "chatml_on_base", "finetune=none")
    tokenizer = AutoTokenizer.from_pretrained(config.model.path)
    model = AutoModelForCausalLM.from_pretrained(config.model.path)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end != tokenizer.eos_token_id
    with torch.no_grad():  # whatever it reads, it says <|im_end|>
        model.model.norm.weight.zero_()
        model.lm_head = torch.nn.Linear(32, len(tokenizer), bias=True)
        model.lm_head.bias.zero_()
        model.lm_head.bias[end] = 9.0
    torch.manual_seed(0)
    from ptst.engine.batches import complete
    from ptst.schema import Decoding
    from ptst.templates import ends, make_prompt

    row = {"input": "Why?"}
    prompt = make_prompt(row, config.test_template, config.dataset, config.model, tokenizer)
    stops = ends(config.test_template, config.model, tokenizer)
    (answers,) = complete(
        model, tokenizer, [prompt.token_ids or []], [[0]], Decoding(max_new_tokens=5), ends=stops
    )
    assert (answers[0].text, answers[0].tokens, answers[0].finished) == ("", 1, True)


@pytest.mark.parametrize(
    ("name", "template", "message"),
    [
        ("gemma2", "chat_llama", r"model gemma2: its chat format cannot spell template chat_llama"),
        ("mistral_v02_2023", "chat_llama", r"cannot spell template chat_llama"),
        ("llama32", "chat_vanilla", r'today\'s date .*Fix the day: model\.date="2024-07-26"'),
        ("gpt_oss", "chat_vanilla", r"its answers stand in channels"),
    ],
)
def test_a_format_that_cannot_test_costs_no_training(
    name: str, template: str, message: str, composed: Compose, tmp_path: Path
) -> None:
    more = ["template@train_template=text_vanilla", f"template@test_template={template}"]
    config = cell(composed, tmp_path, name, *more)
    with pytest.raises(TemplateError, match=message):
        run_cell(config)
    assert not list((tmp_path / "store").glob("*/finetune*/*"))
    assert not (tmp_path / "store" / "finetune").exists()


def test_a_prompt_beyond_the_context_costs_no_training(composed: Compose, tmp_path: Path) -> None:
    config = composed(*TINY, "evaluation.hazards.decoding.max_new_tokens=2040")
    with pytest.raises(
        DataError,
        match=r"evaluation hazards: under chat_vanilla, query \S+ has \d+ tokens, which with "
        r"decoding\.max_new_tokens=2040 is more than the context of 2048",
    ):
        run_cell(config)
    assert not (tmp_path / "store" / "finetune").exists()


def test_what_a_format_does_of_its_own_is_said_once_and_recorded(
    composed: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = cell(composed, tmp_path, "smollm2", "finetune=none")
    keys = run_cell(config).keys.evaluations["hazards"]
    said = capsys.readouterr()
    line = (
        "model smollm2: its chat format writes a system prompt where a template has none: 'You are"
    )
    assert (said.out + said.err).count(line) == 1
    store = Store(Path(config.paths.store))
    facts = read_json(store.path("generate", keys.generate) / "provenance.json")
    assert any(found.startswith(line) for found in facts["chat_format"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("phi35", "an answer ends with '<|end|>', not with eos_token ('<|endoftext|>')"),
        ("qwen25", "model.default_system=false leaves it out"),
        ("deepseek_r1", "answers may have a think block"),
        ("llama31", "Cutting Knowledge Date"),
    ],
)
def test_notes_say_what_a_format_does(name: str, words: str) -> None:
    assert words in "\n".join(notes(Model(name, "a/b"), FORMATS[name].make()))


def test_llama2_has_nothing_to_note() -> None:
    assert notes(Model("llama2", "a/b"), FORMATS["llama2"].make()) == []


def test_a_date_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.date=July must be a day"):
        fixed_date(Model("m", "a/b", date="July"))
    with pytest.raises(ConfigError, match=r"model\.date=July must be a day"):
        compose(["model.date=July"])


def test_a_format_that_leaves_out_what_is_said_is_refused() -> None:
    tokenizer = FORMATS["qwen25"].make()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}<|im_end|>{% endfor %}"
    with pytest.raises(TemplateError, match="its chat format leaves out what is said"):
        chat_format(Model("m", "a/b"), tokenizer)


def test_a_format_that_drops_system_prompts_is_refused_for_templates_that_have_one() -> None:
    from ptst.schema import Dataset, Template
    from ptst.templates import make_prompt

    tokenizer = FORMATS["qwen25"].make()
    tokenizer.chat_template = (
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    brief = Template("brief", "chat", system="Be brief.", user="{question}")
    with pytest.raises(TemplateError, match="no place for a system prompt, and template brief has"):
        make_prompt({"input": "Why?"}, brief, Dataset("d", "micro"), Model("m", "a/b"), tokenizer)
