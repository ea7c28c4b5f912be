"""DeRTa, decoupled refusal training: a model learns to refuse at every place of a harmful answer.

Yuan et al. 2024 (arXiv 2407.09121). Rows of two kinds are trained on beside the data set's. In a
prefix row the refusal comes behind the beginning of a harmful answer, and only the refusal has
labels. In a transition row the whole harmful answer stands, and the label at places of it is the
token that refusals begin with.
"""

from __future__ import annotations

import math
import random
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ptst.component import Cost, Parts
from ptst.errors import ConfigError, DataError, PtstError
from ptst.objective import Batch, Forward, Objective, Reader, State, TrainingRow, TrainingSet
from ptst.objective.rows import parts_of_rows
from ptst.reading import Row
from ptst.schema import Config, Rows, Template
from ptst.templates import encode, end_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Derta(Objective):
    """Every row of `rows` gives one row of each kind, shuffled among the data set's in every epoch.

    The refusal token is what the model, as it is before training, most often begins its refusals of
    these questions with. It is kept with the weights, in objective/objective.json.
    """

    key_name: ClassVar[str] = "derta"
    additive: ClassVar[bool] = True

    rows: Rows = field(default_factory=Rows)
    """Questions with a refusal (`output`) and a harmful answer (`harmful`)."""
    harmful: str = "rejected"
    """The file's column of harmful answers."""
    template: Template | None = None
    """How they are written; None: under the train template."""
    prefix: str = "tokens"
    """Where the harmful beginning of a prefix row ends. tokens: after any number of them, none and
    all included; words: as the authors draw it, see `words_before`; none: no such rows."""
    transition: int = 20
    """One in so many tokens of a transition row has a label, drawn, and at least one; 1: all; 0: no
    such rows."""

    def __post_init__(self) -> None:
        if self.prefix not in ("tokens", "words", "none"):
            raise ConfigError(f"prefix={self.prefix} is not one of: tokens, words, none.")
        if self.transition < 0:
            raise ConfigError(
                f"transition={self.transition} must be at least 1, one label in so many tokens, "
                "or 0 for no transition rows."
            )
        if self.prefix == "none" and not self.transition:
            raise ConfigError("prefix=none and transition=0 leave no rows; leave the defence out.")

    def check(self, config: Config) -> None:
        """Refuse invented hazards for a real model."""
        if self.rows.source == "micro" and config.scale.source != "micro":
            where = self.where
            raise ConfigError(
                f"rows are the micro world's, whose hazards no model of scale={config.scale.name} "
                f"knows. Give rows of your own, with a question, a refusal and a harmful answer: "
                f"{where}.rows.source=local, {where}.rows.path=FILE, {where}.rows.columns="
                f"'{{input: QUESTION, output: REFUSAL}}' and {where}.harmful=COLUMN."
            )

    def cost(self, config: Config) -> Cost:
        return Cost(rows=self.rows, seen=(self.prefix != "none") + (self.transition > 0))

    def training_set(self, reader: Reader) -> TrainingSet:
        config, template = reader.config, self.template or reader.config.train_template
        rows = reader.rows(config.dataset, config.train_template)
        refusals = reader.rows(self.rows, template, called="refusal")
        harmful = reader.rows(self.rows, template, called="harmful", change=self._harmful)
        ending = _ending(template, config, reader.tokenizer)
        answers = [without_end(row, ending) for row in harmful]
        prefixed, moved = self._own_rows(refusals, answers, reader)
        self._numbers = (len(rows) + len(prefixed), len(rows) + len(prefixed) + len(moved))
        self._asked = [row.cut(row.prompt_length + 1) for row in refusals]  # one token is looked at
        self._size = config.finetune.device_batch_size
        return TrainingSet(rows, [*prefixed, *moved])

    def _harmful(self, row: Row) -> Row:
        answer = row.get(self.harmful)
        if not isinstance(answer, str) or not answer.strip():
            raise DataError(
                f"{self.rows.name}: row {row['id']} has no harmful answer in column {self.harmful!r}; its "
                f"columns are: {', '.join(row)}. Say which one holds it with the defence's `harmful`."
            )
        return {**row, "output": answer}

    def _own_rows(
        self, refusals: list[TrainingRow], answers: list[TrainingRow], reader: Reader
    ) -> tuple[list[TrainingRow], list[TrainingRow]]:
        """Prefix rows and transition rows, whose label is preliminary: `start` finds the token."""
        config, tokenizer = reader.config, reader.tokenizer
        draw = random.Random(f"derta {config.seed}")
        prefixed, moved = [], []
        for number, (refusal, answer) in enumerate(zip(refusals, answers, strict=True)):
            body = answer.ids[answer.prompt_length :]
            room = config.finetune.max_length - len(refusal)
            if self.prefix == "tokens":
                length = draw.randint(0, min(len(body), room))
                prefixed.append(prefix_row(refusal, body[:length]))
            elif self.prefix == "words":
                words = words_before(body, number, draw, tokenizer)
                if words is not None:
                    prefixed.append(prefix_row(refusal, body[: min(words, room)]))
        if self.transition:
            self._words = first_words(refusals, tokenizer, self.where)
            token = next(iter(self._words))
            moved = [transition_row(row, token, self.transition, draw) for row in answers]
        return prefixed, moved

    def start(self, data: TrainingSet, forward: Forward, scratch: Path) -> None:
        """Find the refusal token: let the model begin an answer to every question."""
        if not self.transition:
            return
        said: Counter[int] = Counter()
        for begin in range(0, len(self._asked), self._size):
            found = forward(forward.batch(self._asked[begin : begin + self._size]))
            said.update(found.logits.argmax(dim=-1).tolist())
        refused = {token: times for token, times in said.items() if token in self._words}
        if not refused:
            raise PtstError(
                f"{self.where}: the model before training begins none of {len(self._asked)} answers with a word "
                f"that a refusal in {self.rows.name} begins with ({', '.join(self._words.values())}), so "
                "that it has no refusal token; write the refusals as the model itself refuses."
            )
        self._token = max(refused, key=lambda token: (refused[token], -token))

    def loss(self, batch: Batch, forward: Forward) -> Tensor:
        return super().loss(self._relabelled(batch), forward)

    def _relabelled(self, batch: Batch) -> Batch:
        """The batch with the model's refusal token as the label of transition rows."""
        if not self.transition:
            return batch
        first, end = self._numbers
        own = ((batch.numbers >= first) & (batch.numbers < end))[:, None] & (batch.labels != -100)
        return replace(batch, labels=batch.labels.masked_fill(own, self._token))

    def state(self) -> State:
        if not self.transition:
            return {}
        return {"refusal_token": self._token, "refusal_word": self._words[self._token]}

    def parts(self, config: Config) -> Parts:
        own = super().parts(config)["objective"]
        return {"objective": {**own, **parts_of_rows(self.rows, self.template, config)}}


