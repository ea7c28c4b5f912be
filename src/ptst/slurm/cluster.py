"""What SLURM is asked and told, through its own commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile

from ptst.errors import PtstError

FIELDS = {
    "JobArrayID": 40,
    "Name": 160,
    "State": 24,
    "Reason": 80,
    "NodeList": 80,
    "RestartCnt": 8,
    "EndTime": 24,
}
"""Of squeue, with widths: it pads them, and has no separator that could not stand in a field."""

ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
"""States that a job does not come back from (squeue's and sacct's manual); all others are
active."""

FULL = re.compile(
    r"^(sbatch: error|allocation failure): .*"
    r"(temporarily un(able to accept job|available)|MaxSubmit|GrpSubmit|Slurm cannot accept|MaxJobCount)",
    re.IGNORECASE | re.MULTILINE,
)
"""In what sbatch says where a limit on how many jobs may be queued is reached. Other lines are a
site's own."""


class SlurmError(PtstError):
    """SLURM does not answer, or refuses; with its own words."""


class ClusterFull(SlurmError):
    """SLURM takes no more jobs for now."""


@dataclass(frozen=True)
class Job:
    """A job or a task of an array as SLURM sees it: id "12_3", state "PENDING", reason
    "Priority"."""

    id: str
    name: str
    state: str
    reason: str
    node: str
    restarts: int

    @property
    def active(self) -> bool:
        """Whether it is queued or runs, or may again."""
        return self.state not in ENDED


def check_there() -> None:
    """Whether this is a machine of a cluster.

    Raises:
        SlurmError: SLURM's commands are not installed.
    """
    if shutil.which("sbatch") is None:
        raise SlurmError(
            "hydra/launcher=slurm needs SLURM's commands, and there is no sbatch here: run it on a login "
            "node of the cluster, or leave the launcher out to run here."
        )


def submit(arguments: Sequence[str], hold: int | None = None, seconds: float = 60) -> str | None:
    """Submit a job.

    Args:
        arguments: of sbatch.
        hold: a file descriptor that sbatch inherits: a lock on it lasts until sbatch, too, has
            ended.
        seconds: how long SLURM may take. After that it is not known whether the job was taken.

    Returns:
        Its id. None if there is none to be told from what a site's sbatch prints besides.

    Raises:
        ClusterFull: no more jobs may be queued.
        SlurmError: the request is refused, or SLURM does not answer.
    """
    with TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            ["sbatch", "--parsable", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            pass_fds=() if hold is None else (hold,),
            start_new_session=True,  # Ctrl-C ends ptst, and not sbatch in the middle of it
        )

        def said() -> str:
            errors.seek(0)
            return errors.read()

        end = time.monotonic() + seconds
        while True:
            try:
                out, _ = process.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                if not FULL.search(said()) and time.monotonic() < end:
                    continue  # where the queue is full, sbatch would try again for minutes
            process.kill()
            process.wait()
            if FULL.search(said()):
                raise ClusterFull(_plain_words(said()))
            raise SlurmError(
                f"sbatch took more than {seconds:.0f} s: {_plain_words(said()) or 'no answer'}"
            )
        if process.returncode:
            raise _refusal(said())
        ids = re.findall(r"^(\d+)(?:;\S*)?$", out, re.MULTILINE)
        return ids[0] if len(ids) == 1 else None


def _refusal(errors: str) -> SlurmError:
    words = _plain_words(errors)
    if FULL.search(errors):
        return ClusterFull(words)
    if "accounting/QOS policy" not in errors:
        return SlurmError(words)
    # SLURM has one sentence for all limits. Which one it is, it says in a line of its own, in older
    # versions nowhere
    limit = re.search(r"\b(QOS|Assoc)\w+Limit\b", errors)
    if limit is None:
        return SlurmError(
            f"{words}. SLURM does not say which limit; `sacctmgr show qos` and `sacctmgr show associations` list "
            "them. If it is one on how many jobs may be queued (MaxSubmitJobs), submit again when fewer are."
        )
    whose, where = ("QOS", "qos") if limit[1] == "QOS" else ("account", "associations")
    return SlurmError(
        f"{limit[0]}: one job alone is more than your {whose} allows. Ask for less, or for another {whose}; "
        f"`sacctmgr show {where}` lists the limits."
    )


def queue(others: Iterable[int] = ()) -> list[Job]:
    """The jobs and tasks that SLURM remembers of this user, ended ones included for some minutes.

    Args:
        others: ids of users whose jobs are listed, too, unless the cluster hides them
            (`hides_jobs`).

    Raises:
        SlurmError: SLURM does not answer.
    """
    wanted = ",".join(f"{name}:{width}" for name, width in FIELDS.items())
    users = ",".join(str(user) for user in sorted({os.getuid(), *others}))
    # --all: partitions that a site hides, too
    command = ["squeue", "--noheader", "--all", "--array", "--states=all", f"--user={users}"]
    listed = _ask([*command, "-O", wanted])
    return [_job(line) for line in listed.splitlines() if re.match(r"\d+(_\d+)?\s", line)]


