"""From a sweep file and a command line to the cells of a grid, each composed, checked and keyed.

A sweep is a union of products (`grids:` in its file), like scikit-learn's ParameterGrid. What the
command line says applies to all of them: `seed=0,1,2` multiplies every grid, and values for a key that
a grid varies take the place of the grid's.

Composing is most of the time that a finished sweep takes when it is run again. A grid that was frozen
(see ptst.sweep.run) under the very same YAML files and overrides is read from there instead.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import ptst.config
from ptst.config import (
    ROOT,
    Config,
    Sweep,
    check_name,
    checked,
    compose,
    compose_many,
    composed_raw,
    explain,
    from_dict,
    is_speed,
    left_out,
    options,
    yaml_texts,
)
from ptst.errors import ConfigError, DataError, PtstError
from ptst.judge import load_judge
from ptst.keys import CellKeys, cell_keys
from ptst.progress import say
from ptst.store import each_row, fingerprint, key_of

BASICS = ("model", "dataset", "finetune")

ASIDE = ("paths", "tracking", "analysis")
"""Groups that decide no number of a cell."""

LISTS = ("evaluation", "defence", "analysis")
"""Groups of which several options are chosen at once: evaluation=[hazards,howto]."""

ALIKE = ("scale", "stages", "paths", "tracking", "sweeps", "sweep", "hydra")
"""What is the same for all cells of a sweep, with all keys below it."""

Axes = dict[str, list[str]]
"""Override key -> values, as Hydra reads them: {"template@test_template": ["chat_vanilla", ...]}."""

LONGEST_NAME = 80
"""Characters of a report's name."""

FROZEN_FORMAT = 2
"""Of the lines of a frozen grid (ptst.sweep.run.freeze)."""

RESOLVER = r"\$\{[^}]*:"

FINETUNING_ONLY = (
    "seed",
    "finetune",
    "template@train_template",
    "train_template",
    "dataset.n",
    "dataset.draw_seed",
)
"""What does not count where nothing is fine-tuned, with all keys below it."""


