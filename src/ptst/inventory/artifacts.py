"""The fine-tunings and cells of a store: read, filtered, found by the beginning of a key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from ptst.config.plain import from_dict
from ptst.errors import ConfigError, PtstError
from ptst.keys import defences
from ptst.progress import say
from ptst.stages.summarise import read_metrics
from ptst.store import ARTIFACTS, Store, read_json, read_jsonl
from ptst.wording import engine_in_words, judge_name, known_judges

NAMES = {
    "finetune": "fine-tuning",
    "posthoc": "changed weights",
    "analyse": "analysis",
    "generate": "answers",
    "judge": "labels",
    "cell": "cell",
}
COLUMNS = (
    "model",
    "dataset",
    "finetune",
    "train_template",
    "test_template",
    "defence",
    "engine",
    "judge",
    "seed",
)
"""What tells artifacts apart, and filters them."""
LISTED = ("finetune", "cell")
"""The stages whose artifacts `ptst ls` lists; answers and labels belong to the cells."""

Reference = tuple[str, str]
"""(stage, key) of an artifact."""


@dataclass(frozen=True)
class Artifact:
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
        """The configuration that made it, resolved. A cell's fine-tuning may be older."""
        config: dict[str, Any] = read_json(self.path / "config.json")
        return config

    @cached_property
    def needs(self) -> list[Reference]:
        """What it was made of, without itself."""
        return list(needs_of(self.store, self.stage, self.key))

    @cached_property
    def columns(self) -> dict[str, str]:
        """What it is, by `COLUMNS`.

        A value is "none" without a fine-tuning, and empty where the column does not apply.
        """
        config, cell = self.config, self.stage == "cell"
        tuned = config["finetune"]["method"] != "none"
        return {
            "model": config["model"]["name"],
            "dataset": config["dataset"]["name"],
            "finetune": config["finetune"].get("name") or config["finetune"]["method"],
            "train_template": config["train_template"]["name"] if tuned else "none",
            "test_template": config["test_template"]["name"] if cell else "",
            "defence": "+".join(defences(from_dict(config))) if cell else "",
            "engine": engine_in_words(config["engine"]) if cell else "",
            "judge": ", ".join(dict.fromkeys(self.judges.values())) if cell else "",
            "seed": str(config["seed"]) if tuned else "",
        }

    @cached_property
    def judges(self) -> dict[str, str]:
        """The judge of each of a cell's evaluations, by its name in conf/judge."""
        named = {}
        for name, scores in scores_of(self.store, self.key).items():
            parts = read_json(self.store.path("judge", scores) / "key.json")
            own = {"judge": parts["judge"], "version": parts["version"]}
            named[name] = judge_name(own, self.known)
        return named

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """A cell's metrics (`ptst.metrics.Metric`) by "<evaluation>/<metric>"."""
        return read_metrics(self.store, self.key) if self.stage == "cell" else {}

    @property
    def made(self) -> float:
        """When it was made, in seconds since the epoch."""
        return (self.path / "key.json").stat().st_mtime

    @property
    def size(self) -> int:
        """Bytes of its files; for a cell with its answers and labels, which cells may share."""
        own = [r for r in self.needs if r[0] != "finetune"] if self.stage == "cell" else []
        folders = [self.path, *(self.store.path(*reference) for reference in own)]
        return sum(map(size_of, folders))


def load_artifacts(store: Store, stages: Sequence[str] = LISTED) -> list[Artifact]:
    """All fine-tunings and cells of a store that can be read, the oldest first.

    Raises:
        PtstError: there is no such store.
    """
    if not store.root.is_dir():
        raise PtstError(f"there is no store {store.root}; paths.store=... names another.")
    known = known_judges()
    found = []
    unread = 0
    for stage in stages:
        for folder in (store.root / stage).glob("*"):
            artifact = Artifact(store, stage, folder.name, known)
            try:
                found.append((artifact.made, artifact, artifact.columns, artifact.metrics))
            except (OSError, ValueError, KeyError, TypeError):
                unread += 1
    if unread:
        say(f"{unread} artifacts cannot be read and are left out: ptst rm damaged lists them")
    return [artifact for _, artifact, *_ in sorted(found, key=lambda entry: entry[:1])]


