"""What may be removed from a store: one artifact, or what is failed, unused or damaged."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from ptst.errors import ConfigError, PtstError
from ptst.inventory.artifacts import NAMES, Reference, find, in_bytes, needs_of, size_of
from ptst.store import ARTIFACTS, Store, each_row

if TYPE_CHECKING:
    from rich.console import Console

SHORTEST = 6
"""Digits of a key by which something may be removed."""


def remove(store: Store, what: str, yes: bool, out: Console) -> None:
    """Say what would be removed, and remove it if `yes`.

    Args:
        what: the beginning of a key, or "failed", "unused" or "damaged".

    Raises:
        ConfigError: see `find`.
        PtstError: an artifact is being made just now.
    """
    paths = _meant(store, what, out)
    size = 0
    for path in paths:
        own = size_of(path) if path.is_dir() else path.stat().st_size
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


def _meant(store: Store, what: str, out: Console) -> list[Path]:
    """The files and folders that `remove` is asked to remove."""
    if what == "failed":
        begun = _left_behind(store)
        dead = [p for p in begun if not store.is_being_made(p.parent.name, p.name)]
        return sorted((store.root / "failed").glob("*")) + dead
    if what == "damaged":
        return store.damaged()
    if what == "unused":
        return [store.path(*reference) for reference in unused(store)]
    if len(what) < SHORTEST:
        raise ConfigError(f"{what!r}: name failed, unused, damaged, or {SHORTEST} digits of a key.")
    stage, key = find(store, what)
    if stage == "failed":
        return [*(store.root / "failed").glob(f"{key}.*")]
    _tell_users(store, (stage, key), out)
    return [store.path(stage, key)]


def unused(store: Store) -> list[Reference]:
    """Fine-tunings, answers and labels that no cell needs.

    No cell of the store was made of them, and no cell of a sweep waits for them.

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
        needed.update(needs_of(store, "cell", folder.name))
    return [
        (stage, folder.name)
        for stage in ARTIFACTS
        if stage != "cell"
        for folder in sorted((store.root / stage).glob("*"))
        if (stage, folder.name) not in needed
        and waited.isdisjoint(own := set(needs_of(store, stage, folder.name)))
        and not (stage == "analyse" and own <= needed)  # it says something of a model that counts
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
    """Say which artifacts were made of this one: they stay."""
    users = [
        f"{NAMES[stage]} {folder.name[:8]}"
        for stage in ARTIFACTS
        for folder in sorted((store.root / stage).glob("*"))
        if reference in needs_of(store, stage, folder.name)
    ]
    if users:
        more = f" and {len(users) - 8} more" if len(users) > 8 else ""
        out.print(
            f"made of it: {', '.join(users[:8])}{more}; they stay", markup=False, style="yellow"
        )


def _take_away(store: Store, path: Path) -> None:
    """Remove a file or a folder.

    A folder leaves its place at once, so that nothing looks whole that is half removed.
    """
    if path.is_file():
        path.unlink()
        return
    if store.is_being_made(path.parent.name, path.name):
        raise PtstError(f"{path} is being made just now; it stays.")
    aside = store.root / "removed" / uuid4().hex
    aside.parent.mkdir(exist_ok=True)
    path.rename(aside)
    shutil.rmtree(aside)
