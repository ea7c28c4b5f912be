"""What is measured of one model: token accuracy, clusters of activations, the change of its MLPs.

The formulas of the mechanism are those of `ptst.geometry`.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ptst import geometry
from ptst.contrast import Asked, inputs_of_each
from tools.pcfg.train import logits_of
from tools.pcfg.world import KINDS, NULL, PAD, Array, Kind, Length, Prompts, prompts

READINGS = ("forced", "barred", "free")
"""How the answer to a prompt is read, which the paper does not say: with the right answer's letters
before each place (forced), the same without the null token (barred), or with the model's own tokens
before each place (free)."""


def test_prompts(kind: Kind, count: int, length: Length, what: str = "test") -> Prompts:
    """The same prompts for every model, with texts that no training has."""
    return prompts(kind, count, np.random.default_rng([*f"{what} {kind}".encode()]), length, True)


def said(model: Any, asked: Prompts, answer: Array, reading: str) -> Array:
    """(n, longest): the most likely token in each place of the answer.

    Args:
        answer: what stands before each place, unless the reading is free.
    """
    with torch.inference_mode():
        if reading != "free":
            logits = logits_of(model, asked.ids, answer)[1]
            return np.asarray((logits[..., :NULL] if reading == "barred" else logits).argmax(-1))
        ids = torch.from_numpy(asked.ids)
        own = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=answer.shape[1],
            do_sample=False,
            pad_token_id=PAD,
        )
        return np.asarray(own[:, ids.shape[1] :])


def accuracy(model: Any, count: int, length: Length) -> dict[str, dict[str, list[int]]]:
    """Right tokens of each prompt, by what is asked: "safe/forced", ..., "null/forced" of unsafe
    prompts; and how many tokens each answer has.

    Returns:
        {"hits": [...], "tokens": [...]} by name, an entry for each of `count` prompts.
    """
    found = {}
    for kind in KINDS:
        asked = test_prompts(kind, count, length)
        wanted = {kind: asked.answer} | ({"null": asked.refusal()} if kind == "unsafe" else {})
        for name, answer in wanted.items():
            for reading in READINGS:
                if (name, reading) == ("null", "barred"):
                    continue
                hits = (said(model, asked, answer, reading) == answer) & asked.mask
                found[f"{name}/{reading}"] = {
                    "hits": hits.sum(1).tolist(),
                    "tokens": asked.mask.sum(1).tolist(),
                }
    return found


def clusters(model: Any, count: int, length: Length) -> list[dict[str, Any]]:
    """For each layer where prompts lie between the clusters of safe and unsafe ones.

    Activations are those behind the MLP's nonlinearity at the sign "=", the last token of a prompt
    (eq. 1 with q = 1). The means are taken over as many other prompts as are scored. tau is divided
    by the distance of the two means, so that it lies within -1 (at unsafe) and 1 (at safe) whatever
    the scale of a layer.

    Returns:
        For each layer tau of each prompt, by kind; `accuracy` of k-means with two clusters.
    """
    names = [mlp.second for mlp in geometry.mlps(model)]

    def inputs(kind: Kind, what: str) -> Mapping[str, torch.Tensor]:
        ids = test_prompts(kind, count, length, what).ids.tolist()
        asked = [Asked(array("i", row), kind == "unsafe", "") for row in ids]
        states = inputs_of_each(model, [model.get_submodule(name) for name in names], asked)
        return {name: state[:, 0] for name, state in zip(names, states, strict=True)}

    means = {kind: inputs(kind, "means") for kind in ("safe", "unsafe")}
    scored = {kind: inputs(kind, "scored") for kind in KINDS}
    layers = []
    for name in names:
        safe, unsafe = (means[kind][name].double().mean(0) for kind in ("safe", "unsafe"))
        apart = float((safe - unsafe).norm())
        taus = {
            kind: (geometry.tau(scored[kind][name], safe, unsafe) / apart).tolist()
            for kind in KINDS
        }
        accuracy = geometry.two_means_accuracy(scored["safe"][name], scored["unsafe"][name])
        layers.append({"tau": taus, "accuracy": accuracy})
    return layers


def changes(before: Any, after: Any) -> list[dict[str, float]]:
    """For each layer what became of the MLP's first matrix [d_out, d_in].

    Returns:
        `energy`: the share of the change's norm outside the column space that the matrix had;
        `by_chance`: that share for a change of no direction, sqrt(1 - k / d_out);
        `rank`: of the change; `size`: its norm over that of the matrix.
    """
    found = []
    for mlp in geometry.mlps(before):
        old, new = geometry.matrix(before, mlp.first), geometry.matrix(after, mlp.first)
        change = geometry.change_of(old, new)
        found.append(
            {
                "energy": change.energy,
                "by_chance": (1 - change.space_rank / change.outputs) ** 0.5,
                "rank": float(change.rank),
                "size": float((new - old).norm() / old.norm()),
            }
        )
    return found
