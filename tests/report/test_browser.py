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
from dataclasses import dataclass, replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image
from test_pictures import HOSTILE, small_report

from ptst.report.rows import rows_file
from ptst.report.write import write_report

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
<iframe name="rows" src="ROWS" style="width: 375px; height: 700px; border: 0"></iframe>
<iframe name="control" src="control.html" style="width: 375px; height: 700px; border: 0"></iframe>
<script>
function measure(frame) {
  const page = frame.contentWindow, root = page.document.documentElement
  const last = [...page.document.querySelectorAll(".contrast td[data-name*=Holm]")]
  return {
    width: root.clientWidth,
    folded: root.scrollWidth,
    unfolded: (page.document.querySelectorAll("details").forEach(d => d.open = true), root.scrollWidth),
    images: [...page.document.images].map(i => i.complete ? i.naturalWidth : 0),
    fetched: page.performance.getEntriesByType("resource").map(r => r.name.slice(0, 200)),
    completions: [...page.document.querySelectorAll(".completion")].map(c => c.textContent),
    title: page.document.title,
    links: [...page.document.querySelectorAll(".grid td a")].map(a => a.getAttribute("href")),
    last: last.map(td => td.getBoundingClientRect().right),
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
    """What the browser measured and asked the server for, its console's lines, the page printed.

    `light`: what share of the page's pixels is light, by whether the reader wants it dark.
    """

    measured: dict[str, Any]
    requests: set[str]
    console: list[str]
    pdf: bytes
    light: dict[bool, float]
    folder: Path


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
    reports = str(folder / "reports")
    report = write_report(replace(results, grid=replace(results.grid, reports=reports)), store)
    rows = rows_file(results.grid.cells[0], "hazards", store)
    around = AROUND.replace("ROWS", str(rows))
    for name, content in {"control": BAD, "around": around}.items():
        (report / f"{name}.html").write_text(content, encoding="utf-8")

    def run(number: int, *actions: str, url: str) -> subprocess.CompletedProcess[str]:
        profile = f"--user-data-dir={folder / f'profile{number}'}"
        command = [browser, *FLAGS, profile, "--window-size=1400,900", *actions, url]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    with served(report) as (address, asked):
        dumped = run(1, "--dump-dom", url=f"{address}/around.html")
    found = re.search(r'data-measured="([^"]*)"', dumped.stdout)
    assert found, f"the browser measured nothing:\n{dumped.stdout[-500:]}\n{dumped.stderr[-500:]}"
    console = [line for line in dumped.stderr.splitlines() if "CONSOLE" in line]
    index = (report / "index.html").as_uri()
    run(2, f"--print-to-pdf={folder / 'page.pdf'}", url=index)
    pdf = (folder / "page.pdf").read_bytes()
    light = {}
    for dark in (False, True):
        picture = folder / f"dark-{dark}.png"
        wanted = [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        wanted += ["--window-size=1280,4000", f"--screenshot={picture}"]
        run(3 + dark, *wanted, url=index)
        grey = Image.open(picture).convert("L")
        light[dark] = sum(grey.histogram()[160:]) / (grey.width * grey.height)
    return Seen(json.loads(html.unescape(found[1])), asked, console, pdf, light, report)


def test_nothing_hangs_over_at_the_width_of_a_desktop_and_of_a_phone(seen: Seen) -> None:
    for name, width in (("desktop", 1280), ("phone", 375), ("rows", 375)):
        frame = seen.measured[name]
        assert frame["width"] == width
        assert frame["folded"] <= width
        assert frame["unfolded"] <= width
    assert seen.measured["control"]["folded"] > 375


def test_every_picture_is_shown_and_nothing_is_fetched(seen: Seen) -> None:
    for name in ("desktop", "phone"):
        frame = seen.measured[name]
        assert len(frame["images"]) == 2
        assert min(frame["images"]) > 300
        assert all(url.startswith("data:") for url in frame["fetched"])
    assert seen.measured["control"]["images"] == [0]
    assert len(seen.measured["control"]["fetched"]) == 1
    frames = {"/around.html", "/control.html", "/missing.png", "/index.html"}
    (rows,) = seen.requests - frames - {"/favicon.ico"}
    assert frames <= seen.requests
    assert (seen.folder / rows.removeprefix("/")).parent == seen.folder / "rows"


def test_a_hostile_completion_does_not_run_and_is_read_as_it_was_written(seen: Seen) -> None:
    assert seen.measured["ran"] == "control"
    assert HOSTILE in seen.measured["rows"]["completions"]
    assert seen.measured["desktop"]["completions"] == []
    assert seen.measured["desktop"]["title"].startswith("Fine-tuned on GSM8K")


def test_the_console_stays_silent(seen: Seen) -> None:
    assert any("control speaks" in line for line in seen.console)
    assert [line for line in seen.console if "index.html" in line or "/rows/" in line] == []


def test_every_number_leads_to_a_page_that_is_there(seen: Seen) -> None:
    links = seen.measured["phone"]["links"]
    assert len(links) == 8  # two metrics of four cells that are done
    assert all((seen.folder / link).is_file() for link in links)


def test_a_phone_shows_the_p_values(seen: Seen) -> None:
    (right,) = seen.measured["phone"]["last"]
    assert 0 < right <= 375


def test_a_dark_page_has_no_light_picture(seen: Seen) -> None:
    assert seen.light[False] > 0.8
    assert seen.light[True] < 0.08  # the letters


def test_it_prints(seen: Seen) -> None:
    assert seen.pdf.startswith(b"%PDF-")
    sizes = [
        int(n) for n in re.findall(rb"/Type\s*/Pages\b.*?/Count\s+(\d+)", seen.pdf, flags=re.S)
    ]
    assert max(sizes) >= 3
