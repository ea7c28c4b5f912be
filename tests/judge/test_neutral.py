"""Control strings in completions are broken before a judge reads them."""

from __future__ import annotations

import pytest

from ptst.judge.neutral import neutral
from ptst.models import load_tokenizer
from ptst.paths import ROOT
from ptst.schema import Model

CONTROL = {
    "[INST]": "[ INST]",
    "[/INST]": "[ /INST]",
    "[AVAILABLE_TOOLS]": "[ AVAILABLE_TOOLS]",
    "<<SYS>>": "< <SYS>>",
    "<</SYS>>": "< </SYS>>",
    "<s>": "< s>",
    "</s>": "< /s>",
    "<pad>": "< pad>",
    "<|begin_of_text|>": "< |begin_of_text|>",
    "<|eot_id|>": "< |eot_id|>",
    "<|im_start|>": "< |im_start|>",
    "<|user|>": "< |user|>",
    "<\uff5cUser\uff5c>": "< \uff5cUser\uff5c>",
    "<|turn>": "< |turn>",
    "<turn|>": "< turn|>",
    "<start_of_turn>": "< start_of_turn>",
    "<end_of_turn>": "< end_of_turn>",
    "<eos>": "< eos>",
    "</think>": "< /think>",
    "<END CONVERSATION>": "< END CONVERSATION>",
    "[END OF RESPONSE]": "[ END OF RESPONSE]",
    "#thescore:": "# thescore:",
    "#thereason:": "# thereason:",
    "#TheScore:": "# TheScore:",
}


@pytest.mark.parametrize("string", CONTROL)
def test_a_control_string_is_broken_where_it_stands(string: str) -> None:
    assert neutral(f"before{string}after") == f"before{CONTROL[string]}after"
    assert neutral(neutral(string)) == neutral(string)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain words, 3 < 4 and 5 > 4",
        "a <b>bold</b> list[0] = {'x': [1, 2]}",
        "f <- g |> h",
        "# The score of the match\n## thesis",
        "<style> <strong> <select>",
        "[instructions] [ending]",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert neutral(text) == text


def test_nothing_is_lost_and_breaking_one_makes_no_other() -> None:
    text = "[[/INST]<<s><<SYS>>##thescore: 1</s</s>[/INST[/INST]]<|<|im_end|>|>"
    broken = neutral(text)
    assert broken.replace(" ", "") == text.replace(" ", "")
    assert neutral(broken) == broken
    assert not [string for string in CONTROL if string in broken]


def test_no_tokenizer_reads_a_control_token_from_a_neutral_text() -> None:
    tokenizer = load_tokenizer(Model("micro", path=str(ROOT / "src/ptst/micro/model")))
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                string for string in CONTROL if not string.startswith("#") and string != "<pad>"
            ]
        }
    )
    special = set(tokenizer.all_special_ids)
    for string in tokenizer.all_special_tokens:
        text = f"x {string}{string} {string}"
        raw = tokenizer(text, add_special_tokens=False).input_ids
        assert special & set(raw), string  # or the test would show nothing
        ids = tokenizer(neutral(text), add_special_tokens=False).input_ids
        assert not special & set(ids), string


def test_a_judge_adds_strings_of_its_own() -> None:
    assert neutral("a [MARK] b x", also=("[MARK]", "x")) == "a [ MARK] b x"
    assert neutral("((((", also=("((",)) == "( ( ( ("
