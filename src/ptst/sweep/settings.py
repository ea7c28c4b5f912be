"""What a command line says that decides a number, and the name that a report has by it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from ptst.component import Component, load
from ptst.config.compose import composed_raw
from ptst.config.plain import is_speed
from ptst.engine import Engine
from ptst.errors import ConfigError
from ptst.judge import Judge
from ptst.schema import Config
from ptst.store import key_of
from ptst.sweep.axes import settings_of_scale, values_of
from ptst.sweep_schema import Sweep

ASIDE = ("paths", "tracking", "analysis")
"""Groups that decide no number of a cell."""

if TYPE_CHECKING:
    from ptst.sweep.grid import GridCell


LISTS = ("evaluation", "defence", "analysis")
"""Groups of which several options are chosen at once: evaluation=[hazards,howto]."""


LONGEST_NAME = 80
"""Characters of a report's name."""


def decisive_settings(
    sweep: Sweep, given: Mapping[str, str], base: Config, cells: Sequence[GridCell], file: str
) -> dict[str, str]:
    """Of what the command line gives, {key: value, or values with commas}, that which decides a
    number, sorted.

    What the sweep has without it, what changes speed alone and where things lie are left out.
    """
    searchpath = [f"{key}={value}" for key, value in given.items() if key == "hydra.searchpath"]
    given = {key: value for key, value in given.items() if not _is_aside(key, base, cells)}
    given = {
        key: value
        for key, value in given.items()
        if not sweep.grids
        or any(
            key not in grid or ",".join(values_of(grid[key], file)) != value for grid in sweep.grids
        )
    }
    if not given:
        return {}
    ours = [f"scale={base.scale.name}"]
    ours += [f"+sweeps={Path(file).stem}"] if base.sweep else []
    ours += searchpath
    own = composed_raw([*ours, *settings_of_scale(sweep, base.scale.name, ours, {}, file)])
    return {
        key: given[key]
        for key in sorted(given)
        if not _is_in(own.config, own.choices, key, given[key])
    }


def _is_aside(key: str, base: Config, cells: Sequence[GridCell]) -> bool:
    """Whether an override decides no number of any cell."""
    root, _, rest = key.partition(".")
    if key in ("scale", "stages", "sweeps", "sweep.name") or root in ASIDE:
        return True
    if re.split(r"[./@]", key)[0] in ("hydra", "tracking"):
        return True
    of_component = root in ("judge", "task", "evaluation", "engine") and _is_speed_of(key, base)
    if of_component and root != "engine":
        return True
    if not (of_component or is_speed(key)):
        return False
    # What changes speed changes answers in half precision, or where a batch is drawn together
    for cell in cells:
        made = [e.generate_parts for e in cell.keys.evaluations.values()]
        parts = [own["decoding"] for own in made]
        if root != "engine":
            parts += [own["model"] for own in made] + [cell.keys.finetune_parts.get("recipe", {})]
        if any(rest in own for own in parts):
            return False
    return True


def _is_speed_of(key: str, base: Config) -> bool:
    """Whether a key is of a component's field that decides nothing."""
    *path, name = key.split(".")
    kind: type[Component] = Judge
    if path == ["judge"]:
        node = base.judge
    elif path == ["engine"]:
        node, kind = base.engine, Engine
    elif len(path) == 3 and path[2] == "judge" and path[1] in getattr(base, path[0]):
        node = getattr(base, path[0])[path[1]].judge
    else:
        return False
    try:
        component: Any = load(node, key, kind)
    except ConfigError:  # an axis makes one of it
        return False
    return any(f.name == name and not f.metadata.get("key", True) for f in fields(component))


def _is_in(composed: Any, choices: Mapping[str, Any], key: str, value: str) -> bool:
    """Whether a composed configuration has this value, or option, of its own."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if key in choices:
        return bool(choices[key] == value)
    try:
        said = OverridesParser.create().parse_overrides([f"{key}={value}"])[0].value()
        there = OmegaConf.select(composed, key)
    except (HydraException, OmegaConfBaseException):
        return False
    if key in LISTS:  # a group of which several options are chosen: each file has its key
        return isinstance(said, list) and set(said) == set(there)
    return bool(there == said) and there is not None


def report_name(name: str, settings: Mapping[str, str]) -> str:
    """A name that a folder can have; hashed where it would not tell two settings apart, or is
    long."""

    def short(key: str) -> str:
        return re.sub(r"^(evaluation|task)\.", "", key.rpartition("@")[2])

    words = [f"{short(key)}={settings[key]}" for key in sorted(settings, key=short)]
    whole = "-".join([name, *words])
    plain = re.sub(r"[^\w.,=-]+", "-", whole, flags=re.ASCII)
    if plain == whole and len(whole) <= LONGEST_NAME:
        return whole
    return f"{plain[: LONGEST_NAME - 9].rstrip('-.,=_')}-{key_of(dict(settings))[:8]}"
