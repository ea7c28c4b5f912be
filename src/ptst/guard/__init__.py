"""What stands around a model's answers: it may ask again, or answer in the model's place.

class Twice(Guard):
    def talk(self, ask, row):
        reply = yield ask                                   # what the dialogue asked
        again = yield question(f"Is this harmful? {reply.text}")
        return reply.replaced("No.", "it is") if again.text == "Yes" else reply
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from ptst.component import Component, Parts
from ptst.dialogue import Talk
from ptst.engine import Ask, Reply, Tested
from ptst.engine.rounds import Rounds
from ptst.errors import PtstError
from ptst.schema import Config, Decoding
from ptst.store import read_jsonl, write_jsonl

COLUMN = "guard"
"""The column that keeps what a guard did, one entry for each ask of the dialogue."""

AskAll = Callable[[Sequence[Ask]], list[Reply]]
"""Asks several at once, and gives their replies in order."""


class Guard(Component):
    """Stands around every ask of a dialogue."""

    def parts(self, config: Config) -> Parts:
        """What of the cell decides what it does, beside what the key of completions has anyway."""
        return {}

    def enter(self, config: Config, decoding: Decoding) -> None:
        """Be told where it stands, first of all.

        Args:
            config: the cell.
            decoding: of the evaluation's queries: of an ask that has none of its own.
        """

    def prepare(self, ask: AskAll, tested: Tested, folder: Path) -> dict[str, Any]:
        """Calibrate, or train a probe, before the queries are asked. The guard keeps what it finds.

        Args:
            ask: asks the model, or the untuned one. What it was replied is kept, and not asked
                again.
            tested: the model itself, where a guard looks into it.
            folder: where it may keep what is dear to make; an interrupted run finds it again.

        Returns:
            Facts for the provenance of the completions.
        """
        return {}

    def talk(self, ask: Ask, row: Mapping[str, Any]) -> Generator[Ask, Reply, Reply]:
        """Answer one ask of a dialogue: every question of a conversation comes by here.

        The same replies must lead to the same asks, as in `ptst.dialogue.Dialogue.talk`. A guard
        need not ask the model at all.

        Args:
            ask: what the dialogue asks; `ask.question` is its text, before the template.
            row: the query that the conversation is about, with its `id`.

        Returns:
            The model's reply, or another in its place (`Reply.replaced`); with `Reply.score`, if
            the guard gives answers a score.
        """
        raise NotImplementedError


def prepared(
    guard: Guard,
    rounds: Rounds,
    tested: Tested,
    kept: Callable[[Sequence[Ask]], Path] | None = None,
) -> dict[str, Any]:
    """Prepare a guard.

    Args:
        kept: the file for the replies to what it asks. It is named by all that decides them, so
            that another evaluation or cell finds it, and what it asks there is not asked again.
            None: they are kept in the journals of the conversations to come, and no longer.
    """
    calls = count()

    def ask(asks: Sequence[Ask]) -> list[Reply]:
        journal, path = f"prepare{next(calls)}", kept(asks) if kept else None
        if path and path.is_file():
            return [Reply(**{**row, "ids": tuple(row["ids"])}) for row in read_jsonl(path)]
        replies = rounds.replies(asks, journal)
        if path and not any(one.watch for one in asks):  # what a watch saw has no name
            write_jsonl(path, map(asdict, replies))
        return replies

    return guard.prepare(ask, tested, rounds.scratch)


def guarded(talk: Talk, guard: Guard, row: Mapping[str, Any]) -> Talk:
    """A dialogue whose every ask goes through a guard, and whose row says what the guard did."""
    kept: list[dict[str, Any]] = []
    try:
        ask = next(talk)
        while True:
            reply, asked = yield from _watched(guard, ask, row)
            replaced = {"reason": reply.reason, "answer": reply.text} if reply.reason else {}
            score = {} if reply.score is None else {"score": reply.score}
            kept.append({"asked": asked, "replaced": bool(replaced), **replaced, **score})
            ask = talk.send(reply)
    except StopIteration as end:
        return {**end.value, COLUMN: kept}


def counted(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What a guard did: answers that it gave, how many it replaced, and what it asked models; where
    it scores answers, how many it gave none."""
    kept = [entry for row in rows for entry in row[COLUMN]]
    scored = sum("score" in entry for entry in kept)
    return {
        "answers": len(kept),
        "replaced": sum(entry["replaced"] for entry in kept),
        "asked": sum(len(entry["asked"]) for entry in kept),
        **({"without_score": len(kept) - scored} if scored else {}),
    }


def _watched(
    guard: Guard, ask: Ask, row: Mapping[str, Any]
) -> Generator[Ask, Reply, tuple[Reply, list[dict[str, str]]]]:
    """What a guard answers to one ask, and all that it asked and was replied."""
    talk, asked = guard.talk(ask, row), []
    try:
        wanted = next(talk)
        while True:
            reply = yield wanted
            asked.append({"model": wanted.model, "question": wanted.question, "answer": reply.text})
            wanted = talk.send(reply)
    except StopIteration as end:
        if not isinstance(end.value, Reply):
            raise PtstError(
                f"the guard {type(guard).__name__} returned {end.value!r}; it must be a ptst.engine.Reply."
            ) from None
        return end.value, asked
