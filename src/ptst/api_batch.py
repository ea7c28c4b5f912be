"""The provider's batch mode: the same chats at half the price, answered within a day.

What was sent is recorded on disk before and after it is, so that a run which is killed or stopped finds its
batch again by its id, or by its name where it died before it knew the id, and pays for nothing twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from ptst.api import (
    TRIES,
    Again,
    Answer,
    Budget,
    BudgetReached,
    Endpoint,
    Hopeless,
    Messages,
    NotReached,
    Refused,
    answers_hello,
    check_budget,
    most_tokens,
    read_answer,
    read_error,
    worst_case,
)
from ptst.errors import Interrupted, PtstError
from ptst.estimates import BATCH_SHARE
from ptst.progress import say
from ptst.store import read_json, write_json

POLL_SECONDS = 30.0
LINE_SECONDS = 600.0
"""Between two lines about a batch that is waited for."""
LONGEST_BATCH = 10_000
"""Requests; the provider takes 50,000, and 200 MB."""
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
    """Ask every request in batches; answers come with the request's name when their batch has ended.

    A request that failed by itself, while others of its batch were answered, has an answer without text whose
    finish_reason says so: who asks it again counts how often.

    Args:
        requests: by a name that means this request, now and in later runs.
        records: a folder for what is under way, the same for later runs.
        budget: its price is the one without batches; needs `max_tokens` in `sampling`. What recorded batches
            under way may cost, whoever sent them, is not spent again.
        stop: asked once a second. What is under way goes on at the provider, for the next run to fetch.
        settled: whether nobody will ask for a request again. A run that was killed as it fetched a batch left
            such ones in its record.

    Raises:
        ConfigError, PtstError, NotReached, BudgetReached, Interrupted: as `ptst.api.chat`.
    """
    import openai

    check_budget(endpoint, sampling, budget)
    who = f"{endpoint.model} at {endpoint.base_url}"
    client = openai.OpenAI(
        api_key=endpoint.key() or "none",
        base_url=endpoint.base_url,
        timeout=endpoint.timeout,
        max_retries=TRIES,
    )
    _forget(records, settled)
    try:
        yield from _batches(client, endpoint, requests, sampling, records, budget, stop, who)
    except openai.APIStatusError as error:
        if error.status_code in (408, 409, 429) or error.status_code >= 500:
            raise NotReached(f"{who}: {error.message}") from error
        raise PtstError(f"{who}: {error.message}") from error
    except openai.APIConnectionError as error:
        raise NotReached(f"{who} cannot be reached: {error.__cause__ or error}") from error
    finally:
        client.close()


def _batches(
    client: Any,
    endpoint: Endpoint,
    requests: Mapping[str, Messages],
    sampling: Mapping[str, Any],
    records: Path,
    budget: Budget | None,
    stop: Callable[[], bool],
    who: str,
) -> Iterator[tuple[str, Answer]]:
    import openai

    answered: set[str] = set()
    trouble = ""

    def fetched(path: Path, batch: Any) -> Iterator[tuple[str, Answer]]:
        nonlocal trouble
        if batch.status == "failed":
            path.unlink()
            said = "; ".join(e.message or "" for e in (batch.errors and batch.errors.data) or [])
            codes = {e.code for e in (batch.errors and batch.errors.data) or []}
            kind = NotReached if "token_limit_exceeded" in codes else PtstError
            raise kind(f"{who}: batch {batch.id} failed: {said or 'it does not say why'}")
        record = read_json(path)
        found = {
            key: _answer(line)
            for key, line in _lines(client, batch)
            if key in requests and key in record["keys"]  # else another run's, who will fetch it
        }
        alive = any(isinstance(answer, Answer) for answer in found.values())
        alive = alive or (bool(found) and answers_hello(endpoint, sampling, budget))
        for key, answer in found.items():
            if isinstance(answer, Exception):
                trouble = str(answer)
                paid = isinstance(answer, ValueError)
                if not (alive and (paid or (isinstance(answer, Again) and answer.about_it))):
                    continue
                counts = None if paid else 0
                answer = Answer("", f"error: {answer}", counts, counts)
            answered.add(key)
            if budget and not (answer.refused and answer.output_tokens is None):
                worst = worst_case(requests[key], sampling, budget)
                tokens = answer.input_tokens, answer.output_tokens
                cost = worst if None in tokens else budget.price.of(*tokens)  # type: ignore[arg-type]
                budget.spent += BATCH_SHARE * cost
            yield key, answer
        _keep(path, record, {key: n for key, n in _keys(record).items() if key not in requests})

    under_way = []
    for path, record in _recorded(records).items():
        if not set(record["keys"]) & set(requests) or not _found(client, path):
            continue
        try:
            batch = client.batches.retrieve(read_json(path)["id"])
            if batch.status in UNDER_WAY:
                under_way.append(path)
            else:  # now, because what it has no answer to is sent below
                yield from fetched(path, batch)
        except openai.NotFoundError as error:
            _drop(path, who, error)
    asked = answered.union(*(read_json(path)["keys"] for path in under_way))
    unasked = {key: messages for key, messages in requests.items() if key not in asked}
    affordable = _affordable(unasked, sampling, records, budget)
    new = iter(affordable)
    while chunk := list(islice(new, LONGEST_BATCH)):
        under_way.append(_send(client, endpoint, chunk, requests, sampling, records))
    for path in under_way:
        try:
            yield from fetched(path, _ended(client, read_json(path), stop))
        except (
            openai.NotFoundError
        ) as error:  # not asked again here, lest it be paid for in a circle
            trouble = _drop(path, who, error)
    if missing := len(requests) - len(answered):
        if budget and (unsent := len(unasked) - len(affordable)):
            others = _may_cost(records, sampling, budget)
            raise BudgetReached(
                f"{who}: {budget.spent:.4f} of budget_usd={budget.usd:g} USD are spent"
                f"{f' and batches under way may cost up to {others:.4f}' if others else ''}; {unsent} of "
                f"{len(requests)} requests were not sent, because they may cost more than what is left."
            )
        raise NotReached(
            f"{who}: {missing} of {len(requests)} requests have no answer; "
            f"the last problem was: {trouble or 'the batch ended without them'}"
        )


def _recorded(folder: Path) -> dict[Path, dict[str, Any]]:
    """What is under way, by the record's path; without what another process drops at this moment."""
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
    """The requests of a batch, with the most tokens that each can be (0 where an older record does not say)."""
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
    """The first requests whose worst cases together fit what the budget has left, batches under way deducted."""
    if not budget:
        return list(requests)
    taken, left = [], budget.usd - budget.spent - _may_cost(records, sampling, budget)
    for key, messages in requests.items():
        left -= BATCH_SHARE * worst_case(messages, sampling, budget)
        if left < 0:
            break
        taken.append(key)
    return taken


