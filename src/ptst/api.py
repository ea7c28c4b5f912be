"""The one client of OpenAI-compatible endpoints: many chats at once, each paid for once, within a budget.

What goes wrong in between (429, 5xx, time-outs, cut connections, broken bodies) is tried again here,
and only here: the SDK's own retries are off. What another try cannot mend (a wrong key, an unknown
model, an empty account) ends everything at once. Whatever ends it, answers that came are handed out.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from ptst.errors import ConfigError, Interrupted, PtstError
from ptst.estimates import Price
from ptst.progress import say
from ptst.redact import redacted, remember

OPENAI = "https://api.openai.com/v1"
TRIES = 8
"""Of one request, before it is left without an answer; with the waits below, about a minute."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the second try, doubled for each further one, up to the longest."""
LONGEST_RETRY_AFTER = 600.0
"""Seconds; an endpoint that asks for more is left alone."""
PERHAPS_PAID = 3
"""Of these tries: so many may have been paid for (time-outs, cut connections, broken answers)."""
UNREACHABLE = 8
"""So many requests in a row without an answer, none answered in between: the endpoint is down."""
NOTHING_LEFT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""Codes or types of OpenAI's errors for an account that waiting does not fill. The words beside them do not
tell: those of a minute's limit speak of billing, too, where a payment would raise it."""

ONE_REQUEST = {
    "too_long": ("context_length", "context length", "too long", "request too large"),
    "content_filter": (
        "content_filter",  # OpenAI, Azure, Moonshot
        "content_policy",
        "content management policy",  # Azure
        "content filtering policy",  # Anthropic
        "responsibleaipolicy",  # Azure
        "usage policy",  # OpenAI's reasoning models
        "usage guidelines",  # xAI
        "flagged",  # OpenRouter: 403, with the reasons and the flagged input in its metadata
        "moderation",
        "request blocked",  # OpenRouter's guardrails
        "content exists risk",  # DeepSeek
        "data_inspection_failed",  # Alibaba
        "inappropriate content",
        "considered high risk",  # Moonshot
    ),
}
"""What errors say that are about one request and no other, by the kind of it."""
ACCOUNT = ("your account", "your organization", "suspended", "deactivated")
"""What they say that sound like that, and are about all."""

STOPPED = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed")
"""finish_reasons of an answer that the model ended: of OpenAI and most, of TGI, of Anthropic, of Cohere."""
CUT = ("length", "max_tokens", "model_length", "error_limit")
"""Of one that ended at a limit of tokens. Whatever is neither was filtered, or is an answer of another kind:
content_filter, SAFETY, RECITATION, PROHIBITED_CONTENT, blocked, sensitive, guardrail_intervened, refusal (of
Anthropic's classifiers), tool_calls. New ones come up; none may become a label."""
BROKEN = ("error", "abort", "insufficient_system_resource", "load")
"""Of one that another call may give: of OpenRouter and Mistral, vLLM, DeepSeek, Ollama."""
TEXTLESS = 3
"""So many whole answers without text, and without a reason, are paid for, before it is said to be withheld."""
ROUNDS = 3
"""So many times `TRIES` calls fail for a request that the endpoint alone does not answer, before it is left."""
HELLO = [{"role": "user", "content": "Say hello."}]
"""What is asked to tell an endpoint that is down from one that does not answer a request."""
OVERLOADED = (408, 409, 425, 429, 503, 529)
"""Statuses that say nothing of the request."""
WAIT_LINE_SECONDS = 60.0
"""Between two lines about waiting; one is shown for a wait of at least `LONG_WAIT`."""
LONG_WAIT = 5.0

Messages = Sequence[Mapping[str, str]]
"""A chat as the API takes it: {"role": ..., "content": ...} each."""


class NotReached(PtstError):
    """Some requests have no answer, and asking again later may give them one."""


class BudgetReached(NotReached):
    """The next request might have cost more than what is left."""


