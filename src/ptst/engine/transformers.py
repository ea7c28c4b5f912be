"""A model on this machine, with transformers' generate()."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ptst import models, templates
from ptst.component import Parts, speed
from ptst.engine import (
    Batching,
    Completion,
    Engine,
    Session,
    Steer,
    Stop,
    Tested,
    Watch,
    decoding_parts,
)
from ptst.errors import ConfigError
from ptst.schema import Config, Decoding, Evaluation


@dataclass
class Transformers(Engine):
    """Batches sorted by length, padded on the left, their common prefix computed once.

    Its fields are about speed. Greedy answers depend on them by rounding alone, which in less than
    float32 is often enough to change one: there, and where answers are sampled, they are part of
    the key.
    """

    key_name: ClassVar[str] = "transformers"
    watches: ClassVar[bool] = True
    batch_size: int = speed(64)
    share_prefix: bool = speed(True)
    """Run the longest common prefix of all prompts through the model once, not once per prompt."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} must be at least 1.")

    def open(self, tested: Tested, config: Config, stop: Stop) -> Session:
        """A session of this model; the first answer loads it."""
        return Batched(self, tested, config)

    def parts(self, config: Config, evaluation: Evaluation) -> Parts:
        """Its name; batch_size and share_prefix among the decoding's parts, where they count."""
        decoding = decoding_parts(evaluation.decoding)
        # A batch draws together, and in half precision rounding depends on its shape.
        if evaluation.decoding.temperature > 0 or _rounds(config):
            decoding |= {"batch_size": self.batch_size, "share_prefix": self.share_prefix}
        return {"engine": self.key_name, "decoding": decoding}

    def facts(self, config: Config) -> dict[str, Any]:
        """How prompts were batched, and where."""
        return {
            "dtype": config.model.dtype,
            "device": models.pick_device(self.device),
            "batch_size": self.batch_size,
            "share_prefix": self.share_prefix,
        }

    def batching(self) -> Batching:
        """For the formula of a plan."""
        return Batching(self.batch_size, self.share_prefix)


class Batched(Session):
    """A transformers model."""

    def __init__(self, engine: Transformers, tested: Tested, config: Config) -> None:
        self.engine, self.tested, self.config = engine, tested, config
        self.how = f"{engine.batch_size}-{'shared' if engine.share_prefix else 'whole'}"

    def plan(self, prompts: Sequence[Any]) -> list[list[int]]:
        """Batches of prompts of about one length, the longest first."""
        from ptst.engine.batches import plan_batches

        return plan_batches(prompts, self.engine.batch_size)

    def answer(
        self, prompts: Sequence[Any], batches: Sequence[Sequence[int]], decoding: Decoding
    ) -> Iterator[dict[int, Completion]]:
        """See `ptst.engine.batches.complete`."""
        return self.watched(prompts, batches, decoding, None)

    def watched(
        self,
        prompts: Sequence[Any],
        batches: Sequence[Sequence[int]],
        decoding: Decoding,
        watch: Watch | Steer | None,
    ) -> Iterator[dict[int, Completion]]:
        """See `ptst.engine.batches.complete`."""
        if not batches:
            return
        from ptst.engine.batches import complete

        tokenizer = self.tested.tokenizer
        ends = templates.ends(self.config.test_template, self.config.model, tokenizer)
        yield from complete(
            self.tested.model,
            tokenizer,
            prompts,
            batches,
            decoding,
            self.engine.share_prefix,
            ends,
            self._count_halving,
            watch,
        )

    def _count_halving(self) -> None:
        self.halved += 1


def _rounds(config: Config) -> bool:
    """Whether answers are computed in less than float32 (QLoRA's always are, in bfloat16).

    The likeliest two tokens are then often equal up to rounding. With a model of 135M parameters in
    bfloat16, 44 of 64 greedy answers differed between batches of 64 and of 8; in float32 none did.
    """
    return config.model.dtype != "float32" or config.finetune.method == "qlora"
