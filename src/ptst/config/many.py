"""Composing the cells of a grid, sooner than one after the other."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from omegaconf import DictConfig, OmegaConf, ValueNode

from ptst import paths
from ptst.config.compose import checked, compose_initialised, register, yaml_texts
from ptst.config.explain import explained
from ptst.errors import ConfigError
from ptst.schema import Config


def compose_many(
    overrides: Sequence[str], variations: Sequence[Sequence[str]]
) -> list[Config | ConfigError]:
    """Compose the configurations of many cells: what `compose` gives for each, sooner.

    Hydra composes once for every choice of a group, not for every combination of them (see
    `_Composer`); a value (seed=1, finetune.epochs=2) is then set before anything is resolved, as
    Hydra does it.

    Args:
        overrides: of every cell.
        variations: for each cell what it adds to `overrides`.

    Returns:
        For each cell its configuration, or what is wrong with it.
    """
    from hydra import initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from ptst.progress import progress

    register()
    parser = OverridesParser.create()
    composer = _Composer(overrides)
    configs: list[Config | ConfigError] = []
    conf = initialize_config_dir(str(paths.CONF), version_base="1.3")
    with conf, progress("compose cells") as advance:
        for number, variation in enumerate(variations):
            advance(number, len(variations), "")
            try:
                with explained():
                    parsed = parser.parse_overrides(list(variation))
                    plain = [o for o in parsed if _sets_a_value(o)]
                    groups = tuple(o.input_line or "" for o in parsed if o not in plain)
                    with _with_values(composer.compose(groups), plain) as composed:
                        configs.append(checked(composed))
            except ConfigError as error:
                configs.append(error)
    return configs


class _Composer:
    """Composes 5 x 5 templates as 1 + 4 + 4: what each choice changes by itself is put together.

    That is the same only where choices do not meet. They are composed together, as Hydra does it,
    if they change the same part of the configuration, or if a file of conf/ chooses by one in its
    defaults list (`lora_${dataset}`). (`${judge}` elsewhere is a value, which is resolved when all
    is put together.)
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        self.overrides = overrides
        self.whole: dict[tuple[str, ...], Any] = {}
        self.plain: dict[tuple[str, ...], dict[str, Any]] = {}
        self.first: dict[tuple[str, ...], tuple[str, ...]] = {}
        """Of the same keys: the choices that others are compared with."""
        self.folders = [paths.CONF]

    @cached_property
    def defaults(self) -> str:
        """The text of all groups' defaults lists."""
        texts = "\n".join(text for f in self.folders for text in yaml_texts(f).values())
        return "\n".join(re.findall(r"(?m)^[\"']?defaults\b.*(?:\n(?:[\s#\-\]].*)?)*", texts))

    def compose(self, groups: tuple[str, ...]) -> Any:
        """The raw configuration for `overrides` and these, which is the same object every time."""
        keys = tuple(word.partition("=")[0] for word in groups)
        first = self.first.setdefault(keys, groups)
        changed = [i for i, word in enumerate(groups) if word != first[i]]
        if len(changed) < 2 or any(f"${{{keys[i]}}}" in self.defaults for i in changed):
            return self._whole(groups)
        if groups not in self.whole:
            self.whole[groups] = self._put_together(groups, first, changed)
        return self.whole[groups]

    def _put_together(
        self, groups: tuple[str, ...], first: tuple[str, ...], changed: Sequence[int]
    ) -> Any:
        composed = copy.deepcopy(self._whole(first))
        done: set[str] = set()
        for i in changed:
            choice = (*first[:i], groups[i], *first[i + 1 :])
            alone, parts = self._whole(choice), self._differing(first, choice)
            if parts & done or alone.keys() != composed.keys():
                return compose_initialised([*self.overrides, *groups]).config
            for part in parts:
                composed._set_item_impl(part, copy.deepcopy(alone._get_node(part)))
            done |= parts
        return composed

    def _whole(self, groups: tuple[str, ...]) -> Any:
        if groups not in self.whole:
            composed = compose_initialised([*self.overrides, *groups])
            self.whole[groups], self.folders = composed.config, composed.folders
        return self.whole[groups]

    def _differing(self, first: tuple[str, ...], alone: tuple[str, ...]) -> set[str]:
        """Parts in which two choices are not the same, before anything is resolved."""
        a, b = self._plain(first), self._plain(alone)
        return {key for key in a if a[key] != b.get(key)}

    def _plain(self, groups: tuple[str, ...]) -> dict[str, Any]:
        if groups not in self.plain:
            found = OmegaConf.to_container(self._whole(groups), resolve=False)
            assert isinstance(found, dict)
            self.plain[groups] = {str(key): part for key, part in found.items()}
        return self.plain[groups]


@contextmanager
def _with_values(composed: Any, overrides: Sequence[Any]) -> Iterator[Any]:
    """A configuration with other values, which are taken back: copying it took half of a cell's
    time."""
    before: list[tuple[str, Any]] = []
    for key in (override.key_or_group for override in overrides):
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(composed, parent) if parent else composed
        leaf = node._get_node(name) if isinstance(node, DictConfig) else None
        if not isinstance(leaf, ValueNode):  # no such key, say: the copy may break
            composed = copy.deepcopy(composed)
            before = []
            break
        before.append((key, leaf._value()))
    try:
        for override in overrides:
            OmegaConf.update(composed, override.key_or_group, override.value())
        yield composed
    finally:
        for key, value in before:
            OmegaConf.update(composed, key, value)


def _sets_a_value(override: Any) -> bool:
    """Whether an override sets one plain value of a key that is no group."""
    from hydra.core.override_parser.types import OverrideType

    key = override.key_or_group
    is_group = "@" in key or "/" in key or (paths.CONF / key).is_dir()
    plain = isinstance(override.value(), str | int | float | bool)
    return override.type == OverrideType.CHANGE and not is_group and plain
