"""The provider's batch mode: the same chats at half the price, answered within a day.

What was sent is recorded on disk before and after it is, so that a run which is killed or stopped
finds its batch again by its id, or by its name where it died before it knew the id, and pays for
nothing twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from ptst.api.answers import Again, Answer, Hopeless, Refused, read_answer, read_error
from ptst.api.budget import (
    Budget,
    BudgetReached,
    NotReached,
    check_budget,
    cost_by_tokens,
    most_tokens,
    worst_case,
)
from ptst.api.calls import TRIES, answers_hello
from ptst.api.endpoint import Endpoint, Messages
from ptst.api.sdk import openai_client, pause
from ptst.errors import PtstError
from ptst.estimates import BATCH_SHARE
from ptst.progress import say
from ptst.store import read_json, write_json

POLL_SECONDS = 30.0
LINE_SECONDS = 600.0
"""Between two lines about a batch that is waited for."""
LONGEST_BATCH = 10_000
"""Requests; the provider takes 50,000, and 200 MB."""
URL = "/v1/chat/completions"
UNDER_WAY = ("validating", "in_progress", "finalizing", "cancelling")


def chat_in_batches(
    endpoint: Endpoint,
    requests: Mapping[str, Messages],
    sampling: Mapping[str, Any],
    records: Path,
    budget: Budget | None = None,
    stop: Callable[[], bool] = lambda: False,
    settled: Callable[[str], bool] = lambda name: False,
) -> Iterator[tuple[str, Answer]]:
    """Ask every request in batches; answers come by name when their batch has ended.

    A request that failed by itself, while others of its batch were answered, has an answer without
    text whose finish_reason says so: who asks it again counts how often.

    Args:
        requests: by a name that means this request, now and in later runs.
        records: a folder for what is under way, the same for later runs.
        budget: its price is the one without batches; needs `max_tokens` in `sampling`. What
            recorded batches under way may cost, whoever sent them, is not spent again.
        stop: asked once a second. What is under way goes on at the provider, for the next run to
            fetch.
        settled: whether nobody will ask for a request again. A run that was killed as it fetched a
            batch left such ones in its record.

    Raises:
        ConfigError, PtstError, NotReached, BudgetReached, Interrupted: as `ptst.api.calls.chat`.
    """
    import openai

    check_budget(endpoint, sampling, budget)
    client = openai_client(endpoint, retries=TRIES)
    _forget(records, settled)
    calls = _Batches(client, endpoint, requests, sampling, records, budget, stop)
    try:
        yield from calls.run()
    except openai.APIStatusError as error:
        if error.status_code in (408, 409, 429) or error.status_code >= 500:
            raise NotReached(f"{calls.who}: {error.message}") from error
        raise PtstError(f"{calls.who}: {error.message}") from error
    except openai.APIConnectionError as error:
        said = error.__cause__ or error
        raise NotReached(f"{calls.who} cannot be reached: {said}") from error
    finally:
        client.close()


@dataclass
class _Batches:
    """All batches of one `chat_in_batches`."""

    client: Any
    endpoint: Endpoint
    requests: Mapping[str, Messages]
    sampling: Mapping[str, Any]
    records: Path
    budget: Budget | None
    stop: Callable[[], bool]
    answered: set[str] = field(default_factory=set)
    trouble: str = ""
    """What the last request without an answer, or the last lost batch, said."""

    @property
    def who(self) -> str:
        return f"{self.endpoint.model} at {self.endpoint.base_url}"

    def run(self) -> Iterator[tuple[str, Answer]]:
        """Fetch what earlier runs sent, send the rest, and fetch that."""
        import openai

        under_way: list[Path] = []
        yield from self._fetch_ended(under_way)
        asked = self.answered.union(*(read_json(path)["keys"] for path in under_way))
        unasked = {key: chat for key, chat in self.requests.items() if key not in asked}
        affordable = _affordable(unasked, self.sampling, self.records, self.budget)
        new = iter(affordable)
        while chunk := list(islice(new, LONGEST_BATCH)):
            under_way.append(self._send(chunk))
        for path in under_way:
            try:
                yield from self._fetch(path, _ended(self.client, read_json(path), self.stop))
            except openai.NotFoundError as error:
                # Not asked again here, lest it be paid for in a circle.
                self.trouble = _drop(path, self.who, error)
        self._check_missing(len(unasked) - len(affordable))

    def _fetch_ended(self, under_way: list[Path]) -> Iterator[tuple[str, Answer]]:
        """Fetch recorded batches that have ended; the others are added to `under_way`."""
        import openai

        for path, record in _recorded(self.records).items():
            if not set(record["keys"]) & set(self.requests) or not _found(self.client, path):
                continue
            try:
                batch = self.client.batches.retrieve(read_json(path)["id"])
                if batch.status in UNDER_WAY:
                    under_way.append(path)
                else:  # now, because what it has no answer to is sent afterwards
                    yield from self._fetch(path, batch)
            except openai.NotFoundError as error:
                _drop(path, self.who, error)

    def _fetch(self, path: Path, batch: Any) -> Iterator[tuple[str, Answer]]:
        """The answers of a batch that has ended, and its record without them."""
        if batch.status == "failed":
            path.unlink()
            raise _failed(batch, self.who)
        record = read_json(path)
        found = {
            key: _answer(line)
            for key, line in _lines(self.client, batch)
            if key in self.requests and key in record["keys"]  # else another run will fetch it
        }
        alive = any(isinstance(answer, Answer) for answer in found.values())
        alive = alive or (bool(found) and answers_hello(self.endpoint, self.sampling, self.budget))
        for key, answer in found.items():
            if isinstance(answer, Exception):
                self.trouble = str(answer)
                paid = isinstance(answer, ValueError)
                if not (alive and (paid or (isinstance(answer, Again) and answer.about_it))):
                    continue
                counts = None if paid else 0
                answer = Answer("", f"error: {answer}", counts, counts)
            self.answered.add(key)
            self._pay(key, answer)
            yield key, answer
        left = {key: n for key, n in _keys(record).items() if key not in self.requests}
        _keep(path, record, left)

    def _pay(self, key: str, answer: Answer) -> None:
        if not self.budget or (answer.refused and answer.output_tokens is None):
            return
        worst = worst_case(self.requests[key], self.sampling, self.budget)
        counts = answer.input_tokens, answer.output_tokens
        self.budget.spent += BATCH_SHARE * cost_by_tokens(self.budget.price, *counts, worst)

    def _check_missing(self, unsent: int) -> None:
        """Say why some requests have no answer, if some have none.

        Args:
            unsent: how many were not sent, because the budget has too little left.
        """
        total, missing = len(self.requests), len(self.requests) - len(self.answered)
        if missing and self.budget and unsent:
            others = _may_cost(self.records, self.sampling, self.budget)
            raise BudgetReached(
                f"{self.who}: {self.budget.spent:.4f} of budget_usd={self.budget.usd:g} USD are spent"
                f"{f' and batches under way may cost up to {others:.4f}' if others else ''}; {unsent} of "
                f"{total} requests were not sent, because they may cost more than what is left."
            )
        if missing:
            raise NotReached(
                f"{self.who}: {missing} of {total} requests have no answer; "
                f"the last problem was: {self.trouble or 'the batch ended without them'}"
            )

    def _send(self, keys: list[str]) -> Path:
        """Send a batch; its record, from which a later run finds it."""
        name = uuid4().hex
        path = self.records / f"{name}.json"
        most = {key: most_tokens(self.requests[key]) for key in keys}
        record = {"name": name, "id": None, "keys": most}
        write_json(path, record)
        bodies = [(key, self.endpoint.body(self.requests[key], self.sampling)) for key in keys]
        lines = [
            json.dumps({"custom_id": key, "method": "POST", "url": URL, "body": body})
            for key, body in bodies
        ]
        content = "".join(f"{line}\n" for line in lines).encode()
        file = self.client.files.create(file=("requests.jsonl", content), purpose="batch")
        # Not tried again: a batch that was made although the answer got lost is found by its name.
        batch = self.client.with_options(max_retries=0).batches.create(
            input_file_id=file.id,
            endpoint=URL,
            completion_window="24h",
            metadata={"ptst": name},
        )
        write_json(path, {**record, "id": batch.id})
        return path


def _failed(batch: Any, who: str) -> PtstError:
    """What a batch says that failed as a whole."""
    errors = (batch.errors and batch.errors.data) or []
    said = "; ".join(error.message or "" for error in errors)
    waiting_helps = "token_limit_exceeded" in {error.code for error in errors}
    kind = NotReached if waiting_helps else PtstError
    return kind(f"{who}: batch {batch.id} failed: {said or 'it does not say why'}")


def _recorded(folder: Path) -> dict[Path, dict[str, Any]]:
    """What is under way, by the record's path; not what another process drops at this moment."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        with suppress(FileNotFoundError):
            found[path] = read_json(path)
    return found


