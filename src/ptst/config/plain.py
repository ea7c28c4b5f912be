"""The configuration as plain values, and back; what its fields are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from ptst.schema import Config


def from_dict(values: Mapping[str, Any]) -> Config:
    """The configuration that `dataclasses.asdict` made plain, every value as it was.

    Nothing is composed, resolved or checked again. A field that came later has its default, and a
    value whose field there is no longer is left out: what an earlier version wrote can be read.
    """
    config = _from_plain(Config, values)
    assert isinstance(config, Config)
    return config


def _from_plain(kind: Any, value: Any) -> Any:
    parts = get_args(kind)
    inner = next((part for part in parts if dataclasses.is_dataclass(part)), None)
    if value is None or (inner is None and not dataclasses.is_dataclass(kind)):
        return value
    if inner is None:
        hints = _hints(kind)
        known = {name: item for name, item in value.items() if name in hints}
        return kind(**{name: _from_plain(hints[name], item) for name, item in known.items()})
    if isinstance(value, list):
        return [_from_plain(inner, item) for item in value]
    if get_origin(kind) is dict:
        return {name: _from_plain(inner, item) for name, item in value.items()}
    return _from_plain(inner, value)


@cache  # of a class, which does not change
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def fields_of(path: Sequence[str]) -> list[str]:
    """The keys that exist at a dotted path of the configuration, for error messages."""
    return [f.name for f in _fields_at(path)]


def is_speed(key: str) -> bool:
    """Whether a dotted key is of a field that changes how fast a stage runs (see
    `ptst.component.speed`)."""
    *path, name = key.split(".")
    return any(f.name == name and not f.metadata.get("key", True) for f in _fields_at(path))


def _fields_at(path: Sequence[str]) -> tuple[dataclasses.Field[Any], ...]:
    node: Any = Config
    for part in path:
        if get_origin(node) is dict:
            node = get_args(node)[1]
            continue
        hint = get_type_hints(node).get(part) if dataclasses.is_dataclass(node) else None
        if hint is None:
            return ()
        options = [a for a in getattr(hint, "__args__", ()) if dataclasses.is_dataclass(a)]
        is_dict = get_origin(hint) is dict
        node = hint if is_dict or not options else options[0]
    return dataclasses.fields(node) if dataclasses.is_dataclass(node) else ()
