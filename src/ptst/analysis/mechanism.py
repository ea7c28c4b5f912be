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
from ptst.analysis.mechanism_values import KINDS, Clusters, Read, Step, points, values
from ptst.component import Context, Parts
from ptst.contrast import (
    Asked,
    Contrast,
    first_tokens,
    halves,
    inputs_and_logits,
    inputs_of_each,
    read_prompts,
    refusal_scores,
)
from ptst.errors import ConfigError, PtstError
from ptst.schema import Config

if TYPE_CHECKING:
    from torch import Tensor

BEFORE = ("untuned", "base")


@dataclass
class Mechanism(Contrast, Analysis):
    """Compares the model that the cell tests, *after*, with what it was *before*.

    Prompts stand under the test template; `template` is that of the means of the clusters. The
    values are described in docs/why.md. One model is in memory at a time; where `alphas` has others
    than 0 and 1, the one before stays in memory of the CPU beside it.
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
    few: int = 16
    """How many prompts of each kind, the first ones, where a prompt costs more than one pass: of
    sensitivity, and of the path."""
    alphas: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5])
    """Points of the path before + alpha (after - before), of which separation and refusal
    score are drawn."""

    def __post_init__(self) -> None:
        if self.before not in BEFORE:
            raise ConfigError(f"before={self.before} is not one of: {', '.join(BEFORE)}.")
        for name in ("blocks", "directions", "few"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if not all(map(math.isfinite, self.alphas)) or len({*self.alphas}) < len(self.alphas):
            raise ConfigError(f"alphas={self.alphas} must be finite numbers, each once.")

    def check(self, config: Config) -> None:
        """Refuse before=base where there is no base, and invented hazards for a real model."""
        self.check_prompts(self.where, config)
        if self.before == "base":
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
        before = read.of(model)
        context.stop_if_asked()
        # The path takes it layer by layer: a GPU has room for one model
        model = model.cpu() if read.path else None
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
        path = {
            alpha: Step(clusters.on_the_path(read.few, end.activations[read.few]), end.refusal)
            for alpha, end in ((0.0, before), (1.0, after))
        }
        for done, alpha in enumerate(read.path, 1):
            with geometry.model_on_the_path(model, other, alpha):
                activations, refusal = read.of_few(other)
            path[alpha] = Step(clusters.on_the_path(read.few, activations), refusal)
            context.stop_if_asked()
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
        kinds = ([n for n, a in enumerate(asked) if a.unsafe == kind] for kind in (True, False))
        self.few = [n for kind in kinds for n in kind[: own.few]]
        cell = context.config
        of_cell = (cell.test_template, cell.model, context.tokenizer)
        self.refusals = first_tokens(own.openings, *of_cell)

    def of(self, model: Any) -> Read:
        """Activations, inputs, sensitivities and weights."""
        mlps = geometry.mlps(model)
        last = mlps[-self.own.blocks :]
        names = [mlp.second for mlp in mlps] + [mlp.first for mlp in last]
        given = inputs_of_each(model, [model.get_submodule(n) for n in names], self.asked)
        second, first = _stacked(given[: len(mlps)]), _stacked(given[len(mlps) :])
        fitted = second
        if self.fitted is not self.asked:
            fitted = self.activations(model, self.fitted)
        few = [self.asked[n] for n in self.few]
        slopes = geometry.sensitivity(model, [a.ids for a in few])
        return Read(
            second,
            fitted,
            first,
            self._by_kind(slopes),
            self.of_few(model)[1],
            [
                {what: geometry.matrix(model, n).clone() for what, n in mlp.matrices.items()}
                for mlp in last
            ],
            {name: tuple(weight.shape) for name, weight in model.named_parameters()},
        )

    def activations(self, model: Any, asked: Sequence[Asked]) -> Tensor:
        """What the nonlinearity of each block's MLP gives at the last token, [n, blocks, width]."""
        second = [model.get_submodule(mlp.second) for mlp in geometry.mlps(model)]
        return _stacked(inputs_of_each(model, second, asked))

    def of_few(self, model: Any) -> tuple[Tensor, dict[str, float]]:
        """Activations of a few prompts, [few, blocks, width], and their mean refusal scores."""
        second = [model.get_submodule(mlp.second) for mlp in geometry.mlps(model)]
        given, logits = inputs_and_logits(model, second, [self.asked[n] for n in self.few])
        scores = self._by_kind(refusal_scores(logits, self.refusals))
        return _stacked(given), {kind: float(own.mean()) for kind, own in scores.items()}

    def _by_kind(self, values: Tensor) -> dict[str, Tensor]:
        """What the few prompts have, by their kinds."""
        numbers = {
            kind: [i for i, n in enumerate(self.few) if self.asked[n].unsafe == (kind == "unsafe")]
            for kind in KINDS
        }
        return {kind: values[own] for kind, own in numbers.items()}


def _stacked(inputs: Sequence[Tensor]) -> Tensor:
    """Inputs of modules at one token, [n, modules, width]."""
    import torch

    return torch.stack([own[:, 0] for own in inputs], dim=1)