def _forget(folder: Path, settled: Callable[[str], bool]) -> None:
    """Take settled requests from the records, which have money set aside for them."""
    for path, record in _recorded(folder).items():
        left = {key: n for key, n in _keys(record).items() if not settled(key)}
        if len(left) < len(record["keys"]):
            _keep(path, record, left)


def _keep(path: Path, record: Mapping[str, Any], keys: Mapping[str, int]) -> None:
    """Leave a record with these of its requests; without any it goes."""
    if keys:
        write_json(path, {**record, "keys": keys})
    else:
        path.unlink(missing_ok=True)


def _keys(record: Mapping[str, Any]) -> dict[str, int]:
    """The requests of a batch, with the most tokens that each can be (0 in older records)."""
    keys = record["keys"]
    return keys if isinstance(keys, dict) else dict.fromkeys(keys, 0)


def _may_cost(records: Path, sampling: Mapping[str, Any], budget: Budget) -> float:
    """The most that all batches recorded as under way can cost, in USD."""
    tokens = [n for record in _recorded(records).values() for n in _keys(record).values()]
    return BATCH_SHARE * budget.price.of(sum(tokens), len(tokens) * sampling["max_tokens"])


def _affordable(
    requests: Mapping[str, Messages],
    sampling: Mapping[str, Any],
    records: Path,
    budget: Budget | None,
) -> list[str]:
    """The first requests whose worst cases together fit what the budget has left.

    What batches under way may cost is not left.
    """
    if not budget:
        return list(requests)
    taken, left = [], budget.usd - budget.spent - _may_cost(records, sampling, budget)
    for key, messages in requests.items():
        left -= BATCH_SHARE * worst_case(messages, sampling, budget)
        if left < 0:
            break
        taken.append(key)
    return taken