@dataclass(frozen=True)
class Endpoint:
    """Whom to ask, and how patiently.

    Attributes:
        api_key_env: the environment variable that holds the key; None for a server that wants none.
        timeout: seconds for one call, from its start to its last byte.
        concurrency: calls under way at a time.
        key_setting: what sets `api_key_env`, for messages.
        send: what is sent under another name, or with None not at all: {"max_tokens": "max_completion_tokens"}.
    """

    model: str
    base_url: str = OPENAI
    api_key_env: str | None = "OPENAI_API_KEY"
    timeout: float = 120.0
    concurrency: int = 32
    key_setting: str = "judge.api_key_env"
    send: Mapping[str, str | None] = field(default_factory=dict)

    def body(self, messages: Messages, sampling: Mapping[str, Any]) -> dict[str, Any]:
        """What is sent for a chat."""
        names = {name: self.send.get(name, name) for name in sampling}
        named = {other: sampling[name] for name, other in names.items() if other is not None}
        return {"model": self.model, "messages": list(messages), **named}

    def hint(self, sampling: Mapping[str, Any], said: str) -> str:
        """How to send what the endpoint takes, where it says that it does not take a parameter; else ""."""
        refused = re.search(f"\\b({'|'.join(sampling)})\\b", said)
        if not refused or not re.search(
            "support|unrecognized|unknown|permitted|deprecated", said, re.I
        ):
            return ""
        other = re.search(r"[Uu]se ['`\"]?(\w+)['`\"]? instead", said)
        setting = self.key_setting.rpartition(".")[0]
        return f" Set {setting}.send={{{refused[1]}: {other[1] if other else 'null'}}}."

    def key(self) -> str | None:
        """The key, from the environment; None for a server that wants none.

        Raises:
            ConfigError: the variable is not set.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise ConfigError(
                f"{self.model} at {self.base_url} needs a key: set the environment variable "
                f"{self.api_key_env} ({self.key_setting} names another), or {self.key_setting}=null for a "
                "server that needs none."
            )
        remember(key)
        return key


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        text: "" where there is no answer.
        finish_reason: stop, length, or what the API says: content_filter, SAFETY, ...
        input_tokens: None where the server does not say, or did not answer.
        output_tokens: as `input_tokens`.
        refused: why there is no answer to this very request (too long, filtered, no text); else "".
    """

    text: str
    finish_reason: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    refused: str = ""


@dataclass
class Budget:
    """USD that may be spent. A call's worst case is reserved before it is sent.

    Attributes:
        spent: what answers cost by their token counts. A call that was cut off may have been paid for
            all the same: it counts with its worst case.
        reserved: the worst case of all calls under way.
        beyond: the most that a call has cost beyond its worst case, where the server lengthens prompts.
    """

    usd: float
    price: Price
    spent: float = 0.0
    reserved: float = 0.0
    beyond: float = 0.0


def most_tokens(messages: Messages) -> int:
    """The most tokens that a chat can be: no tokenizer makes more of them than bytes."""
    return sum(len(message["content"].encode()) + 16 for message in messages)


def worst_case(messages: Messages, sampling: Mapping[str, Any], budget: Budget) -> float:
    """The most that a call can cost, in USD."""
    return budget.price.of(most_tokens(messages), sampling["max_tokens"]) + budget.beyond


def chat(
    endpoint: Endpoint,
    requests: Sequence[Messages],
    sampling: Mapping[str, Any],
    budget: Budget | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, Answer]]:
    """Ask every request; answers come as they are ready, with the request's index.

    Nothing is sent before the first answer is asked for. All calls under way are waited for, and their
    answers handed out, before any of the errors is raised.

    Args:
        sampling: temperature, max_tokens and so on, as the API takes them.
        budget: needs `max_tokens` in `sampling`.
        stop: asked before every call.

    Raises:
        ConfigError: no key; or a budget and no max_tokens.
        PtstError: the key, the model, the account or the form of the requests is wrong.
        NotReached: some requests have no answer after several tries, or the endpoint is down.
        BudgetReached: some requests were not sent.
        Interrupted: `stop` said so.
    """
    key = endpoint.key()
    check_budget(endpoint, sampling, budget)
    return _chat(_Calls(endpoint, key, requests, sampling, budget, stop))


def check_budget(endpoint: Endpoint, sampling: Mapping[str, Any], budget: Budget | None) -> None:
    """Refuse a budget for answers of any length.

    Raises:
        ConfigError: there is no max_tokens, or it is not sent.
    """
    sent = sampling.get("max_tokens") and endpoint.send.get("max_tokens", "max_tokens")
    if budget and not sent:
        raise ConfigError("a budget needs max_tokens: without it a call may cost any amount.")


