"""Where a model comes from, and what it is known by: in keys, and in provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptst.chat import chat_source, is_ours
from ptst.errors import ConfigError
from ptst.hub import commit_of
from ptst.paths import ROOT
from ptst.schema import Model
from ptst.store import fingerprint

SPELLING = 2
"""Raised where a chat format of a model's own is spelled, ended or read otherwise than before."""


def identity(model: Model) -> dict[str, Any]:
    """What decides the model's answers and how prompts are spelled for it, for keys.

    A model behind an API is known by where it is asked and its name there.
    """
    own: dict[str, Any] = {}
    if model.question is not None:
        own["question"] = model.question
    # What came later is part of a key only where it is not at its default.
    added: dict[str, Any] = {"chat_args": {}, "date": None, "default_system": True}
    own |= {name: v for name, old in added.items() if (v := getattr(model, name)) != old}
    if model.api is not None:
        return {"api": model.api.base_url.rstrip("/"), "path": model.path, **own}
    return {
        **weights(model),
        "chat": chat_source(model),
        "completion_prefix": model.completion_prefix,
        "dtype": model.dtype,
        **({} if is_ours(model) else {"spelling": SPELLING}),
        **own,
    }


def weights(model: Model, where: str = "model.path") -> dict[str, Any]:
    """What decides the weights alone: a directory's content, or the hub's id and commit.

    Raises:
        ConfigError: the path looks like a directory and is none; `where` says whose it is.
    """
    folder = local_folder(model, where)
    if folder is not None:
        return {"sha256": fingerprint(folder)}
    return {"path": model.path, "revision": model.revision}


def local_folder(model: Model, where: str = "model.path") -> Path | None:
    """The model's directory, or None where its path is a hub id.

    Raises:
        ConfigError: the path looks like a directory and is none.
    """
    if model.api is not None:
        return None
    folder = Path(model.path).expanduser()
    for candidate in (folder, ROOT / folder):
        if (candidate / "config.json").is_file():
            return candidate.resolve()
    if folder.is_absolute() or model.path.startswith((".", "~")) or model.path.count("/") != 1:
        raise ConfigError(
            f"{where}={model.path}: no such model directory (one with a config.json). "
            "A hub model is written owner/name."
        )
    return None


def origin(model: Model) -> dict[str, Any]:
    """Where a model that was used came from, for the provenance of what it made."""
    if model.api is not None:
        return {"path": model.path, "api": model.api.base_url}
    local = local_folder(model) is not None
    commit = None if local else commit_of(model.path, "model", model.revision)
    return {"path": model.path, "commit": commit}