def matching(found: Iterable[Artifact], filters: Sequence[str]) -> list[Artifact]:
    """The artifacts that match every filter.

    Args:
        filters: `column=value` or `setting=value`; a value may have * and ? as in a shell.

    Raises:
        ConfigError: a word is not a filter, or names what no artifact has.
    """
    found = list(found)
    for word in filters:
        key, equals, value = word.partition("=")
        key = key.removeprefix("template@")
        if not equals or not key:
            raise ConfigError(
                f"{word!r} is not a filter; write column=value, with one of {', '.join(COLUMNS)}, kind, "
                "or a setting as finetune.epochs."
            )
        values = [(artifact, _value(artifact, key)) for artifact in found]
        if found and all(own is None for _, own in values):
            raise ConfigError(
                f"{word}: nothing in the store has {key!r}; columns are {', '.join(COLUMNS)}, kind."
            )
        found = [artifact for artifact, own in values if own is not None and _matches(own, value)]
    return found


def _value(artifact: Artifact, key: str) -> str | None:
    if key == "kind":
        return NAMES[artifact.stage]
    if key in COLUMNS:
        return artifact.columns[key]
    node: Any = artifact.config
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return None
        node = node[name]
    return "null" if node is None else json.dumps(node) if isinstance(node, bool) else str(node)


def _matches(own: str, value: str) -> bool:
    return any(fnmatchcase(part, value) for part in (own, *own.split(", ")))


def needs_of(store: Store, stage: str, key: str) -> Iterator[Reference]:
    """What an artifact was made of, as its key.json says, the nearest first."""
    if stage == "finetune":
        return
    parts = read_json(store.path(stage, key) / "key.json")
    nearest: list[Reference] = []
    if stage == "cell":
        nearest = [("judge", own["scores"]) for own in parts["evaluations"].values()]
        nearest += [("finetune", parts["finetune"])] if parts["finetune"] else []
    elif stage == "judge":
        nearest = [("generate", parts["generate"])]
    else:  # answers, changed weights and analyses are of a model
        made = ((stage, parts["model"].get(stage)) for stage in ("posthoc", "finetune"))
        nearest = [(stage, key) for stage, key in made if key]
    for reference in nearest:
        yield reference
        if store.has(*reference):
            yield from needs_of(store, *reference)


def scores_of(store: Store, cell: str) -> dict[str, str]:
    """The key of the labels of each of a cell's evaluations."""
    parts = read_json(store.path("cell", cell) / "key.json")
    return {name: own["scores"] for name, own in parts["evaluations"].items()}


def labelled(store: Store, judge: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each answer with its score, in the order of the queries."""
    folder = store.path("judge", judge)
    answers = store.path("generate", read_json(folder / "key.json")["generate"])
    rows = read_jsonl(answers / "completions.jsonl")
    return list(zip(rows, read_jsonl(folder / "scores.jsonl"), strict=True))


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def in_bytes(size: float) -> str:
    """ "7.8 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


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
            f"no key in {store.root} begins with {beginning!r}; ptst ls lists them "
            "(ptst rm also takes failed, unused, damaged)."
        )
    if len(found) > 1:
        named = ", ".join(f"{NAMES.get(stage, stage)} {key}" for stage, key in found[:5])
        raise ConfigError(f"{beginning!r} is the beginning of {len(found)} keys: {named}.")
    return found[0]


def _plain(beginning: str) -> str:
    """A key's beginning, which is neither a pattern nor a path."""
    if not beginning.isalnum():
        raise ConfigError(f"{beginning!r} is not a key; ptst ls lists them.")
    return beginning
