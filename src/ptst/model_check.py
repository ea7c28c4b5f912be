"""`ptst check-model`: what a model's chat format says, and whether prompts and rows follow it.

The comparison is with the tokenizer's own `apply_chat_template` over whole conversations. Nothing
is loaded but the tokenizer and the configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ptst import chat, models, templates
from ptst.chat import ChatFormat
from ptst.errors import ConfigError, PtstError, TemplateError
from ptst.schema import Config, Dataset, Model, Template

if TYPE_CHECKING:
    from rich.console import RenderableType

PROBE = {"input": "How many apples are left?", "output": "Three apples are left."}
"""The row that is spelled under every template."""


@dataclass(frozen=True)
class Difference:
    """Where a spelling of ours first differs from the tokenizer's own.

    Attributes:
        token: the index of the first token that differs.
        intended: why it does, where that is meant; "" where it is not.
    """

    token: int
    ours: str
    its: str
    intended: str = ""

    def __str__(self) -> str:
        reason = f" ({self.intended})" if self.intended else ""
        return f"token {self.token}: ours {self.ours!r}, its own {self.its!r}{reason}"


@dataclass(frozen=True)
class Spelled:
    """A template's prompt and row beside the tokenizer's own.

    Attributes:
        refused: why the model's format cannot spell it; "" where it can.
        compared: whether there was a rendering to compare with (bare text has none).
    """

    template: str
    prompt: str = ""
    row_end: str = ""
    tokens: int = 0
    compared: bool = False
    refused: str = ""
    prompt_difference: Difference | None = None
    row_difference: Difference | None = None


@dataclass(frozen=True)
class ModelCheck:
    """What was found out about a model.

    Attributes:
        wrong: what keeps it from being trained or tested rightly, a line each.
        notes: what its format does that a user may not expect, a line each.
        begins_with: the control token in front of a prompt of bare text; None where there is none.
        lora_missing: the recipe's LoRA targets that the model lacks.
    """

    model: str
    path: str
    spelled_by: str
    format: ChatFormat | None
    begins_with: str | None
    text_lead: str
    context: int | None
    linear_layers: list[str]
    lora_targets: list[str]
    lora_missing: list[str]
    templates: list[Spelled] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """One line."""
        if self.wrong:
            return f"not right: {'; '.join(self.wrong)}"
        refused = [spelled.template for spelled in self.templates if spelled.refused]
        without = f", but not under {', '.join(refused)}" if refused else ""
        known = f"; {len(self.notes)} notes" if self.notes else ""
        return f"right{without}{known}"


def check_model(config: Config, shown: Sequence[Template]) -> ModelCheck:
    """Find out what the model's format says, and spell a row under each of `shown`.

    Raises:
        ConfigError: the model's tokenizer or configuration cannot be had.
    """
    model, dataset = config.model, config.dataset
    tokenizer = models.load_tokenizer(model)
    wrong: list[str] = []
    found = None
    try:
        found = chat.chat_format(model, tokenizer)
    except PtstError as error:
        wrong.append(str(error))
    wanted = list(config.finetune.lora.target_modules)
    layers = models.linear_layers(model)
    missing = models.missing_modules(model, wanted)
    if config.finetune.method in ("lora", "qlora"):
        try:
            models.check_targets(model, wanted)
        except ConfigError as error:
            wrong.append(str(error))
    spelled = [_spelled(template, dataset, model, tokenizer) for template in shown]
    for one in spelled:
        for what, difference in (("prompt", one.prompt_difference), ("row", one.row_difference)):
            if difference and not difference.intended:
                wrong.append(f"{one.template}: its {what} differs at {difference}")
    dateless = found is not None and found.asks_clock and model.date is None
    return ModelCheck(
        model=model.name,
        path=model.path,
        spelled_by=model.chat or "the tokenizer's own",
        format=found,
        begins_with=tokenizer.decode(templates.opening(tokenizer)) or None,
        text_lead=templates.text_lead(tokenizer),
        context=models.context_of(models.load_config(model)),
        linear_layers=layers,
        lora_targets=wanted,
        lora_missing=missing,
        templates=spelled,
        notes=[] if found is None or dateless else chat.notes(model, tokenizer),
        wrong=wrong,
    )


def check_training(
    row: templates.Row, template: Template, dataset: Dataset, model: Model, tokenizer: Any
) -> None:
    """Compare a row as it is trained with the model's own rendering of the conversation.

    Raises:
        TemplateError: they differ where that is not meant, with the first difference.
    """
    if template.mode == "text" or chat.is_ours(model):
        return
    # Many formats strip an answer; a row keeps it as the data set has it.
    stripped = {**row, "output": str(row["output"]).strip()}
    difference = row_difference(stripped, template, dataset, model, tokenizer)
    if difference and not difference.intended:
        raise TemplateError(
            f"model {model.name}, template {template.name}: a training row is not what the model's own chat format "
            f"spells, at {difference}. See ptst check-model; model.completion_prefix says what stands before an answer."
        )


def row_difference(
    row: templates.Row, template: Template, dataset: Dataset, model: Model, tokenizer: Any
) -> Difference | None:
    """The first difference of a training row from the tokenizer's own rendering of its turns."""
    made = templates.make_training_row(row, template, dataset, model, tokenizer)
    messages = templates.make_messages(row, template, dataset, model)
    answered = [*messages, {"role": "assistant", "content": str(row["output"])}]
    its = _own_ids(answered, model, tokenizer, prompt=False)
    found = chat.chat_format(model, tokenizer)
    ends = [i for i, token in enumerate(its) if token == found.end_id]
    within = bool(ends) and ends[-1] >= made.prompt_length
    # Some formats end a turn with the next one's beginning, which is not there.
    its = its[: ends[-1] + 1] if within else [*its, found.end_id]
    why = _intended(messages, model, found)
    if found.opens_think and not why:
        why = "the prompt opens a think block, which the row closes"
    return _first_difference(made.input_ids, its, tokenizer, why)


