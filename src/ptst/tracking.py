"""Weights & Biases: one run per fine-tuning and one per cell, each whole, ids from the keys.

A run is files under <store>/wandb that `ptst sync` can upload later; `online`, another process
uploads them while they are written. No result depends on W&B: what goes wrong with a run is said,
and the work goes on after a few seconds at most.

A run is opened while its artifact is being made, and closed before the artifact appears, so every
artifact has its run, whole. When work resumes after a death, the run starts again with the history
so far (the caller logs it again) and takes the place of the files that the dead one left.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ptst.errors import ConfigError
from ptst.progress import say
from ptst.schema import Tracking
from ptst.store import Maker, reason_of
from ptst.upload import Place, Upload, mark
from ptst.wandb_file import read_records

WAIT = 10.0
"""Seconds within which W&B's service must have written a finished run, and then W&B itself have
taken it."""
SILENT = 3.0
"""Seconds of that after which one is told what is waited for."""
SHORT = 10.0
"""Seconds of generating or judging after which one may want to see how far it is."""
REST = 600.0
"""Seconds for which nothing is uploaded live where W&B did not take a run."""
FLUSH = 2.0
"""Seconds after which a run's file, and so W&B if it is live, has what was logged."""

MODES = {
    "online": "online",
    "offline": "offline",
    "disabled": "none",
    "run": "online",
    "dryrun": "offline",
}
"""W&B's names for modes (WANDB_MODE), and ours."""

_away = -REST
"""When W&B last did not take a run, on the monotonic clock."""


