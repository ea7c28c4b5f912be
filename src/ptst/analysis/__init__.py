"""Analyses: what can be read off the weights of a model, beside what it answers. One file each.

A result has a key of its own (A) and is not part of the cell's: an analysis can be added to a
finished grid, and nothing of it is made again.
"""

from __future__ import annotations

from typing import Any

from ptst.component import Component, Context, Parts
from ptst.schema import Config


class Analysis(Component):
    """Compares a model with what it was before it was fine-tuned."""

    def parts(self, config: Config) -> Parts:
        """What of the cell decides the values, beside the model and the fields.

        By default nothing: cells that test one model share one result. One that has the test
        template among its parts is made, and reported, for each test template.
        """
        return {}

    def run(self, tuned: Any, base: Any, context: Context) -> dict[str, float]:
        """Work out named values. Files for pictures may be left in `context.scratch` / "files".

        Args:
            tuned: the model that the cell tests, a `transformers.PreTrainedModel` whose adapter is
                merged; a copy of `base` where nothing was changed.
            base: the model before it was fine-tuned.

        Returns:
            Finite numbers by name.
        """
        raise NotImplementedError
