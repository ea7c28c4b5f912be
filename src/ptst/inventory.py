"""What a store has, read back: `ptst ls`, `show`, `rm` and `export`, `ptst.results()` and `ptst.rows()`.

An artifact says itself what it is: config.json, key.json and provenance.json lie beside it. So a store can be read
without the sweep that made it, whoever made it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ptst.errors import ConfigError, PtstError
from ptst.metrics import shown
from ptst.progress import say
from ptst.store import ARTIFACTS, Store, each_row, read_json, read_jsonl

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

NAMES = {"finetune": "fine-tuning", "generate": "answers", "judge": "labels", "cell": "cell"}
COLUMNS = ("model", "dataset", "finetune", "train_template", "test_template", "judge", "seed")
"""By what artifacts are told apart, and filtered."""
LONGEST = 300
"""Characters of a question or an answer that `show` prints."""

SHORTEST = 6
"""Digits of a key by which something may be removed."""

Reference = tuple[str, str]
"""(stage, key) of an artifact."""


@dataclass(frozen=True)
class Thing:
    """A fine-tuning or a cell of a store."""

    store: Store
    stage: str
    key: str
    known: Mapping[str, Any]
    """`ptst.wording.known_judges()`, which takes a while."""

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.store.path(self.stage, self.key)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration that made it, resolved. A cell's fine-tuning may be older than it."""
        config: dict[str, Any] = read_json(self.path / "config.json")
        return config

    @cached_property
    def needs(self) -> list[Reference]:
        """What it was made of, itself left out."""
        return list(_needs(self.store, self.stage, self.key))

    @cached_property
    def columns(self) -> dict[str, str]:
        """What it is, by `COLUMNS`; "none" where it has no fine-tuning, empty where it has no such thing."""
        config, cell = self.config, self.stage == "cell"
        tuned = config["finetune"]["method"] != "none"
        return {
            "model": config["model"]["name"],
            "dataset": config["dataset"]["name"],
            "finetune": config["finetune"].get("name") or config["finetune"]["method"],
            "train_template": config["train_template"]["name"] if tuned else "none",
            "test_template": config["test_template"]["name"] if cell else "",
            "judge": ", ".join(dict.fromkeys(self.judges.values())) if cell else "",
            "seed": str(config["seed"]) if tuned else "",
        }

    @cached_property
    def judges(self) -> dict[str, str]:
        """The judge of each of a cell's evaluations, by its name in conf/judge."""
        from ptst.wording import judge_name

        named = {}
        for name, scores in _scores(self.store, self.key).items():
            parts = read_json(self.store.path("judge", scores) / "key.json")
            own = {"judge": parts["judge"], "version": parts["version"]}
            named[name] = judge_name(own, self.known)
        return named

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """A cell's metrics (`ptst.metrics.Metric`) by "<evaluation>/<metric>"."""
        from ptst.stages.summarise import read_metrics

        return read_metrics(self.store, self.key) if self.stage == "cell" else {}

    @property
    def made(self) -> float:
        """When, in seconds since the epoch."""
        return (self.path / "key.json").stat().st_mtime

    @property
    def size(self) -> int:
        """Bytes of its files; a cell's with its answers and labels, which other cells may share."""
        own = [r for r in self.needs if r[0] != "finetune"] if self.stage == "cell" else []
        folders = [self.path, *(self.store.path(*reference) for reference in own)]
        return sum(map(_size, folders))


def things(store: Store, stages: Sequence[str] = ("finetune", "cell")) -> list[Thing]:
    """All fine-tunings and cells of a store that can be read, the oldest first.

    Raises:
        PtstError: there is no such store.
    """
    if not store.root.is_dir():
        raise PtstError(f"there is no store {store.root}; paths.store=... names another.")
    from ptst.wording import known_judges

    known = known_judges()
    found = []
    unread = 0
    for stage in stages:
        for folder in (store.root / stage).glob("*"):
            thing = Thing(store, stage, folder.name, known)
            try:
                found.append((thing.made, thing, thing.columns, thing.metrics))
            except (OSError, ValueError, KeyError, TypeError):
                unread += 1
    if unread:
        say(f"{unread} artifacts cannot be read and are left out: ptst rm damaged lists them")
    return [thing for _, thing, *_ in sorted(found, key=lambda entry: entry[:1])]


