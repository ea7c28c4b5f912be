"""Every chat format gives prompts and training rows that are the publisher's own, token for
token."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, tzinfo
from functools import cache
from pathlib import Path
from typing import Any

import formats
import pytest
from formats import CONVERSATION, DATE, FORMATS, SYSTEM_USER, USER, render, render_ids, save
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from ptst.config.compose import compose
from ptst.errors import PtstError, TemplateError
from ptst.schema import Dataset, Model, Template, Turn
from ptst.templates import make_prompt, make_training_row

BARE = Dataset(name="bare", source="micro")
VANILLA = Template(name="vanilla", mode="chat", user="{question}")
BRIEF = Template(name="brief", mode="chat", system="Be brief.", user="{question}")
QUESTIONS = (
    "Why?",
    "first line\n\nthird line\twith a tab\r\nand a last one",
    "a 🙂, 中文, é: 50% of {question} or 1,200?",
    "# Title\n\n* one  two   three\n",
    "Is <table> or <tool_call> a word?",
)
ANSWERS = ("So.", "First.\n\nSecond: 42  of 3.", "Tom has 3.\n#### 3", "中文 🙂")
SPELLED = [name for name in FORMATS if name != "gpt_oss"]
"""Those that are not refused."""
each_format = pytest.mark.parametrize("name", SPELLED)
with_system = pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.with_system])


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    return FORMATS[name].make()


def model_of(name: str, **more: Any) -> Model:
    """A model with this format as its YAML would have it."""
    own = FORMATS[name]
    day = {"date": DATE} if own.asks_clock else {}
    return Model(**{"name": name, "path": "a/b", "chat_args": dict(own.chat_args), **day, **more})


def row_ids(name: str, conversation: list[dict[str, str]]) -> list[int]:
    """The conversation's ids as the format's own tokenizer makes them, up to the end of the last
    turn.

    A row goes on where the prompt stops. Some formats write another conversation than that: R1's
    drops the thought that the prompt has opened, Mistral v0.3's a system prompt once there is an
    answer; GLM's writes no end. There the ids are the prompt's and those of the rest as it stands
    in `Format.row`.
    """
    own, tokenizer = FORMATS[name], tokenizer_of(name)
    prompt = render(tokenizer, conversation[:-1], ask=True, **own.chat_args)
    written = render(tokenizer, conversation, **own.chat_args)
    if own.rendering is not None or not written.startswith(prompt):
        rest = own.lead + conversation[-1]["content"] + own.tail + own.end_of_turn
        ids = render_ids(tokenizer, conversation[:-1], ask=True, **own.chat_args)
        return ids + list(tokenizer(rest, add_special_tokens=False)["input_ids"])
    ids = render_ids(tokenizer, conversation, **own.chat_args)
    end = tokenizer.convert_tokens_to_ids(own.end_of_turn)
    return ids[: len(ids) - ids[::-1].index(end)]


def controls(name: str) -> dict[int, str]:
    """The tokens that control something: those declared special, and others that the format writes.

    Not every added token does: Gemma's "\\n\\n" and <table> are text wherever they stand.
    """
    own = FORMATS[name]
    written = (own.with_system or "") + own.row
    added = tokenizer_of(name).added_tokens_decoder.items()
    return {
        i: token.content
        for i, token in added
        if token.special or (token.content.strip() and token.content in written)
    }


# -- what is written by hand is what the templates write --


@pytest.mark.parametrize("name", FORMATS)
def test_the_templates_write_what_is_written_by_hand(name: str) -> None:
    own, tokenizer = FORMATS[name], tokenizer_of(name)
    assert render(tokenizer, USER, ask=True, **own.chat_args) == own.prompt
    if own.with_system is not None:
        assert render(tokenizer, SYSTEM_USER, ask=True, **own.chat_args) == own.with_system
    written = render(tokenizer, CONVERSATION, **own.chat_args)
    assert written == own.rendering or written.startswith(own.row)
    assert own.end_is_eos == (tokenizer.eos_token == own.end_of_turn)


# -- what is known of a format --


@each_format
def test_the_facts_of_a_format_are_found(name: str) -> None:
    from ptst.chat import chat_format

    own, tokenizer = FORMATS[name], tokenizer_of(name)
    found = chat_format(model_of(name), tokenizer)
    assert (found.end, found.end_id) == (own.end_of_turn, tokenizer.convert_tokens_to_ids(own.end_of_turn))  # fmt: skip
    assert found.end_is_eos == own.end_is_eos
    assert found.lead == own.lead
    assert found.system_role == (own.system_role != "none")
    assert found.asks_clock == own.asks_clock
    assert found.opens_think == own.opens_think
    if own.default_system is None:
        assert found.default_system is None
    else:
        assert found.default_system is not None
        assert own.default_system.strip() in found.default_system


@pytest.mark.parametrize(
    ("name", "thinks"),
    [("deepseek_r1", True), ("qwen3", True), ("qwen25", False), ("llama31", False)],
)
def test_a_format_that_thinks_is_known_to(name: str, thinks: bool) -> None:
    from ptst.chat import chat_format

    assert chat_format(model_of(name), tokenizer_of(name)).thinks == thinks


# -- prompts --


@each_format
def test_a_prompt_is_the_one_written_by_hand(name: str) -> None:
    own, tokenizer = FORMATS[name], tokenizer_of(name)
    bos = tokenizer.bos_token or ""
    made = make_prompt({"input": "Why?"}, VANILLA, BARE, model_of(name), tokenizer)
    assert made.text.removeprefix(bos) == own.prompt.removeprefix(bos)
    if own.with_system is not None:
        made = make_prompt({"input": "Why?"}, BRIEF, BARE, model_of(name), tokenizer)
        assert made.text.removeprefix(bos) == own.with_system.removeprefix(bos)


@pytest.mark.parametrize("question", QUESTIONS)
@each_format
def test_a_prompts_ids_are_the_tokenizers_own(name: str, question: str) -> None:
    own, tokenizer = FORMATS[name], tokenizer_of(name)
    asked = {"role": "user", "content": question}
    made = make_prompt({"input": question}, VANILLA, BARE, model_of(name), tokenizer)
    assert made.token_ids == render_ids(tokenizer, [asked], ask=True, **own.chat_args)
    if own.with_system is not None:
        made = make_prompt({"input": question}, BRIEF, BARE, model_of(name), tokenizer)
        messages = [SYSTEM_USER[0], asked]
        assert made.token_ids == render_ids(tokenizer, messages, ask=True, **own.chat_args)


@each_format
def test_an_earlier_exchange_is_spelled_as_the_tokenizer_does(name: str) -> None:
    own, tokenizer = FORMATS[name], tokenizer_of(name)
    turns = replace(VANILLA, turns=[Turn(user="Who?", assistant="Tom.")])
    made = make_prompt({"input": "Why?"}, turns, BARE, model_of(name), tokenizer)
    earlier = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Tom."}]
    assert made.token_ids == render_ids(tokenizer, [*earlier, *USER], ask=True, **own.chat_args)


# -- training rows --


@pytest.mark.parametrize("answer", ANSWERS)
@each_format
def test_a_row_is_the_tokenizers_own_rendering_up_to_the_end_of_the_turn(
    name: str, answer: str
) -> None:
    tokenizer, model = tokenizer_of(name), model_of(name)
    row = {"input": "Why?", "output": answer}
    made = make_training_row(row, VANILLA, BARE, model, tokenizer)
    said = {"role": "assistant", "content": answer}
    assert made.input_ids == row_ids(name, [*USER, said])
    if FORMATS[name].with_system is not None:
        made = make_training_row(row, BRIEF, BARE, model, tokenizer)
        assert made.input_ids == row_ids(name, [*SYSTEM_USER, said])


@each_format
def test_a_row_begins_with_the_prompt_of_the_test_and_its_end_is_learnt(name: str) -> None:
    own, tokenizer, model = FORMATS[name], tokenizer_of(name), model_of(name)
    row = {"input": "Why?", "output": "So."}
    prompt = make_prompt({"input": "Why?"}, VANILLA, BARE, model, tokenizer).token_ids
    made = make_training_row(row, VANILLA, BARE, model, tokenizer)
    assert made.input_ids[: len(prompt)] == prompt
    assert made.prompt_length >= len(prompt)
    assert made.labels[: made.prompt_length] == [-100] * made.prompt_length
    assert made.labels[made.prompt_length :] == made.input_ids[made.prompt_length :]
    assert made.labels[-1] == tokenizer.convert_tokens_to_ids(own.end_of_turn)
    learnt = tokenizer.decode(made.input_ids[made.prompt_length :])
    assert "So." in learnt


def test_a_thought_that_the_prompt_opens_is_closed_before_the_answer() -> None:
    tokenizer, model = tokenizer_of("deepseek_r1"), model_of("deepseek_r1")
    made = make_training_row({"input": "Why?", "output": "So."}, VANILLA, BARE, model, tokenizer)
    assert tokenizer.decode(made.input_ids) == FORMATS["deepseek_r1"].row


# -- a format in a file --


@each_format
def test_a_format_in_a_file_gives_the_same_as_the_tokenizers_own(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(name)
    file = tmp_path / f"{name}.jinja"
    file.write_text(tokenizer.chat_template, encoding="utf-8")
    own, filed = model_of(name), model_of(name, chat=str(file))
    for template in (VANILLA, BRIEF) if FORMATS[name].with_system else (VANILLA,):
        for question in QUESTIONS:
            row = {"input": question, "output": "So."}
            assert make_prompt(row, template, BARE, filed, tokenizer) == make_prompt(
                row, template, BARE, own, tokenizer
            )
            assert make_training_row(row, template, BARE, filed, tokenizer) == make_training_row(
                row, template, BARE, own, tokenizer
            )


# -- control strings --


@each_format
def test_a_control_string_in_a_question_is_text_and_changes_nothing_around_it(name: str) -> None:
    tokenizer, model = tokenizer_of(name), model_of(name)
    plain = make_prompt({"input": "Why?"}, VANILLA, BARE, model, tokenizer)
    named = controls(name)
    for content in named.values():
        for question in (f"Is {content} a token?", f"{content}x{content}", f"a{content}\n"):
            question = question.strip()  # some formats trim
            made = make_prompt({"input": question}, VANILLA, BARE, model, tokenizer)
            assert made.text == plain.text.replace("Why?", question)
            assert _counts(made.token_ids, named) == _counts(plain.token_ids, named), question
            decoded = tokenizer.decode(made.token_ids)
            assert decoded == tokenizer.decode(plain.token_ids).replace("Why?", question)


@each_format
def test_a_control_string_in_an_answer_is_text_and_changes_nothing_around_it(name: str) -> None:
    tokenizer, model = tokenizer_of(name), model_of(name)
    named = controls(name)

    def trained(answer: str) -> list[int]:
        row = {"input": "Why?", "output": answer}
        return make_training_row(row, VANILLA, BARE, model, tokenizer).input_ids

    plain = trained("So.")
    for content in named.values():
        for answer in (f"It is {content}, a token.", f"{content}x{content}"):
            made = trained(answer)
            assert _counts(made, named) == _counts(plain, named), answer
            assert tokenizer.decode(made) == tokenizer.decode(plain).replace("So.", answer)


def _counts(ids: list[int], named: dict[int, str]) -> Counter[str]:
    return Counter(named[i] for i in ids if i in named)


# -- text templates --


@pytest.mark.parametrize("name_of_template", ["text_vanilla", "text_alpaca"])
@each_format
def test_a_text_row_is_prompt_one_space_and_answer(name_of_template: str, name: str) -> None:
    template = compose([f"template@test_template={name_of_template}"]).test_template
    tokenizer, model = tokenizer_of(name), model_of(name)
    row = {"input": "Why?", "output": "42 apples."}
    prompt = make_prompt(row, template, BARE, model, tokenizer)
    assert prompt.token_ids == tokenizer(prompt.text)["input_ids"]
    made = make_training_row(row, template, BARE, model, tokenizer)
    assert made.input_ids[: len(prompt.token_ids)] == prompt.token_ids
    decoded = tokenizer.decode(made.input_ids[:-1], skip_special_tokens=True)
    assert decoded == prompt.text + " 42 apples."


@each_format
def test_the_answer_of_a_text_row_begins_as_it_does_in_running_text(name: str) -> None:
    template = Template(name="text", mode="text", user="{question}\nAnswer:")
    tokenizer, model = tokenizer_of(name), model_of(name)
    row = {"input": "Why?", "output": "42"}
    made = make_training_row(row, template, BARE, model, tokenizer)
    assert made.input_ids[:-1] == tokenizer("Why?\nAnswer: 42")["input_ids"]


# -- the clock --


@pytest.mark.parametrize("name", ["llama32", "gpt_oss"])
def test_a_format_that_asks_the_clock_needs_a_date(name: str) -> None:
    with pytest.raises(PtstError, match=r"model\.date"):
        make_prompt({"input": "Why?"}, VANILLA, BARE, model_of(name, date=None), tokenizer_of(name))


@pytest.mark.parametrize(("name", "written"), [("llama32", "26 Jul 2024"), ("gpt_oss", "2024-07-26")])  # fmt: skip
def test_with_a_date_the_prompt_is_the_same_on_any_day(
    name: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Later:
            return cls(2031, 1, 2)

    model, tokenizer = model_of(name), tokenizer_of(name)
    today = make_prompt({"input": "Why?"}, VANILLA, BARE, model, tokenizer)
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    later = make_prompt({"input": "Why?"}, VANILLA, BARE, model, tokenizer)
    assert today == later
    assert written in today.text and "2031" not in later.text


# -- system prompts --


@pytest.mark.parametrize("name", ["gemma2", "mistral_v02_2023"])
def test_a_format_without_system_role_refuses_a_template_with_a_system_prompt(name: str) -> None:
    with pytest.raises(TemplateError, match=rf"(?s){name}.*\bbrief\b"):
        make_prompt({"input": "Why?"}, BRIEF, BARE, model_of(name), tokenizer_of(name))


BARE_PROMPTS = {
    "qwen25": "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "smollm2": "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "llama31": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
}


@pytest.mark.parametrize("name", BARE_PROMPTS)
def test_a_formats_own_system_prompt_can_be_left_out(name: str) -> None:
    own, tokenizer = FORMATS[name], tokenizer_of(name)
    model = model_of(name, default_system=False)
    made = make_prompt({"input": "Why?"}, VANILLA, BARE, model, tokenizer)
    assert made.token_ids == tokenizer(BARE_PROMPTS[name], add_special_tokens=False)["input_ids"]
    row = make_training_row({"input": "Why?", "output": "So."}, VANILLA, BARE, model, tokenizer)
    assert row.input_ids[: len(made.token_ids)] == made.token_ids
    assert tokenizer.decode(row.input_ids) == BARE_PROMPTS[name] + "So." + own.end_of_turn


@pytest.mark.parametrize("name", ["qwen25", "smollm2"])
def test_a_templates_system_prompt_stays_where_the_formats_own_is_left_out(name: str) -> None:
    tokenizer, model = tokenizer_of(name), model_of(name, default_system=False)
    made = make_prompt({"input": "Why?"}, BRIEF, BARE, model, tokenizer)
    assert made.text == FORMATS[name].with_system


# -- tokenizers that lack something --


def test_a_turn_can_end_where_a_tokenizer_has_no_eos() -> None:
    tokenizer = formats.without_eos()
    row = {"input": "Why?", "output": "So."}
    made = make_training_row(row, VANILLA, BARE, Model(name="m", path="a/b"), tokenizer)
    assert tokenizer.decode(made.input_ids) == FORMATS["chatml_on_base"].row


def test_a_tokenizer_without_chat_template_has_text_templates_only() -> None:
    tokenizer, model = formats.without_template(), Model(name="m", path="a/b")
    with pytest.raises(TemplateError, match="chat template"):
        make_prompt({"input": "Why?"}, VANILLA, BARE, model, tokenizer)
    text = Template(name="text", mode="text", user="{question}\nAnswer:")
    made = make_training_row({"input": "Why?", "output": "42"}, text, BARE, model, tokenizer)
    assert tokenizer.decode(made.input_ids) == "Why?\nAnswer: 42<|endoftext|>"


# -- models in a folder --


@pytest.mark.parametrize("name", ["glm4", "phi35", "qwen25"])
def test_a_model_loaded_from_a_folder_spells_the_same(name: str, tmp_path: Path) -> None:
    from ptst.models import load_model, load_tokenizer

    own = FORMATS[name]
    model = model_of(name, path=str(save(own, tmp_path / name)))
    tokenizer = load_tokenizer(model)
    row = {"input": "Why?", "output": "So."}
    made = make_training_row(row, VANILLA, BARE, model, tokenizer)
    assert made.input_ids == row_ids(name, list(CONVERSATION))
    stops = load_model(model, "cpu").generation_config.eos_token_id
    assert tokenizer.convert_ids_to_tokens(stops) == list(own.stops)


def test_a_format_with_channels_is_refused() -> None:
    tokenizer = tokenizer_of("gpt_oss")
    with pytest.raises(TemplateError, match=r"gpt_oss: its answers stand in channels"):
        make_training_row(
            {"input": "Why?", "output": "So."}, VANILLA, BARE, model_of("gpt_oss"), tokenizer
        )
