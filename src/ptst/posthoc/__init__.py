"""Steps after training: each changes the weights once, before anything is asked. One file each."""

from __future__ import annotations

from typing import Any, ClassVar

from ptst.component import Component, Context


class PostHoc(Component):
    """Changes the weights of a model after it was fine-tuned."""

    merged: ClassVar[bool] = True
    """Whether an adapter is merged before `apply`; False: behind it, so that its factors can be
    changed."""

    def apply(self, tuned: Any, base: Any, context: Context) -> dict[str, Any]:
        """Change the weights of `tuned` in place.

        Args:
            tuned: the fine-tuned model, a `transformers.PreTrainedModel` whose adapter is merged
                (or see `merged`); it is a copy of `base` where nothing was fine-tuned.
            base: the model before it was fine-tuned; not to be changed.

        Returns:
            Facts for the provenance, JSON-like.
        """
        raise NotImplementedError
