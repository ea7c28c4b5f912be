"""Completions from an API: what it answers, and what it does not."""

from __future__ import annotations

import pytest
from faulty_endpoint import Endpoint

from ptst.config import Api, Decoding, Model
from ptst.errors import DataError
from ptst.generate.at_api import complete_at_api
from ptst.generate.batches import Completion


def completed(fault: str) -> dict[int, Completion]:
    """Two conversations, of which the endpoint has `fault` for the second."""
    asked = [[{"role": "user", "content": f"number {i}: zorble 1"}] for i in range(2)]
    with Endpoint(lambda prompt, attempt: fault if "number 1:" in prompt else "") as endpoint:
        model = Model("zorble", path="zorble-1", api=Api(endpoint.base_url, key_env=None))
        found = complete_at_api(model, "zorble-1", asked, [0, 1], Decoding(), lambda: False)
        return {i: completion for answered in found for i, completion in answered.items()}


def test_what_a_content_filter_withholds_is_no_completion() -> None:
    done = completed("400 content_filter")
    assert done[0] == Completion("#thereason: it says so\n#thescore: 1", 50, True)
    assert (done[1].text, done[1].finished) == ("", False)
    assert "content_filter" in done[1].withheld


def test_a_query_that_does_not_fit_is_an_error_and_no_answer() -> None:
    with pytest.raises(DataError, match=r"query 2 .*context_length_exceeded"):
        completed("400 context_length_exceeded")
