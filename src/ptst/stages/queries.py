"""The queries of an evaluation: read, checked, and spelled under the test template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ptst import chat, data, models
from ptst.component import load
from ptst.dialogue import Dialogue
from ptst.dialogue.single import Single
from ptst.engine import Ask
from ptst.engine.chosen import engine_of
from ptst.engine.rounds import next_ask
from ptst.engine.spelling import Spelling
from ptst.errors import DataError
from ptst.guard import COLUMN, Guard
from ptst.judge import load_judge
from ptst.keys import slot
from ptst.progress import say
from ptst.quiet import quiet
from ptst.reading import columns_of
from ptst.schema import Config, Evaluation, Template
from ptst.stages.completions import unit_of, value_in


@dataclass(frozen=True)
class Queries:
    """The queries of an evaluation, what is asked first about each, and what the model is given for
    it: token ids, or an API's messages."""

    rows: list[dict[str, Any]]
    asks: list[Ask]
    prompts: list[list[int]]
    messages: list[list[dict[str, str]]]


def spell(name: str, config: Config, rows: list[dict[str, Any]], held: models.Held) -> Queries:
    """Spell what the evaluation's dialogue asks first about every query, under the test template,
    and say what the model's format does of its own.

    Raises:
        TemplateError: the model's format cannot spell one of them.
        DataError: a prompt and its answer do not fit in the model's context.
    """
    engine, dialogue = engine_of(config), dialogue_of(config.evaluations[name], name)
    asks = [first_ask(dialogue, row) for row in rows]
    if engine.reads == "messages":
        spelling = Spelling(name, config, engine)
        return Queries(rows, asks, [], [spelling.prompt(ask) for ask in asks])
    quiet()
    tokenizer = held.tokenizer(config.model)
    tell_format(config, held)
    spelling = Spelling(name, config, engine, tokenizer, held.context(config.model))
    return Queries(rows, asks, [spelling.prompt(ask) for ask in asks], [])


def first_ask(dialogue: Dialogue, row: dict[str, Any]) -> Ask:
    """What a dialogue asks first; the bare query of one that asks nothing."""
    try:
        return next_ask(dialogue.talk(row), None)
    except StopIteration:
        return Ask(row)


def tell_format(config: Config, held: models.Held) -> None:
    """Say, once for a model, what its chat format does that a user may not expect."""
    used = [config.test_template]
    used += [config.train_template] if config.finetune.method != "none" else []
    for template in used:
        for line in format_notes(config, template, held.tokenizer(config.model)):
            if line not in held.told:
                held.told.add(line)
                say(line)


def format_notes(config: Config, template: Template, tokenizer: Any) -> list[str]:
    """What the model's chat format does under a template that a user may not expect; nothing for
    bare text."""
    return chat.notes(config.model, tokenizer) if template.mode == "chat" else []


def dialogue_of(evaluation: Evaluation, name: str) -> Dialogue:
    """How the evaluation called `name` asks its queries."""
    if evaluation.dialogue is None:
        return Single()
    return load(evaluation.dialogue, f"{name}.dialogue", Dialogue)


def guard_of(config: Config) -> Guard | None:
    """What stands around every ask of a cell."""
    filled = slot(config, "guard")
    return filled and load(filled[1], f"defence.{filled[0]}.guard", Guard)


def load_queries(name: str, evaluation: Evaluation) -> list[dict[str, Any]]:
    """The queries of an evaluation, with all that its prompt, its judge and its report need.

    Raises:
        DataError: see `check_rows`; or a row has a column of the name of one of ours.
    """
    rows = data.load_rows(evaluation.queries, needs=("input",))
    ours = {"completion", "tokens", "finished", "withheld", "thinking"}
    ours |= {"sample"} if evaluation.decoding.samples > 1 else set()
    dialogue = dialogue_of(evaluation, name)
    ours |= {COLUMN, *dialogue.columns}
    for row in rows:
        if taken := sorted(ours & set(row)):
            raise DataError(
                f"evaluation {name}: the queries have a column {taken[0]!r}, which is where the "
                "answer goes; give the column another name."
            )
        dialogue.check_row(row)
    check_rows(name, evaluation, rows)
    return rows


def check_rows(name: str, evaluation: Evaluation, rows: Iterable[Mapping[str, Any]]) -> None:
    """Refuse queries, with or without answers, that an evaluation cannot be judged or reported by.

    Raises:
        DataError: a row does not have the column that says its unit or category, that its reading
            has a place for or that its judge reads; or its judge cannot use it.
    """
    judge = load_judge(evaluation.judge, f"{name}.judge")
    wanted = [("category", evaluation.category)]
    wanted += [("question", column) for column in columns_of(evaluation.question or "")]
    wanted += [("only", column) for where in evaluation.only.values() for column in where]
    for row in rows:
        if lacking := [column for column in judge.needs if column not in row]:
            setting = data.column_setting(evaluation.queries, lacking[0], "NAME")
            mapped = f", or say which one it is with {setting}" if lacking[0] in data.OURS else ""
            raise DataError(
                f"evaluation {name}: its judge, {type(judge).__name__}, needs the column "
                f"{lacking[0]!r}; query {row['id']} has: "
                f"{', '.join(row)}. Choose another judge{mapped}."
            )
        try:
            unit_of(row, evaluation.unit)
            for what, column in wanted:
                if column:
                    value_in(row, column, f"{what}={getattr(evaluation, what)}")
            judge.check_row(row)
        except DataError as error:
            raise DataError(f"evaluation {name}: {error}") from error
