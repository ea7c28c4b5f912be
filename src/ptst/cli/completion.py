"""What can be chosen in conf/ and sweeps/, and how a shell completes it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ptst.paths import CONF, ROOT

GROUPS = (
    "model",
    "dataset",
    "template",
    "finetune",
    "defence",
    "evaluation",
    "judge",
    "analysis",
    "engine",
    "tracking",
    "scale",
)


def choices(group: str, where: Path = CONF) -> list[str]:
    """The names of a group's YAML files."""
    return sorted(path.stem for path in (where / group).glob("*.yaml"))


def complete(context: click.Context, parameter: object, incomplete: str) -> list[str]:
    """Overrides that begin like this: a group's name, then its choices."""
    known = {group: choices(group) for group in GROUPS if group != "template"}
    known |= {f"template@{end}_template": choices("template") for end in ("train", "test")}
    known |= {"+sweeps": choices("sweeps", ROOT), "hydra/launcher": ["joblib", "slurm"]}
    # bash takes "=" for a word of its own
    before = os.environ.get("COMP_WORDS", "").split()[: int(os.environ.get("COMP_CWORD", "0"))]
    if incomplete == "=" or before[-1:] == ["="]:
        group = before[-1] if incomplete == "=" else before[-2]
        return [
            choice for choice in known.get(group, []) if choice.startswith(incomplete.lstrip("="))
        ]
    words = [f"{group}={choice}" for group in known for choice in known[group]]
    if "=" not in incomplete:
        words = [f"{group}=" for group in known]
    return [word for word in words if word.startswith(incomplete)]
