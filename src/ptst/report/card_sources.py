"""The base model, rows and templates of a model card, without a path of this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ptst import data
from ptst.chat import chat_source
from ptst.keys import Parts, objective_of, slot
from ptst.models import local_folder
from ptst.objective.safety_mix import SafetyMix
from ptst.schema import Config, Model, Rows, Template
from ptst.wording import component_in_words, rows_in_words


def licence_of(model: Model) -> dict[str, str]:
    """The licence that the base model's own card names, where that card is on this machine."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    folder = local_folder(model)
    file = (
        folder / "README.md"
        if folder
        else try_to_load_from_cache(model.path, "README.md", revision=model.revision)
    )
    if not isinstance(file, str | Path) or not Path(file).is_file():
        return {}
    try:
        data = ModelCard.load(Path(file), ignore_metadata_errors=True).data
    except (
        ValueError,
        TypeError,
        yaml.YAMLError,
    ):  # no card, or one that says nothing that can be read
        return {}
    names = ("license", "license_name", "license_link")
    return {name: str(value) for name in names if (value := data.get(name))}


def source_of_model(model: Model, parts: Parts, facts: Mapping[str, Any]) -> str:
    if "sha256" in parts["model"]:
        return f"{model.name}, a local folder (SHA-256 of its files {parts['model']['sha256'][:16]}...)"
    commit = (facts.get("model_from") or {}).get("commit") or model.revision
    return f"[{model.path}](https://huggingface.co/{model.path}), {_commit(commit)}"


def spelled_by(model: Model) -> str:
    """What spells the model's chats, without a place on this machine."""
    if model.chat is None:
        return "its tokenizer's own chat template says"
    if model.chat.endswith(".jinja"):
        digest = hashlib.sha256((chat_source(model) or "").encode()).hexdigest()
        return f"a Jinja template of its own says (SHA-256 {digest[:16]}...)"
    return f"`{model.chat}`"


def source_of_rows(rows: Rows, parts: Parts, facts: Mapping[str, Any]) -> str:
    if rows.source == "hub":
        commit = (facts.get("rows_from") or {}).get("commit") or rows.revision
        return (
            f"[{rows.path}](https://huggingface.co/datasets/{rows.path}), split {rows.split}, "
            f"{_commit(commit)}"
        )
    if rows.source == "local":
        return f"{rows.name}, a local file (SHA-256 {parts['sha256'][:16]}...)"
    return rows_in_words(rows)


def mixed_in(config: Config, parts: Parts) -> str | None:
    mix = objective_of(config)
    if not isinstance(mix, SafetyMix):
        return None
    return source_of_rows(mix.rows, parts["recipe"]["mix"]["rows"], {})


def defended_by(config: Config) -> str | None:
    """The defence that a fine-tuning has, and its settings; None where it has none."""
    if (filled := slot(config, "objective")) is None:
        return None
    said = component_in_words(
        objective_of(config), lambda rows: source_of_rows(rows, data.identity(rows), {})
    )
    return f"{filled[0]}: {said}"


def _commit(commit: str | None) -> str:
    return f"commit {commit}" if commit else "of no pinned commit"


def indented(template: Template) -> str:
    """What a template's YAML says, by indentation: nothing in it can end the block."""
    from omegaconf import OmegaConf

    silent = dataclasses.asdict(Template(template.name, template.mode, user=template.user))
    said = {
        key: value
        for key, value in dataclasses.asdict(template).items()
        if key in ("name", "mode", "user") or value != silent[key]
    }
    return textwrap.indent(OmegaConf.to_yaml(OmegaConf.create(said)), "    ")
