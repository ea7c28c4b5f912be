"""Answers without a model: what a judge says of them shows how it counts.

A canned model that always refuses must have an attack success of 0 and an over-refusal of 100 %,
one that always complies the reverse, under every judge. What a judge makes of an empty answer is
its own affair, and should be seen. The idea is that of Innodata's benchmark (2404.09785), which
puts canned models beside real ones.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ptst.engine import Completion, Engine, Session, Stop, Tested
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
    """A judge that compares wording, as the micro world's does, needs its own text here."""
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
        """Refuse a fine-tuning: canned answers do not depend on it.

        Raises:
            ConfigError: finetune is not none.
        """
        if config.finetune.method != "none":
            raise ConfigError(
                f"engine=canned answers without a model, so finetune={config.finetune.name or config.finetune.method} "
                "would change nothing; set finetune=none."
            )

    def open(self, tested: Tested, config: Config, stop: Stop) -> Session:
        """A session that loads nothing."""
        return Can(self)

    def text(self, question: str, decoding: Decoding) -> str:
        """The answer to a question."""
        if self.says == "random":
            drawn = decoding.seed if decoding.temperature > 0 else 0
            refuses = random.Random(f"{self.seed} {drawn} {question}").random() < self.refused
            return self.refusal if refuses else self.compliance
        said = {"refuse": self.refusal, "comply": self.compliance, "empty": "", "echo": question}
        return said[self.says]


class Can(Session):
    """An opened can."""

    how = "canned"

    def __init__(self, engine: Canned) -> None:
        self.engine = engine

    def one(self, prompt: Sequence[Mapping[str, Any]], decoding: Decoding) -> Completion:
        """The answer to the last message."""
        return Completion(self.engine.text(prompt[-1]["content"], decoding), None, True)
