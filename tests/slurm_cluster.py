"""A SLURM cluster on this machine, from Debian's packages: real daemons, virtual nodes, nothing to
configure.

`python tests/slurm_cluster.py FOLDER` starts one and prints how to use it; Ctrl-C stops it.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
SEARCH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
CORES, GPUS = 32, 8
"""What a virtual node says it has; nobody checks."""

CONFIG = """
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={base}/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd-%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=60
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout={node_timeout}
MaxArraySize={max_array_size}
MaxJobCount={max_jobs}
MinJobAge={forget_after}
EnforcePartLimits={enforce}
Epilog={base}/epilog.sh
{more}
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}] CPUs={cores} Boards=1 SocketsPerBoard=1 CoresPerSocket={cores} ThreadsPerCore=1 RealMemory=512000 Gres=gpu:{gpus} Feature=virtual State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=high Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=10 PreemptMode=OFF
PartitionName=short Nodes=ALL MaxTime=10 DefaultTime=10
PartitionName=hidden Nodes=ALL MaxTime=INFINITE Hidden=YES
"""

ACCOUNTING = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStoragePass={base}/munge.socket
AccountingStorageEnforce=limits,qos
"""

EPILOG = """#!/bin/bash
while [ -e {base}/linger ]; do sleep 0.05; done
"""
"""What a node does after each job."""

DATABASE = """AuthType=auth/munge
AuthInfo=socket={base}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
LogFile={base}/slurmdbd.log
PidFile={base}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mysql_port}
StorageUser=slurm
StoragePass=virtual
StorageLoc=slurm_acct_db
"""


def installed(*programs: str) -> bool:
    """Whether all programs of a cluster are there (Debian: slurm-wlm, munge)."""
    return all(shutil.which(program, path=SEARCH) for program in (*PROGRAMS, *programs))


def need_accounting() -> None:
    """Skip a test where no cluster with accounts can be made; fail where one is required."""
    import pytest

    if not installed("mariadbd", "slurmdbd"):
        lacking = "slurmdbd and mariadb-server are not installed: no cluster with accounts"
        (pytest.fail if os.environ.get("PTST_REQUIRE_SLURM") else pytest.skip)(lacking)


