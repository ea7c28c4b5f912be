"""What tests of conversations share: a session without a model that remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ptst.engine import Ask, Completion, Session
from ptst.engine.rounds import Rounds
from ptst.schema import Decoding


class Parrot(Session):
    """Answers the last question, in batches of two, longest first; tells who was answered
    together."""

    how = "2"

    def __init__(self, say: Callable[[str], str] = str.upper) -> None:
        self.say, self.asked = say, list[list[str]]()

    @property
    def questions(self) -> list[str]:
        """All that it was asked, sorted."""
        return sorted(text for batch in self.asked for text in batch)

    def plan(self, prompts: Sequence[Any]) -> list[list[int]]:
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i][-1]["content"]), i))
        return [order[i : i + 2] for i in range(0, len(order), 2)]

    def answer(
        self, prompts: Sequence[Any], batches: Sequence[Sequence[int]], decoding: Decoding
    ) -> Iterator[dict[int, Completion]]:
        for batch in batches:
            self.asked.append([prompts[i][-1]["content"] for i in batch])
            yield {
                i: Completion(self.say(prompts[i][-1]["content"]), 1, True, ids=(7, i))
                for i in batch
            }


def words(ask: Ask) -> list[dict[str, str]]:
    """An ask's turns, as messages."""
    return [{"role": "user", "content": str(ask.row["input"])}, *map(dict, ask.later)]


def rounds_of(
    scratch: Path,
    session: Session,
    untuned: Session | None = None,
    stop: Callable[[], bool] = lambda: False,
    samples: int = 1,
    told: list[tuple[int, int]] | None = None,
) -> Rounds:
    """A runner of such a session."""
    models = {"tested": session, "untuned": untuned or session}
    tell = (told if told is not None else []).append
    decoding = Decoding(samples=samples, temperature=float(samples > 1))
    return Rounds(
        "generate test",
        decoding,
        words,
        lambda ask: False,
        models.__getitem__,
        scratch,
        lambda done, total: tell((done, total)),
        stop,
    )
