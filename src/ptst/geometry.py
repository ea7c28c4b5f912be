"""How fine-tuning changed a network inside: clusters of activations, and the change of its MLPs.

The measures are those of Jain et al. 2024 ("What makes and breaks safety fine-tuning?", arXiv
2407.10264), written from their formulas: plain functions of tensors, and of a model and prompts.
Safe and unsafe prompts form two clusters of activations; the change of a weight may lie outside the
column space that the weight had; and it may act on one kind of prompt more than on the other.

An MLP is two matrices with a nonlinearity between them. The *second* is the down projection; its
input is what the nonlinearity gave. The *first* is the matrix whose output enters the nonlinearity:
GPT-2's c_fc, and Llama's gate_proj, beside which stands up_proj.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptst.errors import ConfigError, PtstError

if TYPE_CHECKING:
    from torch import Tensor

ENERGY = 0.99
"""The share of the sum of squared singular values that makes an empirical rank (the paper's)."""
BATCH = 16
"""Prompts that go through the model together."""


# Clusters


def tau(activations: Tensor, safe_mean: Tensor, unsafe_mean: Tensor) -> Tensor:
    """|a - mean of unsafe| - |a - mean of safe|: more than 0 where a is nearer to safe (eq. 1).

    It lies within plus and minus the distance of the two means.

    Args:
        activations: [n, width].
        safe_mean, unsafe_mean: [width], of prompts that are not among the n.

    Returns:
        [n], double precision.
    """
    a, safe, unsafe = (x.double() for x in (activations, safe_mean, unsafe_mean))
    return (a - unsafe).norm(dim=-1) - (a - safe).norm(dim=-1)


def top_share(activations: Tensor) -> float:
    """The share of the largest singular value in the covariance of activations [n, width].

    0 where they do not vary. With few prompts it is large by itself: at least 1 / (n - 1).
    """
    import torch

    x = activations.double()
    squares = torch.linalg.svdvals(x - x.mean(0)).pow(2)
    total = float(squares.sum())
    return float(squares[0]) / total if total > 0 else 0.0


def two_means_accuracy(safe: Tensor, unsafe: Tensor) -> float:
    """How well k-means with two clusters, which is told no labels, tells safe from unsafe.

    Args:
        safe, unsafe: activations, [n, width] and [m, width].

    Returns:
        The share of prompts in the cluster of their kind, by the better of the two namings: at
        least 0.5.
    """
    import numpy as np
    import torch
    from sklearn.cluster import KMeans

    x = torch.cat([safe, unsafe]).double().cpu().numpy()
    kind = np.arange(len(x)) < len(safe)
    if (x == x[0]).all():  # k-means would warn that it finds one cluster
        share = float(kind.mean())
    else:
        share = float((KMeans(2, n_init=10, random_state=0).fit_predict(x) == kind).mean())
    return max(share, 1 - share)


# Weights


def empirical_rank(sizes: Tensor, energy: float = ENERGY) -> int:
    """The smallest k for which the k largest singular values have `energy` of the sum of squares.

    Args:
        sizes: singular values in falling order.

    Returns 0 where all are 0.
    """
    squares = sizes.double().pow(2).cumsum(0)
    if not len(squares) or squares[-1] == 0:
        return 0
    return int((squares < energy * squares[-1]).sum()) + 1


def column_space(weight: Tensor, energy: float = ENERGY) -> Tensor:
    """The leading left singular vectors [d_out, k] of a weight [d_out, d_in]; P = U U^T.

    k is the weight's empirical rank.
    """
    import torch

    left, sizes, _ = torch.linalg.svd(_exact(weight), full_matrices=False)
    return left[:, : empirical_rank(sizes, energy)]


def outside(space: Tensor, vectors: Tensor) -> Tensor:
    """(I - P) v: what of each column of `vectors` [d, n] lies outside `space` [d, k]."""
    return vectors - space @ (space.T @ vectors)


def sines(space: Tensor, vectors: Tensor) -> Tensor:
    """Of the angle between each column of `vectors` [d, n], of norm 1, and `space` [d, k].

    The norm of what lies outside: an arccos would lose small angles to rounding.

    Returns [n], within 0 and 1.
    """
    return outside(space, vectors).norm(dim=0).clamp(max=1)


def energy_outside(space: Tensor, change: Tensor) -> float:
    """|(I - P) change| / |change| (Frobenius), within 0 and 1; 0 where nothing changed.

    Args:
        space: [d_out, k].
        change: [d_out, d_in].
    """
    norm = float(change.double().norm())
    return min(float(outside(space, change).double().norm()) / norm, 1.0) if norm > 0 else 0.0


@dataclass(frozen=True)
class Change:
    """What became of one weight [d_out, d_in].

    Attributes:
        rank: the empirical rank of the change; 0 where nothing changed.
        space_rank: k, the empirical rank of the weight before: of P's columns.
        outputs: d_out. Where k is near it, "outside" is but the weakest directions of the weight.
        energy: `energy_outside` of the change.
        sines: of the change's `rank` leading left singular vectors, [rank].
        sizes: the change's `rank` leading singular values, [rank].
        right: the right singular vectors to them, [rank, d_in].
    """

    rank: int
    space_rank: int
    outputs: int
    energy: float
    sines: Tensor
    sizes: Tensor
    right: Tensor


def change_of(before: Tensor, after: Tensor, energy: float = ENERGY) -> Change:
    """Compare a weight [d_out, d_in] with what it was.

    Raises:
        PtstError: the two have different shapes.
    """
    import torch

    if before.shape != after.shape:
        raise PtstError(
            f"a weight of shape {tuple(before.shape)} became one of {tuple(after.shape)}: only models "
            "of the same shapes can be compared."
        )
    start = _exact(before)
    change = _exact(after) - start
    space = column_space(start, energy)
    left, sizes, right = torch.linalg.svd(change, full_matrices=False)
    rank = empirical_rank(sizes, energy)
    return Change(
        rank,
        space.shape[1],
        before.shape[0],
        energy_outside(space, change),
        sines(space, left[:, :rank]),
        sizes[:rank],
        right[:rank],
    )


def row_space(sizes: Tensor, right: Tensor, inputs: Tensor) -> Tensor:
    """sigma_i |v_i^T a|, its mean over inputs a that are divided by their norm (section 4.2).

    Args:
        sizes: singular values of a change, [k].
        right: its right singular vectors, [k, d_in].
        inputs: of the matrix that changed, [n, d_in].

    Returns:
        [k].
    """
    units = inputs / inputs.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    return sizes * (units.to(right.dtype) @ right.T).abs().mean(0)


def moved_outside(before: Tensor, after: Tensor, energy: float = ENERGY) -> Tensor:
    """How far activations left the space that they had: sines of principal angles.

    Args:
        before, after: activations of the same prompts, [n, width] each.

    Returns:
        For each of the leading singular vectors of `after`, as many as its empirical rank, the
        sine of its angle with the space of `before`; [k].
    """
    return sines(column_space(before.T, energy), column_space(after.T, energy))


def on_the_path(before: Tensor, after: Tensor, alpha: float) -> Tensor:
    """before + alpha (after - before), worked out in float32; `before` itself at 0, `after` at 1.

    More than 1 extrapolates.
    """
    if alpha in (0, 1):
        return after if alpha else before
    start = before.to(after.device).float()
    return (start + alpha * (after.float() - start)).to(after.dtype)


def _exact(weight: Tensor) -> Tensor:
    """A weight in the precision in which its singular vectors are worked out."""
    return weight.detach().float() if weight.dtype.itemsize < 4 else weight.detach()


# Models


@dataclass(frozen=True)
class Mlp:
    """The linear layers of a block's MLP, by their modules' names.

    Attributes:
        first: the one whose output enters the nonlinearity.
        up: the one beside it in a gated MLP, whose output the nonlinearity's is multiplied with.
        second: the down projection.
    """

    first: str
    up: str | None
    second: str

    @property
    def matrices(self) -> dict[str, str]:
        """Module names by "first", "up" (where there is one) and "second"."""
        named = {"first": self.first, "up": self.up, "second": self.second}
        return {what: name for what, name in named.items() if name is not None}


def decoder_layers(model: Any) -> list[Any]:
    """The model's decoder layers, in order.

    Raises:
        ConfigError: there is no list of as many modules as the model's configuration has layers.
    """
    from torch.nn import ModuleList

    wanted = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, ModuleList) and len(module) == wanted:
            return list(module)
    raise ConfigError(f"{type(model).__name__} has no list of {wanted} decoder layers.")