def _send(
    client: Any,
    endpoint: Endpoint,
    keys: list[str],
    requests: Mapping[str, Messages],
    sampling: Mapping[str, Any],
    records: Path,
) -> Path:
    """Send a batch; its record, from which a later run finds it."""
    name = uuid4().hex
    path = records / f"{name}.json"
    record = {"name": name, "id": None, "keys": {key: most_tokens(requests[key]) for key in keys}}
    write_json(path, record)
    lines = [
        json.dumps(
            {
                "custom_id": key,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": endpoint.body(requests[key], sampling),
            }
        )
        for key in keys
    ]
    content = "".join(f"{line}\n" for line in lines).encode()
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    # Not tried again: a batch that was made although the answer got lost is found by its name.
    batch = client.with_options(max_retries=0).batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"ptst": name},
    )
    write_json(path, {**record, "id": batch.id})
    return path


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
    """Drop the record of what the provider no longer has (results may be deleted after a month); what is told."""
    record = read_json(path)
    path.unlink()
    said = (
        f"{who}: batch {record['id']}, or its result, is gone ({error.message}); "
        f"its {len(record['keys'])} requests are to be asked again"
    )
    say(said)
    return said


def _ended(client: Any, record: Mapping[str, Any], stop: Callable[[], bool]) -> Any:
    """The batch of a record, once it is no longer under way; while it is, a line says so now and then."""
    batch_id, told = record["id"], -LINE_SECONDS
    n = f"{len(record['keys'])} request{'s' if len(record['keys']) != 1 else ''}"
    while (batch := client.batches.retrieve(batch_id)).status in UNDER_WAY:
        if time.monotonic() - told >= LINE_SECONDS:
            told = time.monotonic()
            say(
                f"batch {batch_id}: {batch.status}, {n}; looked at every {POLL_SECONDS:.0f} s, at most a day. "
                "A run that is stopped finds it again."
            )
        until = time.monotonic() + POLL_SECONDS
        while (left := until - time.monotonic()) > 0:
            if stop():
                raise Interrupted(f"batch {batch_id} goes on; run again to fetch its answers")
            time.sleep(min(1.0, left))
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
