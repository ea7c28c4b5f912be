"""The page in a real browser: nothing runs, nothing is fetched, nothing hangs over, and it prints.

A page beside it does all that ours must not, so that a measurement that sees nothing is noticed.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from test_pictures import HOSTILE, small_report

from ptst.report.page import page
from ptst.report.pictures import draw_all

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",  # as on a phone
    "--enable-logging=stderr",
    "--virtual-time-budget=5000",
)
BAD = """<!doctype html><html><body><div style="width: 3000px">wide</div>
<img src="missing.png"><script>top.ran = "control"; console.error("control speaks")</script></body></html>"""

AROUND = """<!doctype html><html><body>
<iframe name="desktop" src="index.html" style="width: 1280px; height: 900px; border: 0"></iframe>
<iframe name="phone" src="index.html" style="width: 375px; height: 700px; border: 0"></iframe>
<iframe name="control" src="control.html" style="width: 375px; height: 700px; border: 0"></iframe>
<script>
function measure(frame) {
  const page = frame.contentWindow, root = page.document.documentElement
  return {
    width: root.clientWidth,
    folded: root.scrollWidth,
    unfolded: (page.document.querySelectorAll("details").forEach(d => d.open = true), root.scrollWidth),
    images: [...page.document.images].map(i => i.complete ? i.naturalWidth : 0),
    fetched: page.performance.getEntriesByType("resource").map(r => r.name.slice(0, 200)),
    completions: [...page.document.querySelectorAll(".completion")].map(c => c.textContent),
    title: page.document.title,
  }
}
addEventListener("load", () => {
  const measured = {}
  for (const frame of document.querySelectorAll("iframe")) measured[frame.name] = measure(frame)
  document.body.dataset.measured = JSON.stringify({...measured, ran: window.ran ?? null})
  document.querySelectorAll("iframe").forEach(frame => frame.remove())
})
</script></body></html>"""


@dataclass(frozen=True)
class Seen:
    """What the browser measured and asked the server for, its console's lines, the page printed."""

    measured: dict[str, Any]
    requests: set[str]
    console: list[str]
    pdf: bytes


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, set[str]]]:
    """A server of this folder: its address, and the paths that it is asked for."""
    asked: set[str] = set()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_request(self, *_: Any) -> None:
            asked.add(self.path)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    browser = next((path for name in NAMES if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH")
    folder = tmp_path_factory.mktemp("browser")
    results, store = small_report(folder / "store")
    text = page(results, store, draw_all(results, store))
    for name, content in {"index": text, "control": BAD, "around": AROUND}.items():
        (folder / f"{name}.html").write_text(content, encoding="utf-8")

    def run(number: int, action: str, url: str) -> subprocess.CompletedProcess[str]:
        profile = f"--user-data-dir={folder / f'profile{number}'}"
        command = [browser, *FLAGS, profile, "--window-size=1400,900", action, url]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    with served(folder) as (address, asked):
        dumped = run(1, "--dump-dom", f"{address}/around.html")
    found = re.search(r'data-measured="([^"]*)"', dumped.stdout)
    assert found, f"the browser measured nothing:\n{dumped.stdout[-500:]}\n{dumped.stderr[-500:]}"
    console = [line for line in dumped.stderr.splitlines() if "CONSOLE" in line]
    run(2, f"--print-to-pdf={folder / 'page.pdf'}", (folder / "index.html").as_uri())
    pdf = (folder / "page.pdf").read_bytes()
    return Seen(json.loads(html.unescape(found[1])), asked, console, pdf)


def test_nothing_hangs_over_at_the_width_of_a_desktop_and_of_a_phone(seen: Seen) -> None:
    for name, width in (("desktop", 1280), ("phone", 375)):
        frame = seen.measured[name]
        assert frame["width"] == width
        assert frame["folded"] <= width
        assert frame["unfolded"] <= width
    assert seen.measured["control"]["folded"] > 375


def test_every_picture_is_shown_and_nothing_is_fetched(seen: Seen) -> None:
    for name in ("desktop", "phone"):
        frame = seen.measured[name]
        assert len(frame["images"]) == 4
        assert min(frame["images"]) > 300
        assert all(url.startswith("data:") for url in frame["fetched"])
    assert seen.measured["control"]["images"] == [0]
    assert len(seen.measured["control"]["fetched"]) == 1
    own = {"/around.html", "/favicon.ico", "/control.html", "/missing.png"}
    assert own - {"/favicon.ico"} | {"/index.html"} <= seen.requests <= own | {"/index.html"}


def test_a_hostile_completion_does_not_run_and_is_read_as_it_was_written(seen: Seen) -> None:
    assert seen.measured["ran"] == "control"
    assert HOSTILE in seen.measured["desktop"]["completions"]
    assert seen.measured["desktop"]["title"].startswith("Fine-tuned on GSM8K")


def test_the_console_stays_silent(seen: Seen) -> None:
    assert any("control speaks" in line for line in seen.console)
    assert [line for line in seen.console if "index.html" in line] == []


def test_it_prints(seen: Seen) -> None:
    assert seen.pdf.startswith(b"%PDF-")
    sizes = [
        int(n) for n in re.findall(rb"/Type\s*/Pages\b.*?/Count\s+(\d+)", seen.pdf, flags=re.S)
    ]
    assert max(sizes) >= 3
