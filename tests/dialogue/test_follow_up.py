"""Two turns: what is asked, what is kept, and where there is no second one."""

from __future__ import annotations

import pytest

from ptst.config.compose import compose
from ptst.dialogue.follow_up import FollowUp
from ptst.dialogue.single import Single
from ptst.engine import Completion, Reply, read_reply
from ptst.errors import ConfigError, TemplateError

ROW = {"id": 0, "input": "Why?"}


def test_a_single_turn_has_the_columns_of_its_reply() -> None:
    talk = Single().talk(ROW)
    assert next(talk).question == "Why?"
    thought = read_reply(Completion("well</think>\n\nSo.", 5, True), opened=True)
    with pytest.raises(StopIteration) as end:
        talk.send(thought)
    columns = {"thinking": "well", "completion": "So.", "tokens": 5, "finished": True}
    assert end.value.value == columns
    assert list(end.value.value) == list(columns)


def test_the_model_sees_its_answer_without_the_think_block() -> None:
    talk = FollowUp(question="Sure?").talk(ROW)
    next(talk)
    second = talk.send(read_reply(Completion("well</think>\n\nSo.", 5, True), opened=True))
    assert second.question == "Sure?"
    assert second.later[0] == {"role": "assistant", "content": "So."}


def test_a_withheld_answer_is_not_followed_up() -> None:
    talk = FollowUp().talk(ROW)
    next(talk)
    with pytest.raises(StopIteration) as end:
        talk.send(Reply("", None, False, withheld="content_filter"))
    assert end.value.value["withheld"] == "content_filter"
    assert end.value.value["turns"] == []


def test_bare_text_has_no_second_turn() -> None:
    with pytest.raises(ConfigError, match="choose a chat template"):
        FollowUp().check(compose(["template@test_template=text_vanilla"]))
    from ptst.templates import make_prompt

    config = compose(["template@test_template=text_vanilla"])
    later = [{"role": "assistant", "content": "So."}, {"role": "user", "content": "Sure?"}]
    with pytest.raises(TemplateError, match="needs a chat template"):
        make_prompt(ROW, config.test_template, config.dataset, config.model, later=later)