@dataclass(frozen=True)
class GridCell:
    """A cell of a grid: what makes it this one, and all that a run of it needs.

    `problem` is what keeps the cell from being run at all (data that are not there); its keys are then
    those of nothing. `coordinates` are model, dataset, finetune, train_template, test_template and seed, and any other
    key that the sweep varies. A cell without fine-tuning has train_template "none" and neither a seed
    nor the keys of fine-tuning.
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
    """A composed sweep. Cells may share keys (one template under two names, say)."""

    sweep: Sweep
    scale: str
    store: str
    reports: str
    cells: list[GridCell]
    frozen: Path
    """<store>/sweeps/<name>/<hash of all that was composed>.jsonl: where the grid is, or will be, frozen."""
    settings: dict[str, str] = field(default_factory=dict)
    """What the command line says that the sweep does not, and that decides a number: {"judge": "keywords"}."""
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
    fixed, axes = _split(overrides)
    raw = composed_raw(fixed)
    base = checked(raw.config, check=False)  # a default may be wrong where an axis gives the value
    sweep = base.sweep or Sweep(name=_name_of(axes, fixed))
    file = _file_of(fixed)
    ours = _of_scale(sweep, base.scale.name, fixed, axes, file)
    points: list[tuple[str, ...]] = []
    # All of them first: a fixed value may turn out to be an axis, for every grid.
    for number, grid in enumerate(sweep.grids):
        _check_fixed(grid, fixed, axes, f"{file}: grids[{number}]")
    for number, grid in enumerate(sweep.grids or [{}]):
        where = f"{file}: grids[{number}]"
        for key in grid:
            _check_axis(key, f"{where}: {key}")
        own = {key: _values(value, f"{where}: {key}") for key, value in grid.items()}
        merged = {**own, **axes}
        points += _product(merged)
        if sweep.no_finetuning:
            kept = {key: values for key, values in merged.items() if not finetuning_only(key)}
            points += [("finetune=none", *point) for point in _product(kept)]
    points = list(dict.fromkeys(points))
    given = {**dict(map(_parted, fixed)), **{key: ",".join(axes[key]) for key in axes}}
    fixed = [*ours, *fixed]
    _check_layout(sweep, file, options(raw.folders, "template"))
    name = f"{sweep.name}-{base.scale.name}"
    key = _composition_key(fixed, points, raw.folders)
    frozen = Path(base.paths.store).expanduser() / "sweeps" / name / f"{key}.jsonl"
    cells: list[GridCell] = []
    for point, config in zip(points, _configs(fixed, points, frozen), strict=True):
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
    if cells and all(cell.problem for cell in cells):
        raise ConfigError(f"no cell can be run: {cells[0].problem}")
    for line in left_out(cell.config for cell in cells):
        say(line)
    _check_metrics(sweep, base.scale.name, cells, file, options(raw.folders, "evaluation"))
    tuned = [cell for cell in cells if cell.coordinates["finetune"] != "none"]
    varies = tuple(key for key in BASICS if len({c.coordinates[key] for c in tuned}) > 1)
    cells = [replace(cell, varies=varies) for cell in _unique(cells, file)]
    settings = _settings(sweep, given, base, cells, file)
    called = _report_name(name, settings) if base.sweep else name
    for cell in cells:
        cell.config.tracking.group = cell.config.tracking.group or called
    store, reports = base.paths.store, base.paths.reports
    return Grid(sweep, base.scale.name, store, reports, cells, frozen, settings, called)


def _settings(
    sweep: Sweep, given: Mapping[str, str], base: Config, cells: Sequence[GridCell], file: str
) -> dict[str, str]:
    """Of what the command line gives, {key: value, or values with commas}, that which decides a number, sorted.

    What the sweep has without it, what changes speed alone and where things lie are left out.
    """
    searchpath = [f"{key}={value}" for key, value in given.items() if key == "hydra.searchpath"]
    given = {key: value for key, value in given.items() if not _is_aside(key, base, cells)}
    given = {
        key: value
        for key, value in given.items()
        if not sweep.grids
        or any(
            key not in grid or ",".join(_values(grid[key], file)) != value for grid in sweep.grids
        )
    }
    if not given:
        return {}
    ours = [f"scale={base.scale.name}"]
    ours += [f"+sweeps={Path(file).stem}"] if base.sweep else []
    ours += searchpath
    own = composed_raw([*ours, *_of_scale(sweep, base.scale.name, ours, {}, file)])
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
    if root in ("judge", "task", "evaluation") and _is_speed_of_judge(key, base):
        return True
    if not is_speed(key):
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


def _is_speed_of_judge(key: str, base: Config) -> bool:
    *path, name = key.split(".")
    if path == ["judge"]:
        node = base.judge
    elif len(path) == 3 and path[2] == "judge" and path[1] in getattr(base, path[0]):
        node = getattr(base, path[0])[path[1]].judge
    else:
        return False
    try:
        judge: Any = load_judge(node, key)
    except ConfigError:  # an axis makes a judge of it
        return False
    return any(f.name == name and not f.metadata.get("key", True) for f in fields(judge))


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


def _report_name(name: str, settings: Mapping[str, str]) -> str:
    """A name that a folder can have; hashed where it would not tell two settings apart, or is long."""

    def short(key: str) -> str:
        return re.sub(r"^(evaluation|task)\.", "", key.rpartition("@")[2])

    words = [f"{short(key)}={settings[key]}" for key in sorted(settings, key=short)]
    whole = "-".join([name, *words])
    plain = re.sub(r"[^\w.,=-]+", "-", whole, flags=re.ASCII)
    if plain == whole and len(whole) <= LONGEST_NAME:
        return whole
    return f"{plain[: LONGEST_NAME - 9].rstrip('-.,=_')}-{key_of(dict(settings))[:8]}"


def _parted(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value


def _composition_key(
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
            "judges": _code_of_judges(texts),
            "schema": [
                fingerprint(path) for path in sorted(Path(ptst.config.__file__).parent.glob("*.py"))
            ],
            "versions": [version("hydra-core"), version("omegaconf")],
            # Resolvers (${oc.env:...}) read the world outside; what they gave is not to be reused.
            "once": time.time_ns() if any(re.search(RESOLVER, text) for text in texts) else None,
        }
    )


def _sweep_texts(fixed: Sequence[str]) -> dict[str, str]:
    """The sweep's file; all of them where it is composed of others."""
    folder = ROOT / "sweeps"
    files = [folder / f"{value}.yaml" for key, value in map(_parted, fixed) if key == "sweeps"]
    own = {path.stem: path.read_text(encoding="utf-8") for path in files if path.is_file()}
    return yaml_texts(folder) if any("defaults:" in text for text in own.values()) else own


def _code_of_judges(texts: Sequence[str]) -> dict[str, str]:
    """Hashes of the code of all judges that are named: a metric without a label of its judge is left out.

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


def _configs(
    fixed: Sequence[str], points: Sequence[tuple[str, ...]], frozen: Path
) -> Sequence[Config | ConfigError]:
    """The configurations of the cells, composed or as they were frozen."""
    with suppress(OSError, ValueError, KeyError):  # not there, or cut off by a full disk or a copy
        lines = {tuple(line["overrides"]): from_dict(line["config"]) for line in each_row(frozen)}
        return [lines[point] for point in points]
    return compose_many(fixed, points)


def _split(overrides: Sequence[str]) -> tuple[list[str], Axes]:
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
                _check_axis(key, text)
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


def _check_axis(key: str, where: str) -> None:
    root = re.split(r"[./@]", key.lstrip("+~"))[0]
    if root in ALIKE:
        raise ConfigError(
            f"{where}: {root} is the same for all cells of a sweep; run one sweep each."
        )


def _values(value: Any, where: str) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{where} has no values.")
    return [_spelled(v, where) for v in values]


def _spelled(value: Any, where: str) -> str:
    """A value of a sweep file as Hydra's override grammar spells it."""
    if isinstance(value, list):
        return f"[{','.join(_spelled(v, where) for v in value)}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Mapping):
        raise ConfigError(f"{where}: {value} is a mapping; set its keys one by one (a.b: value).")
    text = str(value)
    if isinstance(value, str) and not re.fullmatch(r"[\w./-]+", text):
        # Hydra's grammar: a backslash is itself, but before a quote (or the end) it must be doubled.
        escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
        trailing = len(text) - len(text.rstrip("\\"))
        return "'" + escaped + "\\" * trailing + "'"
    return text


