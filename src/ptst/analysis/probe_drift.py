"""Probe drift: does a probe that was fitted before fine-tuning still read the model afterwards?

A probe (`ptst.probe`) is fitted on the untuned model's hidden states of given answers, under the
probe's template, and reads the tuned model's states of the same answers under the test template.
Where it reads them worse, either its direction has moved or what it read is gone: a probe that is
fitted anew on the tuned model tells which. The idea is SafeNudge's (arXiv 2501.02018) taken as a
measure; no paper that we know of reports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ptst import data
from ptst.analysis import Analysis
from ptst.component import Context, Parts, check_template_part, parts_of
from ptst.probe import GivenAnswers, check_rows, held_out, quality, read_answers, states_of
from ptst.schema import Config, Template
from ptst.templates import identity


@dataclass
class ProbeDrift(GivenAnswers, Analysis):
    """AUC and accuracy at 0.5, always on questions that the probe was not fitted on.

    `auc`, `accuracy`: the untuned model's probe on the model that the cell tests. `untuned_auc`,
    `untuned_accuracy`: the same probe on the untuned model under the test template, where nothing
    but the template may differ. `refit_auc`, `refit_accuracy`: a probe of the tested model's
    own. All three score the states of the same answers, in the same ten folds.
    """

    key_name: ClassVar[str] = "probe_drift"

    template: Template | None = None
    """What the probe is fitted under; None: the test template."""

    def check(self, config: Config) -> None:
        """Refuse invented hazards for a real model."""
        check_template_part(self.template, config.model)
        check_rows(self.harmful, self.where, config)

    def identity(self) -> Parts:
        """The rows by their content, the template by its text."""
        rows = {name: data.identity(own) for name, own in self.rows.items()}
        return {**rows, "template": None if self.template is None else parts_of(self.template)}

    def parts(self, config: Config) -> Parts:
        """The test template, and how the questions of the rows read."""
        dataset = config.dataset
        reading = {"question": dataset.question, "instruction": dataset.instruction}
        template = identity(config.test_template, config.model)
        return {"test_template": template, "reading": reading}

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
        return {
            f"{which}{name}": value
            for which, probabilities in scored.items()
            for name, value in quality(tested.unsafe, probabilities).items()
            if name in ("auc", "accuracy")
        }
