"""The pages of the documentation as tests run them: the files and commands of their code blocks, in
their order."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from conftest import outside
from warm import put_python

from ptst.paths import ROOT

PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")))  # fmt: skip

BLOCK = re.compile(
    r"^(?:`(?P<file>[\w./-]+)`:\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
"""A code block. One that a line with a path and a colon stands above is a file."""
COMMAND = re.compile(r"cat > .*?<<'END'\n.*?\nEND|(?:[^\n]*\\\n)*[^\n]+", re.S)
"""A heredoc, or a line with those that it is continued on."""


def text_of(page: str) -> str:
    """A page's Markdown."""
    return (ROOT / page).read_text(encoding="utf-8")


def steps(page: str) -> Iterator[tuple[str | None, str]]:
    """What a reader does: (path, content) of a file to write, (None, command) of a command to run.

    Commands are those of blocks that say `sh`.
    """
    for block in BLOCK.finditer(text_of(page)):
        if block["file"]:
            yield block["file"], block["text"]
        elif block["language"] == "sh":
            yield from ((None, command) for command in COMMAND.findall(block["text"]))


def clone(folder: Path) -> Path:
    """A clone of this checkout as it is now, that is installed as far as `ptst` and `make` can
    tell."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    listed = ["git", "-C", str(ROOT), "ls-files", "-mo", "--exclude-standard"]
    for changed in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\n"):  # fmt: skip
        if (ROOT / changed).is_file():
            (folder / changed).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / changed, folder / changed)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (folder / ".venv" / ".ready").touch()
    put_ptst(binaries)
    (binaries / "pytest").write_text(
        f'#!/bin/bash\nexec {sys.executable} -m pytest -p no:randomly "$@"\n'
    )
    (binaries / "pytest").chmod(0o755)
    return folder


def put_ptst(folder: Path) -> None:
    """The command `ptst`, run by this Python (see warm.py)."""
    (folder / "ptst").write_text(f'#!/bin/bash\nexec {put_python(folder)} -m ptst.cli "$@"\n')
    (folder / "ptst").chmod(0o755)


def run_page(
    page: str,
    folder: Path,
    environment: Mapping[str, str],
    small: Callable[[str], str] = lambda command: command,
) -> list[str]:
    """Do what a page says, in a folder: write its files and run its commands, each of which must
    succeed.

    Args:
        environment: of the commands, over this process's own.
        small: makes a command one of seconds.

    Returns:
        What each command said, both streams.
    """
    said = []
    for file, content in steps(page):
        if file:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(content, encoding="utf-8")
            continue
        done = subprocess.run(
            ["bash", "-c", small(content)],
            cwd=folder,
            env=outside() | {"COLUMNS": "200"} | dict(environment),
            capture_output=True,
            text=True,
            timeout=600,
        )
        said.append(done.stdout + done.stderr)
        assert done.returncode == 0, f"{page}: {content}\n{said[-1]}"
    return said
