"""The client of OpenAI-compatible endpoints, against one that fails as real ones do."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest
from faulty_endpoint import Choose, Endpoint, drawn

from ptst.api import answers, calls
from ptst.api import budget as budgets
from ptst.api import endpoint as endpoints
from ptst.errors import ConfigError, Interrupted, PtstError
from ptst.estimates import Price

SAMPLING = {"temperature": 0, "max_tokens": 100}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("ZORBLE_KEY", "sk-secret")


def asked(n: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"number {i}: zorble {i % 5 + 1}"}] for i in range(n)]


def whom(endpoint: Endpoint, **other: object) -> endpoints.Endpoint:
    settings = {"api_key_env": "ZORBLE_KEY", "timeout": 30.0, "concurrency": 16, **other}
    return endpoints.Endpoint("zorble-1", endpoint.base_url, **settings)  # type: ignore[arg-type]


def failing(first: int, fault: str) -> Choose:
    """`fault` for the first tries of every request."""
    return lambda prompt, attempt: fault if attempt < first else ""


def test_every_request_is_answered_with_its_index_and_its_token_counts() -> None:
    with Endpoint(latency=0.02) as endpoint:
        answers = dict(calls.chat(whom(endpoint), asked(60), SAMPLING))
    assert sorted(answers) == list(range(60))
    assert all(f"#thescore: {i % 5 + 1}" in answer.text for i, answer in answers.items())
    assert (answers[0].finish_reason, answers[0].input_tokens, answers[0].output_tokens) == (
        "stop",
        1000,
        50,
    )
    assert endpoint.most == 16
    assert endpoint.keys == {"Bearer sk-secret"}
    assert {**endpoint.bodies[0], "messages": 0} == {
        "model": "zorble-1",
        "temperature": 0,
        "max_tokens": 100,
        "messages": 0,
    }


def test_answers_come_as_they_are_ready() -> None:
    slow = lambda prompt, attempt: "silence" if "number 0:" in prompt else ""  # noqa: E731
    with Endpoint(slow, silence=0.5) as endpoint:
        order = [i for i, _ in calls.chat(whom(endpoint, timeout=9.0), asked(12), SAMPLING)]
    assert order[-1] == 0 and len(order) == 12


def test_a_storm_of_faults_gives_every_answer_and_pays_for_none_twice() -> None:
    with Endpoint(drawn(0.3), silence=6.0) as endpoint:
        answers = dict(
            calls.chat(whom(endpoint, timeout=4.0, concurrency=32), asked(300), SAMPLING)
        )
    assert {i: a.text[-1] for i, a in answers.items()} == {i: str(i % 5 + 1) for i in range(300)}
    assert endpoint.delivered.total() == 300 and set(endpoint.delivered.values()) == {1}
    assert endpoint.calls.total() > 380


@pytest.mark.parametrize("header", [{"Retry-After": "1"}, {"retry-after-ms": "1000"}])
def test_retry_after_is_honoured(header: dict[str, str]) -> None:
    with Endpoint(failing(1, "429"), retry_after=header) as endpoint:
        assert len(list(calls.chat(whom(endpoint), asked(3), SAMPLING))) == 3
    for first, second in endpoint.arrivals.values():
        assert 1.0 <= second - first < 10


def test_retry_after_may_be_a_date() -> None:
    from email.utils import formatdate

    assert (
        8 < answers._retry_after({"retry-after": formatdate(time.time() + 10, usegmt=True)}) <= 10
    )
    assert answers._retry_after({"retry-after": "soon"}) == 0
    assert answers._retry_after({}) == 0


BUSY = (
    "429 rate_limit_exceeded: Rate limit reached for zorble-1 on requests per min. Limit: 3 / min. You can "
    "increase it by adding a payment method at https://platform.openai.com/account/billing.",
    "429 RESOURCE_EXHAUSTED: You exceeded your current quota, please check your plan and billing details.",
)
"""A minute's limit, as OpenAI and Gemini word it."""


@pytest.mark.parametrize("fault", BUSY)
def test_a_rate_limit_that_speaks_of_billing_is_waited_for_like_any_other(fault: str) -> None:
    with Endpoint(failing(1, fault), retry_after={"Retry-After": "1"}) as endpoint:
        assert len(list(calls.chat(whom(endpoint), asked(3), SAMPLING))) == 3
    for first, second in endpoint.arrivals.values():
        assert 1.0 <= second - first < 10