def _job(line: str) -> Job:
    values, start = [], 0
    for width in FIELDS.values():
        values.append(line[start : start + width].strip())
        start += width
    id_, name, state, reason, node, restarts, end = values
    # While its node is cleaned up, a job is COMPLETING, and SLURM does not say from which state to
    # which. One that is to be queued again has its end before it; others have ended, and a
    # cancelled one has no reason.
    if state == "COMPLETING" and end.isdigit() and float(end) < time.time() + 30:
        state = "CANCELLED" if reason == "None" else "FAILED"
    return Job(id_, name, state, reason, node, int(restarts or 0))


def hides_jobs() -> bool:
    """Whether users see their own jobs alone here. Administrators see more, and are told the
    same."""
    return os.getuid() != 0 and "jobs" in (_setting("PrivateData") or "").split(",")


def accounting(ids: Iterable[str]) -> list[Job]:
    """What the accounting data base says of jobs that SLURM itself has forgotten; nothing without
    one."""
    wanted = ",".join(sorted(ids))
    command = [
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        "--duplicates",
        "--jobs",
        wanted,
    ]
    command += ["--format=JobID,State,NodeList,JobName"]  # a name may have any character
    if not wanted or shutil.which("sacct") is None:
        return []
    try:
        listed = _ask(command)
    except SlurmError:  # not every cluster keeps accounts
        return []
    jobs: dict[str, Job] = {}
    starts: dict[str, int] = {}
    for line in listed.splitlines():
        id_, state, node, name = line.split("|", 3)
        starts[id_] = starts.get(id_, -1) + 1
        jobs[id_] = Job(id_, name, state.split()[0], "", node, starts[id_])
    return list(jobs.values())


def max_array_size() -> int:
    """MaxArraySize: indices of an array stay below it."""
    return int(_setting("MaxArraySize") or 1001)  # SLURM's default


def _setting(name: str) -> str | None:
    found = re.search(rf"^{name}\s*=\s*(\S+)", _ask(["scontrol", "show", "config"]), re.MULTILINE)
    return found[1] if found else None


def time_limit(partition: str | None) -> str | None:
    """The longest time limit that a partition (None: the default one) allows, as SLURM spells it;
    None: any."""
    for line in _ask(["sinfo", "--noheader", "--all", "-o", "%P|%l"]).splitlines():
        name, _, limit = line.partition("|")
        if name.rstrip("*") == partition or (partition is None and name.endswith("*")):
            return None if limit in ("infinite", "n/a") else limit
    return None


def all_nodes_up(partition: str | None) -> bool:
    """Whether every node of a partition (None: of the cluster) can be had, now or once it is
    free."""
    chosen = [f"--partition={partition}"] if partition else []
    states = _ask(["sinfo", "--noheader", *chosen, "-o", "%T"]).split()
    return all(
        re.fullmatch(r"(idle|alloc|mix|comp|reserved|planned)\w*[~#%$@^-]*", s) for s in states
    )


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs; one that has ended by now is not an error."""
    for start in range(0, len(ids), 500):  # a command line has an end
        _ask(["scancel", "--quiet", *ids[start : start + 500]])


def requeue(job: str, seconds: float = 60) -> bool:
    """Queue a job again, from within it: the last that it does. One that SLURM is ending is left
    alone.

    Returns:
        False if SLURM did not answer, or refused, for so many seconds (its controller may be
        starting again).
    """
    end = time.monotonic() + seconds
    command = ["squeue", "--noheader", "--all", f"--jobs={job}"]
    while True:
        try:
            state = _ask([*command, "--states=all", "-O", "State:24"])
            if "RUNNING" in state.split():  # and not cancelled, say
                _ask(["scontrol", "requeue", job])
            return True
        except SlurmError:
            if time.monotonic() > end:
                return False
            time.sleep(5)


def is_overdue(job: str) -> bool:
    """Whether a running job's time is over: its limit, or what a preemption left it.

    Until SLURM kills it, such a job may still end well, and then counts as TIMEOUT (seen in 22.05):
    what waits for it is cancelled. False where SLURM does not answer.
    """
    try:
        end = _ask(["squeue", "--noheader", "--all", f"--jobs={job}", "-O", "EndTime:24"]).strip()
    except SlurmError:
        return False
    return end.isdigit() and float(end) < time.time() + 2


def _ask(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=_plain())
    except FileNotFoundError:
        raise SlurmError(f"there is no {command[0]} here.") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(
            f"SLURM does not answer: {command[0]} took more than two minutes."
        ) from None
    if done.returncode:
        raise SlurmError(f"{command[0]}: {_plain_words(done.stderr)}")
    return done.stdout


def _plain() -> dict[str, str]:
    """The environment without what would change squeue's and sacct's output; times in seconds since
    the epoch."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SACCT_"))}
    return kept | {"SLURM_TIME_FORMAT": "%s"}


def _plain_words(errors: str) -> str:
    lines = [
        re.sub(r"^(sbatch|squeue|sacct|scontrol|scancel): (error: )?", "", x)
        for x in errors.split("\n")
    ]
    return " ".join(line.strip() for line in lines if line.strip())
