"""Safe Delta: of what fine-tuning changed, only what costs little safety is kept, and compensated.

Lu et al. 2025 (ICML). For a weight [d_out, d_in] let D be what fine-tuning changed, X [n, d_in] the
layer's inputs in the aligned model on rows of safe answers, and H = 2/n X^T X, damped. By the
identity of the optimal brain surgeon (Hassibi & Stork 1993), to keep the change d of the entry m of
a row costs d^2 / (2 [H^-1]_mm), if the row's other entries follow by d / [H^-1]_mm H^-1[:, m].
Entries are kept in the order of [H^-1]_mm, largest first, until their costs exceed the budget; all
others return to the aligned model and follow those that are kept.

The authors' program has a budget for each block of columns, scales it by the number of rows, takes
conditional inverses, and never keeps the last 15 % of the entries. None of that is here: this is
the formula of the paper, over whole matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ptst import data
from ptst.component import Context, Cost, Parts, check_template_part, parts_of
from ptst.errors import ConfigError
from ptst.models import linear_weights
from ptst.posthoc import PostHoc
from ptst.progress import say
from ptst.schema import Config, Rows, Template
from ptst.train.rows import RowReader

HELD = 8 * 2**30
"""Bytes of all H that are held at once, on the model's device."""


@dataclass
class SafeDelta(PostHoc):
    """Changes the linear layers, without the head; embeddings and norms stay as they were trained.

    What a budget means depends on a matrix's size: see `kept`, the share of entries that each
    layer keeps, in the provenance.
    """

    key_name: ClassVar[str] = "safe_delta"

    rows: Rows = field(default_factory=Rows)
    """Questions with safe answers; all tokens of both count."""
    template: Template | None = None
    """How they are written, which decides X; None: under the train template."""
    budget: float = 0.1
    """The sum of a matrix's costs, divided by the mean of 1 / (2 [H^-1]_mm). The paper's s."""
    damping: float = 0.01
    """Added to H's diagonal, times its mean."""
    compensate: bool = True
    """False: what is not kept stays as in the aligned model. The control."""

    def __post_init__(self) -> None:
        for name in ("budget", "damping"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name}={value} must be more than 0.")

    def check(self, config: Config) -> None:
        """Refuse a model that is not fine-tuned, and rows that cannot be spelled."""
        if config.finetune.method == "none":
            raise ConfigError(
                "it chooses among what fine-tuning changed, and finetune=none changes nothing: "
                "leave the defence out."
            )
        check_template_part(self.template, config.model)

    def identity(self) -> Parts:
        """The rows by their content, the template by its text."""
        template = None if self.template is None else parts_of(self.template)
        return {"rows": data.identity(self.rows), "template": template}

    def cost(self, config: Config) -> Cost:
        return Cost(models=1)  # the aligned model

    def apply(self, tuned: Any, base: Any, context: Context) -> dict[str, Any]:
        """Part by part: the inputs of its layers, then their weights."""
        reader = RowReader(context.config, context.tokenizer)
        template = self.template or context.config.train_template
        ids = [row.ids for row in reader.rows(self.rows, template, called="safety")]
        aligned, weights = linear_weights(base), linear_weights(tuned)
        parts = _held_together(weights)
        tokens = sum(len(row) for row in ids)
        widest = max(weight.shape[1] for weight in weights.values())
        if tokens < widest:
            say(
                f"{self.where}: {tokens} tokens of safe rows for layers with up to {widest} inputs: "
                "damping decides what they leave open; take more rows"
            )
        kept: dict[str, float] = {}
        for done, names in enumerate(parts, 1):
            for name, hessian in hessians(base, names, ids).items():
                kept[name] = self.change(weights[name], aligned[name], hessian)
            context.tell(done, len(parts))
        return {"tokens": tokens, "kept": kept, **reader.facts}

    def change(self, tuned: Any, aligned: Any, hessian: Any) -> float:
        """Change `tuned` in place.

        Args:
            hessian: H [d_in, d_in] in double precision, without damping.

        Returns:
            The share of the entries that keep what fine-tuning made of them.
        """
        import torch

        with torch.no_grad():
            damped = hessian.clone()
            # An H of nothing but zeros is damped by 1, so that it has an inverse.
            damped.diagonal().add_((self.damping * hessian.diagonal().mean()) or 1.0)
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
            start = aligned.double()
            delta = tuned.double() - start
            free = inverse.diagonal()
            budget = self.budget * (1 / (2 * free)).mean()
            order = free.argsort(descending=True, stable=True)
            costs = (delta.pow(2) / (2 * free))[:, order]
            spent = costs.T.flatten().cumsum(0).view_as(costs.T).T
            within = spent <= budget
            keep = torch.empty_like(within)
            keep[:, order] = within
            others = start
            if self.compensate:
                others = start + (delta * keep / free) @ inverse
            tuned.copy_(torch.where(keep, tuned.double(), others))
            return round(float(keep.double().mean()), 5)


def hessians(model: Any, names: Sequence[str], ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    """2/n X^T X of each layer's inputs, summed in double precision.

    Args:
        names: of the layers' weights, as `linear_weights` has them.
        ids: the rows' tokens; they go through the model one by one, so that nothing is padded.
    """
    import torch

    sums: dict[str, Any] = {}

    def collect(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].detach().flatten(0, -2).float()
            sums[name] = sums.get(name, 0) + (x.T @ x).double()

        return hook

    layers = [(name, model.get_submodule(name.removesuffix(".weight"))) for name in names]
    hooks = [layer.register_forward_pre_hook(collect(name)) for name, layer in layers]
    try:
        with torch.no_grad():
            for row in ids:
                model(torch.tensor([list(row)], device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    tokens = sum(len(row) for row in ids)
    return {name: total * (2 / tokens) for name, total in sums.items()}


def _held_together(weights: Mapping[str, Any]) -> list[list[str]]:
    """The layers, in parts whose H are held at once; each part is a pass over the rows."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, weight in weights.items():
        own = 8 * weight.shape[1] ** 2
        if parts[-1] and size + own > HELD:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += own
    return parts
