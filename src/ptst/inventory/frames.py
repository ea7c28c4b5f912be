"""A store's results as data frames and as files: `ptst.results()`, `ptst.rows()`, `ptst export`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ptst.errors import ConfigError
from ptst.inventory.artifacts import (
    COLUMNS,
    Artifact,
    labelled,
    load_artifacts,
    matching,
    scores_of,
)
from ptst.store import Store

if TYPE_CHECKING:
    import pandas as pd

COORDINATES = [name for name in COLUMNS if name != "judge"]
"""The columns that a cell has once; each of its evaluations has a judge of its own."""
FIGURES = ("value", "ci_low", "ci_high", "std", "n", "units", "missing", "unfinished", "samples")
"""What the frame has of a metric; see `ptst.metrics.Metric`."""


def cells_frame(found: Iterable[Artifact]) -> pd.DataFrame:
    """A line for each metric of each cell; see `ptst.results`."""
    import pandas as pd

    lines = []
    for cell in found:
        for name, metric in cell.metrics.items():
            evaluation, _, short = name.partition("/")
            low, high = metric.scale or (None, None)
            line = _cell_columns(cell, evaluation)
            line |= {"metric": short, "unit": "percent" if low is None else f"{low:g} to {high:g}"}
            line |= {field: getattr(metric, field) for field in FIGURES}
            lines.append(line | {"made": pd.Timestamp(cell.made, unit="s", tz="UTC")})
    columns = ["cell", *COORDINATES, "evaluation", "metric", "judge", "unit", *FIGURES, "made"]
    return pd.DataFrame(lines, columns=columns)


def rows_frame(found: Iterable[Artifact]) -> pd.DataFrame:
    """A line for each answer of each cell; see `ptst.rows`."""
    import pandas as pd

    lines = []
    for cell in found:
        for evaluation, key in scores_of(cell.store, cell.key).items():
            columns = _cell_columns(cell, evaluation)
            for row, score in labelled(cell.store, key):
                verdict = {name: score.get(name) for name in ("label", "value", "reason")}
                verdict |= {f"value/{k}": v for k, v in score.get("values", {}).items()}
                lines.append({**columns, **row, **verdict})
    if not lines:
        columns_of_none = ["cell", *COORDINATES, "evaluation", "judge", "id", "completion", "label"]
        return pd.DataFrame(columns=columns_of_none)
    return pd.DataFrame(lines)


def _cell_columns(cell: Artifact, evaluation: str) -> dict[str, Any]:
    coordinates = {name: cell.columns[name] for name in COORDINATES}
    judge = cell.judges[evaluation]
    return {"cell": cell.key, **coordinates, "evaluation": evaluation, "judge": judge}


def export(store: Store, filters: Sequence[str], what: str, file: Path) -> int:
    """Write a frame to a .csv or .parquet file.

    Args:
        what: "cells" for the frame of `ptst.results`, "rows" for that of `ptst.rows`.

    Returns:
        How many lines it has.

    Raises:
        ConfigError: it is another kind of file.
    """
    if file.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"file={file}: write a .csv or a .parquet file.")
    found = matching(load_artifacts(store, ("cell",)), filters)
    frame = cells_frame(found) if what == "cells" else rows_frame(found)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid4().hex[:12]}")
    if file.suffix == ".csv":
        frame.to_csv(temporary, index=False)
    else:
        frame.to_parquet(temporary, index=False)
    temporary.replace(file)
    return len(frame)
