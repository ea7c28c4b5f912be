"""The command line without the seconds that importing PyTorch, transformers and TRL takes.

A server process imports the libraries once, and nothing of ptst. For every command it forks: the
child takes the caller's arguments, environment, folder and streams, imports ptst from the caller's
PYTHONPATH, and is a process like any other from there on, to be watched and killed by its own id.

    python warm.py SERVE SOCKET               the server, until its standard input ends
    python warm.py SOCKET -m MODULE arguments a command, as `python -m MODULE arguments` runs it

Where the caller dies, its command is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

AT_IMPORT = ("HF_", "TRANSFORMERS_", "OMP_", "HOME", "XDG_", "CUDA_", "PYTHONHASHSEED")
"""Variables that libraries read when they are imported: a command cannot have others than the
server."""


PYTHON = "PTST_TEST_PYTHON"
"""What a command takes for the Python that it starts others with."""


def serve(path: str) -> None:
    """Fork for every command that comes, until standard input ends."""
    import datasets  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import pandas  # noqa: F401
    import scipy.stats  # noqa: F401
    import wandb.sdk.launch  # noqa: F401
    from peft import PeftModel  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: F401
    from trl import SFTConfig, SFTTrainer  # noqa: F401

    gc.collect()
    gc.freeze()  # what is here stays, and no child has to look through it
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        print("ready", flush=True)  # noqa: T201
        while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
            caller, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _run(caller)
            caller.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:  # those that waited for earlier commands
                    pass


def _run(caller: socket.socket) -> None:
    """Run a caller's command in a fork, and tell the caller its process id and how it ended. Does
    not return."""
    message, streams, _, _ = socket.recv_fds(caller, 65536, 3)
    while not message.endswith(b"\n"):
        message += caller.recv(65536)
    asked = json.loads(message)
    pid = os.fork()
    if pid == 0:
        caller.close()
        os._exit(_main(asked, streams))
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(OSError):
        caller.sendall(pid.to_bytes(4, "little"))
    over = os.pidfd_open(pid)
    if over not in select.select([over, caller], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        caller.sendall(status.to_bytes(4, "little"))
    os._exit(0)


def _main(asked: Mapping[str, Any], streams: Sequence[int]) -> int:
    import random
    import runpy

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # A shell starts what runs in the background with Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    theirs = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    here = str(Path(__file__).parent)
    others = [path for path in sys.path if path not in (*own, here)]
    sys.path[:] = [asked["folder"], *filter(None, theirs), *others]
    _, module, *arguments = asked["words"]
    sys.argv = [module, *arguments]
    sys.executable = os.environ.get(PYTHON, sys.executable)
    random.seed()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    # As a process ends by itself: threads, then what is registered, then streams.
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


@cache
def server() -> str:
    """The address of this process's server, which is started when the first command is run."""
    folder = tempfile.mkdtemp(prefix="ptst-warm-")
    path = f"{folder}/socket"
    running = subprocess.Popen(
        [sys.executable, __file__, "SERVE", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
    )

    def end() -> None:
        assert running.stdin is not None
        running.stdin.close()
        running.wait(60)
        Path(path).unlink(missing_ok=True)
        Path(folder).rmdir()

    atexit.register(end)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    return path


class Running:
    """A command that runs, with what tests use of `subprocess.Popen`; its streams go to files."""

    def __init__(
        self, path: str, words: Sequence[str], environment: Mapping[str, str], streams: list[int]
    ) -> None:
        self.returncode: int | None = None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(path)
        asked = {"words": list(words), "environment": dict(environment), "folder": str(Path.cwd())}
        message = json.dumps(asked).encode() + b"\n"
        sent = socket.send_fds(self._server, [message], streams)
        self._server.sendall(message[sent:])
        self.pid = self._read()

    def _read(self) -> int:
        told = self._server.recv(4, socket.MSG_WAITALL)
        assert len(told) == 4, "the server died"
        return int.from_bytes(told, "little")

    def wait(self, timeout: float | None = None) -> int:
        """How it ended; subprocess.TimeoutExpired where it has not."""
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("ptst", timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(self._read())
            self._server.close()
        return self.returncode

    def poll(self) -> int | None:
        """How it ended, None where it has not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it is over."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Command(Running):
    """A command whose streams are read when it is over."""

    def __init__(
        self, *words: str, environment: Mapping[str, str], module: str = "ptst.cli"
    ) -> None:
        differing = [
            name
            for name in os.environ.keys() | environment.keys()
            if name.startswith(AT_IMPORT)
            and name != "OMP_NUM_THREADS"
            and os.environ.get(name) != environment.get(name)
        ]
        assert not differing, f"a warm process cannot have another {differing}"
        self._streams: list[IO[str]] = [
            tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
            for _ in range(2)
        ]
        with Path(os.devnull).open() as nothing:
            streams = [nothing.fileno(), *(stream.fileno() for stream in self._streams)]
            super().__init__(server(), ["-m", module, *words], environment, streams)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait, and read what it wrote to standard output and standard error."""
        self.wait(timeout)
        said = []
        for stream in self._streams:
            stream.seek(0)
            said.append(stream.read())
            stream.close()
        return said[0], said[1]


def put_python(folder: Path) -> Path:
    """What runs `-m MODULE arguments` as Python does, in a warm process."""
    path = folder / "python"
    path.write_text(f'#!/bin/bash\nexec {sys.executable} -I {__file__} {server()} "$@"\n')
    path.chmod(0o755)
    return path


def run(path: str, words: Sequence[str]) -> int:
    """A command with this process's streams and environment; a signal for this process is one for
    the command."""
    running = Running(path, words, os.environ, [0, 1, 2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda got, _: running.send_signal(got))
    code = running.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    if sys.argv[1] == "SERVE":
        serve(sys.argv[2])
    else:
        sys.exit(run(sys.argv[1], sys.argv[2:]))
