"""Probe drift: does a probe that was fitted before fine-tuning still read the model afterwards?

A probe (`ptst.probe`) is fitted on the untuned model's hidden states of given answers, under the
probe's template, and reads the tuned model's states of the same answers under the test template.
Where it reads them worse, either its direction has moved or what it read is gone: a probe that is
fitted anew on the tuned model tells which. The idea is SafeNudge's (arXiv 2501.02018) taken as a
measure; no paper that we know of reports it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ptst import data
from ptst.analysis import Analysis
from ptst.component import Context, Parts, added, check_template_part, parts_of
from ptst.contrast import under_test_template
from ptst.dialogue.encoded import Encoded
from ptst.errors import DataError
from ptst.models import context_of
from ptst.probe import (
    PREFIXES,
    Answer,
    GivenAnswers,
    answer_of,
    check_rows,
    held_out,
    quality,
    read_answers,
    states_of,
)
from ptst.schema import Config, Template


@dataclass
class ProbeDrift(GivenAnswers, Analysis):
    """AUC and accuracy at 0.5, always on questions that the probe was not fitted on.

    `auc`, `accuracy`: the untuned model's probe on the model that the cell tests. `untuned_auc`,
    `untuned_accuracy`: the same probe on the untuned model under the test template, where nothing
    but the template may differ. `refit_auc`, `refit_accuracy`: a probe of the tested model's
    own. All three score the states of the same answers, in the same ten folds.

    With `encoded`, `format_auc`, `format_untuned_auc` and so on are of the same answers in a format
    of training rows, whose states the first two score by the probe that was fitted on the plain
    ones: whether what a plain probe reads is still there in an encoding (Halawi et al. 2024,
    arXiv 2406.20053, is why one asks). A state that is taken behind 20 tokens of a plain answer is
    taken behind the encoding of the text of these tokens.
    """

    key_name: ClassVar[str] = "probe_drift"

    template: Template | None = None
    """What the probe is fitted under; None: the test template."""
    encoded: Encoded | None = added(None)
    """A format in which the answers are read as well; None: they are read in plain text alone."""

    def check(self, config: Config) -> None:
        """Refuse invented hazards for a real model, and a format that the template cannot spell."""
        check_template_part(self.template, config.model)
        check_rows(self.harmful, self.where, config)
        if self.encoded is not None:
            self.encoded.where = f"{self.where}.encoded"
            self.encoded.check(config)

    def identity(self) -> Parts:
        """The rows by their content, the template by its text, the format with its mapping."""
        rows = {name: data.identity(own) for name, own in self.rows.items()}
        form = self.encoded
        coded = {} if form is None else {"encoded": {**parts_of(form), **form.identity()}}
        template = None if self.template is None else parts_of(self.template)
        return {**rows, "template": template, **coded}

    def parts(self, config: Config) -> Parts:
        """The test template, and how the questions of the rows read."""
        return under_test_template(config)

    def origin(self) -> Parts:
        """Where the rows came from."""
        return {name: data.origin(rows) for name, rows in self.rows.items()}

    def run(self, tuned: Any, base: Any, context: Context) -> dict[str, float]:
        """Both models read the answers; nothing is generated."""
        config, tokenizer = context.config, context.tokenizer
        sets = [(rows, name == "harmful") for name, rows in self.rows.items()]
        answers = read_answers(sets, config.test_template, config, tokenizer)
        untuned, tested = states_of(base, answers), states_of(tuned, answers)
        fitted = untuned
        if self.template is not None:
            own = read_answers(sets, self.template, config, tokenizer)
            fitted = states_of(base, own)
        scored = {
            "": held_out(fitted, tested),
            "untuned_": held_out(fitted, untuned),
            "refit_": held_out(tested, tested),
        }
        if self.encoded is not None:
            room = context_of(base.config) or math.inf
            read = [answer for answer in answers if len(answer.ids) <= room]
            coded = _in_format(read, self.encoded, config, tokenizer)
            if (longest := max(len(answer.ids) for answer in coded)) > room:
                raise DataError(
                    f"{self.where}.encoded: a question and the beginning of its answer have {longest} tokens in the "
                    f"format, more than the model's context of {room}; give shorter rows."
                )
            untuned, tested = (states_of(model, coded, prefixes=(0,)) for model in (base, tuned))
            scored["format_"] = held_out(fitted, tested)
            scored["format_untuned_"] = held_out(fitted, untuned)
            scored["format_refit_"] = held_out(tested, tested)
        return {
            f"{which}{name}": value
            for which, probabilities in scored.items()
            for name, value in quality(fitted.unsafe, probabilities).items()
            if name in ("auc", "accuracy")
        }


def _in_format(
    answers: Sequence[Answer], form: Encoded, config: Config, tokenizer: Any
) -> list[Answer]:
    """The beginnings of plain answers that have a state, in a format: each ends where its state is
    taken."""
    found = []
    for answer in answers:
        body = answer.ids[answer.length :]
        for prefix in (p for p in PREFIXES if p <= len(body)):
            text = tokenizer.decode(body[:prefix], skip_special_tokens=True)
            text = text.lstrip().rstrip("\ufffd")  # a character may be cut through
            row = {
                "input": form.question(answer.question),
                "output": form.answer(text).removesuffix(form.answer_suffix),
                **({} if form.system is None else {"instruction": form.system}),
            }
            made = answer_of(row, answer.unsafe, config.test_template, config, tokenizer)
            found.append(Answer(made.ids, len(made.ids), answer.unsafe, answer.question))
    return found
