"""What does fine-tuning do to the safety of an aligned chat model?

And how much of it do templates decide? The story of one cell of the grid is in :mod:`ptst.cell`;
start reading there. What a store has come to is one call away:

>>> import ptst
>>> frame = ptst.results("store", dataset="gsm8k", train_template="chat_*")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from ptst.inventory.artifacts import Artifact


def results(store: str | Path = "store", **filters: object) -> pd.DataFrame:
    """The metrics of a store's cells, one line for each metric of each cell.

    Args:
        store: the store's folder.
        filters: `column=value` for model, dataset, finetune, train_template, test_template, judge,
            seed; a value may have * and ? as in a shell. `**{"finetune.epochs": 3}` filters by any
            setting.

    Returns:
        Columns: cell (its key), model, dataset, finetune, train_template ("none" for the untouched
        model), test_template, seed, evaluation, metric, judge, unit ("percent", or the scale of a
        mean), value, ci_low, ci_high (95 % interval), std, n (answers with a score), units,
        missing, unfinished (cut off at max_new_tokens), samples, made (UTC). A value that is
        missing is NaN.

    Raises:
        ptst.errors.PtstError: there is no such store; a filter names what nothing has.
    """
    from ptst.inventory.frames import cells_frame

    return cells_frame(_cells(store, filters))


def rows(store: str | Path = "store", **filters: object) -> pd.DataFrame:
    """The answers of a store's cells, one line for each. Answers to safety queries are among them.

    Args:
        store, filters: as of `results`.

    Returns:
        Columns: cell, model, dataset, finetune, train_template, test_template, seed, evaluation,
        judge; the columns of the query set (id, input, ...); completion, tokens, finished; label
        (None where it is missing), value, reason.

    Raises:
        ptst.errors.PtstError: see `results`.
    """
    from ptst.inventory.frames import rows_frame

    return rows_frame(_cells(store, filters))


def _cells(store: str | Path, filters: dict[str, object]) -> list[Artifact]:
    from ptst.inventory.artifacts import load_artifacts, matching
    from ptst.store import Store

    found = load_artifacts(Store(Path(store).expanduser()), ("cell",))
    return matching(found, [f"{key}={value}" for key, value in filters.items()])
