"""`ptst prompt` shows what a cell would send."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptst.cli import main


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["prompt", "output=json", *arguments]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return answer


def test_prompt_of_a_question_given_on_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    question = "50% of {x}=[INST]\n🙂?"
    made = shown(capsys, f"question={question}")
    assert made["text"] == f"[INST] Question: {question} [/INST]"
    ids = made["token_ids"]
    assert isinstance(ids, list)
    assert made["prompt_tokens"] == len(ids)


def test_prompt_of_the_train_template(capsys: pytest.CaptureFixture[str]) -> None:
    made = shown(capsys, "question=Why?", "for=train", "template@train_template=text_vanilla")
    assert made["text"] == "Question: Why?\nAnswer:"


def test_without_a_question_the_data_sets_first_row_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ptst import micro

    made = shown(capsys, "template@test_template=text_vanilla")
    first = micro.rows("gsm8k", "train")[0]["question"]
    assert made["text"] == f"Question: {first}\nAnswer:"


def test_ids_are_null_where_the_tokenizer_is_not_at_hand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = shown(capsys, "model=llama2_7b_chat", "question=Why?")
    assert made["text"] == "[INST] Question: Why? [/INST]"
    assert made["token_ids"] is None
    assert "not on this machine" in str(made["why_no_ids"])


def test_an_evaluations_first_query_is_shown_as_its_dialogue_begins(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = shown(capsys, "for=rules", "evaluation=[rules]")
    text = str(made["text"])
    assert text.startswith("[INST] <<SYS>>\nYou keep the secret") and "Question:" not in text
    assert isinstance(made["token_ids"], list)


def test_plain_output_keeps_the_prompt_alone_on_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["prompt", "question=Why?"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "[INST] Question: Why? [/INST]\n"
    assert "tokens:" in captured.err
    assert "loss begins at token" in captured.err


ARC = json.loads((Path(__file__).parent / "golden" / "llama2_prompts.json").read_text())["arc"]


@pytest.mark.parametrize("evaluation", ["arc_easy", "arc_challenge"])
@pytest.mark.parametrize("instruction", [None, "You are brief."])
def test_arc_prompt_equals_the_published_one(
    capsys: pytest.CaptureFixture[str], evaluation: str, instruction: str | None
) -> None:
    system = [] if instruction is None else [f"dataset.instruction='{instruction}'"]
    openorca = ("dataset=openorca", "scale=paper", f"for={evaluation}")
    made = shown(capsys, *openorca, "question=Why do stars shine?", *system)
    expected = ARC["without_system" if instruction is None else "with_system"]
    expected = expected.replace("{system_prompt}", instruction or "")
    assert made["text"] == expected.replace("{question}", "Why do stars shine?")


def test_an_evaluations_first_query_is_shown_as_it_reads_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "test.jsonl"
    choices = {"text": ["salt", "a, b and {c}"], "label": ["A", "B"]}
    file.write_text(json.dumps({"question": "What? {}", "choices": choices, "answerKey": "B"}))
    local = [f"evaluation.arc_easy.queries.{k}" for k in ("source=local", f"path={tmp_path}")]
    own = ["evaluation=[arc_easy]", *local, "template@test_template=chat_alpaca", "for=arc_easy"]
    text = str(shown(capsys, *own)["text"])
    assert (
        "\nWhat? {} Please select the answer from the following choices: salt, a, b and {c}. For"
        in text
    )
    assert "'The answer is: {your_answer}'" in text
    assert "Question:" not in text  # GSM8K's reading gives way


@pytest.mark.parametrize("wrong", ["output=yaml", "for=dev", "nonsense"])
def test_wrong_arguments_are_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompt", "question=Why?", wrong]) == 2
    assert "ptst:" in capsys.readouterr().err
