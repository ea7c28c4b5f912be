"""Configurations of cells, composed or as they were frozen.

Composing is most of the time that a finished sweep takes when it is run again. A grid that was
frozen (see ptst.sweep.run) under the very same YAML files and overrides is read from there instead.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from ptst.config.compose import yaml_texts
from ptst.config.many import compose_many
from ptst.config.plain import from_dict
from ptst.errors import ConfigError
from ptst.paths import ROOT
from ptst.schema import Config
from ptst.store import each_row, fingerprint, key_of
from ptst.sweep.axes import parted

FROZEN_FORMAT = 2
"""Of the lines of a frozen grid (ptst.sweep.run.freeze)."""


CODE = ROOT / "src" / "ptst"

RESOLVER = r"\$\{[^}]*:"


def composition_key(
    fixed: Sequence[str], points: Sequence[tuple[str, ...]], folders: Sequence[Path]
) -> str:
    """A hash of all that decides what the cells are composed to."""
    sweeps = _sweep_texts(fixed)
    conf = [yaml_texts(folder) for folder in folders]
    ours = [
        text for text in fixed if not re.match(r"\+*hydra[./]", text)
    ]  # `ptst -m` has them elsewhere
    texts = [*ours, *sum(points, ()), *sweeps.values()]
    texts += [text for files in conf for text in files.values()]
    return key_of(
        {
            "format": FROZEN_FORMAT,
            "overrides": [ours, [list(point) for point in points]],
            "conf": conf,
            "sweeps": sweeps,
            "judges": _code_of_components(texts),
            "schema": [
                fingerprint(path)
                for path in sorted([*CODE.glob("config/*.py"), CODE / "schema.py"])
            ],
            "versions": [version("hydra-core"), version("omegaconf")],
            # Resolvers (${oc.env:...}) read the world outside; what they gave is not to be reused.
            "once": time.time_ns() if any(re.search(RESOLVER, text) for text in texts) else None,
        }
    )


def _sweep_texts(fixed: Sequence[str]) -> dict[str, str]:
    """The sweep's file; all of them where it is composed of others."""
    folder = ROOT / "sweeps"
    files = [folder / f"{value}.yaml" for key, value in map(parted, fixed) if key == "sweeps"]
    own = {path.stem: path.read_text(encoding="utf-8") for path in files if path.is_file()}
    return yaml_texts(folder) if any("defaults:" in text for text in own.values()) else own


def _code_of_components(texts: Sequence[str]) -> dict[str, str]:
    """Hashes of the code of all components that are named: a metric without a label of its judge is
    left out.

    Of a package all modules count, for labels may be those of another one.
    """
    found = {}
    for module in {
        name for text in texts for name in re.findall(r"_target_\W{1,4}([\w.]+)\.", text)
    }:
        with suppress(ImportError, ValueError):  # whoever chooses such a judge is told
            spec = find_spec(module)
            file = Path((spec and spec.origin) or "")
            for path in file.parent.glob("*.py") if "." in module else [file]:
                if path.is_file():
                    found[f"{module}: {path.name}"] = fingerprint(path)
    return found


def configurations(
    fixed: Sequence[str], points: Sequence[tuple[str, ...]], frozen: Path
) -> Sequence[Config | ConfigError]:
    """The configurations of the cells, composed or as they were frozen."""
    with suppress(OSError, ValueError, KeyError):  # not there, or cut off by a full disk or a copy
        lines = {tuple(line["overrides"]): from_dict(line["config"]) for line in each_row(frozen)}
        return [lines[point] for point in points]
    return compose_many(fixed, points)