def _found(client: Any, path: Path) -> bool:
    """Whether the batch of a record exists; a record without an id gets it, or goes."""
    record = read_json(path)
    if record["id"]:
        return True
    for batch in islice(client.batches.list(limit=100), 1000):
        if (batch.metadata or {}).get("ptst") == record["name"]:
            write_json(path, {**record, "id": batch.id})
            return True
    path.unlink()
    return False


def _drop(path: Path, who: str, error: Any) -> str:
    """Drop the record of what the provider no longer has, and say so; what was said.

    Results may be deleted after a month.
    """
    record = read_json(path)
    path.unlink()
    said = (
        f"{who}: batch {record['id']}, or its result, is gone ({error.message}); "
        f"its {len(record['keys'])} requests are to be asked again"
    )
    say(said)
    return said


def _ended(client: Any, record: Mapping[str, Any], stop: Callable[[], bool]) -> Any:
    """The batch of a record, once it is no longer under way; until then a line now and then."""
    batch_id, told = record["id"], -LINE_SECONDS
    n = f"{len(record['keys'])} request{'s' if len(record['keys']) != 1 else ''}"
    while (batch := client.batches.retrieve(batch_id)).status in UNDER_WAY:
        if time.monotonic() - told >= LINE_SECONDS:
            told = time.monotonic()
            say(
                f"batch {batch_id}: {batch.status}, {n}; looked at every {POLL_SECONDS:.0f} s, at most a day. "
                "A run that is stopped finds it again."
            )
        goes_on = f"batch {batch_id} goes on; run again to fetch its answers"
        pause(POLL_SECONDS, stop, goes_on)
    return batch


def _lines(client: Any, batch: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in (batch.output_file_id, batch.error_file_id):
        if file:
            for line in client.files.content(file).content.split(b"\n"):
                if line.strip():
                    content = json.loads(line)
                    yield content["custom_id"], content


def _answer(line: Mapping[str, Any]) -> Answer | Exception:
    """The answer in a line of a batch's result, or what is wrong with it."""
    response = line.get("response")
    if not response:  # not sent: the batch expired, or was cancelled
        return PtstError(json.dumps(line.get("error")))
    body = json.dumps(response.get("body")).encode()
    try:
        if response.get("status_code") != 200:
            raise read_error(response.get("status_code") or 500, {}, body)
        return read_answer(body)
    except Refused as error:
        return Answer("", error.code, refused=str(error))
    except (Again, Hopeless, ValueError) as error:
        return error
