"""What every component has: fields as its YAML, and a key that outlives a move of its class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from ptst.component import Component, added, component_parts, load, parts_of, speed
from ptst.errors import ConfigError
from ptst.schema import Rows


@dataclass
class Early(Component):
    key_name: ClassVar[str] = "early"
    strength: float = 1.0
    threads: int = speed(1)
    later: str | None = added(None)


@dataclass
class Derived(Early):
    pass


@dataclass
class Other:
    strength: float = 1.0


def test_a_field_that_came_later_is_in_the_key_only_where_it_is_set() -> None:
    assert parts_of(Early()) == {"strength": 1.0}
    assert parts_of(Early(later="x", threads=4)) == {"strength": 1.0, "later": "x"}


def test_the_name_in_keys_is_the_classs_own_and_not_inherited() -> None:
    assert component_parts(Early(), "elsewhere.Early")["_target_"] == "early"
    assert component_parts(Derived(), "elsewhere.Derived")["_target_"] == "elsewhere.Derived"


@pytest.mark.parametrize(
    "node, message",
    [
        (None, "here has no _target_"),
        ("early", r"here has no _target_: give a component by its class, \+here\._target_=ptst\.component"),
        ({"_target_": "nowhere.Early"}, "nowhere.Early cannot be imported"),
        ({"_target_": f"{__name__}.Other"}, "is not a component: .* derived from"),
        ({"_target_": f"{__name__}.Early", "strong": 2}, "Early's fields: strength, threads, later"),
        ({"_target_": f"{__name__}.Early", "strength": "much"}, "here: .*much"),
    ],
)  # fmt: skip
def test_what_a_configuration_cannot_name_is_refused(node: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(node, "here", Component)


def test_values_become_fields() -> None:
    made = load({"_target_": f"{__name__}.Early", "strength": 2}, "here", Component)
    assert made == Early(2.0)


@dataclass
class Reads(Component):
    rows: Rows = field(default_factory=Rows)
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ConfigError(f"strength={self.strength} must be 0 or more.")


def test_a_component_and_its_rows_know_where_they_stand() -> None:
    node = {"_target_": f"{__name__}.Reads", "rows": {"name": "mine", "source": "local"}}
    made = load(node, "defence.mine.posthoc", Component)
    assert isinstance(made, Reads)
    assert (made.where, made.rows.at) == ("defence.mine.posthoc", "defence.mine.posthoc.rows")
    with pytest.raises(ConfigError, match=r"^defence\.mine\.posthoc: strength=-1\.0 must be"):
        load({**node, "strength": -1}, "defence.mine.posthoc", Component)
