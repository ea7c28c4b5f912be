"""The axes of a sweep: which keys have several values, in a sweep file and on a command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from ptst.config.compose import compose
from ptst.config.explain import explain
from ptst.errors import ConfigError
from ptst.sweep_schema import Sweep

ALIKE = ("scale", "stages", "paths", "tracking", "sweeps", "sweep", "hydra")
"""What is the same for all cells of a sweep, with all keys below it."""


Axes = dict[str, list[str]]
"""Override key -> values, as Hydra reads them: {"template@test_template": ["chat_vanilla",
...]}."""


FINETUNING_ONLY = (
    "seed",
    "finetune",
    "template@train_template",
    "train_template",
    "dataset.n",
    "dataset.draw_seed",
    "dataset.first",
)
"""What does not count where nothing is fine-tuned, with all keys below it."""


def parted(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], Axes]:
    """Separate overrides with one value from those with several.

    Raises:
        ConfigError: one is not in Hydra's syntax, or a key is given twice.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import ConfigCompositionException, HydraException

    fixed: list[str] = []
    axes: Axes = {}
    seen: dict[str, str] = {}
    for text in overrides:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
            key = override.get_key_element()
            if override.is_sweep_override():
                check_axis(key, text)
                axes[key] = list(override.sweep_string_iterator())
                if not axes[key]:
                    raise ConfigError(f"{text} has no values.")
            else:
                fixed.append(text)
        except (HydraException, ConfigCompositionException) as error:
            if "glob(" in text:
                reason = "name the values; glob() is not for sweeps"
                raise ConfigError(f"{text!r} is not an override: {reason}") from error
            raise ConfigError(explain(error)) from error
        bare = key.lstrip("+~")
        if bare in seen:
            raise ConfigError(f"{bare} is given twice: {seen[bare]} and {text}.")
        seen[bare] = text
    return fixed, axes


def split_aimed(overrides: Sequence[str], axes: Iterable[str]) -> tuple[list[str], list[str]]:
    """Separate overrides of all cells from those of one option of an axis: with `defence` an axis,
    defence.panacea.objective.rho=0.5 is for the cells with defence=[panacea]."""
    aimed = [text for text in overrides if (aim := _aim(text)) and aim[0] in set(axes)]
    return [text for text in overrides if text not in aimed], aimed


def with_aimed(points: Sequence[tuple[str, ...]], aimed: Sequence[str]) -> list[tuple[str, ...]]:
    """Points, each with the overrides that are aimed at what it chooses.

    Raises:
        ConfigError: one is aimed at what no point chooses.
    """
    chosen = [
        {(key, name) for key, value in map(parted, point) for name in re.findall(r"[\w-]+", value)}
        for point in points
    ]
    for text in aimed:
        group, name = _aim(text) or ("", "")
        if not any((group, name) in own for own in chosen):
            raise ConfigError(
                f"{text}: no cell of this sweep has {group}=[{name}]; add it to the axis, or leave this out."
            )
    return [
        (*point, *(text for text in aimed if _aim(text) in own))
        for point, own in zip(points, chosen, strict=True)
    ]


def is_aimed(override: str) -> bool:
    """Whether an override is of one defence or analysis, whatever the axes are."""
    return _aim(override) is not None


def _aim(override: str) -> tuple[str, str] | None:
    found = re.match(r"[+~]*(?:[\w/]+@)?(defence|analysis)\.([\w-]+)\.", override)
    return None if found is None else (found[1], found[2])


def is_alike(override: str) -> bool:
    """Whether an override, or a key, is of what is the same for all cells of a sweep."""
    return _root(override) in ALIKE


def _root(override: str) -> str:
    return re.split(r"[./@=]", override.lstrip("+~"))[0]


def check_axis(key: str, where: str) -> None:
    """Refuse an axis of what all cells share."""
    if re.match(r"[+~]*(?:[\w/]+@)?analysis(\.|$)", key):
        raise ConfigError(
            f"{where}: analyses are no part of a cell, so that a sweep has one choice and one setting of "
            "each for all of them. Run the sweep once for each value: only what is missing is made."
        )
    if (root := _root(key)) in ALIKE:
        raise ConfigError(
            f"{where}: {root} is the same for all cells of a sweep; run one sweep each."
        )


def values_of(value: Any, where: str) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{where} has no values.")
    return [spelled(v, where) for v in values]


def spelled(value: Any, where: str) -> str:
    """A value of a sweep file as Hydra's override grammar spells it."""
    if isinstance(value, list):
        return f"[{','.join(spelled(v, where) for v in value)}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Mapping):
        raise ConfigError(f"{where}: {value} is a mapping; set its keys one by one (a.b: value).")
    text = str(value)
    if isinstance(value, str) and not re.fullmatch(r"[\w./-]+", text):
        # Hydra's grammar: a backslash is itself, but before a quote (or the end) it must be
        # doubled.
        escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
        trailing = len(text) - len(text.rstrip("\\"))
        return "'" + escaped + "\\" * trailing + "'"
    return text


def product_of(axes: Axes) -> list[tuple[str, ...]]:
    choices = [[f"{key}={value}" for value in values] for key, values in axes.items()]
    return list(product(*choices))


def finetuning_only(key: str) -> bool:
    """Whether an override's key, or a coordinate, means nothing where nothing is fine-tuned."""
    return any(key == own or key.startswith(f"{own}.") for own in FINETUNING_ONLY)


def settings_of_scale(
    sweep: Sweep, scale: str, fixed: list[str], axes: Axes, file: str
) -> list[str]:
    """What the sweep sets at this scale and the command line does not.

    A setting of an evaluation that the command line leaves out goes with it.

    Raises:
        ConfigError: the sweep does not run at this scale.
    """
    if not sweep.scales:
        return []
    if scale not in sweep.scales:
        others = " or ".join(f"scale={name}" for name in sweep.scales)
        raise ConfigError(f"{file} does not run at scale={scale}, but at {others}.")
    where = f"{file}: scales.{scale}"
    given = {text.partition("=")[0].lstrip("+~") for text in fixed} | set(axes)
    own = {
        key: f"{key}={spelled(value, f'{where}.{key}')}"
        for key, value in sweep.scales[scale].items()
        if key not in given
    }
    for key in own:
        check_axis(key, f"{where}: {key}")
    if not given & {"evaluation", "evaluation@task"}:
        return list(own.values())
    groups = [
        text
        for text in fixed
        if not re.match(r"[+~]*(evaluation|task)\.", text) and not is_aimed(text)
    ]
    chosen = compose(groups, check=False)
    left = {
        **({"evaluation": chosen.evaluation} if "evaluation" in given else {}),
        **({"task": chosen.task} if "evaluation@task" in given else {}),
    }
    return [
        text
        for key, text in own.items()
        if (path := key.split("."))[0] not in left or path[1] in left[path[0]]
    ]


def check_fixed(grid: Mapping[str, Any], fixed: list[str], axes: Axes, where: str) -> None:
    """Refuse two values for what a grid holds fixed, and one value for what it varies."""
    given = {text.partition("=")[0].lstrip("+~"): text for text in fixed}
    given |= {key: f"{key}={','.join(values)}" for key, values in axes.items()}
    for key, value in grid.items():
        if key not in given:
            continue
        if not isinstance(value, list):
            raise ConfigError(
                f"{where}: {key} is fixed to {value}; {given[key]} gives it another value."
            )
        if key not in axes:  # a part of the table: an axis of one value
            fixed.remove(given[key])
            axes[key] = [given[key].partition("=")[2]]
