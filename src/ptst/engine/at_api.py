"""Completions of a model behind an OpenAI-compatible API: the same messages, answered there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptst.api.answers import Answer
from ptst.api.calls import chat
from ptst.api.endpoint import endpoint_of
from ptst.engine import Completion
from ptst.errors import DataError, Interrupted, PtstError
from ptst.progress import say
from ptst.schema import Decoding, Model

SOME = 20
NEARLY_ALL = 0.9
"""When of at least SOME answers this share holds no text, it is not the queries' doing. The first
such ones are not handed out before that is known: what is handed out is kept, and not asked again
once the setting is mended."""


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
        PtstError: as `ptst.api.calls.chat`, after all that was answered; or nearly no answer holds
            text.
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
    answers = chat(endpoint, [conversations[i] for i in todo], sampling, stop=stop)
    held = _Held(f"{name} at {endpoint.base_url}")
    try:
        for number, answer in answers:
            index, finished = todo[number], answer.finish_reason == "stop" and not answer.refused
            if answer.refused and answer.finish_reason == "too_long":
                raise DataError(
                    f"{name} does not take query {index + 1} of {len(conversations)} with "
                    f"decoding.max_new_tokens={decoding.max_new_tokens}: {answer.refused}"
                )
            completion = Completion(answer.text, answer.output_tokens, finished, answer.refused)
            yield from held.pass_on({index: completion}, answer)
    except (PtstError, Interrupted):
        yield from held.back  # they were paid for
        raise
    yield from held.back
    held.tell(name)


@dataclass
class _Held:
    """Answers without text, held back until it is known whose doing they are."""

    who: str
    back: list[dict[int, Completion]] = field(default_factory=list)
    without: Counter[str] = field(default_factory=Counter)
    """How many hold no text, by the reason."""
    total: int = 0

    def pass_on(
        self, completion: dict[int, Completion], answer: Answer
    ) -> Iterator[dict[int, Completion]]:
        """One more completion: handed on, or held back and handed on later.

        Raises:
            PtstError: nearly no answer holds text.
        """
        self.total += 1
        if answer.text.strip():
            yield completion
            return
        self.back.append(completion)
        self.without[answer.refused or f"empty (finish_reason {answer.finish_reason})"] += 1
        if self.total < SOME:
            return
        if self.without.total() >= NEARLY_ALL * self.total:
            self.back.clear()
            reason, n = self.without.most_common(1)[0]
            raise PtstError(
                f"{self.who}: {self.without.total()} of the first {self.total} answers hold no "
                f"text; {n} of them: {reason}. Nothing can be measured of what is left. A reasoning model "
                "may need a larger decoding.max_new_tokens."
            )
        yield from self.back
        self.back.clear()

    def tell(self, name: str) -> None:
        """A line about answers without text, where there are any."""
        if self.without:
            reason, n = self.without.most_common(1)[0]
            without = self.without.total()
            say(f"{name}: {without} of {self.total} answers hold no text; {n} of them: {reason}")
