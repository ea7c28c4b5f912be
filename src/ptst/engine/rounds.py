"""The runner of conversations: all first asks are answered together, then all second ones.

Each round is planned and answered in batches, as a list of prompts is. A journal in the work's
scratch keeps every batch: a run that was killed talks again from the beginning, and is sent from
the journal what was replied. A single turn is round 0.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptst.engine import Ask, Completion, Reply, Session, Stop, TooLong, read_reply
from ptst.errors import Interrupted, PtstError
from ptst.schema import Decoding
from ptst.store import read_journal, read_jsonl

Conversation = Generator[Ask, Reply, dict[str, Any]]
"""Of one row: a dialogue's, with a guard around it or without."""


@dataclass
class Rounds:
    """Advances conversations, and counts what they cost.

    Attributes:
        what: for messages: "generate hazards".
        decoding: of all asks that have none of their own.
        prompt: spells an ask for a session.
        opens_think: whether the prompt of an ask ends within a think block.
        open: opens the model that an ask names. A session is used until another model is asked.
        scratch: the folder of the journals.
        tell: tell(done, total) after every batch. `total` is what is known to be asked until then.
        stop: whether to stop behind a batch.
        prompt_tokens: of each prompt; None where a session reads messages.
        completion_tokens: of each completion; None where they are not counted.
        halved: how often a batch was halved for memory, in this run and in those before it.
    """

    what: str
    decoding: Decoding
    prompt: Callable[[Ask], Any]
    opens_think: Callable[[Ask], bool]
    open: Callable[[str], Session]
    scratch: Path
    tell: Callable[[int, int], None]
    stop: Stop
    prompt_tokens: list[int | None] = field(default_factory=list)
    completion_tokens: list[int | None] = field(default_factory=list)
    halved: int = 0
    answered: int = 0
    total: int = 0
    session: Session | None = None
    model: str = ""

    def run(
        self, conversations: Sequence[Conversation], journal: str = "batches", sample: int = 0
    ) -> list[dict[str, Any]]:
        """Hold conversations to their ends.

        Args:
            conversations: one for each row.
            journal: what the journals' names begin with.
            sample: which of `decoding.samples`; it raises the seed.

        Returns:
            What each conversation returned.

        Raises:
            Interrupted: `stop` said so; nothing that was answered is lost.
            PtstError: a conversation yields something else than an ask, or returns something else
                than columns.
        """
        results: list[dict[str, Any]] = [{} for _ in conversations]
        replies: dict[int, Reply | None] = dict.fromkeys(range(len(conversations)))
        later = len(conversations) * (self.decoding.samples - 1 - sample)
        number = 0
        while True:
            asks: dict[int, Ask] = {}
            for i, reply in replies.items():
                try:
                    asks[i] = next_ask(conversations[i], reply)
                except StopIteration as end:
                    results[i] = _columns(end.value)
            if not asks:
                return results
            self.total = self.answered + len(asks) + later
            name = f"{sample}" if sample else ""
            name += f"{'-' if name else ''}round{number}" if number else ""
            replies = dict(self._round(asks, journal, name, sample))
            number += 1

    def replies(self, asks: Sequence[Ask], journal: str) -> list[Reply]:
        """The replies to asks that belong to no conversation, in order.

        Args:
            journal: as in `run`; another for each call.
        """
        self.total = self.answered + len(asks)
        found = self._round(dict(enumerate(asks)), journal, "", 0)
        return [found[i] for i in range(len(asks))]

    def _round(
        self, asks: Mapping[int, Ask], journal: str, name: str, sample: int
    ) -> dict[int, Reply]:
        """The reply to one ask of each row; those alike in model, decoding and watch together."""
        same = _same(asks)
        self.total -= sum(same[i] != i for i in asks)
        groups: dict[tuple[str, str, int], list[int]] = {}
        for i, ask in ((i, ask) for i, ask in asks.items() if same[i] == i):
            groups.setdefault((ask.model, repr(ask.decoding), id(ask.watch)), []).append(i)
        found: dict[int, Completion] = {}
        journals = set()
        by_model = sorted(groups.items(), key=lambda group: group[0][0])  # each is opened once
        for (model, *_), rows in by_model:
            session = self._opened(model)
            path = self.scratch / f"{journal}-{session.how}{f'-{name}' if name else ''}.jsonl"
            own = asks[rows[0]].decoding or self.decoding
            decoding = dataclasses.replace(own, seed=own.seed + sample)
            found |= self._answers({i: asks[i] for i in rows}, session, decoding, path)
            journals.add(path)
        for path in journals:
            self.halved += sum(line.get("halved", 0) for line in read_jsonl(path))
        return {i: read_reply(found[same[i]], self.opens_think(ask)) for i, ask in asks.items()}

    def _opened(self, model: str) -> Session:
        if self.session is None or model != self.model:
            self.session, self.model = None, model  # there may not be room for both
            self.session = self.open(model)
        return self.session

    def _answers(
        self, asks: Mapping[int, Ask], session: Session, decoding: Decoding, path: Path
    ) -> dict[int, Completion]:
        """The completions of some rows' asks, from the journal or from the session."""
        spelled, too_long = self._spelled(asks)
        rows, prompts = list(spelled), list(spelled.values())
        batches = session.plan(prompts)
        kept = read_journal(path)
        done = {first: kept[first] for first in (rows[b[0]] for b in batches) if first in kept}
        todo = [batch for batch in batches if rows[batch[0]] not in done]
        of = {i: rows[batch[0]] for batch in todo for i in batch}
        self.answered += sum(map(len, done.values()))
        halved = session.halved
        with path.open("a", encoding="utf-8") as file:
            watch = next(iter(asks.values())).watch
            answered = (
                session.watched(prompts, todo, decoding, watch)
                if watch
                else session.answer(prompts, todo, decoding)
            )
            for answers in answered if todo else ():
                first = of[next(iter(answers))]
                own = {str(rows[i]): _plain(c, asks[rows[i]]) for i, c in answers.items()}
                done[first] = own
                line = {"batch": first, "answers": own, "halved": session.halved - halved}
                halved = session.halved
                file.write(json.dumps(line) + "\n")
                file.flush()
                self.answered += len(own)
                self.tell(self.answered, self.total)
                if not session.stops_itself and self.answered < self.total and self.stop():
                    raise Interrupted(f"{self.what}: {self.answered} of {self.total} kept")
        read = {
            int(i): _completion(values) for batch in done.values() for i, values in batch.items()
        }
        if lacking := [i for i in rows if i not in read]:
            raise PtstError(
                f"{self.what}: {type(session).__name__} gave no answer to {len(lacking)} of {len(rows)} prompts; "
                "a session answers every prompt of every batch that it is given."
            )
        self.prompt_tokens += [_length(prompt) for prompt in prompts]
        self.completion_tokens += [read[i].tokens for i in rows]
        return read | too_long

    def _spelled(self, asks: Mapping[int, Ask]) -> tuple[dict[int, Any], dict[int, Completion]]:
        """The prompts by row; and for an ask that does not fit in the context, why it has no
        answer.

        A query's first prompt is known to fit before anything runs. Later ones depend on the
        answers.
        """
        prompts: dict[int, Any] = {}
        too_long: dict[int, Completion] = {}
        for i, ask in asks.items():
            try:
                prompts[i] = self.prompt(ask)
            except TooLong as error:
                too_long[i] = Completion("", 0, False, str(error))
        return prompts, too_long


