"""What a sweep file may say: its grids, and how its tables are laid out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class TableMetric:
    """A metric that a sweep's tables show, and where the paper prints it."""

    title: str = MISSING
    paper_table: str | None = None
    """`table` in sweeps/paper/*.csv; None: the paper has no such number."""
    paper_metric: str | None = None
    """`metric` there; None: the same name as ours."""
    paper_also: list[str] = field(default_factory=list)
    """Other tables of the paper that print this number: what they say is shown where `paper_table`
    has no such row, and beside it where the two differ."""
    paper_model: str | None = None
    """`model` there, for models that are not in the paper; None: the one that the table is
    about."""
    scale: str | None = None
    """The only scale at which its evaluation reports this metric; None: it does at every scale."""


@dataclass
class DeclaredContrast:
    """Two places of a sweep to compare, by their coordinates."""

    name: str = ""
    a: dict[str, str] = field(default_factory=dict)
    b: dict[str, str] = field(default_factory=dict)
    """{coordinate: value}, of the same coordinates as `a`: every cell of the one is compared with
    the cell of the other that is equal in all other coordinates."""


@dataclass
class Sweep:
    """A grid of cells, and how its tables are laid out; one YAML file each in sweeps/."""

    name: str = MISSING
    title: str = ""
    grids: list[dict[str, Any]] = field(default_factory=list)
    """Each is a product: {override: value or list of values}. The sweep is their union, so a pair
    that belongs together, or a row that lacks some columns, is a grid of its own."""
    scales: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name of each scale that the sweep runs at: {override: value} of all its cells there, over
    which the command line goes. Empty: any scale."""
    no_finetuning: bool = False
    """Also the untouched model, under every test template."""
    rows: str = "train_template"
    columns: str = "test_template"
    """Each side is a coordinate, or two: "train_template → test_template" has a column for each
    pair."""
    over: list[str] = field(default_factory=list)
    """Coordinates that are averaged over like the seed: `model`, where the models are trainings of
    one recipe."""
    safety_templates: list[str] = field(default_factory=list)
    """Templates with a safety prompt: the PTST contrast is worked out for them."""
    metrics: dict[str, TableMetric] = field(default_factory=dict)
    """By "<evaluation>/<metric>", in the tables' order. Those of evaluations that are not part of
    the cells are left out; an evaluation of which none is named has tables of all its metrics,
    after the others."""
    contrasts: list[DeclaredContrast] = field(default_factory=list)
    """What is compared beside the PTST contrast, in every metric."""

    def side(self, name: str) -> list[str]:
        """The coordinates of `rows` or of `columns`."""
        return str(getattr(self, name)).split(" → ")

    @property
    def repeats(self) -> list[str]:
        """Coordinates in which the runs of one place of a table differ."""
        return [*self.over, "seed"]
