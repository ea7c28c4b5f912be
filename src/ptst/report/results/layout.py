"""Where the cells of a sweep stand: which tables there are, and which place of one a cell has."""

from __future__ import annotations

from ptst.report.results.types import Place
from ptst.sweep.grid import Grid, GridCell, finetuning_only
from ptst.sweep_schema import Sweep


def is_tuned(cell: GridCell) -> bool:
    return cell.coordinates["finetune"] != "none"


def place_of(cell: GridCell, sweep: Sweep) -> Place:
    """Where a cell stands. What only some of a sweep's grids vary has its default in the others."""
    return _named(cell, sweep.side("rows")), _named(cell, sweep.side("columns"))


def _named(cell: GridCell, keys: list[str]) -> str:
    absent = "default" if is_tuned(cell) else "none"
    values = [cell.coordinates.get(key, absent) for key in keys]
    if len(keys) > 1 or keys == ["defence"]:
        none = {"defence": "no defence", "train_template": "no fine-tuning"}
        values = [none.get(k, v) if v == "none" else v for k, v in zip(keys, values, strict=True)]
    return " → ".join(values)


def splits_of(grid: Grid) -> list[tuple[dict[str, str], list[GridCell]]]:
    """What sets tables of one metric apart, and the cells of each.

    A cell without fine-tuning belongs to every table that agrees with it in what it has: the
    untouched model stands above the rows of every fine-tuning recipe. Where rows and columns do not
    tell it from the fine-tuned ones, it has tables of its own.
    """
    sweep = grid.sweep
    tuned = [cell for cell in grid.cells if is_tuned(cell)]
    untouched = [cell for cell in grid.cells if not is_tuned(cell)]
    keys = [
        key
        for cells in (tuned, untouched)
        for key in dict.fromkeys(key for cell in cells for key in cell.coordinates)
        if key not in (*sweep.side("rows"), *sweep.side("columns"), *sweep.repeats)
        and len({cell.coordinates.get(key) for cell in cells}) > 1
    ]
    keys = list(dict.fromkeys(keys))
    apart = {place_of(c, sweep) for c in tuned} & {place_of(c, sweep) for c in untouched}
    if apart and "finetune" not in keys:
        keys.insert(0, "finetune")

    def own(cell: GridCell) -> dict[str, str | None]:
        has = {key: cell.coordinates.get(key) for key in keys}
        if is_tuned(cell):
            return has
        return {
            key: value
            for key, value in has.items()
            if not finetuning_only(key) or (apart and key == "finetune")
        }

    splits: list[dict[str, str | None]] = []
    for cell in [*tuned, *untouched]:
        if not any(own(cell).items() <= split.items() for split in splits):
            splits.append(own(cell))
    return [
        (
            {key: value for key, value in split.items() if value is not None},
            [cell for cell in grid.cells if own(cell).items() <= split.items()],
        )
        for split in splits
    ]
