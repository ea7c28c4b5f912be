"""What all stages share: when to stop, and what is written beside a result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ptst.provenance import provenance
from ptst.schema import Config
from ptst.store import Maker, Store, write_json
from ptst.tracking import watched

Stop = Callable[[], bool]
"""Whether work should stop where nothing is lost (for example where a time limit comes near): asked
at every step."""


def never() -> bool:
    """The `Stop` of work that nobody interrupts."""
    return False


def watched_stage(
    stage: str, key: str, name: str, config: Config, store: Store
) -> AbstractContextManager[Callable[[Maker], None]]:
    return watched(
        config.tracking,
        store.root,
        stage,
        key,
        f"{stage} {name}: {title(config)} [{key[:8]}]",
        {"key": key, "evaluation": name, "test": config.test_template.name},
    )


def title(config: Config) -> str:
    tuned = config.finetune.method != "none"
    recipe = (config.finetune.name or config.finetune.method) if tuned else "none"
    train = config.train_template.name if tuned else "none"
    return (
        f"{config.model.name} {config.dataset.name} {recipe} {train} -> {config.test_template.name} "
        f"seed {config.seed}"
    )


def write_provenance(folder: Path, config: Config, seconds: float, facts: dict[str, Any]) -> None:
    write_json(folder / "config.json", dataclasses.asdict(config))
    write_json(folder / "provenance.json", provenance(seconds, **facts))
