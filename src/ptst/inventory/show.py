"""Artifacts on the terminal: the list of `ptst ls`, and one artifact as `ptst show` prints it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptst.errors import ConfigError
from ptst.inventory.artifacts import (
    COLUMNS,
    LISTED,
    NAMES,
    Artifact,
    find,
    in_bytes,
    labelled,
    scores_of,
)
from ptst.metrics import shown
from ptst.store import Store, read_jsonl
from ptst.wording import known_judges

if TYPE_CHECKING:
    from rich.console import Console

LONGEST = 300
"""Characters of a question or an answer that `show_one` prints."""


def as_json(artifact: Artifact) -> dict[str, Any]:
    """An artifact as `ptst ls output=json` prints it."""
    return {
        "kind": NAMES[artifact.stage],
        "key": artifact.key,
        **artifact.columns,
        "metrics": {name: metric.value for name, metric in artifact.metrics.items()},
        "made": artifact.made,
        "bytes": artifact.size,
        "path": str(artifact.path),
    }


def show_list(found: Sequence[Artifact], store: Store, out: Console) -> None:
    """Print a line for each artifact; a value that all of them share is printed once, below."""
    from rich.table import Table
    from rich.text import Text

    values = {name: {one.columns[name] for one in found} - {""} for name in COLUMNS}
    same = {name: own.pop() for name, own in values.items() if len(own) == 1 and len(found) > 1}
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    differing = [name for name in COLUMNS if values[name] and name not in same]
    for name in ("key", "kind", *(name.removesuffix("_template") for name in differing), "made"):
        table.add_column(name, no_wrap=name in ("key", "made"), overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    for one in found:
        cells = [one.columns[name] for name in differing]
        row = [one.key[:8], NAMES[one.stage], *cells, _when(one.made), in_bytes(one.size)]
        table.add_row(*map(Text, row))
    out.print(table)
    if same:
        said = ", ".join(f"{name}={value}" for name, value in same.items())
        out.print(f"all: {said}", markup=False, soft_wrap=True)
    kinds = {s: sum(one.stage == s for one in found) for s in LISTED}
    counts = [f"{n} {NAMES[s]}s" for s, n in kinds.items() if n]
    out.print(f"{', '.join(counts)} in {store.root}", markup=False, soft_wrap=True)


def show_one(
    store: Store, key: str, filters: Sequence[str], label: str | None, n: int, out: Console
) -> None:
    """Print an artifact, or the log of a failure.

    Args:
        key: the beginning of its key.
        filters: evaluation=NAME chooses one evaluation of a cell.
        label: only rows with this label; "missing" for those without one.

    Raises:
        ConfigError: no key begins so, or several do; a filter does not apply.
    """
    names = [word.partition("=")[2] for word in filters if word.startswith("evaluation=")]
    if len(names) < len(filters):
        raise ConfigError(f"{filters}: ptst show takes KEY, evaluation=, label= and n=.")
    stage, whole = find(store, key)
    if stage == "failed":
        log = store.root / "failed" / f"{whole}.log"
        out.print(log.read_text(), markup=False, soft_wrap=True)
        return
    folder = store.path(stage, whole)
    out.print(f"{NAMES[stage]} {whole}: {folder}", markup=False, soft_wrap=True)
    if stage in LISTED:
        _show_columns(artifact := Artifact(store, stage, whole, known_judges()), out)
    if stage == "finetune":
        _show_losses(folder, out)
    elif stage == "cell":
        _show_metrics(artifact, out)
        scores = scores_of(store, whole)
        if unknown := set(names) - set(scores):
            raise ConfigError(f"evaluation={unknown.pop()} is not one of: {', '.join(scores)}.")
        for name in names or scores:
            _show_rows(store, scores[name], name, label, n, out)
    elif stage == "judge":
        _show_rows(store, whole, "", label, n, out)
    else:
        rows = read_jsonl(folder / "completions.jsonl")
        _show_answers([(row, {}) for row in rows[:n]], out)


def _show_columns(artifact: Artifact, out: Console) -> None:
    for name, value in artifact.columns.items():
        if value:
            out.print(f"  {name}: {value}", markup=False)
    out.print(f"  made: {_when(artifact.made)}, {in_bytes(artifact.size)}", markup=False)


def _show_metrics(cell: Artifact, out: Console) -> None:
    for name, metric in cell.metrics.items():
        value = "missing" if metric.value is None else shown(metric.value, metric.scale)
        counts = f"n = {metric.n}, missing {metric.missing}, cut off {metric.unfinished}"
        out.print(f"  {name}: {value} ({counts})", markup=False, highlight=False)


def _show_losses(folder: Path, out: Console) -> None:
    log = read_jsonl(folder / "log.jsonl") if (folder / "log.jsonl").is_file() else []
    losses = [entry for entry in log if "loss" in entry]
    step = max(1, len(losses) // 20)
    for entry in [*losses[:-1:step], *losses[-1:]]:
        out.print(f"  step {entry['step']:>5}  loss {entry['loss']:.4f}", markup=False)


def _show_rows(store: Store, key: str, name: str, label: str | None, n: int, out: Console) -> None:
    pairs = labelled(store, key)
    labels = list(dict.fromkeys(str(score["label"] or "missing") for _, score in pairs))
    if label is not None and label not in labels:
        out.print(f"\n{name}: no row is {label}; labels: {', '.join(labels)}", markup=False)
        return
    wanted = [p for p in pairs if label is None or (p[1]["label"] or "missing") == label]
    out.print(f"\n{name}: {min(n, len(wanted))} of {len(wanted)} rows", markup=False, style="bold")
    _show_answers(wanted[:n], out)


def _show_answers(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], out: Console
) -> None:
    for row, score in pairs:
        said = str(score.get("label") or "missing") if score else ""
        reason = f" ({_short(score['reason'])})" if score.get("reason") else ""
        out.print(f"\n{row['id']}  {said}{reason}", markup=False, style="cyan")
        out.print(f"  asked:  {_short(str(row.get('input', '')))}", markup=False)
        answer = row["completion"] or f"none: {row.get('withheld', 'empty')}"
        out.print(f"  answer: {_short(answer)}", markup=False)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
