"""Where rows come from: the hub, files, the micro world, the cases of rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ptst.data.files import files_of
from ptst.data.formats import read_file
from ptst.data.table import Chosen, Placed, Table, joined, listed
from ptst.errors import DataError
from ptst.schema import Rows


def _micro(rows: Rows) -> Table:
    from ptst import micro

    try:
        found = micro.rows(rows.name, rows.split)  # type: ignore[arg-type]
    except ValueError as error:
        raise DataError(
            f"source=micro, name={rows.name}, split={rows.split}: {error}. The micro world has no "
            "other data: choose another data set, or source=hub, url or local."
        ) from error
    return listed(f"micro {rows.name}", lambda: found)


def _hub(rows: Rows) -> Table:
    import datasets
    from huggingface_hub.utils import httpx

    try:
        table = datasets.load_dataset(
            rows.path, rows.subset, split=rows.split, revision=rows.revision
        )
    except (
        OSError,
        ValueError,
        RuntimeError,
        httpx.HTTPError,
        datasets.exceptions.DatasetsError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        page = f"https://huggingface.co/datasets/{rows.path}"
        if "gated" in str(error):
            hint = f"Accept its licence at {page} and log in with `hf auth login`."
        elif "scripts are no longer supported" in str(error):
            hint = (
                f"{page} makes its rows by a program of its own, which is not run here. Save them as "
                "a file, and read it with source=local path=FILE."
            )
        elif isinstance(error, ConnectionError | httpx.HTTPError):
            hint = "Check the network; a copy on this machine is read with source=local path=FILE."
        else:
            hint = f"Check path={rows.path}, subset, split and revision against {page}."
        raise DataError(
            f"{rows.at or rows.name}: {rows.path} cannot be had from the hub: {reason}\n{hint}"
        ) from error
    _check_revision(table, rows)
    where = f"{rows.path} {rows.split}"

    def read(chosen: Chosen) -> Iterator[Placed]:
        picked = table if chosen is None else table.select(chosen)
        indices = iter(range(len(table)) if chosen is None else chosen)
        for batch in picked.iter(batch_size=1000):  # row by row takes several times as long
            for values in zip(*batch.values(), strict=True):
                index = next(indices)
                yield index, f"{where}, row {index + 1}", dict(zip(batch, values, strict=True))

    return Table(where, lambda: len(table), read)


def _check_revision(table: Any, rows: Rows) -> None:
    """Refuse another commit than the one asked for.

    Without a network, `datasets` takes the newest that this machine has, whatever the revision; the
    folder of its cache is named after the commit.
    """
    if not re.fullmatch("[0-9a-f]{40}", rows.revision or ""):
        return
    commits = {Path(file["filename"]).parent.name for file in table.cache_files}
    others = {c for c in commits if re.fullmatch("[0-9a-f]{40}", c)} - {rows.revision}
    if others:
        raise DataError(
            f"{rows.name}: revision {rows.revision} of {rows.path} is not on this machine, which has "
            f"{', '.join(sorted(others))}. Load it once with a network, or set revision to what is there."
        )


def _from_files(rows: Rows) -> Table:
    files = files_of(rows)
    tables = [read_file(file, rows) for file in files]
    return tables[0] if len(tables) == 1 else joined(str(files[0].parent), tables)


def _rules(rows: Rows) -> Table:
    from ptst import rules

    return listed("the cases of rules", rules.rows, ("suite", "behaviour"))


SOURCES: dict[str, Callable[[Rows], Table]] = {
    "hub": _hub,
    "url": _from_files,
    "local": _from_files,
    "micro": _micro,
    "rules": _rules,
}