class Run(Protocol):
    """What a stage may tell about itself."""

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Add a point to the history."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set values that stand for the whole run."""

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Upload rows as a table."""


class _Silent:
    def log(self, values: Mapping[str, Any], step: int) -> None:
        pass

    def summary(self, values: Mapping[str, Any]) -> None:
        pass

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        pass


class _Wandb:
    """A run of W&B's; the first thing that goes wrong with it is said, and ends it."""

    def __init__(self, run: Any, id: str) -> None:
        self.run, self.id, self.lost = run, id, False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what goes wrong from the work that the run tells about."""
        try:
            yield
        except Exception as error:  # whatever it is, the result is worth more
            self.lost = True
            say(f"W&B: {self.id} is not logged to its end: {reason_of(error)}")

    def log(self, values: Mapping[str, Any], step: int) -> None:
        if not self.lost:
            with self.kept():
                self.run.log(dict(values), step=step, commit=True)

    def summary(self, values: Mapping[str, Any]) -> None:
        if not self.lost:
            with self.kept():
                self.run.summary.update(dict(values))

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        if self.lost:
            return
        import wandb

        columns = list(dict.fromkeys(column for row in rows for column in row))
        data = [[row.get(column) for column in columns] for row in rows]
        # The copy that W&B uploads as an artifact would go to the home folder and stay there.
        with self.kept(), _environment("WANDB_DATA_DIR", str(_folder_of(self.run))):
            table = wandb.Table(columns=columns, data=data, allow_mixed_types=True)
            self.run.log({name: table})

    def close(self, failed: bool) -> None:
        """End the run, and wait until the file has its end."""
        with self.kept():
            self.run.finish(exit_code=int(failed or self.lost))
            _wait_for(_folder_of(self.run) / f"run-{self.id}.wandb")


@contextmanager
def tracked(
    tracking: Tracking,
    store: Path,
    job_type: str,
    key: str,
    name: str,
    config: Mapping[str, Any],
) -> Iterator[Run]:
    """Open the W&B run of an artifact that is being made.

    Args:
        job_type: the artifact's stage; with `key` it makes the run's id.
        name: what people see.
        config: resolved configuration; holds no secret.
    """
    tracking = resolved(tracking)
    run = None if tracking.mode == "none" else _open(tracking, store, job_type, key, name, config)
    if run is None:
        yield _Silent()
        return
    live: Upload | None = None
    folder = _folder_of(run.run)
    if _is_live(tracking):
        with run.kept():
            live = Upload([folder / f"run-{run.id}.wandb"], None, None, live=True)
    failed = True
    try:
        yield run
        failed = False
    finally:
        run.close(failed)
        if live:
            with run.kept():
                if failed or run.lost:
                    live.end()
                else:
                    place = Place(server(), tracking.entity, str(tracking.project))
                    _deliver(live, folder, run.id, place)


@contextmanager
def watched(
    tracking: Tracking, store: Path, job_type: str, key: str, name: str, config: Mapping[str, Any]
) -> Iterator[Callable[[Maker], None]]:
    """Show in W&B how far long work is while it goes on, in a run of its own.

    There is none where nobody would see it: offline, and for what takes less than `SHORT` seconds.

    Args: as of `tracked`.

    Yields:
        A function that is called with what the work last told the store (queries, queries per
            second).
    """
    began, last = time.monotonic(), 0.0
    run: Run | None = None
    with ExitStack() as opened:

        def progress(maker: Maker) -> None:
            nonlocal run, last
            if maker.updated == last or maker.done is None or not _is_live(resolved(tracking)):
                return
            last = maker.updated
            if run is None and time.monotonic() - began >= SHORT:
                run = opened.enter_context(tracked(tracking, store, job_type, key, name, config))
            if run is not None:
                values = {"queries": maker.done, "queries_per_second": maker.rate}
                run.log({k: v for k, v in values.items() if v is not None}, maker.done)

        yield progress


def _is_live(tracking: Tracking) -> bool:
    return tracking.mode == "online" and time.monotonic() - _away > REST


def _open(
    tracking: Tracking,
    store: Path,
    job_type: str,
    key: str,
    name: str,
    config: Mapping[str, Any],
) -> _Wandb | None:
    id = f"{job_type}-{key}"
    try:
        # Offline, W&B would send reports about itself, and linger where its server does not answer.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        folder = store / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        for stale in offline_runs(store, id):
            shutil.rmtree(stale)
        run = wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            id=id,
            name=name,
            group=tracking.group,
            job_type=job_type,
            config=dict(config),
            mode="offline",
            dir=str(folder),
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_transaction_log_flush_interval=FLUSH,
            ),
        )
    except Exception as error:  # whatever it is, the result is worth more
        say(f"W&B: {id} is not logged: {reason_of(error)}")
        return None
    return _Wandb(run, id)


def _deliver(live: Upload, folder: Path, id: str, place: Place) -> None:
    """Wait a little until W&B has taken a run that has ended."""
    global _away
    soon = live.wait(SILENT)
    if not soon:
        say(f"W&B: waiting {WAIT:.0f} s at most for {place.server} to take {id}")
        soon = live.wait(WAIT - SILENT)
    ((address, reason),) = live.end().values()
    if reason is None:
        mark(place, folder, address)
        return
    _away = time.monotonic()
    late = "" if soon else f" in {WAIT:.0f} s"
    say(
        f"W&B: {place.server} has not taken {id}{late} ({reason}). It is in the store, as are all runs "
        f"of the next {REST / 60:.0f} minutes; `ptst sync` uploads them."
    )


def offline_runs(store: Path, run_id: str = "*") -> list[Path]:
    """The folders of the offline runs of a store, in the order in which they were begun."""
    return sorted((store / "wandb" / "wandb").glob(f"offline-run-*-{run_id}"))


def _wait_for(file: Path) -> None:
    """Wait for the service to write the end of a run: finish() does not, and it dies with us.

    Raises:
        TimeoutError: it has not in `WAIT` seconds.
    """
    deadline = time.monotonic() + WAIT
    while not any(record.HasField("exit") for record in read_records(file)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"W&B's service has not written the end of {file} in {WAIT:.0f} s")
        time.sleep(0.01)


def _folder_of(run: Any) -> Path:
    return Path(run.dir).parent


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def chosen(
    tracking: Tracking, names: Sequence[str] = ("mode", "entity", "project")
) -> tuple[dict[str, str | None], str]:
    """What the configuration says; what it leaves open, W&B's environment variables say.

    Returns:
        By name, None where neither says anything; and, where a variable is set, a line on what is
            used.
    """
    used: dict[str, str | None] = {}
    said = []
    for name in names:
        variable = f"WANDB_{name.upper()}"
        own, given = getattr(tracking, name), os.environ.get(variable) or None
        own = None if own == "auto" else own
        used[name] = own or given
        if given and own and own != given:
            said.append(f"{name} {own} (tracking.{name}, not {variable}={given})")
        elif given and not own:
            said.append(f"{name} {given} ({variable})")
    return used, f"W&B: {', '.join(said)}" if said else ""


def resolved(tracking: Tracking) -> Tracking:
    """Tracking of a known mode and project.

    Raises:
        ConfigError: WANDB_MODE is none of W&B's modes.
    """
    used, _ = chosen(tracking)
    mode = used["mode"] or "offline"
    if tracking.mode == "auto":
        if mode not in MODES:
            raise ConfigError(
                f"WANDB_MODE={mode} is not one of: {', '.join(MODES)}; or choose one of "
                "tracking=wandb_offline, wandb_online, none."
            )
        mode = MODES[mode]
    return replace(tracking, mode=mode, entity=used["entity"], project=used["project"] or "ptst")


def check_tracking(tracking: Tracking) -> None:
    """Refuse `online` without a key, so that W&B never stops to ask for one.

    Raises:
        ConfigError: no key where W&B looks for one; or WANDB_MODE is none of W&B's modes.
    """
    if resolved(tracking).mode == "online":
        what = "WANDB_MODE=online" if tracking.mode == "auto" else "tracking=wandb_online"
        check_key(what, "choose tracking=wandb_offline")


def check_key(what: str, otherwise: str) -> None:
    """Refuse what needs a key for W&B's server where there is none.

    Raises:
        ConfigError: no key where W&B looks for one, or what is not a key.
    """
    if not has_key():
        raise ConfigError(
            f"{what} needs a W&B key: set WANDB_API_KEY, run `wandb login` once, or {otherwise}."
        )


def has_key() -> bool:
    """Whether W&B finds a key (environment, netrc file, its settings); asks nobody, and no server.

    Raises:
        ConfigError: it finds what is not a key.
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb
    from wandb import env
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth  # what wandb.Api looks with: it knows which hosts are the same

    host = env.get_base_url(wandb_setup.singleton().settings.base_url)
    try:
        found = wbauth.authenticate_session(
            host=host, source="ptst", prompt=False, update_session=False
        )
    except wandb.Error as error:
        raise ConfigError(f"tracking: the W&B key cannot be used: {error}") from error
    return found is not None


def server() -> str:
    """The address of W&B's server."""
    return (os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").rstrip("/")
