"""A question, or a short chat, to a cell's model beside the untouched one: `ptst ask`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ptst import models
from ptst.engine import Ask, read_reply
from ptst.engine.chosen import engine_of
from ptst.engine.spelling import Spelling
from ptst.errors import ConfigError
from ptst.keys import cell_keys, slot
from ptst.schema import Config, Decoding, Finetune, Turn
from ptst.stages.tested_model import TestedModel
from ptst.store import Store
from ptst.templates import make_messages

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


class Asked:
    """The models that answer: loaded once, for as many questions as come.

    Args:
        config: of a cell; decoding is greedy, with model.max_new_tokens.

    Raises:
        PtstError: the cell's fine-tuning is not in the store.
    """

    def __init__(self, config: Config, store: Path) -> None:
        held = models.Held()
        bare = dataclasses.replace(config, finetune=Finetune(method="none"), defence={})
        tuned = config.finetune.method != "none"
        self.cells = {"fine-tuned" if tuned else "defended": config, "untouched": bare}
        if not tuned and not config.defence:
            del self.cells["defended"]
        self.tested = {
            name: TestedModel(own, cell_keys(own), Store(store), held)
            for name, own in self.cells.items()
        }
        if "fine-tuned" in self.tested and config.model.api is None:
            self.tested["fine-tuned"].weights()  # before anything is loaded

    def answer(self, name: str, question: str, turns: list[Turn]) -> str:
        """What one of the models answers.

        Args:
            turns: the conversation until then, as the model saw it.
        """
        config, model = self.cells[name], self.tested[name]
        template = config.test_template
        template = dataclasses.replace(template, turns=[*template.turns, *turns])
        asked = Ask({"input": question}, template=template)
        engine = engine_of(config)
        tokenizer = model.tokenizer if engine.reads == "tokens" else None
        spelling = Spelling(None, config, engine, tokenizer)
        session = engine.open(model, config, lambda: False)
        decoding = Decoding(max_new_tokens=config.model.max_new_tokens or 512)
        (made,) = session.answer([spelling.prompt(asked)], [[0]], decoding)
        reply = read_reply(made[0], spelling.opens_think(asked))
        return reply.text or f"(no answer: {reply.withheld or 'it is empty'})"


def ask(config: Config, question: str, out: Console) -> None:
    """Print what the cell's model answers, and what the untouched one does.

    Raises:
        PtstError: the cell's fine-tuning is not in the store.
    """
    asked = _asked(config)
    for name in asked.cells:
        out.print(f"{_who(name, asked.cells[name])}:", style="bold", markup=False)
        out.print(asked.answer(name, question, []), markup=False, soft_wrap=True)
        out.print()


def chat(config: Config, out: Console) -> None:
    """A conversation with the cell's model, until an empty line.

    The untouched model is asked the same questions.

    Raises:
        ConfigError: the test template is bare text, which has no conversation.
        PtstError: the cell's fine-tuning is not in the store.
    """
    if config.test_template.mode == "text":
        raise ConfigError(
            f"template {config.test_template.name} is bare text and has no conversation; name a chat template "
            "(template@test_template=chat_vanilla), or ask one question: question=..."
        )
    asked = _asked(config)
    turns: dict[str, list[Turn]] = {name: [] for name in asked.cells}
    while question := _line():
        for name, own in asked.cells.items():
            answer = asked.answer(name, question, turns[name])
            out.print(f"{_who(name, own)}:", style="bold", markup=False)
            out.print(answer, markup=False, soft_wrap=True)
            spelled = (own.test_template, own.dataset, own.model)
            user = make_messages({"input": question}, *spelled)[-1]["content"]
            turns[name].append(Turn(user, answer))


def _line() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def _who(name: str, config: Config) -> str:
    guard = ", without its guard" if slot(config, "guard") else ""
    return f"{config.model.name}, {name}{guard}, under {config.test_template.name}"


def _asked(config: Config) -> Asked:
    from pathlib import Path

    return Asked(config, Path(config.paths.store).expanduser())