def next_ask(conversation: Conversation, reply: Reply | None) -> Ask:
    """What a conversation asks next.

    Args:
        reply: to what it asked last; None where it begins.

    Raises:
        StopIteration: it has ended.
        PtstError: it yields something else than an ask, or asks an unknown model.
    """
    ask = next(conversation) if reply is None else conversation.send(reply)
    if not isinstance(ask, Ask):
        raise PtstError(f"a dialogue or guard yields {ask!r}; it must be a ptst.engine.Ask.")
    if ask.model not in ("tested", "untuned"):
        raise PtstError(
            f"a dialogue or guard asks model={ask.model!r}; it may be tested or untuned."
        )
    return ask


def _same(asks: Mapping[int, Ask]) -> dict[int, int]:
    """For each row the first one whose reply is its own, too: an equal ask, to be answered once."""
    first: dict[tuple[str, int], int] = {}
    return {
        i: first.setdefault((repr(ask), id(ask.watch)), i) if ask.once else i
        for i, ask in asks.items()
    }


def _columns(value: Any) -> dict[str, Any]:
    """What a conversation returned, once it is known to be a row's columns."""
    if isinstance(value, dict) and value.keys() >= {"completion", "tokens", "finished"}:
        return value
    raise PtstError(
        f"a dialogue returned {value!r}; it must be the columns of a reply (Reply.columns), and may be more."
    )


def _length(prompt: Any) -> int | None:
    """Tokens of a prompt; None for messages."""
    return len(prompt) if not prompt or isinstance(prompt[0], int) else None


def _plain(completion: Completion, ask: Ask) -> dict[str, Any]:
    """A completion as the journal keeps it: token ids are kept for an ask that wants them."""
    values = dataclasses.asdict(completion)
    if not ask.ids:
        del values["ids"]
    if not completion.seen:
        del values["seen"]
    return values


def _completion(values: Mapping[str, Any]) -> Completion:
    sequences = {name: tuple(values.get(name, ())) for name in ("ids", "seen")}
    return Completion(**{**values, **sequences})