def test_an_empty_account_is_known_by_code_or_type_whatever_the_rest_is() -> None:
    for body in (
        b'{"error": {"message": "m", "type": "insufficient_quota", "code": null}}',
        b'{"message": "m", "code": "billing_not_active"}',
    ):
        assert "the account has nothing left (429 m)" in str(answers.read_error(429, {}, body))
    for body in (b'["insufficient_quota"]', b'{"error": "insufficient_quota"}', b"billing", b""):
        said = str(answers.read_error(429, {}, body))
        assert said == f"429 {body.decode()}"


def test_waits_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FIRST_WAIT", 0.1)
    with Endpoint(failing(4, "500")) as endpoint:
        list(calls.chat(whom(endpoint), asked(1), SAMPLING))
    (times,) = endpoint.arrivals.values()
    waits = [b - a for a, b in pairwise(times)]
    for k, wait in enumerate(waits):
        assert 0.05 * 2**k <= wait < 0.1 * 2**k + 5


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("401 invalid_api_key", "the key is not accepted"),
        ("403 forbidden", "the key may not do this"),
        ("404 model_not_found", "no such model or address"),
        ("429 insufficient_quota", "the account has nothing left"),
        ("429 billing_hard_limit_reached", "the account has nothing left"),
        ("400 unsupported_parameter", "the request is not accepted"),
    ],
)
def test_what_no_other_try_can_mend_ends_at_once_and_tells_no_key(fault: str, says: str) -> None:
    with (
        Endpoint(failing(99, fault)) as endpoint,
        pytest.raises(PtstError, match=says) as raised,
    ):
        list(calls.chat(whom(endpoint, concurrency=4), asked(100), SAMPLING))
    assert endpoint.calls.total() <= 4 and set(endpoint.calls.values()) == {1}
    assert "zorble-1" in str(raised.value) and "sk-secret" not in str(raised.value)
    assert not isinstance(raised.value, budgets.NotReached)


def test_a_request_that_the_endpoint_never_takes_stops_no_other() -> None:
    def choose(prompt: str, attempt: int) -> str:
        return "400 context_length_exceeded" if "number 3:" in prompt else ""

    with Endpoint(choose) as endpoint:
        answers = dict(calls.chat(whom(endpoint), asked(10), SAMPLING))
    assert [i for i, answer in answers.items() if answer.refused] == [3]
    assert "context_length_exceeded" in answers[3].refused and answers[3].text == ""
    assert endpoint.calls.total() == 10


def test_one_that_fails_every_time_is_left_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "TRIES", 3)
    with Endpoint(lambda prompt, attempt: "503" if "number 5:" in prompt else "") as endpoint:
        found: list[int] = []
        with pytest.raises(
            budgets.NotReached, match="1 of 20 requests have no answer after up to 3 tries"
        ):
            found.extend(i for i, _ in calls.chat(whom(endpoint), asked(20), SAMPLING))
    assert sorted(found) == [i for i in range(20) if i != 5]


def test_one_that_alone_fails_every_time_counts_as_missing_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calls, "TRIES", 2)
    choose = lambda prompt, attempt: "500" if "number 1" in prompt else ""  # noqa: E731
    with Endpoint(choose) as endpoint:  # of 20 these are 11, more than make an endpoint look down
        answers = dict(calls.chat(whom(endpoint), asked(20), SAMPLING))
        assert sorted(answers) == list(range(20))
        assert [i for i, a in answers.items() if not a.refused] == [0, *range(2, 10)]
        assert all(endpoint.calls[p] == 6 for p in endpoint.calls if "number 1" in p)
        told = capsys.readouterr().err
        assert "some of 20 requests count as missing" in told and "500" in told
        # What is left of an endpoint that answers nothing at all is not the requests' doing.
        endpoint.choose = lambda prompt, attempt: "500"
        with pytest.raises(budgets.NotReached, match="2 of 2 requests have no answer"):
            list(calls.chat(whom(endpoint), asked(2), SAMPLING))


def test_a_long_wait_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calls, "LONG_WAIT", 0.5)
    with Endpoint(failing(2, "429"), retry_after={"Retry-After": "1"}) as endpoint:
        list(calls.chat(whom(endpoint), asked(9), SAMPLING))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(": waiting 1 s, with 0 of 9 answers there; it said: 429 busy")
    assert line.startswith("zorble-1 at http://127.0.0.1:")


