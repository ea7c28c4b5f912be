"""Completions of a model behind an OpenAI-compatible API: the same messages, answered there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ptst.api import Endpoint, chat
from ptst.config import Decoding, Model
from ptst.errors import DataError
from ptst.generate.batches import Completion


def endpoint_of(model: Model, name: str) -> Endpoint:
    """Where a model behind an API is asked.

    Args:
        name: the model's name at the API: its own, or that of a fine-tuning.
    """
    assert model.api is not None
    return Endpoint(
        name,
        model.api.base_url,
        model.api.key_env,
        model.api.timeout,
        model.api.concurrency,
        key_setting="model.api.key_env",
    )


def complete_at_api(
    model: Model,
    name: str,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    todo: Sequence[int],
    decoding: Decoding,
    stop: Callable[[], bool],
) -> Iterator[dict[int, Completion]]:
    """Answer conversations, several at once.

    Args:
        name: the model's name at the API: its own, or that of a fine-tuning.
        todo: which of `conversations` to answer.

    Yields:
        Each completion by the conversation's index, as it comes.

    Raises:
        DataError: a query is too long for the API.
        PtstError: as `ptst.api.chat`, after all that was answered.
        Interrupted: `stop` said so.
    """
    endpoint = endpoint_of(model, name)
    sampling: dict[str, Any] = {
        "temperature": decoding.temperature,
        "max_tokens": decoding.max_new_tokens,
        "seed": decoding.seed,
    }
    if decoding.temperature > 0:
        sampling["top_p"] = decoding.top_p
    for number, answer in chat(endpoint, [conversations[i] for i in todo], sampling, stop=stop):
        index, finished = todo[number], answer.finish_reason == "stop" and not answer.refused
        if answer.refused and answer.finish_reason == "too_long":
            raise DataError(
                f"{name} does not take query {index + 1} of {len(conversations)} with "
                f"decoding.max_new_tokens={decoding.max_new_tokens}: {answer.refused}"
            )
        withheld = answer.refused
        if answer.finish_reason == "content_filter" and not withheld:
            withheld = "its content filter cut the answer off"
        yield {index: Completion(answer.text, answer.output_tokens, finished, withheld)}
