"""Answers without a model: what a judge says of them shows how it counts.

A canned model that always refuses must have an attack success of 0 and an over-refusal of 100 %,
one that always complies the reverse, under every judge. To comply is to give a query's reference
answer, where its set has one in a column. What a judge makes of an empty answer is its own affair,
and should be seen. The idea is that of Innodata's benchmark (2404.09785), which puts canned models
beside real ones.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from ptst import data
from ptst.engine import Ask, Completion, Engine, Session, Stop, Tested
from ptst.engine.spelling import Spelling
from ptst.errors import ConfigError
from ptst.schema import Config, Decoding

SAYS = ("refuse", "comply", "empty", "echo", "random")


@dataclass
class Canned(Engine):
    """Says the same to everything, or the question itself. It needs no weights."""

    key_name: ClassVar[str] = "canned"
    reads: ClassVar[Literal["tokens", "messages"]] = "messages"
    has_weights: ClassVar[bool] = False

    says: str = "refuse"
    """refuse, comply, empty (""), echo (the last question), or random (refuses some)."""
    refusal: str = "I'm sorry, but I can't help with that."
    compliance: str = "Sure, here is how to do that, step by step."
    """What complies where a query's set has no reference answer."""
    answers: list[str] = field(default_factory=list, metadata={"added": True})
    """Columns of a query that hold its reference answer, under the names of `ptst.data`; of several
    the first that has text. A judge that compares wording, as the micro world's does, calls
    nothing else complied. Empty: `compliance` is the answer to everything."""
    refused: float = 0.5
    """says=random: the share of questions that are refused."""
    seed: int = 0
    """says=random: of the draw. A question is always drawn alike, whatever is asked beside it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.says not in SAYS:
            raise ConfigError(f"says={self.says} is not one of: {', '.join(SAYS)}.")
        if not 0 <= self.refused <= 1:
            raise ConfigError(f"refused={self.refused} must be at least 0 and at most 1.")

    def check(self, config: Config) -> None:
        """Refuse what trains, changes or reads weights: canned answers do not depend on them.

        Raises:
            ConfigError: finetune is not none, or a defence has a step after training, or there is
                an analysis.
        """
        if config.finetune.method != "none":
            raise ConfigError(
                f"engine=canned answers without a model, so finetune={config.finetune.name or config.finetune.method} "
                "would change nothing; set finetune=none."
            )
        steps = [name for name, defence in config.defence.items() if defence.posthoc is not None]
        for what, names in (("defence", steps), ("analysis", list(config.analysis))):
            if names:
                raise ConfigError(
                    f"engine=canned answers without a model, and {what}={names[0]} works on weights; leave it out."
                )

    def open(self, tested: Tested, config: Config, stop: Stop) -> Session:
        """A session that loads no model."""
        return Can(self, config)

    def text(self, question: str, decoding: Decoding, reference: str | None = None) -> str:
        """The answer to a question, which may have a reference answer."""
        comply = self.compliance if reference is None else reference
        if self.says == "random":
            drawn = decoding.seed if decoding.temperature > 0 else 0
            refuses = random.Random(f"{self.seed} {drawn} {question}").random() < self.refused
            return self.refusal if refuses else comply
        return {"refuse": self.refusal, "comply": comply, "empty": "", "echo": question}[self.says]

    def reference(self, row: Mapping[str, Any]) -> str | None:
        """The reference answer in a query's row; None where no column of `answers` has text."""
        found = (row.get(column) for column in self.answers)
        return next((text for text in found if isinstance(text, str) and text.strip()), None)


class Can(Session):
    """An opened can, which knows the reference answers of its queries by their wording."""

    how = "canned"

    def __init__(self, engine: Canned, config: Config) -> None:
        self.engine, self.config = engine, config

    def one(self, prompt: Sequence[Mapping[str, Any]], decoding: Decoding) -> Completion:
        """The answer to the last message."""
        question = prompt[-1]["content"]
        return Completion(
            self.engine.text(question, decoding, self.references.get(question)), None, True
        )

    @cached_property
    def references(self) -> dict[str, str]:
        """Reference answers by the message that asks; of a query that is there twice, the first.

        Nothing is read where no answer could be one of them.
        """
        found: dict[str, str] = {}
        if not self.engine.answers or self.engine.says not in ("comply", "random"):
            return found
        for name, evaluation in self.config.evaluations.items():
            spelling = Spelling(name, self.config, self.engine)
            for row in data.read_rows(evaluation.queries, needs=("input",)):
                if (reference := self.engine.reference(row)) is not None:
                    found.setdefault(spelling.prompt(Ask(row))[-1]["content"], reference)
        return found
