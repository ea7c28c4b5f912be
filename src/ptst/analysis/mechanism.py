"""Mechanism: what fine-tuning changed inside, on safe and on unsafe prompts.

The analyses of Jain et al. 2024 ("What makes and breaks safety fine-tuning?", arXiv 2407.10264) of
a pair of models, *before* and *after*: clusters of activations, the change of the MLPs' weights,
sensitivity, and the models between and beyond the two. The measures are in `ptst.geometry`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ptst import geometry, models
from ptst.alignment import Unaligned
from ptst.analysis import Analysis, Pair, keep_points
from ptst.analysis.mechanism_values import Clusters, Read, points, values
from ptst.component import Context, Parts
from ptst.contrast import Asked, Contrast, halves, inputs_of, read_prompts
from ptst.errors import ConfigError, PtstError
from ptst.schema import Config

if TYPE_CHECKING:
    from torch import Tensor

BEFORE = ("untuned", "base")


@dataclass
class Mechanism(Contrast, Analysis):
    """Compares the model that the cell tests, *after*, with what it was *before*.

    Prompts stand under the test template; `template` is that of the means of the clusters. The
    values are described in docs/why.md. One model is in memory at a time, and two where `alphas`
    has others than 0 and 1.
    """

    key_name: ClassVar[str] = "mechanism"

    before: str = "untuned"
    """What is compared with: the model before fine-tuning, or, "base", the one before alignment."""
    unaligned: Unaligned = field(default_factory=Unaligned)
    """The base of the cell's model, for before=base."""
    blocks: int = 2
    """How many of the last blocks have their MLP's weights compared."""
    directions: int = 15
    """How many singular vectors of a change are looked at one by one."""
    gradients: int = 16
    """How many prompts of each kind have their sensitivity taken, the first ones; at most all."""
    alphas: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5])
    """Points of the path before + alpha (after - before), of which clusters are drawn."""

    def __post_init__(self) -> None:
        if self.before not in BEFORE:
            raise ConfigError(f"before={self.before} is not one of: {', '.join(BEFORE)}.")
        for name in ("blocks", "directions", "gradients"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if not all(map(math.isfinite, self.alphas)) or len({*self.alphas}) < len(self.alphas):
            raise ConfigError(f"alphas={self.alphas} must be finite numbers, each once.")

    def check(self, config: Config) -> None:
        """Refuse before=base where there is no base, and invented hazards for a real model."""
        self.check_prompts(self.where, config)
        if self.before == "base":
            if not self.unaligned.path:
                raise ConfigError(
                    f"before=base, and model {config.model.name} has no base: choose a model that has one "
                    "(model=micro_aligned), name it (model.base=PATH), or set before=untuned."
                )
            self.unaligned.check(config.model)

    def identity(self) -> Parts:
        """The prompts by their content, the base by its own where it is compared with."""
        base = self.unaligned.parts() if self.before == "base" else None
        return {**super().identity(), "unaligned": base}

    def origin(self) -> Parts:
        """Where the prompts came from, and the base."""
        base = self.unaligned.origin() if self.before == "base" else {}
        return {**super().origin(), **base}

    def run(self, tuned: Any, base: Any, context: Context) -> dict[str, float]:
        """See `compare`."""
        return self.compare(Pair(lambda: tuned, lambda: base), context)

    def compare(self, pair: Pair, context: Context) -> dict[str, float]:
        """Read one model, then the other; compare what was read.

        Raises:
            PtstError: the models have other shapes, or MLPs of a form that is not known.
        """
        config, tokenizer = context.config, context.tokenizer
        asked = fitted = read_prompts(self, config.test_template, config, tokenizer)
        if self.template is not None:
            fitted = read_prompts(self, self.template, config, tokenizer)
        read = _Reading(self, asked, fitted, context)
        model = self._load_before(pair, context)
        before, model = read.of(model), (model if read.path else None)
        models.give_back_memory()
        other = pair.tuned()
        after = read.of(other)
        if before.shapes != after.shapes:
            names = {**before.shapes, **after.shapes}
            odd = next(n for n in names if before.shapes.get(n) != after.shapes.get(n))
            raise PtstError(
                f"{self.where}: {odd} has the shape {before.shapes.get(odd)} before and {after.shapes.get(odd)} "
                "after: only models of the same shapes can be compared."
            )
        clusters = Clusters.of(asked, halves(asked, self.seed), before, after)
        path = {0.0: clusters.before, 1.0: clusters.after_by_before}
        for done, alpha in enumerate(read.path, 1):
            with geometry.model_on_the_path(model, other, alpha):
                path[alpha] = clusters.by_before(read.activations(other, asked))
            context.tell(done, len(read.path))
        del model, other
        changes = [
            {what: geometry.change_of(w, block[what]) for what, w in old.items()}
            for old, block in zip(before.weights, after.weights, strict=True)
        ]
        drawn = {alpha: path[alpha] for alpha in sorted(self.alphas)}
        keep_points(context, points(clusters, changes, after, drawn, self.directions))
        return values(clusters, changes, before, after, self.directions)

    def _load_before(self, pair: Pair, context: Context) -> Any:
        if self.before == "untuned":
            return pair.base()
        return models.load_model(self.unaligned.model, context.device)


class _Reading:
    """What is read of each of the two models, in the same way."""

    def __init__(
        self, own: Mechanism, asked: Sequence[Asked], fitted: Sequence[Asked], context: Context
    ) -> None:
        self.own, self.asked, self.fitted = own, asked, fitted
        self.path = sorted({*own.alphas} - {0.0, 1.0})
        kinds = ([a for a in asked if a.unsafe == kind] for kind in (True, False))
        self.few = [a for kind in kinds for a in kind[: own.gradients]]

    def of(self, model: Any) -> Read:
        """Activations, inputs, sensitivities and weights."""
        last = geometry.mlps(model)[-self.own.blocks :]
        activations = self.activations(model, self.asked)
        first = [model.get_submodule(mlp.first) for mlp in last]
        slopes = geometry.sensitivity(model, [a.ids for a in self.few])
        return Read(
            activations,
            activations if self.fitted is self.asked else self.activations(model, self.fitted),
            inputs_of(model, first, self.asked)[:, :, 0],
            {
                kind: slopes[[n for n, a in enumerate(self.few) if a.unsafe == (kind == "unsafe")]]
                for kind in ("safe", "unsafe")
            },
            [
                {what: geometry.matrix(model, n).clone() for what, n in mlp.matrices.items()}
                for mlp in last
            ],
            {name: tuple(weight.shape) for name, weight in model.named_parameters()},
        )

    def activations(self, model: Any, asked: Sequence[Asked]) -> Tensor:
        """What the nonlinearity of each block's MLP gives at the last token, [n, blocks, width]."""
        second = [model.get_submodule(mlp.second) for mlp in geometry.mlps(model)]
        return inputs_of(model, second, asked)[:, :, 0]
