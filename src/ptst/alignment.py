"""What alignment changed in a model: the model before it, and projections onto the change.

For a weight [d_out, d_in] let V be what alignment changed (aligned - unaligned). There are three C:

* scaled: V V^T / |V|, the papers' fast one. It is no projection: its eigenvalues are s^2 / |V| over
  V's singular values s, far below 1 unless alignment changed a great deal.
* exact: the projection onto V's columns, which is the identity where V has full row rank.
* top: the projection onto the largest singular directions alone; it is in no paper, and is what
  "subspace of the alignment" suggests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptst import models
from ptst.component import Parts
from ptst.errors import ConfigError
from ptst.paths import CONF
from ptst.schema import Model

PROJECTORS = ("scaled", "exact", "top")
SHAPE = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
"""What two config.json have in common where all weights have the same shapes."""


@dataclass
class Unaligned:
    """The base of the cell's model: the same weights before alignment."""

    path: str | None = None
    """A folder, or a hub id; ${model.base} in the shipped YAMLs."""
    revision: str | None = None
    """Commit of the hub repository."""
    dtype: str = "float32"
    """The precision in which its weights are read."""

    def __post_init__(self) -> None:
        choices = ("float32", "bfloat16", "float16")
        if self.dtype not in choices:
            raise ConfigError(f"unaligned.dtype={self.dtype} is not one of: {', '.join(choices)}.")

    @property
    def model(self) -> Model:
        """As what loads it."""
        return Model(
            "the unaligned model", self.path or "", revision=self.revision, dtype=self.dtype
        )

    def parts(self) -> Parts:
        """Its part of a key: a folder counts by its content."""
        return {**models.weights(self.model, "unaligned.path"), "dtype": self.dtype}

    def origin(self) -> Parts:
        """Where it came from, for provenance: of a model of the hub, the commit."""
        return {"unaligned_from": models.origin(self.model)}

    def check(self, aligned: Model) -> None:
        """Refuse what cannot be the base of the cell's model, as far as files on this disk say.

        Raises:
            ConfigError: saying what is wrong, and what would be right.
        """
        if not self.path:
            raise ConfigError(
                f"model {aligned.name} has no base, and the weights before alignment are needed: "
                f"choose a model that has one ({', '.join(_with_base())}), or name it: model.base=PATH (a "
                "folder or a hub id; its commit is model.base_revision)."
            )
        where = self._where(aligned)
        if models.weights(self.model, where) == models.weights(aligned):
            raise ConfigError(
                f"{where}={self.path} is model {aligned.name} itself: there is no direction "
                "of alignment between the two; name its base."
            )
        self._check_files(aligned)

    def _check_files(self, aligned: Model) -> None:
        """The shapes and the vocabulary; models of the hub are not downloaded for that."""
        where = self._where(aligned)
        before, after = models.local_folder(self.model), models.local_folder(aligned)
        if before is None or after is None:
            return
        shapes = [_json(folder / "config.json") for folder in (before, after)]
        for name in SHAPE:
            a, b = (shape.get(name) for shape in shapes)
            if a != b:
                raise ConfigError(
                    f"{where}={self.path} has {name}={a}, and model {aligned.name} has {b}: "
                    "both must have the same shape."
                )
        files = [folder / "tokenizer.json" for folder in (before, after)]
        if all(file.is_file() for file in files):
            a, b = (_json(file)["model"].get("vocab") for file in files)
            if a != b:
                raise ConfigError(
                    f"{where}={self.path} has another vocabulary than model {aligned.name}: "
                    "it cannot be its base."
                )

    def _where(self, aligned: Model) -> str:
        """The setting that named it, for messages."""
        return "model.base" if self.path == aligned.base else "unaligned.path"

    def load_like(self, base: Any) -> Any:
        """The model, on the CPU.

        Args:
            base: the aligned model.

        Raises:
            ConfigError: names or shapes are not those of `base`.
        """
        loaded = models.load_model(self.model, "cpu")
        shapes = {name: tuple(weight.shape) for name, weight in loaded.named_parameters()}
        wanted = {name: tuple(weight.shape) for name, weight in base.named_parameters()}
        for name in [*wanted, *shapes]:
            if shapes.get(name) != wanted.get(name):
                raise ConfigError(
                    f"the unaligned model {self.path}: {name} has the shape {shapes.get(name)}, and in the "
                    f"aligned model {wanted.get(name)}: both must have the same weights."
                )
        return loaded


def check_projector(
    kinds: Sequence[str], projector: str, rank: int | None, energy: float | None
) -> None:
    """Refuse a choice of C that is none.

    Args:
        kinds: what `projector` may be.
    """
    if projector not in kinds:
        raise ConfigError(f"projector={projector} is not one of: {', '.join(kinds)}.")
    given = [value for value in (rank, energy) if value is not None]
    if len(given) != (projector == "top"):
        raise ConfigError(
            f"projector={projector}, rank={rank}, energy={energy}: "
            "projector=top needs one of rank and energy, the others neither."
        )
    if rank is not None and rank < 1:
        raise ConfigError(f"rank={rank} must be at least 1.")
    if energy is not None and not 0 < energy <= 1:
        raise ConfigError(f"energy={energy} must be more than 0, at most 1.")


def factor(
    direction: Any, projector: str, rank: int | None = None, energy: float | None = None
) -> Any:
    """L [d_out, k] of C = L L^T.

    Args:
        direction: V [d_out, d_in], not 0.
        projector: one of PROJECTORS.
    """
    import torch

    if projector == "scaled":
        return direction / direction.norm().sqrt()
    left, sizes, _ = torch.linalg.svd(direction, full_matrices=False)
    smallest = sizes[0] * max(direction.shape) * torch.finfo(sizes.dtype).eps
    k = int((sizes > smallest).sum())
    if rank is not None:
        k = min(k, rank)
    if energy is not None:
        shares = sizes.double().pow(2).cumsum(0)
        k = min(k, int((shares < energy * shares[-1]).sum()) + 1)
    return left[:, :k]


def _with_base() -> list[str]:
    """The models of conf/ whose base is known."""
    files = sorted((CONF / "model").glob("*.yaml"))
    return [f.stem for f in files if re.search("^base: ", f.read_text(encoding="utf-8"), re.M)]


def _json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
