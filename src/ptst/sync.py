"""The W&B runs of a store, uploaded where W&B does not have all of them yet: `ptst sync`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ptst.errors import PtstError
from ptst.progress import progress, say
from ptst.store import Store, locked
from ptst.tracking import offline_runs, server
from ptst.upload import Place, Upload, address_at, mark
from ptst.wandb_file import read_records

FIRST, AT_ONCE = 5, 50
"""Runs that are handed to W&B together; few at first, in case nothing gets through."""


@dataclass(frozen=True)
class StoredRun:
    """A run on disk, and where it is to be. `id` is <stage>-<key>, `name` what people see."""

    file: Path
    id: str
    name: str
    place: Place


@dataclass
class Synced:
    """What came of a sync, by the runs' ids: their addresses in W&B, and why some are not there."""

    uploaded: dict[str, str] = field(default_factory=dict)
    there: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """What people call the runs."""
    unfinished: int = 0


def sync(
    store: Store,
    wanted: set[str] | None = None,
    entity: str | None = None,
    project: str | None = None,
) -> Synced:
    """Upload what W&B does not have yet.

    Args:
        wanted: ids of runs; None for all of the store.
        entity, project: where to; None for where each run was logged to.

    Raises:
        PtstError: another sync of this store is under way.
    """
    if not (store.root / "wandb").is_dir():
        return Synced()

    def refuse() -> None:
        raise PtstError(f"another ptst sync of {store.root} is under way.")

    with locked(store.root / "wandb" / "sync.lock", refuse):
        return _sync(store, wanted, entity, project)


def _sync(store: Store, wanted: set[str] | None, entity: str | None, project: str | None) -> Synced:
    done = Synced()
    todo: list[StoredRun] = []
    for folder in offline_runs(store.root):
        id = folder.name.split("-", 3)[3]  # offline-run-<time>-<id>
        if wanted is not None and id not in wanted:
            continue
        # A run is closed before its artifact appears, so what is being written is never taken.
        stage, _, key = id.partition("-")
        if not store.has(stage, key):
            done.unfinished += 1
            continue
        run = _begin(folder, id, entity, project)
        done.names[id] = run.name
        if (address := address_at(run.place, folder)) is not None:
            done.there[id] = address
        elif _has_ended(run.file):
            todo.append(run)
        else:
            done.failed[id] = f"{run.file} is cut off; `wandb sync {folder}` uploads what there is"
    total, size = len(todo), FIRST
    if todo:
        say(f"uploading {total} {'run' if total == 1 else 'runs'} to {server()}")
    with progress("sync") as advance:
        while todo:
            now, todo, size = todo[:size], todo[size:], AT_ONCE
            upload = Upload([run.file for run in now], entity, project)
            upload.wait()
            ended = upload.end()
            for run in now:
                address, reason = ended[run.file]
                if reason is None:
                    mark(run.place, run.file.parent, address)
                    done.uploaded[run.id] = address
                else:
                    done.failed[run.id] = reason
            advance(total - len(todo), total, "")
            if todo and not any(run.id in done.uploaded for run in now):
                done.failed.update(
                    {run.id: "not tried: none before it got through" for run in todo}
                )
                break
    return done


def _begin(folder: Path, id: str, entity: str | None, project: str | None) -> StoredRun:
    """What a run's file says first."""
    file = folder / f"run-{id}.wandb"
    said = next((record.run for record in read_records(file) if record.HasField("run")), None)
    own = (said.entity, said.project, said.display_name) if said else ("", "", "")
    return StoredRun(file, id, own[2], Place(server(), entity or own[0] or None, project or own[1]))


def _has_ended(file: Path) -> bool:
    """Whether a run's file was written to its end, and by a run that did not fail."""
    ended = False
    for record in read_records(file):
        ended = record.HasField("exit") and record.exit.exit_code == 0
    return ended
