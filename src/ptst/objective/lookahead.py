"""LookAhead Tuning: the question shows how its answer begins, so that there is less to learn there.

arXiv 2503.19041. Fine-tuning loses refusals in an answer's first tokens. Where the question shows
these already, their loss is small, and so is the change of how the model begins its answers. Only
the rows that are trained on are changed: a test prompt shows nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ptst import data
from ptst.component import Parts
from ptst.errors import ConfigError, TemplateError
from ptst.objective import Objective, Reader, TrainingSet
from ptst.reading import Row
from ptst.schema import Config
from ptst.templates import PLACE

PREVIEWS = ("real", "virtual", "shuffled")


@dataclass
class LookAhead(Objective):
    """Writes `connector` and a preview behind every question.

    real: how its answer begins. virtual: `phrase`, with which its answer then begins, too.
    shuffled: how the answer to another question begins; the control, as long, but it tells nothing.
    """

    key_name: ClassVar[str] = "lookahead"

    preview: str = "real"
    tokens: int = 6
    """Of an answer, tokenised by itself; a shorter one is shown whole."""
    phrase: str = "Let's solve this problem. "
    connector: str = " The answer begins with: "

    def __post_init__(self) -> None:
        if self.preview not in PREVIEWS:
            names = ", ".join(PREVIEWS)
            raise ConfigError(f"preview={self.preview} is not one of: {names}.")
        if self.tokens < 1:
            raise ConfigError(
                f"tokens={self.tokens} must be at least 1; without a preview leave the defence out."
            )
        if self.preview == "virtual" and not self.phrase.strip():
            raise ConfigError("phrase is empty, and preview=virtual shows it; set one.")

    def check(self, config: Config) -> None:
        """Refuse words of the train template in what is written behind the question: the model
        would take them for the question's end. (Control strings are spelled as text in any row.)"""
        template = config.train_template
        added = self.connector + (self.phrase if self.preview == "virtual" else "")
        lines = PLACE.sub("\n", template.user or "").splitlines()
        if mark := next(
            (line.strip() for line in lines if line.strip() in added and line.strip()), ""
        ):
            raise ConfigError(
                f"connector or phrase has {mark!r}, which train_template={template.name} "
                "has around the question; choose other words."
            )

    def training_set(self, reader: Reader) -> TrainingSet:
        config = reader.config
        change = self._virtual if self.preview == "virtual" else self._with(self._previews(reader))
        return TrainingSet(reader.rows(config.dataset, config.train_template, change=change))

    def _virtual(self, row: Row) -> Row:
        shown = with_preview(row, self.connector, self.phrase)
        return {**shown, "output": self.phrase + row["output"]}

    def _with(self, preview: Callable[[Row], str]) -> Callable[[Row], Row]:
        return lambda row: with_preview(row, self.connector, preview(row))

    def _previews(self, reader: Reader) -> Callable[[Row], str]:
        """What is shown with each row."""

        if not reader.tokenizer.is_fast:  # it does not say which characters a token stands for
            raise TemplateError(
                f"{self.where}: tokenizer {type(reader.tokenizer).__name__} is not a fast one, so that "
                "the text of an answer's first tokens is not known; preview=virtual needs none."
            )

        def own(row: Row) -> str:
            return beginning(str(row["output"]), self.tokens, reader.tokenizer)

        if self.preview == "real":
            return own
        dataset = reader.config.dataset
        known = {row["id"]: own(row) for row in data.read_rows(dataset, ("input", "output"))}
        if len(known) < 2:
            raise ConfigError(
                f"{self.where}: preview=shuffled needs at least 2 rows; set dataset.n."
            )
        others = in_a_circle(list(known), reader.config.seed)
        return lambda row: known[others[row["id"]]]

    def parts(self, config: Config) -> Parts:
        """Without the field that this kind of preview does not use."""
        parts = super().parts(config)
        del parts["objective"]["tokens" if self.preview == "virtual" else "phrase"]
        return parts


def with_preview(row: Row, connector: str, preview: str) -> Row:
    """The row with a longer question, and everything else as it was."""
    return {**row, "input": f"{row['input']}{connector}{preview}"}


def beginning(answer: str, tokens: int, tokenizer: Any) -> str:
    """The first tokens of an answer, as they stand in it; one that ends within a character has the
    whole character.
    """
    encoded = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    spans = encoded["offset_mapping"][:tokens]
    return answer[: spans[-1][1]] if spans else ""


def in_a_circle(names: list[str], seed: int) -> dict[str, str]:
    """Another name for every name of two or more, each once."""
    order = random.Random(f"lookahead {seed}").sample(names, len(names))
    return dict(zip(order, [*order[1:], order[0]], strict=True))
