"""The audit of a cell's training rows: census, coverage, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptst import data
from ptst.audit_data import Census, Read, census_of, reference_of
from ptst.audit_data.coverage import IN_FORMAT, Asked, asked_by
from ptst.audit_data.likelihood import Likelihood, likelihoods
from ptst.audit_data.measured import Measured, measured
from ptst.dialogue.encoded import Encoded
from ptst.errors import ConfigError
from ptst.progress import progress
from ptst.schema import Config


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        mapping: of a substitution that was given.
        why_unread: why the untuned model has read nothing; "" where it has.
    """

    census: Census
    asked: Mapping[str, Asked]
    measured: Sequence[Measured]
    mapping: Mapping[str, str] | None
    why_unread: str


def audit(config: Config, n: int | None, characters: int, mapping: str | None, nll: bool) -> Audit:
    """Audit the training rows of a cell's data set.

    Args:
        n: rows that the untuned model reads; None: all.
        characters: of a row's question, and of its answer, that it reads.
        mapping: a JSON file of a substitution of letters.
        nll: whether it reads any.

    Raises:
        PtstError: rows, model or mapping cannot be read.
    """
    for name, value in (("n", n), ("characters", characters)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value} must be at least 1.")
    letters = None
    if mapping is not None:
        Encoded(coding="letters", mapping=mapping)  # refuses what cannot be inverted
        letters = json.loads(Path(mapping).expanduser().read_text(encoding="utf-8"))
    rows = data.load_rows(config.dataset, needs=("input", "output"))
    asked = asked_by(config)
    why = "" if nll else "nll=false"
    if config.model.api is not None:
        why = f"model {config.model.name} is behind an API, which does not say how likely a text is"
    read, reference = None, None
    if not why:
        read = _reader(config, characters)
        plain = {name: own for name, own in asked.items() if not name.endswith(IN_FORMAT)}
        reference = reference_of(read(_queries(plain)))
    system = config.dataset.instruction or ""
    found = census_of(rows, system, letters, read, n, reference)
    return Audit(found, asked, measured(config), letters, why)


def _queries(asked: Mapping[str, Asked]) -> list[dict[str, Any]]:
    """Queries as rows; their answers are not read."""
    return [
        {"input": question, "output": ".", "instruction": system}
        for own in asked.values()
        for system, question in zip(own.systems, own.questions, strict=True)
    ]


def _reader(config: Config, characters: int) -> Read:
    """What reads rows under the train template; the model is loaded once."""
    from ptst.engine.chosen import engine_of
    from ptst.models import load_model, load_tokenizer, pick_device
    from ptst.quiet import quiet

    quiet()
    model = load_model(config.model, pick_device(engine_of(config).device))
    tokenizer = load_tokenizer(config.model)

    def read(rows: Sequence[Mapping[str, Any]]) -> list[Likelihood]:
        short = [
            {
                **row,
                "input": str(row["input"])[:characters],
                "output": str(row["output"])[:characters],
            }
            for row in rows
        ]
        with progress("untuned model reads") as advance:
            return likelihoods(
                config, config.train_template, short, model, tokenizer,
                lambda done, total: advance(done, total, "rows"),
            )  # fmt: skip

    return read
