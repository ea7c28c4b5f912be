"""From a sweep file and a command line to the cells of a grid, each composed, checked and keyed.

A sweep is a union of products (`grids:` in its file), like scikit-learn's ParameterGrid. What the
command line says applies to all of them: `seed=0,1,2` multiplies every grid, and values for a key
that a grid varies take the place of the grid's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ptst.config.check_evaluation import left_out
from ptst.config.compose import checked, composed_raw, options
from ptst.errors import ConfigError, DataError, PtstError
from ptst.keys import CellKeys, cell_keys, defences
from ptst.paths import ROOT
from ptst.progress import say
from ptst.schema import Config
from ptst.store import key_of
from ptst.sweep.axes import (
    Axes,
    check_axis,
    check_fixed,
    finetuning_only,
    is_alike,
    parted,
    product_of,
    settings_of_scale,
    split_aimed,
    split_overrides,
    values_of,
    with_aimed,
)
from ptst.sweep.frozen import composition_key, configurations
from ptst.sweep.layout import check_contrasts, check_layout, check_metrics
from ptst.sweep.settings import decisive_settings, report_name
from ptst.sweep_schema import Sweep

BASICS = ("model", "dataset", "finetune")


@dataclass(frozen=True)
class GridCell:
    """A cell of a grid: what makes it this one, and all that a run of it needs.

    `problem` is what keeps the cell from being run at all (data that are not there); its keys are
    then those of nothing. `coordinates` are model, dataset, finetune, train_template, test_template
    and seed, and any other key that the sweep varies. A cell without fine-tuning has train_template
    "none" and neither a seed nor the keys of fine-tuning.
    """

    overrides: tuple[str, ...]
    coordinates: dict[str, str]
    config: Config
    keys: CellKeys
    problem: str | None = None
    varies: tuple[str, ...] = ()
    """Which of model, dataset and finetune differ within the grid."""

    @property
    def label(self) -> str:
        """The cell in words, "chat_vanilla → chat_llama seed 0", with what else varies."""
        own = dict(self.coordinates)
        ends = f"{own.pop('train_template')} → {own.pop('test_template')}"
        seed = own.pop("seed", None)
        named = [own.pop(key) for key in BASICS if key in self.varies]
        others = [f"{key}={value}" for key, value in own.items() if key not in BASICS]
        return " ".join([*named, ends, *([f"seed {seed}"] if seed is not None else []), *others])


@dataclass(frozen=True)
class Grid:
    """A composed sweep. Cells may share keys (for example one template under two names)."""

    sweep: Sweep
    scale: str
    store: str
    reports: str
    cells: list[GridCell]
    frozen: Path
    """<store>/sweeps/<name>/<hash of all that was composed>.jsonl: where the grid is, or will be,
    frozen."""
    settings: dict[str, str] = field(default_factory=dict)
    """What the command line says that the sweep does not, and that decides a number: {"judge":
    "keywords"}."""
    report_name: str = ""
    """The name of its report's folder and of its W&B group: `name`, with `settings`."""

    @property
    def name(self) -> str:
        """<sweep>-<scale>."""
        return f"{self.sweep.name}-{self.scale}"

    @cached_property
    def distinct(self) -> list[GridCell]:
        """One cell of each key, the cells of a fine-tuning together, in the order of the grid."""
        first = {cell.keys.cell: cell for cell in reversed(self.cells)}
        order: dict[str, int] = {}
        for cell in self.cells:
            order.setdefault(cell.keys.model, len(order))
        kept = [cell for cell in self.cells if first[cell.keys.cell] is cell]
        return sorted(kept, key=lambda cell: order[cell.keys.model])


def expand(overrides: Sequence[str]) -> Grid:
    """Compose every cell of a sweep.

    Args:
        overrides: as on the command line; a value may be a list of Hydra's (seed=0,1).

    Raises:
        ConfigError: the first thing that is wrong, with file and key.
    """
    fixed, axes = split_overrides(overrides)
    file = _file_of(fixed)
    sweep, scale = _sweep_of(fixed, axes)
    ours = settings_of_scale(sweep, scale, fixed, axes, file)
    varied = {key for grid in sweep.grids for key in grid} | set(axes)
    (ours, theirs), (fixed, own) = split_aimed(ours, varied), split_aimed(fixed, varied)
    raw = composed_raw([*ours, *fixed])
    base = checked(raw.config, check=False)  # a default may be wrong where an axis gives the value
    points = _points(sweep, fixed, axes, file)
    given = {**dict(map(parted, [*fixed, *own])), **{key: ",".join(axes[key]) for key in axes}}
    fixed = [*ours, *fixed]
    check_layout(sweep, file, options(raw.folders, "template"))
    name = f"{sweep.name}-{base.scale.name}"
    whole = with_aimed(points, [*theirs, *own])
    key = composition_key(fixed, whole, raw.folders)
    frozen = Path(base.paths.store).expanduser() / "sweeps" / name / f"{key}.jsonl"
    cells = _cells(fixed, points, whole, frozen, file)
    if cells and all(cell.problem for cell in cells):
        raise ConfigError(f"no cell can be run: {cells[0].problem}")
    for line in left_out(cell.config for cell in cells):
        say(line)
    check_metrics(sweep, base.scale.name, cells, file, options(raw.folders, "evaluation"))
    check_contrasts(sweep, cells, file)
    tuned = [cell for cell in cells if cell.coordinates["finetune"] != "none"]
    varies = tuple(key for key in BASICS if len({c.coordinates[key] for c in tuned}) > 1)
    cells = [replace(cell, varies=varies) for cell in _unique(cells, file)]
    settings = decisive_settings(sweep, given, base, cells, file)
    called = report_name(name, settings) if base.sweep else name
    for cell in cells:
        cell.config.tracking.group = cell.config.tracking.group or called
    store, reports = base.paths.store, base.paths.reports
    return Grid(sweep, base.scale.name, store, reports, cells, frozen, settings, called)


