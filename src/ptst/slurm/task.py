"""What a job runs: its task of a submission. `python -m ptst.slurm.task <submission.json> <index>`

SLURM announces a time limit and, where the cluster is set so, a preemption by SIGUSR1; elsewhere
the latter by SIGTERM, as it does scancel. Either way the work stops at its next step, where all of
it is kept, and the job is queued again unless SLURM is ending it. A job some of whose cells failed
exits with 1, so that SLURM and what waits for it know; one that only fine-tunes, if its fine-tuning
is not there: what waits for it tests the other cells, and a failed one fails again there.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from threading import Event, Timer
from types import FrameType

FORCED_AT_MOST = 3
"""How often in a row a job may be queued again although it did not come to a step where it could
stop."""


def main(arguments: list[str]) -> int:
    """Run a task.

    Returns:
        0; 1 if a cell failed (of a job that only fine-tunes: the fine-tuning), or the job was cut
        off.
    """
    file, index = Path(arguments[0]), int(arguments[1])
    job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{index}"
    forced = file.parent / f"{index}.forced"
    stopping = Event()
    limit = Timer(float(os.environ["PTST_SIGNAL_SECONDS"]) * 0.6, _by_force, (job, forced))
    limit.daemon = True

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopping.is_set():
            stopping.set()
            limit.start()

    # Before anything that takes seconds to import: until here, a signal would kill.
    for announced in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(announced, stop)

    from ptst.errors import Interrupted
    from ptst.progress import say
    from ptst.slurm.cluster import is_overdue, requeue
    from ptst.slurm.ledger import read
    from ptst.store import Store
    from ptst.sweep.run import run_job

    entry = read(file)
    task = entry.tasks[index]
    where = os.environ.get("SLURMD_NODENAME", "?")
    say(f"{entry.name} {job} on {where}, restart {os.environ.get('SLURM_RESTART_COUNT', '0')}")
    try:
        failed = run_job(
            Path(entry.frozen), task.numbers, entry.stages, stopping.is_set, expected=task.cells
        )
    except Interrupted as interrupted:
        limit.cancel()
        forced.unlink(missing_ok=True)
        say(f"stopped: {interrupted}; asking SLURM to queue this job again")
        requeue(job)
        return 1  # counts only if it was not
    say(
        f"{entry.name} {job}: {len(task.cells) - failed} of {len(task.cells)} cells without failure"
    )
    if entry.stages == ("finetune",):
        failed = not Store(file.parents[2]).has("finetune", str(task.finetune))
    if failed:
        return 1
    if is_overdue(job):
        say("done, but after its time: asking SLURM to queue this job again, to end as COMPLETED")
        requeue(job)
    return 0


def _by_force(job: str, forced: Path) -> None:
    """The limit is near, and no step has ended: the next run starts from what was kept last."""
    from ptst.progress import say
    from ptst.slurm.cluster import requeue

    times = 1 + (int(forced.read_text()) if forced.exists() else 0)
    if times > FORCED_AT_MOST:
        say(
            f"for the {times}th time in a row this job's time ended before a step did: its time limit, or "
            "signal_seconds, is too short. It is not queued again."
        )
    else:
        forced.write_text(str(times))
        say("no step has ended in time; asking SLURM to queue this job again")
        requeue(job)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
