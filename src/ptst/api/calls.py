"""Many chats at once, each paid for once, within a budget.

What goes wrong in between (429, 5xx, time-outs, cut connections, broken bodies) is tried again
here, and only here: the SDK's own retries are off. What another try cannot mend (a wrong key, an
unknown model, an empty account) ends everything at once. Whatever ends it, answers that came are
handed out.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptst.api.answers import Again, Answer, Hopeless, NoText, Refused
from ptst.api.budget import (
    Budget,
    BudgetReached,
    NotReached,
    check_budget,
    cost_by_tokens,
    worst_case,
)
from ptst.api.endpoint import Endpoint, Messages
from ptst.api.http import open_session, post
from ptst.errors import Interrupted, PtstError
from ptst.progress import say

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

TEXTLESS = 3
"""So many whole answers without text, and without a reason, are paid for, before it is said to be
withheld."""

ROUNDS = 3
"""So many times `TRIES` calls fail for a request that the endpoint alone does not answer, before it
is left."""

HELLO = [{"role": "user", "content": "Say hello."}]
"""What is asked to tell an endpoint that is down from one that does not answer a request."""

WAIT_LINE_SECONDS = 60.0
"""Between two lines about waiting; one is shown for a wait of at least `LONG_WAIT`."""

LONG_WAIT = 5.0


def chat(
    endpoint: Endpoint,
    requests: Sequence[Messages],
    sampling: Mapping[str, Any],
    budget: Budget | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, Answer]]:
    """Ask every request; answers come as they are ready, with the request's index.

    Nothing is sent before the first answer is asked for. All calls under way are waited for, and
    their answers handed out, before any of the errors is raised.

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
        self.session = open_session(self.endpoint, self.key)
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
        """What becomes of a request that `TRIES` calls gave no answer to.

        The last call ended in `error`. It is asked again after all others. In the last round, if
        the endpoint answers another question, there is no answer to this one; if it does not, or
        says that it is overloaded, a later run may get one.
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
        """One request's answer, or the last error where there is none; None once all has ended."""
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
        body = self.endpoint.body(messages, self.sampling)
        return await post(self.session, self.endpoint, body)

    def _worst(self, messages: Messages) -> float:
        return worst_case(messages, self.sampling, self.budget) if self.budget else 0.0

    def _cost(self, answer: Answer, worst: float) -> float:
        if not self.budget:
            return worst
        counts = answer.input_tokens, answer.output_tokens
        cost = cost_by_tokens(self.budget.price, *counts, worst)
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