def _product(axes: Axes) -> list[tuple[str, ...]]:
    choices = [[f"{key}={value}" for value in values] for key, values in axes.items()]
    return list(product(*choices))


def finetuning_only(key: str) -> bool:
    """Whether an override's key, or a coordinate, means nothing where nothing is fine-tuned."""
    return any(key == own or key.startswith(f"{own}.") for own in FINETUNING_ONLY)


def _of_scale(sweep: Sweep, scale: str, fixed: list[str], axes: Axes, file: str) -> list[str]:
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
        key: f"{key}={_spelled(value, f'{where}.{key}')}"
        for key, value in sweep.scales[scale].items()
        if key not in given
    }
    for key in own:
        _check_axis(key, f"{where}: {key}")
    if not given & {"evaluation", "evaluation@task"}:
        return list(own.values())
    chosen = compose(fixed, check=False)
    left = {
        **({"evaluation": chosen.evaluation} if "evaluation" in given else {}),
        **({"task": chosen.task} if "evaluation@task" in given else {}),
    }
    return [
        text
        for key, text in own.items()
        if (path := key.split("."))[0] not in left or path[1] in left[path[0]]
    ]


def _check_fixed(grid: Mapping[str, Any], fixed: list[str], axes: Axes, where: str) -> None:
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


def _check_layout(sweep: Sweep, file: str, templates: Sequence[str]) -> None:
    check_name(f"{file}: sweep.name={sweep.name}", sweep.name)
    for side in ("rows", "columns"):
        if getattr(sweep, side) in ("seed", ""):
            raise ConfigError(
                f"{file}: sweep.{side}={getattr(sweep, side)}: runs that differ in their seed are "
                "averaged; choose another coordinate."
            )
    if sweep.rows == sweep.columns:
        raise ConfigError(f"{file}: sweep.rows and sweep.columns are both {sweep.rows}.")
    for name in sweep.safety_templates:
        if name not in templates:
            raise ConfigError(
                f"{file}: sweep.safety_templates: there is no template {name}; the templates are: "
                f"{', '.join(templates)}."
            )


def _check_metrics(
    sweep: Sweep, scale: str, cells: Sequence[GridCell], file: str, there: Sequence[str]
) -> None:
    known: dict[str, set[str]] = {}
    for cell in cells:
        for name, evaluation in cell.config.evaluations.items():
            known.setdefault(name, set()).update(evaluation.metrics, evaluation.left_out)
    for metric, shown in sweep.metrics.items():
        evaluation_name, _, name = metric.partition("/")
        metrics = known.get(evaluation_name)
        if metrics is None and evaluation_name not in there:
            raise ConfigError(
                f"{file}: sweep.metrics: there is no evaluation {evaluation_name!r}; the evaluations "
                f"are: {', '.join(there)}."
            )
        elsewhere = shown.scale is not None and shown.scale != scale
        if metrics is not None and name not in metrics and not elsewhere:
            raise ConfigError(
                f"{file}: sweep.metrics: evaluation {evaluation_name} reports no {name!r}, but: "
                f"{', '.join(sorted(metrics))}."
            )
    for side in ("rows", "columns"):
        if cells and not any(getattr(sweep, side) in cell.coordinates for cell in cells):
            raise ConfigError(
                f"{file}: sweep.{side}={getattr(sweep, side)} is no coordinate of these cells, which "
                f"are: {', '.join(cells[0].coordinates)}."
            )


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
    defences = _defences(config)
    if defences or "defence" in varied:
        coordinates["defence"] = defences or "none"
    for key, value in varied.items():
        group, _, mount = key.rpartition("@")
        known = (mount or group) in coordinates or key in ("seed", "analysis")
        if not known and (tuned or not finetuning_only(key)):
            coordinates[key] = value
    return coordinates


def _defences(config: Config) -> str:
    """The names of the defences that count: what is trained on does not, where nothing is trained."""
    tuned = config.finetune.method != "none"
    return "+".join(
        name
        for name, own in config.defence.items()
        if own.posthoc is not None or own.guard is not None or tuned
    )


def _no_keys(config: Config) -> CellKeys:
    """Keys that no artifact ever has, of a cell whose data are not there."""
    parts = {"unreadable": asdict(config)}
    return CellKeys(None, parts, cell=key_of({"cell": parts}), cell_parts=parts)


def _unique(cells: Sequence[GridCell], file: str) -> list[GridCell]:
    """Without cells that are the same in coordinates and keys (repeated rows without fine-tuning).

    Raises:
        ConfigError: two cells that differ have the same coordinates; a table would take them for one.
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