def chosen(found: Iterable[Thing], filters: Sequence[str]) -> list[Thing]:
    """Those that every filter fits: `column=value` or `setting=value`, a value with * and ? as in a shell.

    Raises:
        ConfigError: what is no filter, or names what nothing has.
    """
    found = list(found)
    for word in filters:
        key, equals, value = word.partition("=")
        key = key.removeprefix("template@")
        if not equals or not key:
            raise ConfigError(
                f"{word!r} is no filter; write column=value, with one of {', '.join(COLUMNS)}, kind, "
                "or a setting as finetune.epochs."
            )
        values = [(thing, _value(thing, key)) for thing in found]
        if found and all(own is None for _, own in values):
            raise ConfigError(
                f"{word}: nothing in the store has {key!r}; columns are {', '.join(COLUMNS)}, kind."
            )
        found = [thing for thing, own in values if own is not None and _fits(own, value)]
    return found


def _value(thing: Thing, key: str) -> str | None:
    if key == "kind":
        return NAMES[thing.stage]
    if key in COLUMNS:
        return thing.columns[key]
    node: Any = thing.config
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return None
        node = node[name]
    return "null" if node is None else json.dumps(node) if isinstance(node, bool) else str(node)


def _fits(own: str, value: str) -> bool:
    return any(fnmatchcase(part, value) for part in (own, *own.split(", ")))


def _needs(store: Store, stage: str, key: str) -> Iterator[Reference]:
    """What an artifact was made of, from their key.json, the nearest first."""
    if stage == "finetune":
        return
    parts = read_json(store.path(stage, key) / "key.json")
    nearest: list[Reference] = []
    if stage == "cell":
        nearest = [("judge", own["scores"]) for own in parts["evaluations"].values()]
        nearest += [("finetune", parts["finetune"])] if parts["finetune"] else []
    elif stage == "judge":
        nearest = [("generate", parts["generate"])]
    elif "finetune" in parts["model"]:
        nearest = [("finetune", parts["model"]["finetune"])]
    for reference in nearest:
        yield reference
        if store.has(*reference):
            yield from _needs(store, *reference)