def mlps(model: Any) -> list[Mlp]:
    """The MLP of each block, in order: the last linear layer in it, and those beside that.

    Raises:
        PtstError: a block has another form, as one with several experts.
    """
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D  # GPT-2's

    names = {module: name for name, module in model.named_modules()}
    found = []
    for block in decoder_layers(model):
        where = names[block]
        linear = {name: m for name, m in block.named_modules() if isinstance(m, Linear | Conv1D)}
        last = next(reversed(linear), "")
        parent = last.rpartition(".")[0]
        beside = [name for name in linear if name.rpartition(".")[0] == parent and name != last]
        # An expert that all tokens share is an MLP, but not all of what stands in its place.
        experts = any("expert" in name for name, _ in block.named_modules())
        if experts or "attn" in parent or "attention" in parent or len(beside) not in (1, 2):
            raise PtstError(
                f"{where} of {type(model).__name__} has no MLP of two or three matrices (its linear layers: "
                f"{', '.join(linear) or 'none'}): its mechanism cannot be read."
            )
        # The gate stands first in all of them; where its name says so, that counts.
        beside.sort(key=lambda name: "gate" not in name)
        own = [f"{where}.{name}" for name in (*beside, last)]
        found.append(Mlp(own[0], own[1] if len(own) == 3 else None, own[-1]))
    return found