def _sweep_of(fixed: Sequence[str], axes: Axes) -> tuple[Sweep, str]:
    """The sweep and the name of its scale, before what else is set: the sweep may choose it."""
    alike = [text for text in fixed if is_alike(text)]
    base = checked(composed_raw(alike).config, check=False)
    return base.sweep or Sweep(name=_name_of(axes, fixed)), base.scale.name


def _points(sweep: Sweep, fixed: list[str], axes: Axes, file: str) -> list[tuple[str, ...]]:
    """What each cell adds to `fixed`, from which what turns out to be an axis is removed."""
    points: list[tuple[str, ...]] = []
    # All of them first: a fixed value may turn out to be an axis, for every grid.
    for number, grid in enumerate(sweep.grids):
        check_fixed(grid, fixed, axes, f"{file}: grids[{number}]")
    for number, grid in enumerate(sweep.grids or [{}]):
        where = f"{file}: grids[{number}]"
        for key in grid:
            check_axis(key, f"{where}: {key}")
        own = {key: values_of(value, f"{where}: {key}") for key, value in grid.items()}
        merged = {**own, **axes}
        points += product_of(merged)
        if sweep.no_finetuning:
            kept = {key: values for key, values in merged.items() if not finetuning_only(key)}
            points += [("finetune=none", *point) for point in product_of(kept)]
    return list(dict.fromkeys(points))


def _cells(
    fixed: Sequence[str],
    points: Sequence[tuple[str, ...]],
    whole: Sequence[tuple[str, ...]],
    frozen: Path,
    file: str,
) -> list[GridCell]:
    """The cells of a grid, composed or as they were frozen, with their keys."""
    cells: list[GridCell] = []
    for point, config in zip(points, configurations(fixed, whole, frozen), strict=True):
        if isinstance(config, ConfigError):
            raise ConfigError(f"{_origin(point, file)}: {config}")
        config.sweep = None
        problem = None
        try:
            keys = cell_keys(config)
        except DataError as error:  # one cell's data: the others can do without them
            problem = str(error)
            keys = _no_keys(config)
        except PtstError as error:
            raise ConfigError(f"{_origin(point, file)}: {error}") from error
        cells.append(GridCell(point, _coordinates(point, config), config, keys, problem))
    if any("defence" in cell.coordinates for cell in cells):
        for cell in cells:
            cell.coordinates.setdefault("defence", "none")
    return cells


def _coordinates(point: tuple[str, ...], config: Config) -> dict[str, str]:
    varied = dict(override.lstrip("+").split("=", 1) for override in point)
    tuned = config.finetune.method != "none"
    coordinates = {
        "model": config.model.name,
        "dataset": config.dataset.name,
        "finetune": (config.finetune.name or config.finetune.method) if tuned else "none",
        "train_template": config.train_template.name if tuned else "none",
        "test_template": config.test_template.name,
    }
    if tuned:
        coordinates["seed"] = str(config.seed)
    counted = defences(config)
    if counted or "defence" in varied:
        coordinates["defence"] = "+".join(counted) or "none"
    for key, value in varied.items():
        group, _, mount = key.rpartition("@")
        known = (mount or group) in coordinates or key == "seed"
        if not known and (tuned or not finetuning_only(key)):
            coordinates[key] = value
    return coordinates


def _no_keys(config: Config) -> CellKeys:
    """Keys that no artifact ever has, of a cell whose data are not there."""
    parts = {"unreadable": asdict(config)}
    return CellKeys(None, parts, cell=key_of({"cell": parts}), cell_parts=parts)


def _unique(cells: Sequence[GridCell], file: str) -> list[GridCell]:
    """Without cells that are the same in coordinates and keys (repeated rows without fine-tuning).

    Raises:
        ConfigError: two cells that differ have the same coordinates; a table would take them for
            one.
    """
    seen: dict[tuple[tuple[str, str], ...], GridCell] = {}
    for cell in cells:
        same = seen.setdefault(tuple(sorted(cell.coordinates.items())), cell)
        if same.keys.cell != cell.keys.cell:
            raise ConfigError(
                f"{file}: two different cells would stand in one place of a table ({cell.label}): "
                f"{' '.join(same.overrides)} and {' '.join(cell.overrides)}. Give what differs a name "
                "of its own."
            )
    return list(seen.values())


def _file_of(fixed: Sequence[str]) -> str:
    for text in fixed:
        key, _, value = text.partition("=")
        if key.lstrip("+") == "sweeps":
            return str((ROOT / "sweeps" / f"{value}.yaml").relative_to(ROOT))
    return "the command line"


def _origin(point: Sequence[str], file: str) -> str:
    return f"{file}: cell {' '.join(point) or '(the default)'}"


def _name_of(axes: Axes, fixed: Sequence[str]) -> str:
    """A name for a sweep that has no file: the axes given on the command line, hashed."""
    aside = ("paths.", "tracking", "hydra")  # these change no result
    parts = {"axes": axes, "fixed": sorted(text for text in fixed if not text.startswith(aside))}
    return f"grid-{key_of(parts)[:8]}"
