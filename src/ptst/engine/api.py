"""A model behind an OpenAI-compatible API, which spells the messages itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ptst.api.settings import renamed
from ptst.component import Parts
from ptst.engine import Completion, Engine, Session, Stop, Tested, decoding_parts
from ptst.schema import Config, Decoding, Evaluation


@dataclass
class Api(Engine):
    """Asks `model.api`. It has no YAML: a model with `api` is asked there."""

    key_name: ClassVar[str] = "api"
    reads: ClassVar[Literal["tokens", "messages"]] = "messages"
    has_weights: ClassVar[bool] = False

    def open(self, tested: Tested, config: Config, stop: Stop) -> Session:
        """A session of the model at its API; the first answer asks for its name there."""
        return Calls(tested, config, stop)

    def parts(self, config: Config, evaluation: Evaluation) -> Parts:
        """Its name, and what is sent under other names than OpenAI's."""
        send = renamed(config.model.api.send or {}) if config.model.api else {}
        return {
            "engine": self.key_name,
            "decoding": decoding_parts(evaluation.decoding),
            **({"send": send} if send else {}),
        }


class Calls(Session):
    """A model at its API: several calls at once, each answer by itself."""

    how = "api"
    stops_itself = True  # calls under way are waited for first

    def __init__(self, tested: Tested, config: Config, stop: Stop) -> None:
        self.tested, self.config, self.stop = tested, config, stop

    def answer(
        self, prompts: Sequence[Any], batches: Sequence[Sequence[int]], decoding: Decoding
    ) -> Iterator[dict[int, Completion]]:
        """See `ptst.engine.at_api.complete_at_api`."""
        if not batches:
            return
        from ptst.engine.at_api import complete_at_api

        todo = [batch[0] for batch in batches]
        model, name = self.config.model, self.tested.name_at_api
        yield from complete_at_api(model, name, prompts, todo, decoding, self.stop)