def test_an_endpoint_that_is_down_is_not_asked_for_everything() -> None:
    with Endpoint() as endpoint:
        gone = whom(endpoint, concurrency=4)
    with pytest.raises(budgets.NotReached, match="cannot be reached"):
        list(calls.chat(gone, asked(10_000), SAMPLING))


def test_without_a_key_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZORBLE_KEY")
    with Endpoint() as endpoint:
        with pytest.raises(ConfigError, match="environment variable ZORBLE_KEY"):
            calls.chat(whom(endpoint), asked(1), SAMPLING)
        assert len(list(calls.chat(whom(endpoint, api_key_env=None), asked(1), SAMPLING))) == 1


def test_a_stop_keeps_what_is_under_way_and_sends_no_more() -> None:
    answered: list[int] = []
    with Endpoint(latency=0.05) as endpoint, pytest.raises(Interrupted, match="of 500 answers"):
        for i, _ in calls.chat(
            whom(endpoint, concurrency=8), asked(500), SAMPLING, stop=lambda: len(answered) > 20
        ):
            answered.append(i)
    assert endpoint.delivered.total() == len(answered) == len(set(answered)) < 60


def test_a_stop_is_heard_while_all_wait() -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with Endpoint(failing(9, "429"), retry_after={"Retry-After": "60"}) as endpoint:
        started = time.monotonic()
        with pytest.raises(Interrupted):
            list(calls.chat(whom(endpoint), asked(5), SAMPLING, stop=stop.is_set))
    assert time.monotonic() - started < 30


PRICE = Price(input=10.0, output=100.0)
"""An answer of 30 and 50 tokens costs 0.0053 USD; the worst case of these calls is about 0.0103."""


def test_a_budget_is_spent_and_not_exceeded() -> None:
    budget = budgets.Budget(1.0, PRICE)
    answered = []
    with (
        Endpoint(latency=0.01, usage=(30, 50)) as endpoint,
        pytest.raises(budgets.BudgetReached, match="of budget_usd=1 USD are spent and the next"),
    ):
        for i, _ in calls.chat(whom(endpoint), asked(500), SAMPLING, budget):
            answered.append(i)
    assert (
        endpoint.delivered.total() == len(answered) == 187
    )  # 187 * 0.0053 = 0.9911; 0.0103 more is too much
    assert budget.spent == pytest.approx(187 * 0.0053)
    assert budget.reserved == pytest.approx(0)


def test_calls_that_may_have_been_paid_for_count_with_their_worst_case() -> None:
    budget = budgets.Budget(99.0, PRICE)
    with Endpoint(failing(2, "cut"), usage=None) as endpoint:
        list(calls.chat(whom(endpoint), asked(1), SAMPLING, budget))
    worst = PRICE.of(len("number 0: zorble 1") + 16, 100)
    assert budget.spent == pytest.approx(
        3 * worst
    )  # and the answer's, whose tokens it does not tell
    refused = budgets.Budget(99.0, PRICE)
    with Endpoint(failing(2, "429"), usage=(30, 50)) as endpoint:
        list(calls.chat(whom(endpoint), asked(1), SAMPLING, refused))
    assert refused.spent == pytest.approx(0.0053)


def test_a_prompt_that_the_server_lengthens_is_reckoned_with_once_seen() -> None:
    budget = budgets.Budget(1.0, PRICE)
    with (
        Endpoint(usage=(3000, 100)) as endpoint,  # 0.04 USD each
        pytest.raises(budgets.BudgetReached),
    ):
        list(calls.chat(whom(endpoint, concurrency=1), asked(500), SAMPLING, budget))
    assert budget.spent == pytest.approx(
        24 * 0.04
    )  # for the 25th is some bytes longer than the first


def test_a_budget_needs_a_limit_for_answers() -> None:
    unlimited = endpoints.Endpoint("m", api_key_env=None, send={"max_tokens": None})
    for whom, sampling in ((endpoints.Endpoint("m", api_key_env=None), {}), (unlimited, SAMPLING)):
        with pytest.raises(ConfigError, match="a budget needs max_tokens"):
            calls.chat(whom, asked(1), sampling, budgets.Budget(1.0, PRICE))