@dataclass
class Cluster:
    """Settings of a cluster, and the cluster itself between `start` and `stop`.

    Attributes:
        up: whether nodes have daemons; without, every job stays pending.
        announce: whether a preempted job gets the signal that it asked for (an administrator's
            choice).
        forget_after: seconds until squeue forgets a job that has ended.
        grace: seconds between a preemption's signal and its end.
        node_timeout: seconds of silence after which a node counts as dead.
        accounting: whether slurmdbd and a data base answer sacct, and limits of QOS count.
        private: whether users see their own jobs alone.
    """

    base: Path
    nodes: int = 4
    up: bool = True
    max_array_size: int = 1001
    max_jobs: int = 10000
    forget_after: int = 3600
    enforce: str = "ALL"
    announce: bool = False
    grace: int = 10
    node_timeout: int = 60
    accounting: bool = False
    private: bool = False
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.base / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.config), "PATH": SEARCH}

    def start(self) -> None:
        """Start the daemons and wait until jobs can run."""
        self.base.mkdir(parents=True)
        (self.base / "state").mkdir()
        (self.base / "spool").mkdir()
        key = self.base / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        ports = _free_ports(self.nodes + 3)
        more = "SlurmctldParameters=preempt_send_user_signal\n" if self.announce else ""
        if self.private:
            more += "PrivateData=jobs\n"
        facts = {
            "base": self.base,
            "user": getpass.getuser(),
            "port": ports[1],
            "mysql_port": ports[2],
        }
        if self.accounting:
            more += ACCOUNTING.format(**facts)
        self.config.write_text(
            CONFIG.format(
                **facts,
                host=socket.gethostname().split(".")[0],
                controller_port=ports[0],
                max_array_size=self.max_array_size,
                max_jobs=self.max_jobs,
                forget_after=self.forget_after,
                enforce=self.enforce,
                grace=self.grace,
                node_timeout=self.node_timeout,
                more=more,
                nodes=self.nodes,
                first_port=ports[3],
                last_port=ports[-1],
                cores=CORES,
                gpus=GPUS,
            )
        )
        (self.base / "gres.conf").write_text(
            f"NodeName=n[1-{self.nodes}] Name=gpu File=/dev/tty[0-{GPUS - 1}]\n"
        )
        epilog = self.base / "epilog.sh"
        epilog.write_text(EPILOG.format(**facts))
        epilog.chmod(0o755)
        (self.base / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        munge = [f"--{name}={self.base}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "log-file", "seed-file")]  # fmt: skip
        # --force: temporary folders are private, and a socket should be for all
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}", *munge)
        self._wait(lambda: (self.base / "munge.socket").exists(), "munged")
        if self.accounting:
            self._start_accounting(DATABASE.format(**facts), ports[2])
        self.start_controller()
        if self.up:
            for number in range(1, self.nodes + 1):
                self.start_node(number)
            self._wait(lambda: self.ask("sinfo", "-h", "-p", "low", "-o", "%T %D") == f"idle {self.nodes}", "nodes")  # fmt: skip

    def start_controller(self) -> None:
        """Start slurmctld, also after it was killed, and wait until it answers."""
        self._daemon("slurmctld", "-D")
        self._wait(lambda: self.run("scontrol", "ping").returncode == 0, "slurmctld")

    def start_node(self, number: int) -> None:
        """Start a node's daemon."""
        self._daemon("slurmd", "-D", "-N", f"n{number}")

    def save(self) -> None:
        """Wait until slurmctld has written down what its jobs do, which it puts off for some
        seconds.

        Killed before, it would start a running job once more when it comes back.
        """
        before = time.time()
        for job in {job.split("_")[0] for job in self.states()}:
            self.run("scontrol", "update", f"JobId={job}", "Comment=saved")  # something to write
        state = self.base / "state" / "job_state"
        self._wait(lambda: state.exists() and state.stat().st_mtime > before, "job_state")

    @contextmanager
    def lingering(self) -> Iterator[None]:
        """Meanwhile a job that ends stays COMPLETING."""
        linger = self.base / "linger"
        linger.touch()
        try:
            yield
        finally:
            linger.unlink()

    def kill(self, name: str) -> None:
        """Kill a daemon ("slurmctld", "n2") as a crash would."""
        pid = self.base / (f"slurmd-{name}.pid" if name.startswith("n") else f"{name}.pid")
        os.kill(int(pid.read_text()), signal.SIGKILL)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one of SLURM's commands."""
        own = os.environ | self.environment
        return subprocess.run(command, env=own, capture_output=True, text=True, timeout=60)

    def ask(self, *command: str) -> str:
        """What a command prints."""
        return self.run(*command).stdout.strip()

    def states(self, *columns: str) -> dict[str, str]:
        """By task id ("12_3") the states of all jobs that SLURM remembers, or other columns of
        squeue."""
        wanted = ",".join(f"{column}:.400" for column in ("JobArrayID", *(columns or ("State",))))
        lines = self.ask("squeue", "-h", "-r", "-t", "all", "-O", wanted).splitlines()
        return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}

    def stop(self) -> None:
        """Cancel what runs, and stop the daemons."""
        if self.config.exists() and self.run("scontrol", "ping").returncode == 0:
            self.run("scancel", "--user", getpass.getuser())
            end = time.monotonic() + 20
            while self.ask("squeue", "-h", "-t", "R,CG") and time.monotonic() < end:
                time.sleep(0.2)
        for child in reversed(self.children):
            child.terminate()
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _daemon(self, program: str, *arguments: str) -> None:
        found = shutil.which(program, path=SEARCH)
        assert found is not None, f"{program} is not installed"
        log = (self.base / f"{program}.out").open("ab")
        own = os.environ | self.environment
        self.children.append(
            subprocess.Popen([found, *arguments], env=own, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        )  # fmt: skip

    def _wait(self, there: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 60
        while not there():
            if time.monotonic() > end or any(c.poll() not in (None, -9) for c in self.children):
                logs = "".join(
                    p.read_text(errors="replace")[-2000:] for p in self.base.glob("*.out")
                )
                raise RuntimeError(f"{what} did not come up; see {self.base}\n{logs}")
            time.sleep(0.05)

    def _start_accounting(self, config: str, mysql_port: int) -> None:
        data = self.base / "mysql"
        user = getpass.getuser()
        install = ["mariadb-install-db", "--no-defaults", f"--user={user}", f"--datadir={data}"]
        install += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install, check=True, capture_output=True)
        server = [
            "--no-defaults",
            f"--user={user}",
            f"--datadir={data}",
            "--bind-address=127.0.0.1",
        ]
        server += [f"--socket={self.base}/mysql.sock", f"--port={mysql_port}", "--skip-log-bin"]
        server += ["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"]
        self._daemon("mariadbd", *server)
        client = ["mariadb", "--no-defaults", "-S", str(self.base / "mysql.sock"), "-uroot", "-e"]
        self._wait(lambda: self.run(*client, "select 1").returncode == 0, "mariadbd")
        self.run(*client, "create database slurm_acct_db; create user slurm@'127.0.0.1' identified by 'virtual'; create user slurm@localhost identified by 'virtual'; grant all on slurm_acct_db.* to slurm@'127.0.0.1'; grant all on slurm_acct_db.* to slurm@localhost")  # fmt: skip
        file = self.base / "slurmdbd.conf"
        file.touch(0o600)
        file.write_text(config)
        self._daemon("slurmdbd", "-D")
        self._wait(
            lambda: self.run("sacctmgr", "-n", "show", "cluster").returncode == 0, "slurmdbd"
        )
        for what in (["cluster", "virtual"], ["account", "lab"], ["user", getpass.getuser()]):
            account = ["account=lab", "defaultaccount=lab"] if what[0] == "user" else []
            self.run("sacctmgr", "-i", "add", *what, *account)


def as_user(uid: int, call: Callable[[], None]) -> None:
    """Call something in a process of another user, which only root can make.

    Raises:
        AssertionError: the call raised something, whose traceback is printed.
    """
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            call()
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, "see standard error"


def _free_ports(count: int) -> list[int]:
    """Ports in a row that nobody listens on; below what systems hand out by themselves."""
    for _ in range(100):
        first = 10000 + secrets.randbelow(20000)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return list(range(first, first + count))
    raise RuntimeError("no free ports")


def main(folder: str) -> None:
    """Run a cluster until it is interrupted."""
    cluster = Cluster(Path(folder).resolve())
    try:
        cluster.start()
        print(f"export SLURM_CONF={cluster.config}  # Ctrl-C here stops the cluster", flush=True)  # noqa: T201
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        cluster.stop()


if __name__ == "__main__":
    main(sys.argv[1])
