"""A terminal for tests: a command in a real pseudo-terminal, and what its screen shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

import pyte


def _take(terminal: int) -> None:
    """Make a terminal that of this process, and Ctrl-C heard: a shell's background has it ignored,
    and hands that on."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """Runs a command in a terminal of its own, as its session's leader: Ctrl-C reaches all that it
    started."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], columns: int = 100
    ) -> None:
        self.screen = pyte.Screen(columns, 300)  # so high that nothing scrolls off
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.shown: list[str] = []
        """The screen after everything that was read."""
        self.ours, theirs = pty.openpty()
        size = struct.pack("HHHH", self.screen.lines, columns, 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={"TERM": "xterm-256color", **environment},
            start_new_session=True,
            preexec_fn=lambda: _take(0),
        )
        os.close(theirs)

    @property
    def text(self) -> str:
        """What the screen shows, without empty lines at its end."""
        used = max((y for y, row in self.screen.buffer.items() if row), default=-1) + 1
        rows = [self.screen.buffer[y] for y in range(used)]
        lines = ["".join(row[x].data for x in range(self.screen.columns)).rstrip() for row in rows]
        return "\n".join(lines).rstrip()

    @property
    def colours(self) -> list[bytes]:
        """Codes that set a colour."""
        codes = re.findall(rb"\x1b\[([\d;]*)m", self.raw)
        return [c for c in codes if re.search(rb"(^|;)([349]\d|10[0-7])(;|$)", c)]

    def see(self, pattern: str, seconds: float = 120) -> re.Match[str]:
        """Wait until a pattern is on the screen."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < deadline, f"{pattern!r} was not seen on:\n{self.text}"
            assert self._read(), f"it ended without {pattern!r} on:\n{self.text}"
        return found

    def end(self, seconds: float = 120) -> int:
        """Read to the end, and give the exit status."""
        deadline = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
        return self.process.wait(timeout=30)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self.ours, b"\x03")

    def close(self) -> None:
        """Kill whatever still runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        os.close(self.ours)

    def _read(self) -> bool:
        """Whether there may be more to come."""
        ready, _, _ = select.select([self.ours], [], [], 0.1)
        if ready:
            try:
                read = os.read(self.ours, 1 << 16)
            except OSError:  # Linux's way to say that nobody has the other end any more
                return False
            self.raw += read
            self.stream.feed(read)
            self.shown.append(self.text)
        return True