def answers_hello(
    endpoint: Endpoint, sampling: Mapping[str, Any], budget: Budget | None = None
) -> bool:
    """Whether the endpoint answers a harmless question, now."""
    try:
        return bool(list(chat(endpoint, [HELLO], sampling, budget)))
    except PtstError:
        return False


def _chat(calls: _Calls) -> Iterator[tuple[int, Answer]]:
    with asyncio.Runner() as runner:
        try:
            runner.run(calls.start())
            while some := runner.run(calls.next()):
                yield from some
        finally:
            runner.run(calls.close())
    if calls.given_up:
        say(
            f"{calls.who}: some of {len(calls.requests)} requests count as missing, because they have no "
            f"answer in {ROUNDS} times up to {TRIES} tries, while others have one: {calls.given_up}"
        )
    if calls.failure:
        raise calls.failure
    left = len(calls.requests) - calls.answered
    if calls.stopped and left:
        raise Interrupted(f"{calls.answered} of {len(calls.requests)} answers of {calls.who} kept")
    if left:
        raise NotReached(
            f"{calls.who}: {left} of {len(calls.requests)} requests have no answer after up to {TRIES} "
            f"tries each; the last problem was: {calls.trouble}"
        )


@dataclass
class _Calls:
    """All calls of one `chat`, in one event loop."""

    endpoint: Endpoint
    key: str | None
    requests: Sequence[Messages]
    sampling: Mapping[str, Any]
    budget: Budget | None
    stop: Callable[[], bool]
    answered: int = 0
    unanswered_in_a_row: int = 0
    stopped: bool = False
    failure: PtstError | None = None
    trouble: str = ""
    """What the last call that failed said."""
    given_up: str = ""
    """Of the last request that is left without an answer for good: the last error."""
    told: float = -math.inf
    """When waiting was last told of."""
    workers: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def who(self) -> str:
        return f"{self.endpoint.model} at {self.endpoint.base_url}"

    async def start(self) -> None:
        import aiohttp

        # Not the OpenAI SDK: its work on a call (1.2 ms of a processor) is more than a server that answers
        # 64 calls in 50 ms leaves for one, and of what it offers only the address is needed here.
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self.endpoint.timeout),
            headers={"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self.key}"} if self.key else {}),
            proxy=_proxy(self.endpoint.base_url),
        )
        self.url = f"{self.endpoint.base_url.rstrip('/')}/chat/completions"
        self.arrived: asyncio.Queue[tuple[int, Answer]] = asyncio.Queue()
        self.settled = asyncio.Event()
        self.ended = asyncio.Event()
        self.todo = deque((index, 1) for index in range(len(self.requests)))
        n = min(self.endpoint.concurrency, len(self.requests))
        self.workers = [asyncio.create_task(self._work()) for _ in range(n)]
        self.watch = asyncio.create_task(self._watch())

    async def next(self) -> list[tuple[int, Answer]]:
        """The answers that have come since, at least one; none if no more will come."""
        some = []
        if self.arrived.empty():
            waiting = asyncio.ensure_future(self.arrived.get())
            await asyncio.wait([waiting, self.watch], return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                some.append(waiting.result())
            else:
                waiting.cancel()
                self.watch.result()  # raises what a worker raised, if one did
        while not self.arrived.empty():
            some.append(self.arrived.get_nowait())
        return some

    async def close(self) -> None:
        for task in (*self.workers, self.watch):
            task.cancel()
        await asyncio.gather(*self.workers, self.watch, return_exceptions=True)
        await self.session.close()

    async def _watch(self) -> None:
        """Ask `stop` also while every worker waits; ends when all workers have."""
        pending = set(self.workers)
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=0.5, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()
            self._ask_stop()

    def _ask_stop(self) -> None:
        if not self.stopped and self.stop():
            self.stopped = True
            self.ended.set()

    def _end(self, failure: PtstError) -> None:
        self.failure = self.failure or failure
        self.ended.set()

    async def _work(self) -> None:
        while self.todo:
            index, round = self.todo.popleft()
            self._ask_stop()
            if self.ended.is_set():
                return
            answer = await self._answer(self.requests[index])
            if isinstance(answer, Answer):
                self.unanswered_in_a_row = 0
                self._hand_out(index, answer)
            elif answer and not self.ended.is_set():
                await self._leave(index, round, answer)

    def _hand_out(self, index: int, answer: Answer) -> None:
        self.answered += 1
        self.arrived.put_nowait((index, answer))

    async def _leave(self, index: int, round: int, error: Again) -> None:
        """What becomes of a request that `TRIES` calls gave no answer to; the last of them ended in `error`.

        It is asked again after all others. In the last round, if the endpoint answers another question, there is
        no answer to this one; if it does not, or says that it is overloaded, a later run may get one.
        """
        self.unanswered_in_a_row += 1
        in_a_row = self.unanswered_in_a_row
        last = error.about_it and round == ROUNDS
        if last or in_a_row >= UNREACHABLE:
            if await self._is_alive():
                self.unanswered_in_a_row = 0
            elif in_a_row >= UNREACHABLE:
                said = f"{in_a_row} requests in a row have no answer after up to {TRIES} tries each"
                said += f"; the last problem was: {error}"
                return self._end(NotReached(f"{self.who} cannot be reached: {said}"))
            else:
                return None
        if last:
            self.given_up = str(error)
            why = f"no answer in {ROUNDS} times up to {TRIES} tries, while others have one: {error}"
            self._hand_out(index, Answer("", "unanswered", refused=why))
        elif error.about_it:
            self.todo.append((index, round + 1))
        return None

    async def _is_alive(self) -> bool:
        """Whether the endpoint answers a harmless question."""
        worst = self._worst(HELLO)
        if not await self._reserve(worst):
            return False
        cost = worst
        try:
            cost = self._cost(await self._call(HELLO), worst)
        except (Again, Hopeless):
            return False
        except (Refused, NoText):
            pass
        finally:
            self._settle(worst, cost)
        return True

    async def _answer(self, messages: Messages) -> Answer | Again | None:
        """One request's answer, or the last of the errors that there are instead; None once all has ended."""
        failed, textless, paid = None, 0, 0
        for attempt in range(TRIES):
            worst = self._worst(messages)
            if self.ended.is_set() or not await self._reserve(worst):
                return None
            cost, failed = worst, None
            try:
                answer = await self._call(messages)
                cost = self._cost(answer, worst)
                return answer
            except Refused as error:
                cost = 0.0
                return Answer("", error.code, refused=str(error))
            except Hopeless as error:
                cost = 0.0
                hint = self.endpoint.hint(self.sampling, str(error))
                self._end(PtstError(f"{self.who}: {error}{hint}"))
                return None
            except NoText as error:
                textless += 1
                if textless == TEXTLESS:
                    return Answer("", "empty", refused=f"{TEXTLESS} answers without text: {error}")
                self.trouble, failed = str(error), Again(str(error), perhaps_paid=True)
            except Again as error:
                self.trouble, failed = str(error), error
                paid += error.perhaps_paid
                if not error.perhaps_paid:
                    cost = 0.0
            finally:
                self._settle(worst, cost)
            asked_to_wait = failed.wait if failed else 0.0
            if asked_to_wait > LONGEST_RETRY_AFTER:
                self.trouble += f" (it asks to wait {asked_to_wait:.0f} s)"
            if attempt + 1 == TRIES or paid == PERHAPS_PAID or asked_to_wait > LONGEST_RETRY_AFTER:
                break
            backoff = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1)
            # A little more than asked for, so that calls told the same moment do not all come then.
            wait = asked_to_wait + random.uniform(0, FIRST_WAIT) if asked_to_wait else backoff
            self._tell_waiting(wait)
            try:
                await asyncio.wait_for(self.ended.wait(), wait)
            except TimeoutError:
                continue
            return None
        return failed

    def _tell_waiting(self, seconds: float) -> None:
        """One line, now and then, about a wait that somebody may wonder about."""
        now = time.monotonic()
        if seconds >= LONG_WAIT and now - self.told >= WAIT_LINE_SECONDS:
            self.told = now
            say(
                f"{self.who}: waiting {seconds:.0f} s, with {self.answered} of {len(self.requests)} answers "
                f"there; it said: {self.trouble}"
            )

    async def _call(self, messages: Messages) -> Answer:
        import aiohttp

        body = self.endpoint.body(messages, self.sampling)
        try:
            async with self.session.post(
                self.url, data=json.dumps(body).encode(), allow_redirects=False
            ) as response:
                content = await response.read()
        except aiohttp.InvalidURL as error:
            raise Hopeless(f"no such address ({error})") from error
        except aiohttp.ClientConnectorError as error:
            raise Again(f"no connection ({error})", False, about_it=False) from error
        except TimeoutError as error:
            said = f"no answer within {self.endpoint.timeout:g} s"
            raise Again(said, perhaps_paid=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Again(f"the connection broke ({error})", perhaps_paid=True) from error
        if response.status != 200:
            raise read_error(response.status, response.headers, content)
        try:
            return read_answer(content)
        except NoText:
            raise
        except ValueError as error:
            raise Again(f"an answer that is none ({error})", perhaps_paid=True) from error

    def _worst(self, messages: Messages) -> float:
        return worst_case(messages, self.sampling, self.budget) if self.budget else 0.0

    def _cost(self, answer: Answer, worst: float) -> float:
        if not self.budget or answer.input_tokens is None or answer.output_tokens is None:
            return worst
        cost = self.budget.price.of(answer.input_tokens, answer.output_tokens)
        self.budget.beyond += max(0.0, cost - worst)
        return cost

    async def _reserve(self, worst: float) -> bool:
        """Set aside the worst case, or wait until calls under way have cost less than theirs."""
        if not self.budget:
            return True
        rounding = 1e-9
        while self.budget.spent + self.budget.reserved + worst > self.budget.usd + rounding:
            if self.ended.is_set():
                return False
            if self.budget.reserved <= rounding:
                self._end(
                    BudgetReached(
                        f"{self.who}: {self.budget.spent:.4f} of budget_usd={self.budget.usd:g} USD "
                        f"are spent and the next call may cost {worst:.4f}; "
                        f"{self.answered} of {len(self.requests)} answers are kept. Raise it to go on."
                    )
                )
                return False
            await self.settled.wait()
        self.budget.reserved += worst
        return True

    def _settle(self, worst: float, cost: float) -> None:
        if self.budget:
            self.budget.reserved -= worst
            self.budget.spent += cost
            self.settled.set()
            self.settled = asyncio.Event()


class Again(Exception):
    """A call failed in a way that another may not."""

    def __init__(
        self, said: str, perhaps_paid: bool, wait: float = 0.0, about_it: bool = True
    ) -> None:
        super().__init__(said)
        self.perhaps_paid = perhaps_paid
        self.wait = wait
        self.about_it = about_it
        """Whether the request may be what it failed at, and not the network or the load."""


class NoText(ValueError):
    """A whole answer, paid for, that holds no text and does not say why."""


class Refused(Exception):
    """The endpoint does not take this very request, and never will."""

    def __init__(self, said: str, code: str) -> None:
        super().__init__(said)
        self.code = code


class Hopeless(Exception):
    """No request of this kind can succeed."""


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for `url`.

    Asked once: aiohttp itself (`trust_env`) would ask in a thread for every call, at twice a call's cost.
    """
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> Exception:
    """What an HTTP status that is not 200 means for this request and for all others."""
    text = redacted(body.decode(errors="replace"))
    said = f"{status} {text[:500]}"
    kinds: tuple[Any, ...] = ()
    try:
        content = json.loads(text)
        error = content.get("error", content)
        kinds = error.get("code"), error.get("type")
        said = f"{status} {error['message']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # then the body is all there is
    if status == 429 and any(kind in NOTHING_LEFT for kind in kinds):
        return Hopeless(f"the account has nothing left ({said})")
    if status in OVERLOADED or status >= 500:
        return Again(said, False, _retry_after(headers), about_it=status not in OVERLOADED)
    if status in (400, 403, 413, 422, 451):
        # Only what is known to be about this one request: a parameter that a model does not know, say,
        # would otherwise make every score of a run a missing one.
        signs = _signs_in(text)
        for kind, known in ONE_REQUEST.items():
            if any(sign in signs for sign in known) and not any(sign in signs for sign in ACCOUNT):
                return Refused(said, kind)
    hints = {
        401: "the key is not accepted",
        402: "the account has nothing left",
        403: "the key may not do this",
        404: "no such model or address",
    }
    return Hopeless(f"{hints.get(status, 'the request is not accepted')} ({said})")


def _signs_in(text: str) -> str:
    """What an error says of itself, in lower case; of its metadata the names alone, for they quote the prompt."""
    try:
        error = json.loads(text)
        error = error.get("error", error)
        metadata = error.get("metadata")
        told = {name: value for name, value in error.items() if name != "metadata"}
        return json.dumps([told, list(metadata or ())], ensure_ascii=False).lower()
    except (ValueError, AttributeError, TypeError):
        return text.lower()


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait; 0 where it does not say (RFC 9110, section 10.2.3)."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return 0.0


def whole_text(text: str) -> str:
    """`text` with U+FFFD in the place of lone surrogates.

    JSON can hold half of a surrogate pair (a model that was cut off within an emoji), UTF-8 cannot: such an
    answer could be paid for and never be written down.
    """
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def read_answer(body: bytes) -> Answer:
    """An answer's bytes.

    There is an answer where the model ended it (`STOPPED`), or its length did (`CUT`), and there is text; or
    where it plainly stopped without any. A `refusal` in the place of the content is the model's own text. All
    else is an answer that there is not, with `refused` for the reason: filtered, withheld, spent on reasoning.

    Raises:
        ValueError: they are no whole answer.
        NoText: they are one without text, and do not say why.
        Exception: the error that stands in them, as of `read_error`.
    """
    content = json.loads(body)
    if not isinstance(content, dict):
        raise ValueError(f"not a JSON object: {_shown(body)}")
    choices = content.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    if not isinstance(choice, dict):
        raise ValueError(f"no message in it: {_shown(body)}")
    if error := content.get("error") or choice.get("error"):
        raise _error_within(error, bool(choice))
    usage = content["usage"] if isinstance(content.get("usage"), dict) else {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    read, written = (n if isinstance(n, int) else None for n in counts)
    if not choice:
        if blocked := content.get("promptFeedback") or content.get("prompt_feedback"):
            why = f"the prompt is blocked: {_shown(json.dumps(blocked).encode())}"
            return Answer("", "blocked", read, written, why)
        kind_of = NoText if "choices" in content else ValueError
        raise kind_of(f"no choice in it: {_shown(body)}")
    message = choice.get("message") or {}
    if not isinstance(message, dict):
        raise ValueError(f"no message in it: {_shown(body)}")
    ended = str(choice.get("finish_reason") or "")
    reason = "stop" if ended.lower() in STOPPED else "length" if ended.lower() in CUT else ended
    if ended.lower() in BROKEN:
        raise ValueError(f"finish_reason {ended}")
    if reason not in ("", "stop", "length"):
        reason = _shown(reason.encode(errors="replace"))
        return Answer("", reason, read, written, f"it was withheld (finish_reason {reason})")
    text = _text_of(message.get("content"))
    if text is None:
        raise NoText(f"its content is no text: {_shown(body)}")
    text = text or _text_of(message.get("refusal")) or ""
    if text.strip():
        return Answer(text, reason or "not given", read, written)
    if any(message.get(name) for name in ("reasoning", "reasoning_content")) or reason == "length":
        why = (
            f"no text, only reasoning or nothing, to its end (finish_reason {ended or 'not given'})"
        )
        return Answer("", reason, read, written, why)
    if reason == "stop":
        return Answer(text, reason, read, written)
    raise NoText(f"no text and no finish_reason: {_shown(body)}")


def _shown(body: bytes) -> str:
    """The beginning of what a server said, for messages."""
    return whole_text(redacted(body.decode(errors="replace")))[:200]


def _text_of(content: Any) -> str | None:
    """The text of a message's content: a string, or a list of parts, of which reasoning is not read.

    None where it is neither.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return whole_text(content)
    if not isinstance(content, list):
        return None
    names = {"text": "text", "output_text": "text", "refusal": "refusal"}
    parts = [part for part in content if isinstance(part, dict) and part.get("type") in names]
    return whole_text("".join(str(part.get(names[part["type"]]) or "") for part in parts))


def _error_within(error: Any, begun: bool) -> Exception:
    """What an error means that stands in an answer with status 200, as OpenRouter's do.

    Args:
        begun: it stands beside a choice: the model had begun, so this request is at fault and not all of them.
    """
    code = str(error.get("code") if isinstance(error, dict) else "")
    status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500
    found = read_error(status, {}, json.dumps({"error": error}).encode())
    if isinstance(found, Again):
        found.perhaps_paid = True
    if begun and isinstance(found, Hopeless) and status in (400, 403, 413, 422):
        return Refused(str(found), "error")
    return found
