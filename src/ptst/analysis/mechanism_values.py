"""From what was read of two models to the values and the points of `ptst.analysis.mechanism`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptst import geometry
from ptst.analysis import Point
from ptst.contrast import Asked
from ptst.geometry import Change

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("safe", "unsafe")

Changes = Sequence[Mapping[str, Change]]
"""Of the last blocks, in order: of each matrix of the MLP ("first", "up", "second")."""


@dataclass(frozen=True)
class Read:
    """What is read of one model.

    Attributes:
        activations: behind the nonlinearity, at the last token of the prompts that are scored,
            [n, blocks, width].
        fitted: the same under the template of the means.
        inputs: of the first matrix of the last blocks, [n, some, width].
        sensitivity: of a few prompts, by kind.
        refusal: the mean refusal score of the same, by kind.
        weights: of the last blocks, by matrix.
        shapes: of all weights, by name.
    """

    activations: Tensor
    fitted: Tensor
    inputs: Tensor
    sensitivity: Mapping[str, Tensor]
    refusal: Mapping[str, float]
    weights: Sequence[Mapping[str, Tensor]]
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Step:
    """A model on the path: the separation of a few prompts, and their mean refusal score by
    kind."""

    separation: float
    refusal: Mapping[str, float]


@dataclass(frozen=True)
class Distances:
    """Where prompts lie between the clusters, [n, blocks] each.

    Attributes:
        tau: see `ptst.geometry.tau`.
        relative: tau by the distance of the two means: within -1 and 1.
    """

    tau: Tensor
    relative: Tensor


@dataclass(frozen=True)
class Clusters:
    """Distances of all prompts, each to means of the half that it is not in.

    Attributes:
        unsafe: which prompts are, [n].
        before, after: each model's activations, and means of its own.
        after_by_before: activations of the model after, means of the one before.
    """

    unsafe: Tensor
    halves: Sequence[Sequence[int]]
    reads: Mapping[str, Read]
    before: Distances
    after: Distances
    after_by_before: Distances

    @classmethod
    def of(
        cls, asked: Sequence[Asked], halves: Sequence[Sequence[int]], before: Read, after: Read
    ) -> Clusters:
        """Work them out."""
        import torch

        unsafe = torch.tensor([a.unsafe for a in asked])

        def distances(fitted: Tensor, scored: Tensor) -> Distances:
            return held_out(fitted, scored, unsafe, halves)

        return cls(
            unsafe,
            halves,
            {"before": before, "after": after},
            distances(before.fitted, before.activations),
            distances(after.fitted, after.activations),
            distances(before.fitted, after.activations),
        )

    def on_the_path(self, few: Sequence[int], activations: Tensor) -> float:
        """The separation of some prompts in another model, by the means of the model before.

        Args:
            few: the prompts' numbers.
            activations: of these, [few, blocks, width].
        """
        import torch

        fitted = self.reads["before"].fitted
        scored = torch.zeros_like(fitted)
        scored[list(few)] = activations
        relative = held_out(fitted, scored, self.unsafe, self.halves).relative[list(few)]
        unsafe = self.unsafe[list(few)]
        return float((relative[~unsafe].mean(0) - relative[unsafe].mean(0)).mean() / 2)

    def named(self) -> dict[str, Distances]:
        """All three, by the ends of values' names."""
        return {"before": self.before, "after": self.after, "drift": self.after_by_before}

    def of_kind(self, values: Tensor, kind: str) -> Tensor:
        """The rows of one kind of prompts."""
        return values[self.unsafe == (kind == "unsafe")]

    def separation(self, distances: Distances) -> Tensor:
        """Half the difference of the two kinds' mean relative tau, [blocks], within -1 and 1."""
        safe, unsafe = (self.of_kind(distances.relative, kind).mean(0) for kind in KINDS)
        return (safe - unsafe) / 2


def held_out(
    fitted: Tensor, scored: Tensor, unsafe: Tensor, halves: Sequence[Sequence[int]]
) -> Distances:
    """Distances of every prompt to means over the half that it is not in.

    Args:
        fitted, scored: activations of the same prompts, [n, blocks, width].
        unsafe: which are, [n].
        halves: the numbers of the prompts of each.
    """
    import torch

    tau = torch.zeros(scored.shape[:2], dtype=torch.float64)
    relative = torch.zeros_like(tau)
    for own, others in zip(halves, reversed(halves), strict=True):
        kinds = unsafe[list(others)]
        of_others = fitted[list(others)].double()
        safe, bad = of_others[~kinds].mean(0), of_others[kinds].mean(0)
        tau[list(own)] = geometry.tau(scored[list(own)], safe, bad)
        # 0 where both kinds have one mean, as behind a token that is the same for all prompts.
        relative[list(own)] = tau[list(own)] / (safe - bad).norm(dim=-1).clamp(min=1e-30)
    return Distances(tau, relative)