def matrix(model: Any, name: str) -> Tensor:
    """The weight [d_out, d_in] of a linear layer, by its module's name."""
    from transformers.pytorch_utils import Conv1D

    layer = model.get_submodule(name)
    weight: Tensor = layer.weight.detach()
    return weight.T if isinstance(layer, Conv1D) else weight


def sensitivity(model: Any, prompts: Sequence[Sequence[int]]) -> Tensor:
    """|d largest logit / d input embeddings| of each prompt: a local Lipschitz constant.

    The logit is the next token's, behind the prompt; the norm is over all tokens of the prompt.

    Returns:
        [n], double precision, in the order of the prompts.
    """
    import torch

    found = torch.zeros(len(prompts), dtype=torch.float64)
    for batch, padded in _batches(prompts, model.device):
        with torch.enable_grad():
            embedded = model.get_input_embeddings()(padded).detach().requires_grad_()
            # Logits of every token would take more memory than the model.
            ends = torch.tensor([len(prompts[n]) - 1 for n in batch], device=embedded.device)
            ends, own = torch.unique(ends, return_inverse=True)
            made = model(inputs_embeds=embedded, use_cache=False, logits_to_keep=ends)
            largest = made.logits[torch.arange(len(batch), device=own.device), own].amax(-1)
            (slope,) = torch.autograd.grad(largest.sum(), embedded)
        found[batch] = slope.double().flatten(1).norm(dim=1).cpu()
    return found


@contextmanager
def model_on_the_path(before: Any, after: Any, alpha: float) -> Iterator[None]:
    """Make `after` answer with weights `on_the_path`, until the end.

    A module's weights are worked out when it is called and dropped behind it, so that no third
    model is in memory.

    Args:
        before, after: models of the same shapes.

    Raises:
        PtstError: a module has weights and was not called, so that they stayed as they were.
    """
    from torch.nn import Parameter

    starts = dict(before.named_modules())
    waiting: set[str] = set()
    hooks = []
    for name, module in after.named_modules():
        if not (own := {key: w for key, w in module._parameters.items() if w is not None}):
            continue
        waiting.add(name)

        def enter(module: Any, _: Any, name: str = name, own: dict[str, Any] = own) -> None:
            waiting.discard(name)
            for key, weight in own.items():
                moved = on_the_path(starts[name]._parameters[key].data, weight.data, alpha)
                module._parameters[key] = Parameter(moved, requires_grad=False)

        def leave(module: Any, *_: Any, own: dict[str, Any] = own) -> None:
            module._parameters.update(own)

        hooks.append(module.register_forward_pre_hook(enter))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if waiting:
        raise PtstError(
            f"{min(waiting)} of {type(after).__name__} was not called, so that its weights cannot be "
            "moved along the path."
        )


def _batches(prompts: Sequence[Sequence[int]], device: Any) -> Any:
    """(numbers of the prompts, ids [n, longest]): prompts of about one length together.

    Padding stands behind, where no token before it looks.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        ids = [torch.tensor(list(prompts[n])) for n in batch]
        yield batch, torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device)
