"""Completions from an API: what it answers, and what it does not."""

from __future__ import annotations

import pytest
from faulty_endpoint import Endpoint

from ptst.engine import Completion, read_reply
from ptst.engine.at_api import complete_at_api
from ptst.errors import DataError, PtstError
from ptst.schema import Api, Decoding, Model


def completed(fault: str) -> dict[int, Completion]:
    """Two conversations, of which the endpoint has `fault` for the second."""
    asked = [[{"role": "user", "content": f"number {i}: zorble 1"}] for i in range(2)]
    with Endpoint(lambda prompt, attempt: fault if "number 1:" in prompt else "") as endpoint:
        model = Model("zorble", path="zorble-1", api=Api(endpoint.base_url, key_env=None))
        found = complete_at_api(model, "zorble-1", asked, [0, 1], Decoding(), lambda: False)
        return {i: completion for answered in found for i, completion in answered.items()}


def test_what_is_sent_can_have_another_name_or_be_left_out() -> None:
    send = {"max_tokens": "max_completion_tokens", "temperature": None, "seed": None}
    asked = [[{"role": "user", "content": "zorble 1"}]]
    with Endpoint() as endpoint:
        for wanted in ({}, send):
            model = Model("zorble", path="zorble-1", api=Api(endpoint.base_url, None, send=wanted))
            list(complete_at_api(model, "zorble-1", asked, [0], Decoding(), lambda: False))
    before, after = ({k: v for k, v in b.items() if k != "messages"} for b in endpoint.bodies)
    assert before == {"model": "zorble-1", "temperature": 0.0, "max_tokens": 512, "seed": 0}
    assert after == {"model": "zorble-1", "max_completion_tokens": 512}


def test_a_parameter_that_a_model_refuses_is_named_with_the_setting_that_mends_it() -> None:
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    with pytest.raises(PtstError, match=r"model\.api\.send=\{max_tokens: max_completion_tokens\}"):
        completed(f"400 unsupported_parameter: {said}")
    said = (
        "'temperature' does not support 0 with this model. Only the default (1) value is supported."
    )
    with pytest.raises(PtstError, match=r"model\.api\.send=\{temperature: null\}"):
        completed(f"400 unsupported_value: {said}")


def test_what_a_content_filter_withholds_is_no_completion() -> None:
    done = completed("400 content_filter")
    assert done[0] == Completion("#thereason: it says so\n#thescore: 1", 50, True)
    assert (done[1].text, done[1].finished) == ("", False)
    assert "content_filter" in done[1].withheld


def test_half_a_character_in_an_answer_that_was_kept_before_is_replaced() -> None:
    assert read_reply(Completion("an \ud83d", 2, True), opened=False).text == "an \ufffd"


def test_how_many_answers_hold_no_text_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    completed("SAFETY (Vertex)")
    said = (
        "zorble-1: 1 of 2 answers hold no text; 1 of them: it was withheld (finish_reason SAFETY)"
    )
    assert said in capsys.readouterr().err


def test_a_query_that_does_not_fit_is_an_error_and_no_answer() -> None:
    with pytest.raises(DataError, match=r"query 2 .*context_length_exceeded"):
        completed("400 context_length_exceeded")