def _scores(store: Store, cell: str) -> dict[str, str]:
    """The key of the labels of each of a cell's evaluations."""
    parts = read_json(store.path("cell", cell) / "key.json")
    return {name: own["scores"] for name, own in parts["evaluations"].items()}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def in_bytes(size: float) -> str:
    """ "7.8 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


# --- ls and show ----------------------------------------------------------------------------------


def as_json(thing: Thing) -> dict[str, Any]:
    """A thing as `ptst ls output=json` tells it."""
    return {
        "kind": NAMES[thing.stage],
        "key": thing.key,
        **thing.columns,
        "metrics": {name: metric.value for name, metric in thing.metrics.items()},
        "made": thing.made,
        "bytes": thing.size,
        "path": str(thing.path),
    }


def show(found: Sequence[Thing], store: Store, out: Console) -> None:
    """Print a line for each thing, and a cell's metrics below; what is the same for all of them once."""
    from rich.table import Table
    from rich.text import Text

    values = {name: {thing.columns[name] for thing in found} - {""} for name in COLUMNS}
    same = {name: own.pop() for name, own in values.items() if len(own) == 1 and len(found) > 1}
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    shown_columns = [name for name in COLUMNS if values[name] and name not in same]
    for name in (
        "key",
        "kind",
        *(name.removesuffix("_template") for name in shown_columns),
        "made",
    ):
        table.add_column(name, no_wrap=name in ("key", "made"), overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    for thing in found:
        cells = [thing.columns[name] for name in shown_columns]
        row = [thing.key[:8], NAMES[thing.stage], *cells, _when(thing.made), in_bytes(thing.size)]
        table.add_row(*map(Text, row))
    out.print(table)
    if same:
        said = ", ".join(f"{name}={value}" for name, value in same.items())
        out.print(f"all: {said}", markup=False, soft_wrap=True)
    counts = [f"{sum(t.stage == s for t in found)} {NAMES[s]}s" for s in ("finetune", "cell")]
    out.print(f"{', '.join(counts)} in {store.root}", markup=False, soft_wrap=True)


def show_one(
    store: Store, key: str, filters: Sequence[str], label: str | None, n: int, out: Console
) -> None:
    """Print an artifact whose key begins so, or the log of a failure.

    Args:
        filters: evaluation=NAME chooses one of a cell.
        label: only rows with this label; "missing" for those without one.

    Raises:
        ConfigError: no key begins so, or several do; a filter that does not apply.
    """
    names = [word.partition("=")[2] for word in filters if word.startswith("evaluation=")]
    if len(names) < len(filters):
        raise ConfigError(f"{filters}: ptst show takes KEY, evaluation=, label= and n=.")
    stage, whole = find(store, key)
    if stage == "failed":
        out.print(
            (store.root / "failed" / f"{whole}.log").read_text(), markup=False, soft_wrap=True
        )
        return
    folder = store.path(stage, whole)
    out.print(f"{NAMES[stage]} {whole}: {folder}", markup=False, soft_wrap=True)
    if stage in ("finetune", "cell"):
        from ptst.wording import known_judges

        thing = Thing(store, stage, whole, known_judges())
        for name, value in thing.columns.items():
            if value:
                out.print(f"  {name}: {value}", markup=False)
        out.print(f"  made: {_when(thing.made)}, {in_bytes(thing.size)}", markup=False)
    if stage == "finetune":
        _show_losses(folder, out)
        return
    if stage == "cell":
        for name, metric in thing.metrics.items():
            value = "missing" if metric.value is None else shown(metric.value, metric.scale)
            counts = f"n = {metric.n}, missing {metric.missing}, cut off {metric.unfinished}"
            out.print(f"  {name}: {value} ({counts})", markup=False, highlight=False)
        scores = _scores(store, whole)
        if unknown := set(names) - set(scores):
            raise ConfigError(f"evaluation={unknown.pop()} is not one of: {', '.join(scores)}.")
        for name in names or scores:
            _show_rows(store, scores[name], name, label, n, out)
    elif stage == "judge":
        _show_rows(store, whole, "", label, n, out)
    else:
        rows = read_jsonl(folder / "completions.jsonl")
        _show_answers([(row, {}) for row in rows[:n]], out)


def _show_losses(folder: Path, out: Console) -> None:
    log = read_jsonl(folder / "log.jsonl") if (folder / "log.jsonl").is_file() else []
    losses = [entry for entry in log if "loss" in entry]
    step = max(1, len(losses) // 20)
    for entry in [*losses[:-1:step], *losses[-1:]]:
        out.print(f"  step {entry['step']:>5}  loss {entry['loss']:.4f}", markup=False)


def _show_rows(store: Store, key: str, name: str, label: str | None, n: int, out: Console) -> None:
    pairs = _labelled(store, key)
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


def find(store: Store, beginning: str) -> Reference:
    """The artifact, or ("failed", key), whose key begins so.

    Raises:
        ConfigError: there is none, or several.
    """
    found = [
        (stage, path.name)
        for stage in ARTIFACTS
        for path in (store.root / stage).glob(f"{_plain(beginning)}*")
    ]
    if not found:
        found = [
            ("failed", p.stem) for p in (store.root / "failed").glob(f"{_plain(beginning)}*.log")
        ]
    if not found:
        raise ConfigError(
            f"no key in {store.root} begins with {beginning!r}; ptst ls lists them (ptst rm also takes failed, unused, damaged)."
        )
    if len(found) > 1:
        named = ", ".join(f"{NAMES.get(stage, stage)} {key}" for stage, key in found[:5])
        raise ConfigError(f"{beginning!r} is the beginning of {len(found)} keys: {named}.")
    return found[0]


def _plain(beginning: str) -> str:
    """A key's beginning, which is no pattern and no path."""
    if not beginning.isalnum():
        raise ConfigError(f"{beginning!r} is no key; ptst ls lists them.")
    return beginning


# --- rm -------------------------------------------------------------------------------------------


def remove(store: Store, what: str, yes: bool, out: Console) -> None:
    """Say what would be removed, and remove it if `yes`.

    Args:
        what: the beginning of a key, or "failed", "unused" or "damaged".

    Raises:
        ConfigError: see `find`.
        PtstError: an artifact is being made just now.
    """
    if what == "failed":
        paths = sorted((store.root / "failed").glob("*"))
        paths += [p for p in _left_behind(store) if not store.is_being_made(p.parent.name, p.name)]
    elif what == "damaged":
        paths = store.damaged()
    elif what == "unused":
        paths = [store.path(*reference) for reference in unused(store)]
    else:
        if len(what) < SHORTEST:
            raise ConfigError(
                f"{what!r}: name failed, unused, damaged, or {SHORTEST} digits of a key."
            )
        stage, key = find(store, what)
        paths = (
            [store.path(stage, key)]
            if stage != "failed"
            else [*(store.root / "failed").glob(f"{key}.*")]
        )
        if stage != "failed":
            _tell_users(store, (stage, key), out)
    size = 0
    for path in paths:
        own = _size(path) if path.is_dir() else path.stat().st_size
        size += own
        out.print(f"{path.relative_to(store.root)}  {in_bytes(own)}", markup=False)
    if not paths:
        out.print(f"{store.root}: nothing is {what}.", markup=False, soft_wrap=True)
        return
    if not yes:
        out.print(f"{len(paths)} to remove, {in_bytes(size)}; nothing is removed without yes=true")
        return
    for path in paths:
        _take_away(store, path)
    out.print(f"{len(paths)} removed, {in_bytes(size)}")


def unused(store: Store) -> list[Reference]:
    """Fine-tunings, answers and labels that no cell of the store was made of, and no cell of a sweep waits for.

    Raises:
        PtstError: a cell does not say what it was made of; something is being made just now.
    """
    if broken := store.damaged():
        raise PtstError(
            f"{broken[0]} is damaged and may need what looks unused: ptst rm damaged first."
        )
    if busy := [p for p in _left_behind(store) if store.is_being_made(p.parent.name, p.name)]:
        raise PtstError(
            f"{busy[0]} is being made just now, of what may look unused: wait for its end."
        )
    waited = _waited_for(store)
    needed = set(waited)
    for folder in (store.root / "cell").glob("*"):
        needed.update(_needs(store, "cell", folder.name))
    return [
        (stage, folder.name)
        for stage in ("finetune", "generate", "judge")
        for folder in sorted((store.root / stage).glob("*"))
        if (stage, folder.name) not in needed
        and waited.isdisjoint(_needs(store, stage, folder.name))
    ]


def _waited_for(store: Store) -> set[Reference]:
    """The fine-tunings that cells of a sweep still wait for, which may be queued."""
    found = set()
    for file in (store.root / "sweeps").glob("*/*.jsonl"):
        with suppress(ValueError, KeyError):  # cut off by a broken copy
            for line in each_row(file):
                if line["finetune"] and not store.has("cell", line["cell"]):
                    found.add(("finetune", line["finetune"]))
    return found


def _left_behind(store: Store) -> list[Path]:
    return sorted((store.root / "partial").glob("*/*"))


def _tell_users(store: Store, reference: Reference, out: Console) -> None:
    """Say which artifacts were made of this one: they stay, and cannot be made again without it."""
    users = [
        f"{NAMES[stage]} {folder.name[:8]}"
        for stage in ARTIFACTS
        for folder in sorted((store.root / stage).glob("*"))
        if reference in _needs(store, stage, folder.name)
    ]
    if users:
        more = f" and {len(users) - 8} more" if len(users) > 8 else ""
        out.print(
            f"made of it: {', '.join(users[:8])}{more}; they stay", markup=False, style="yellow"
        )


def _take_away(store: Store, path: Path) -> None:
    """Remove a file or folder; a folder leaves its place at once, so that nothing half-removed looks whole."""
    if path.is_file():
        path.unlink()
        return
    if store.is_being_made(path.parent.name, path.name):
        raise PtstError(f"{path} is being made just now; it stays.")
    aside = store.root / "removed" / uuid4().hex
    aside.parent.mkdir(exist_ok=True)
    path.rename(aside)
    shutil.rmtree(aside)


# --- tables of all of it --------------------------------------------------------------------------


def cells_frame(found: Iterable[Thing]) -> pd.DataFrame:
    """A line for each metric of each cell; see `ptst.results`."""
    import pandas as pd

    lines = [
        {
            "cell": thing.key,
            **{k: v for k, v in thing.columns.items() if k != "judge"},
            "evaluation": name.partition("/")[0],
            "metric": name.partition("/")[2],
            "judge": thing.judges[name.partition("/")[0]],
            "unit": "percent"
            if metric.scale is None
            else f"{metric.scale[0]:g} to {metric.scale[1]:g}",
            **{field: getattr(metric, field) for field in FIGURES},
            "made": pd.Timestamp(thing.made, unit="s", tz="UTC"),
        }
        for thing in found
        for name, metric in thing.metrics.items()
    ]
    columns = [
        "cell",
        *(c for c in COLUMNS if c != "judge"),
        "evaluation",
        "metric",
        "judge",
        "unit",
    ]
    return pd.DataFrame(lines, columns=[*columns, *FIGURES, "made"])


FIGURES = ("value", "ci_low", "ci_high", "std", "n", "units", "missing", "unfinished", "samples")
"""Of a metric: see `ptst.metrics.Metric`."""


def rows_frame(found: Iterable[Thing]) -> pd.DataFrame:
    """A line for each answer of each cell; see `ptst.rows`."""
    import pandas as pd

    lines = []
    for thing in found:
        for name, key in _scores(thing.store, thing.key).items():
            own = {k: v for k, v in thing.columns.items() if k != "judge"}
            named = {"cell": thing.key, **own, "evaluation": name, "judge": thing.judges[name]}
            for row, score in _labelled(thing.store, key):
                said = {
                    "label": score["label"],
                    "value": score.get("value"),
                    "reason": score.get("reason"),
                }
                lines.append({**named, **row, **said})
    columns = ["cell", *(c for c in COLUMNS if c != "judge"), "evaluation", "judge"]
    frame = pd.DataFrame(lines)
    return frame if lines else pd.DataFrame(columns=[*columns, "id", "completion", "label"])


def _labelled(store: Store, judge: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each answer with its score, in the order of the queries."""
    folder = store.path("judge", judge)
    answers = store.path("generate", read_json(folder / "key.json")["generate"])
    rows = read_jsonl(answers / "completions.jsonl")
    return list(zip(rows, read_jsonl(folder / "scores.jsonl"), strict=True))


def export(store: Store, filters: Sequence[str], what: str, file: Path) -> int:
    """Write the frame of `ptst.results` (what="cells") or of `ptst.rows` (what="rows") to a .csv or .parquet file.

    Returns:
        How many lines it has.

    Raises:
        ConfigError: another kind of file.
    """
    if file.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"file={file}: write a .csv or a .parquet file.")
    found = chosen(things(store, ("cell",)), filters)
    frame = cells_frame(found) if what == "cells" else rows_frame(found)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid4().hex[:12]}")
    if file.suffix == ".csv":
        frame.to_csv(temporary, index=False)
    else:
        frame.to_parquet(temporary, index=False)
    temporary.replace(file)
    return len(frame)