def values(
    clusters: Clusters, changes: Changes, before: Read, after: Read, directions: int
) -> dict[str, float]:
    """What docs/why.md describes, by name."""
    layer = int(clusters.separation(clusters.before).argmax())
    return {
        "changed": float(_changed(before, after)),
        "layer": float(layer),
        **_of_clusters(clusters, layer),
        **{
            f"sensitivity_{kind}_{when}": float(read.sensitivity[kind].mean())
            for kind in KINDS
            for when, read in clusters.reads.items()
        },
        **_of_weights(clusters, changes, after, directions),
    }


def _changed(before: Read, after: Read) -> bool:
    import torch

    pairs = [(before.activations, after.activations), (before.inputs, after.inputs)]
    for old, new in zip(before.weights, after.weights, strict=True):
        pairs += [(old[what], new[what]) for what in old]
    return not all(torch.equal(a, b) for a, b in pairs)


def _of_clusters(clusters: Clusters, layer: int) -> dict[str, float]:
    found = {}
    for name, own in clusters.named().items():
        found[f"separation_{name}"] = float(clusters.separation(own).mean())
    for name, own in clusters.named().items():
        means = [float(clusters.of_kind(own.tau, kind)[:, layer].mean()) for kind in KINDS]
        found |= {f"tau_{kind}_{name}": mean for kind, mean in zip(KINDS, means, strict=True)}
        found[f"gap_{name}"] = means[0] - means[1]
    at = {name: read.activations[:, layer] for name, read in clusters.reads.items()}
    for name, activations in at.items():
        kinds = [clusters.of_kind(activations, kind) for kind in KINDS]
        found[f"kmeans_{name}"] = geometry.two_means_accuracy(*kinds)
        for kind, own_kind in zip(KINDS, kinds, strict=True):
            found[f"top_{kind}_{name}"] = geometry.top_share(own_kind)
    for kind in KINDS:
        old, new = (clusters.of_kind(at[name], kind) for name in ("before", "after"))
        found[f"moved_{kind}"] = _mean(geometry.moved_outside(old, new))
    return found


def _of_weights(
    clusters: Clusters, changes: Changes, after: Read, directions: int
) -> dict[str, float]:
    """Means over the blocks."""
    found = {}
    for what in changes[0]:
        own = [block[what] for block in changes]
        found[f"rank_{what}"] = _average([float(c.rank) for c in own])
        found[f"space_{what}"] = _average([c.space_rank / c.outputs for c in own])
        found[f"sine_{what}"] = _average([_mean(c.sines) for c in own])
        found[f"energy_{what}"] = _average([c.energy for c in own])
        for kind in KINDS:
            rows = [
                _mean(_row_space(clusters, changes, after, directions, block, what, kind))
                for block in range(len(changes))
            ]
            found[f"row_{kind}_{what}"] = _average(rows)
    return found


def _row_space(
    clusters: Clusters,
    changes: Changes,
    after: Read,
    directions: int,
    block: int,
    what: str,
    kind: str,
) -> Tensor:
    change = changes[block][what]
    inputs = after.inputs[:, block]
    if what == "second":
        inputs = after.activations[:, block - len(changes)]
    own = clusters.of_kind(inputs, kind)
    sizes, right = change.sizes[:directions].cpu(), change.right[:directions].cpu()
    return geometry.row_space(sizes, right, own)


def points(
    clusters: Clusters,
    changes: Changes,
    after: Read,
    path: Mapping[float, Step],
    directions: int,
) -> Iterator[Point]:
    """Tau by layer; of the last block, angles and row space by direction; separation by alpha."""
    for name, own in clusters.named().items():
        when = {"drift": "after, means of before"}.get(name, name)
        for kind in KINDS:
            for layer, tau in enumerate(clusters.of_kind(own.tau, kind).mean(0).tolist()):
                yield Point("Nearer to the safe cluster than to the unsafe one (tau)",
                            f"{kind}, {when}", layer, tau)  # fmt: skip
    for what, change in changes[-1].items():
        for i, sine in enumerate(change.sines[:directions].tolist(), 1):
            yield Point("Angle of the change with the weight's column space (sine)", what, i, sine)
    for what in changes[-1]:
        for kind in KINDS:
            rows = _row_space(clusters, changes, after, directions, len(changes) - 1, what, kind)
            for i, size in enumerate(rows.tolist(), 1):
                yield Point("What the change does to prompts (sigma |v a|)",
                            f"{what}, {kind}", i, size)  # fmt: skip
    for alpha, step in path.items():
        title = "Separation along the path, by the clusters before"
        yield Point(title, "separation", alpha, step.separation)
        for kind in KINDS:
            yield Point("Refusal score along the path", kind, alpha, step.refusal[kind])


def _mean(values: Tensor) -> float:
    """0 of nothing, as of the directions of a change that is none."""
    return float(values.double().mean()) if len(values) else 0.0


def _average(values: Sequence[Any]) -> float:
    return float(sum(values) / len(values))