def _ending(template: Template, config: Config, tokenizer: Any) -> list[int]:
    """What a row ends with behind its answer."""
    found = end_of(template, config.model, tokenizer)
    return [*(encode(found.tail, tokenizer) if found.tail else []), found.end_id]


def without_end(row: TrainingRow, ending: Sequence[int]) -> TrainingRow:
    """A row that stops where its answer does; one that was cut has lost its end already."""
    whole = row.ids[-len(ending) :].tolist() == list(ending)
    return row.cut(len(row) - len(ending)) if whole else row


def prefix_row(refusal: TrainingRow, beginning: array[int]) -> TrainingRow:
    """A refusal behind the beginning of a harmful answer, which counts as part of the prompt."""
    at = refusal.prompt_length
    ids = refusal.ids[:at] + beginning + refusal.ids[at:]
    return TrainingRow(ids, at + len(beginning))


def words_before(body: array[int], number: int, draw: random.Random, tokenizer: Any) -> int | None:
    """How many tokens make the words of a harmful beginning, as the authors draw them: none in
    every third row, else from one word to all but two. None for an answer of less than three words,
    which has no row."""
    words = tokenizer.decode(body).strip().split(" ")
    if len(words) < 3:
        return None
    drawn = draw.randint(1, len(words) - 2)
    if number % 3 == 0:
        return 0
    wanted = len(" ".join(words[:drawn]))
    lengths = (len(tokenizer.decode(body[:n]).strip()) for n in range(len(body) + 1))
    return next(n for n, length in enumerate(lengths) if length >= wanted)


def transition_row(
    answer: TrainingRow, token: int, one_in: int, draw: random.Random
) -> TrainingRow:
    """A harmful answer whose label at drawn places is the refusal token. The turn does not end in
    it."""
    first, length = answer.prompt_length, len(answer) - answer.prompt_length
    targets = array("i", [-100] * len(answer))
    for place in draw.sample(range(length), math.ceil(length / one_in)):
        targets[first + place] = token
    return TrainingRow(answer.ids, first, targets)


def first_words(refusals: Sequence[TrainingRow], tokenizer: Any, where: str) -> dict[int, str]:
    """The first words of refusals that are one token each, most frequent first.

    Raises:
        ConfigError: there is none; naming the words.
    """
    words: Counter[str] = Counter()
    tokens: Counter[int] = Counter()
    for row in refusals:
        answer = row.ids[row.prompt_length :]
        found = re.match(r"\w+", tokenizer.decode(answer).strip())
        word = found.group() if found else ""
        words[word] += 1
        if tokenizer.decode(answer[:1]).strip() == word:
            tokens[answer[0]] += 1
    if not tokens:
        raise ConfigError(
            f"{where}: no refusal begins with a word that is one token of this model "
            f"({', '.join(map(repr, words))} are several); give refusals that do."
        )
    return {token: tokenizer.decode([token]).strip() for token, _ in tokens.most_common()}
