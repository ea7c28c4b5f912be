"""From an ask in words to the prompt that a session is given: token ids, or messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ptst import chat, templates
from ptst.engine import Ask, Engine, TooLong
from ptst.errors import TemplateError
from ptst.schema import Config, Template, Variant

PLACE = "{instruction}"


@dataclass(frozen=True)
class Spelling:
    """How the asks of one evaluation are spelled for an engine.

    Attributes:
        name: the evaluation's; None outside of any: a question then reads as the data set's.
        tokenizer: None for an engine that reads messages.
        context: how many tokens the model reads at most; None where nobody says.
    """

    name: str | None
    config: Config
    engine: Engine
    tokenizer: Any = None
    context: int | None = None

    def prompt(self, ask: Ask) -> Any:
        """Token ids, BOS included, or messages, as the engine reads.

        Raises:
            TemplateError: the model's format cannot spell it; it begins an answer, or has a second
                turn, where that cannot be.
            TooLong: prompt and answer do not fit in the model's context.
        """
        if self.engine.reads == "messages":
            return self._messages(ask)
        template, model = self._template(ask), self.config.model
        if ask.system is not None and not chat.chat_format(model, self.tokenizer).system_role:
            raise TemplateError(
                f"model {model.name}: its chat format has no place for a system prompt, and the conversation has "
                "one; put the text into the first question, or set model.chat to a .jinja file."
            )
        ids = list(self.shown(ask).token_ids or [])
        for number, part in enumerate(ask.begin):
            first = number == 0
            ids += (
                templates.answer_ids(part, template, model, self.tokenizer, first)
                if isinstance(part, str)
                else part
            )
        self._check_room(ask, len(ids))
        return ids

    def shown(self, ask: Ask) -> templates.Prompt:
        """An ask's prompt as text, and with a tokenizer as token ids; what the answer begins with
        is not in it."""
        spelled = (self._template(ask), self.config.dataset, self.config.model, self.tokenizer)
        return templates.make_prompt(_row(ask), *spelled, self._reading(ask), self._later(ask))

    def opens_think(self, ask: Ask) -> bool:
        """Whether the ask's prompt ends within a think block, so that its answer begins in one."""
        chats = self._template(ask).mode == "chat" and self.tokenizer is not None
        if not chats or ask.begin:
            return False
        return chat.chat_format(self.config.model, self.tokenizer).opens_think

    def _template(self, ask: Ask) -> Template:
        """The template that spells an ask. A system prompt of its own goes the way of an
        instruction: into the system prompt, whatever the template does with a data set's."""
        template = ask.template or self.config.test_template
        if ask.system is None:
            return template
        if template.mode == "text":
            raise TemplateError(
                f"template {template.name} is bare text, which has no system prompt, and the conversation has "
                "one; choose a chat template."
            )
        own = self.config.model.system_prompts.get(template.name, template.system)
        order = {"append": (own, PLACE), "prepend": (PLACE, own), "replace": (PLACE,)}[ask.place]
        system = "\n\n".join(part for part in order if part)
        return replace(template, with_instruction=Variant(system))

    def _reading(self, ask: Ask) -> str | None:
        if ask.reading is not None or self.name is None:
            return ask.reading
        return self.config.evaluations[self.name].question

    def _later(self, ask: Ask) -> list[dict[str, str]]:
        """The later turns in words: a query's row reads as a first question does."""
        spelled = (self._template(ask), self.config.dataset, self.config.model)
        evaluation = self.config.evaluations[self.name] if self.name is not None else None
        reading = evaluation.question if evaluation else None

        def said(content: Any) -> str:
            if isinstance(content, str):
                return content
            return templates.make_messages(content, *spelled, reading)[-1]["content"]

        return [{"role": turn["role"], "content": said(turn["content"])} for turn in ask.later]

    def _messages(self, ask: Ask) -> list[dict[str, str]]:
        if ask.begin:
            raise TemplateError(
                "the beginning of an answer is to be given, and an engine that reads "
                "messages has no place for it; use a model on this machine."
            )
        template, model = self._template(ask), self.config.model
        spelled = (template, self.config.dataset, model)
        reading, row = self._reading(ask), _row(ask)
        if template.mode == "text" and model.api is None:
            text = templates.make_prompt(row, *spelled, None, reading, self._later(ask)).text
            return [{"role": "user", "content": text}]
        return templates.make_messages(row, *spelled, reading, self._later(ask))

    def _check_room(self, ask: Ask, tokens: int) -> None:
        if self.context is None or self.name is None:
            return
        decoding = ask.decoding or self.config.evaluations[self.name].decoding
        limit = decoding.max_new_tokens
        if tokens + limit <= self.context:
            return
        asked = f"query {ask.row['id']}" if "id" in ask.row else "a question of its own"
        asked += f", turn {1 + len(ask.later) // 2}," if ask.later else ""
        raise TooLong(
            f"evaluation {self.name}: under {self._template(ask).name}, {asked} has {tokens} tokens, "
            f"which with decoding.max_new_tokens={limit} is more than the context of {self.context} of model "
            f"{self.config.model.name}; lower {self.name}.decoding.max_new_tokens, or leave the query out."
        )


def _row(ask: Ask) -> Mapping[str, Any]:
    return ask.row if ask.system is None else {**ask.row, "instruction": ask.system}
