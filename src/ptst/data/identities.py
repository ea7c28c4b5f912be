"""What rows are known by: in keys, and in the provenance of what they made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptst.data.files import DELIMITERS, kind_of, local_files, suffix_of
from ptst.data.rows import count_left_out
from ptst.download import cached, content_hash
from ptst.hub import commit_of
from ptst.schema import Rows
from ptst.store import fingerprint


def identity(rows: Rows) -> dict[str, Any]:
    """What decides the rows' content, for keys. A local file counts by its content, not its place.

    A URL counts as it is written: nothing is downloaded to know a key.

    Raises:
        DataError: a local file is missing.
    """
    drawn = {} if rows.n is None else {"n": rows.n, "draw_seed": rows.draw_seed}
    picked: dict[str, Any] = {"where": dict(rows.where)} if rows.where else {}
    if rows.without:
        picked["without"] = {column: list(phrases) for column, phrases in rows.without.items()}
    added = {"first": rows.first, "messages": rows.messages, "context": rows.context}
    later = {name: value for name, value in added.items() if value is not None}
    common = {"columns": dict(rows.columns), **picked, **drawn, **later}
    if rows.source == "micro":
        from ptst import micro

        return {"micro": rows.name, "split": rows.split, "world": micro.WORLD_VERSION, **common}
    if rows.source == "rules":
        from ptst.rules.cases import CASES_VERSION

        return {"rules": CASES_VERSION, **common}
    if rows.source == "hub":
        place = {"path": rows.path, "subset": rows.subset, "revision": rows.revision}
        return {**place, "split": rows.split, **common}
    place = (
        {"url": rows.path, "file_sha256": rows.sha256} if rows.source == "url" else _content(rows)
    )
    records = {"records": rows.records} if rows.records else {}
    kind = kind_of(Path(rows.path or "") if rows.source == "url" else local_files(rows)[0])
    usual = rows.delimiter in (None, DELIMITERS.get(kind, rows.delimiter))
    delimiter = {} if usual else {"delimiter": rows.delimiter}
    how = {"header": rows.header, "encoding": rows.encoding}
    return {**place, **records, **delimiter, **how, **common}


def origin(rows: Rows) -> dict[str, Any]:
    """Where rows that were read came from, for provenance: a commit of the hub, or a file's hash.

    It has a split only where that chooses something: a single file has none, whatever `split` says;
    and where `without` leaves rows out, how many (`left_out`).
    """
    return _place(rows) | ({"left_out": count_left_out(rows)} if rows.without else {})


def _place(rows: Rows) -> dict[str, Any]:
    place: dict[str, Any] = {"source": rows.source, "path": rows.path}
    if rows.source == "hub":
        commit = commit_of(rows.path or "", "dataset", rows.revision)
        return {**place, "split": rows.split, "commit": commit}
    if rows.source == "url":
        return {**place, "sha256": content_hash(cached(rows.path or ""))}
    if rows.source == "local":
        split = {"split": rows.split} if Path(rows.path or "").expanduser().is_dir() else {}
        hashes = [content_hash(file) for file in local_files(rows)]
        return {**place, **split, "sha256": hashes if len(hashes) > 1 else hashes[0]}
    if rows.source == "rules":
        return {"source": "rules"}
    from ptst import micro

    own = {"source": "micro", "name": rows.name, "split": rows.split}
    return {**own, "world": micro.WORLD_VERSION}


def _content(rows: Rows) -> dict[str, Any]:
    files = local_files(rows)
    hashes = [fingerprint(file) for file in files]
    return {"sha256": hashes if len(files) > 1 else hashes[0], "suffix": suffix_of(files[0])}