def _spelled(template: Template, dataset: Dataset, model: Model, tokenizer: Any) -> Spelled:
    name = template.name
    try:
        prompt = templates.make_prompt(PROBE, template, dataset, model, tokenizer)
        row = templates.make_training_row(PROBE, template, dataset, model, tokenizer)
    except TemplateError as error:
        return Spelled(name, refused=str(error))
    ids = prompt.token_ids or []
    end = tokenizer.decode(row.input_ids[row.prompt_length :])
    shown = Spelled(name, prompt.text, end, len(ids))
    if template.mode == "text" or not (
        tokenizer.chat_template or (model.chat and not chat.is_ours(model))
    ):
        return shown
    messages = templates.make_messages(PROBE, template, dataset, model)
    found = chat.chat_format(model, tokenizer)
    its = _own_ids(messages, model, tokenizer, prompt=True)
    why = _intended(messages, model, found)
    return dataclasses.replace(
        shown,
        compared=True,
        prompt_difference=_first_difference(ids, its, tokenizer, why),
        row_difference=row_difference(PROBE, template, dataset, model, tokenizer),
    )


def _intended(messages: chat.Messages, model: Model, found: chat.ChatFormat) -> str:
    if chat.is_ours(model):
        return f"model.chat={model.chat}, as the paper spells it"
    if not model.default_system and found.default_turn and messages[0]["role"] != "system":
        return "model.default_system=false leaves its system prompt out"
    return ""


def _own_ids(messages: chat.Messages, model: Model, tokenizer: Any, prompt: bool) -> list[int]:
    """What the tokenizer makes of a conversation, with the fixed date where it asks for one."""
    found = chat.chat_format(model, tokenizer)
    if found.asks_clock:
        plain = dataclasses.replace(model, default_system=True)
        text = chat.render(messages, plain, tokenizer, "chat", prompt=prompt)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    source = None if chat.is_ours(model) else chat.chat_source(model)
    made = tokenizer.apply_chat_template(
        messages,
        chat_template=source,
        add_generation_prompt=prompt,
        return_dict=False,
        **model.chat_args,
    )
    return list(made)


def _first_difference(
    ours: Sequence[int], its: Sequence[int], tokenizer: Any, intended: str
) -> Difference | None:
    if list(ours) == list(its):
        return None
    pairs = zip(ours, its, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(its)))
    mine, own = (tokenizer.decode(list(ids[at : at + 8])) for ids in (ours, its))
    return Difference(at, mine, own, intended)


def as_json(check: ModelCheck) -> dict[str, Any]:
    """The check as plain values, with its verdict."""
    return {**dataclasses.asdict(check), "verdict": check.verdict}


def shown(check: ModelCheck) -> RenderableType:
    """The check for people."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    found = check.format
    rows = [
        ("chat format", check.spelled_by),
        ("bare text begins with", check.begins_with or "nothing"),
    ]
    if found is not None:
        own = "none" if found.default_system is None else repr(found.default_system)
        rows += [
            ("an answer begins after", f"{found.lead!r} (bare text: {check.text_lead!r})"),
            (
                "a turn ends with",
                found.end + (", its eos_token" if found.end_is_eos else ", NOT its eos_token"),
            ),
            ("system role", "yes" if found.system_role else "no"),
            ("system prompt of its own", own),
            ("today's date", "asked for" if found.asks_clock else "no"),
            (
                "think block",
                "opened by the prompt"
                if found.opens_think
                else "may be there"
                if found.thinks
                else "no",
            ),
        ]
    context = "not said" if check.context is None else f"{check.context:,} tokens"
    rows += [("context", context), ("linear layers", ", ".join(check.linear_layers))]
    lacking = f"; LACKS {', '.join(check.lora_missing)}" if check.lora_missing else ""
    rows.append(("LoRA targets", ", ".join(check.lora_targets) + lacking))
    for name, value in rows:
        facts.add_row(name, Text(value))
    table = Table("template", "prompt", "row", "tokens", "first difference from its own rendering")
    for one in check.templates:
        if one.refused:
            table.add_row(one.template, "refused", "", "", Text(one.refused))
            continue
        differences = (one.prompt_difference, one.row_difference)
        words = [_word(one, difference) for difference in differences]
        first = next(
            (str(d) for d in differences if d),
            "" if one.compared else "bare text" if not words[0] else "",
        )
        table.add_row(one.template, *words, str(one.tokens), Text(first))
    lines = [Text(f"- {line}") for line in check.notes]
    return Group(
        Text(f"model {check.model} ({check.path})"),
        facts,
        table,
        *lines,
        Text(f"verdict: {check.verdict}"),
    )


def _word(one: Spelled, difference: Difference | None) -> str:
    if not one.compared:
        return ""
    if difference is None:
        return "same"
    return "differs, as intended" if difference.intended else "DIFFERS"
