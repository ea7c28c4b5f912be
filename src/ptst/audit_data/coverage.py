"""Which formats evaluations ask in, and how to ask in the others."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ptst.audit_data import VARIOUS, Format
from ptst.audit_data.codings import Coding, coding_of, completed
from ptst.errors import PtstError
from ptst.paths import CONF
from ptst.schema import Config
from ptst.stages.queries import dialogue_of, first_ask, load_queries

QUERIES = 50
"""Of an evaluation that are looked at."""
SEPARATOR = "-"
"""In conf/evaluation/in_format/dialogue.yaml."""
IN_FORMAT = "_in_format"
MAPPING = "MAPPING.json"
"""What stands in a command for a substitution that was not derived."""


@dataclass(frozen=True)
class Asked:
    """What an evaluation asks: of each query the system prompt and the question; or why that cannot
    be read."""

    systems: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    problem: str = ""


def asked_by(config: Config) -> dict[str, Asked]:
    """What each evaluation asks first of its first queries, before the test template."""
    found = {}
    for name, evaluation in config.evaluation.items():
        try:
            rows = load_queries(name, evaluation)[:QUERIES]
        except PtstError as error:
            found[name] = Asked(problem=str(error).splitlines()[0])
            continue
        asks = [first_ask(dialogue_of(evaluation, name), row) for row in rows]
        own = [a.system or a.row.get("instruction") or config.dataset.instruction for a in asks]
        systems = tuple(str(system or "") for system in own)
        found[name] = Asked(systems, tuple(str(a.row["input"]) for a in asks))
    return found


def covering(
    form: Format, asked: Mapping[str, Asked], mapping: Mapping[str, str] | None = None
) -> list[str]:
    """The evaluations that ask under a format's system prompt, in its wrapper and encoding."""
    return [name for name, own in asked.items() if _covers(form, own, mapping)]


def _covers(form: Format, asked: Asked, mapping: Mapping[str, str] | None) -> bool:
    if not asked.questions or set(asked.systems) != {form.system}:
        return False
    bodies = [
        question[len(form.prefix) : len(question) - len(form.suffix)]
        for question in asked.questions
        if question.startswith(form.prefix) and question.endswith(form.suffix)
    ]
    if len(bodies) < len(asked.questions):
        return False
    found = (coding_of(body, mapping, [form.question]) for body in bodies)
    codings = [coding for coding in found if coding is not None]
    codings = [completed(coding, [form.question]) for coding in codings]
    usual = Counter(map(_alike, codings)).most_common(1)
    return (usual[0][0] if usual else _alike(Coding("plain"))) == _alike(form.question)


def _alike(coding: Coding) -> Coding:
    """A coding as coverage compares it: English is what a text is in that says no language."""
    return replace(coding, language="" if coding.language == "en" else coding.language)


def settings_of(form: Format) -> dict[str, Any]:
    """The fields of `ptst.dialogue.encoded.Encoded` that ask in a format.

    A mapping that was not derived is `MAPPING`.

    Raises:
        ValueError: no such dialogue asks in it, with the reason.
    """
    if form.system == VARIOUS:
        raise ValueError("its rows have system prompts of their own")
    question, answer = form.question.settings, form.answer.settings
    if not form.question.plain and not form.answer.plain and question != answer:
        raise ValueError("questions and answers are in different encodings")
    if form.language not in ("", "en") and not form.encoded:
        raise ValueError("queries in that language are needed")
    coded = answer if form.question.plain else question
    sides = {(True, False): "answer", (False, True): "question"}
    side = sides.get((form.question.plain, form.answer.plain))
    wrapped = {
        "prefix": form.prefix,
        "suffix": form.suffix,
        "answer_prefix": form.answer_prefix,
        "answer_suffix": form.answer_suffix,
    }
    named = {"mapping": MAPPING} if coded["coding"] == "letters" else {}
    sided = {"sides": side} if side else {}
    system = {"system": form.system} if form.system else {}
    return {**coded, **named, **sided, **{k: v for k, v in wrapped.items() if v}, **system}


def command_of(
    form: Format, config: Config, overrides: Sequence[str], mapping: str | None = None
) -> str:
    """What runs the evaluations in a format beside the plain ones, as one types it.

    Raises:
        ValueError: there is no such command, with the reason.
    """
    fields = settings_of(form)
    if "mapping" in fields and mapping:
        fields["mapping"] = mapping
    plain = [name for name in config.evaluation if not name.endswith(IN_FORMAT)]
    there = [name for name in plain if (CONF / "evaluation" / f"{name}{IN_FORMAT}.yaml").is_file()]
    if not there:
        raise ValueError(
            f"there is no conf/evaluation/NAME{IN_FORMAT}.yaml for: {', '.join(plain) or 'no evaluation'}; copy one "
            "that there is, with your queries"
        )
    words = [word for word in overrides if not word.startswith("evaluation=")]
    kept = [word for word in words if IN_FORMAT not in word]
    names = [*plain, *(f"{name}{IN_FORMAT}" for name in there)]
    kept.append(f"evaluation=[{','.join(names)}]")
    for name in there:
        for key, value in fields.items():
            if (key, value) != ("separator", SEPARATOR):
                kept.append(f"evaluation.{name}{IN_FORMAT}.dialogue.{key}={_quoted(value)}")
    return " ".join(["ptst", *map(_typed, kept)])


def _quoted(value: Any) -> str:
    """A value as Hydra reads it back."""
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z_][\w./-]*", value):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _typed(word: str) -> str:
    """A word as one types it in a shell."""
    return f'"{word}"' if "'" in word and not re.search(r'["$`!\\]', word) else shlex.quote(word)
