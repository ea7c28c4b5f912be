"""A conversation's own system prompt, beside the test template's or in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from formats import FORMATS

from ptst import models
from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.dialogue import Dialogue, Talk
from ptst.engine import Ask, Completion, read_reply
from ptst.engine.canned import Canned
from ptst.engine.spelling import Spelling
from ptst.engine.transformers import Transformers
from ptst.errors import DataError, TemplateError
from ptst.models import load_tokenizer
from ptst.schema import Config, Model

ROW = {"id": "0", "input": "How?"}


def messages(config: Config, ask: Ask) -> list[tuple[str, str]]:
    spelled = Spelling("hazards", config, Canned()).prompt(ask)
    return [(message["role"], message["content"]) for message in spelled]


@pytest.mark.parametrize(
    ("place", "expected"),
    [("append", "{own}\n\nBe brief."), ("prepend", "Be brief.\n\n{own}"), ("replace", "Be brief.")],
)
def test_it_stands_behind_ahead_or_in_place_of_the_templates_own(place: Any, expected: str) -> None:
    config = compose(["template@test_template=chat_llama_short"])
    asked = messages(config, Ask(ROW, system="Be brief.", place=place))
    own = config.test_template.system or ""
    assert asked == [("system", expected.format(own=own)), ("user", "Question: How?")]


def test_a_template_without_one_has_it_alone_and_keeps_its_turns_and_question() -> None:
    vanilla = compose(["template@test_template=chat_vanilla"])
    assert messages(vanilla, Ask(ROW, system="Be brief."))[0] == ("system", "Be brief.")
    warned = compose(["template@test_template=in_context_defense"])
    roles = [role for role, _ in messages(warned, Ask(ROW, system="Be brief."))]
    assert roles == ["system", "user", "assistant", "user"]


def test_where_an_instruction_goes_into_the_question_it_is_a_system_prompt_all_the_same() -> None:
    config = compose(["template@test_template=chat_alpaca"])
    system, user = messages(config, Ask(ROW, system="Be brief."))
    assert system[1].startswith("Below is an instruction that") and system[1].endswith("Be brief.")
    assert user[1] == "### Instruction:\nHow?\n\n### Response:\n"


def test_it_takes_the_place_of_the_data_sets_instruction() -> None:
    config = compose(["dataset=chatdoctor", "template@test_template=chat_alpaca"])
    assert "doctor" in str(messages(config, Ask(ROW)))
    asked = Ask(ROW, system="Be brief.").then(read_reply(Completion("So.", 1, True), False), ROW)
    said = messages(config, asked)
    assert "doctor" not in str(said)
    assert said[1] == said[3]  # a later question reads as the first


def test_the_models_own_words_for_a_template_are_the_templates() -> None:
    config = compose(["template@test_template=chat_llama", "finetune=none"])
    config.model.system_prompts = {"chat_llama": "Be helpful."}
    assert messages(config, Ask(ROW, system="Be brief."))[0][1] == "Be helpful.\n\nBe brief."


def test_bare_text_and_a_format_without_a_system_role_have_no_place_for_it() -> None:
    ask = Ask(ROW, system="Be brief.")
    with pytest.raises(
        TemplateError, match="text_vanilla is bare text, which has no system prompt"
    ):
        messages(compose(["template@test_template=text_vanilla"]), ask)
    config = compose(["template@test_template=chat_vanilla"])
    config.model = Model("m", "a/b")
    spelling = Spelling("hazards", config, Transformers(), FORMATS["mistral_v02_2023"].make())
    assert spelling.prompt(Ask(ROW))
    with pytest.raises(TemplateError, match="no place for a system prompt, and the conversation"):
        spelling.prompt(ask)


def test_control_strings_in_it_are_text() -> None:
    config = compose(["template@test_template=chat_vanilla"])
    tokenizer = load_tokenizer(config.model)
    spelling = Spelling("hazards", config, Transformers(), tokenizer)
    plain, odd = (spelling.prompt(Ask(ROW, system=f"Say {word}.")) for word in ("so", "</s>"))
    assert odd.count(tokenizer.eos_token_id) == plain.count(tokenizer.eos_token_id) == 0


@dataclass
class Wordy(Dialogue):
    def talk(self, row: Mapping[str, Any]) -> Talk:
        reply = yield Ask(row, system="word " * 3000)
        return reply.columns


def test_what_is_asked_first_is_known_to_fit_before_anything_is_trained(
    composed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed("~evaluation@task", "evaluation=[hazards]", "evaluation.hazards.queries.n=2")
    config.evaluation["hazards"].dialogue = {"_target_": f"{__name__}.Wordy"}
    monkeypatch.setattr(models, "load_model", None)
    with pytest.raises(DataError, match="is more than the context of"):
        run_cell(config)
