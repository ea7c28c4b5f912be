"""From YAML files and overrides to checked values.

Hydra composes conf/, and the result is merged into the dataclasses of ptst.schema: an unknown key
or a wrong type is an error. Nothing behind this room looks at YAML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ptst import paths
from ptst.config.explain import explain, explained
from ptst.errors import ConfigError
from ptst.schema import Config
from ptst.store import files_below


def register() -> None:
    """Put the schema where Hydra's defaults list finds it.

    Raises:
        ConfigError: ptst was installed away from its checkout, where conf/ is.
    """
    from hydra.core.config_store import ConfigStore

    if not paths.CONF.is_dir():
        raise ConfigError(f"there is no {paths.CONF}: install ptst in its checkout (make install).")
    ConfigStore.instance().store(name="schema", node=Config)


def compose(overrides: Sequence[str], check: bool = True) -> Config:
    """Compose and check the configuration of one cell.

    Args:
        overrides: Hydra overrides, as on the command line.
        check: whether values must make sense, too, and not only have the right type.

    Raises:
        ConfigError: a key, group, option or value that does not exist, with the valid choices.
    """
    return checked(composed_raw(overrides).config, check)


@dataclass(frozen=True)
class Composed:
    """What Hydra composes, before it is checked.

    Attributes:
        choices: the option that each group has in it.
        folders: where the groups' files are: conf/, and what `hydra.searchpath` adds.
    """

    config: DictConfig
    choices: dict[str, Any]
    folders: list[Path]


def composed_raw(overrides: Sequence[str]) -> Composed:
    """Compose a configuration without checking it.

    Raises:
        ConfigError: see `compose`.
    """
    from hydra import initialize_config_dir

    register()
    check_hydra(overrides)
    with explained(), initialize_config_dir(str(paths.CONF), version_base="1.3"):
        return compose_initialised(overrides)


def compose_initialised(overrides: Sequence[str]) -> Composed:
    from hydra import compose as hydra_compose

    composed = hydra_compose("config", overrides=list(overrides), return_hydra_config=True)
    choices = dict(composed.hydra.runtime.choices)
    folders = _folders(composed.hydra.runtime.config_sources)
    with open_dict(composed):
        del composed["hydra"]
    for group, _, value in (override.partition("=") for override in overrides):
        if group in ("defence", "analysis"):
            _check_names(group, re.findall(r"[\w-]+", value), composed[group])
    if isinstance(choices.get("finetune"), str) and not composed.finetune.name:
        composed.finetune.name = choices["finetune"]
    return Composed(composed, choices, folders)


def _check_names(group: str, chosen: Sequence[str], composed: Mapping[str, Any]) -> None:
    """Refuse a file whose one key is not its name: two of one key would be merged into one."""
    for option in chosen:
        if option not in composed:
            raise ConfigError(
                f"conf/{group}/{option}.yaml must have one key, {option}, with all else below it; "
                f"composed are: {', '.join(composed) or 'none'}."
            )


def _folders(sources: Iterable[Any]) -> list[Path]:
    """The folders among Hydra's sources, but its own and the checkout (for sweeps/)."""
    folders: list[Path] = []
    for source in sources:
        if source.schema == "pkg" and source.provider != "hydra":
            package = find_spec(source.path)
            folders += map(Path, (package and package.submodule_search_locations) or ())
        elif source.schema == "file" and source.provider != "ptst":
            if not Path(source.path).is_dir():
                raise ConfigError(f"hydra.searchpath: there is no folder {source.path}.")
            folders.append(Path(source.path))
    return folders


INSTEAD = {
    "hydra.sweeper": "give a key several values (seed=0,1), or name a file of sweeps/ (+sweeps=table1).",
    "hydra.sweep": "results go to paths.store, reports to paths.reports.",
    "hydra.run": "results go to paths.store, reports to paths.reports.",
    "hydra.output_subdir": "results go to paths.store, reports to paths.reports.",
    "hydra.job.chdir": "results go to paths.store, reports to paths.reports.",
    "hydra.mode": "ptst -m runs a grid, ptst a single cell.",
}
"""Settings of Hydra's that have no effect here, and what does the same."""


def check_hydra(overrides: Iterable[str]) -> None:
    """Refuse settings of Hydra's that ptst would ignore.

    Raises:
        ConfigError: saying what has the effect.
    """
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~").replace("/", ".")
        for ignored, instead in INSTEAD.items():
            if key == ignored or key.startswith(f"{ignored}."):
                raise ConfigError(f"{override}: ptst takes no {ignored}: {instead}")


def checked(composed: Any, check: bool = True) -> Config:
    """Turn a composed configuration into a `Config` whose every value is valid.

    Raises:
        ConfigError: see :func:`compose`.
    """
    from ptst.config.check import check_choices, check_values  # what Hydra refuses needs no rooms

    try:
        with _length_limit(composed.model):
            config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    assert isinstance(config, Config)
    check_choices(config, "")
    if check:
        check_values(config)
    return config


@contextmanager
def _length_limit(model: Any) -> Iterator[None]:
    """What `model.max_new_tokens: null` means for the model's path, which may be laid over another
    model's YAML."""
    if model.max_new_tokens is not None:
        yield
        return
    folder = (paths.ROOT / str(model.path)).resolve()
    micro = model.api is None and folder.is_relative_to(paths.MICRO)
    model.max_new_tokens = 64 if micro else 512
    try:
        yield
    finally:
        model.max_new_tokens = None


def yaml_texts(folder: Path) -> dict[str, str]:
    """The texts of all YAML files of a folder, by their paths in it."""
    return {
        file.relative_to(folder).as_posix(): file.read_text("utf-8", "surrogateescape")
        for file in files_below(folder)
        if file.suffix == ".yaml"
    }


def options(folders: Iterable[Path], group: str) -> list[str]:
    """The names of a group's options, sorted."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
