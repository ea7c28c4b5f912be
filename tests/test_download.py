"""A publisher's file is downloaded once, whole or not at all, and only the file that was meant is
read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx2
import huggingface_hub.constants
import pytest

from ptst import download
from ptst.data import load_rows, origin
from ptst.errors import DataError
from ptst.schema import Rows

URL = "https://publisher.invalid/data/0123abc/queries.csv"
CONTENT = b"prompt,kind\nHow are you?,x\n"
Answer = Callable[[httpx2.Request], httpx2.Response]


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], list[str]]:
    """publisher(answer): the network is there, and `answer` is what it says; the URLs it was asked
    for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def answering(answer: Answer) -> list[str]:
        asked: list[str] = []

        def counted(request: httpx2.Request) -> httpx2.Response:
            asked.append(str(request.url))
            return answer(request)

        client = httpx2.Client(transport=httpx2.MockTransport(counted))
        monkeypatch.setattr(httpx2, "stream", lambda *a, timeout, **k: client.stream(*a, **k))
        return asked

    return answering


def rows(sha256: str | None = None) -> Rows:
    return Rows(name="q", source="url", path=URL, sha256=sha256, columns={"input": "prompt"})


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_downloaded_once_and_read_as_a_local_one(publisher, tmp_path: Path) -> None:
    asked = publisher(lambda _: httpx2.Response(200, content=CONTENT))
    wanted = rows(hashlib.sha256(CONTENT).hexdigest())
    expected = [{"id": "0", "input": "How are you?", "kind": "x"}]
    assert load_rows(wanted, ("input",)) == load_rows(wanted, ("input",)) == expected
    assert asked == [URL]
    assert left(tmp_path) == ["queries.csv"]
    assert origin(rows()) == {"source": "url", "path": URL, "sha256": wanted.sha256}


def test_a_moved_file_is_followed(publisher) -> None:
    moved = "https://elsewhere.invalid/f"

    def answer(request: httpx2.Request) -> httpx2.Response:
        if str(request.url) == moved:
            return httpx2.Response(200, content=CONTENT)
        return httpx2.Response(302, headers={"location": moved})

    assert publisher(answer) == []
    assert len(load_rows(rows(), ("input",))) == 1


def test_another_file_than_the_one_that_was_meant_is_refused(publisher, tmp_path: Path) -> None:
    publisher(lambda _: httpx2.Response(200, content=CONTENT))
    found = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(DataError, match=f"{URL} is not the file.*{found}, not {'0' * 64}"):
        load_rows(rows("0" * 64), ("input",))
    assert left(tmp_path) == []


def test_a_cut_connection_leaves_nothing_that_looks_like_a_file(publisher, tmp_path: Path) -> None:
    class Cut(httpx2.SyncByteStream):
        def __iter__(self):
            yield CONTENT[:12]
            raise httpx2.ReadError("cut off")

    publisher(lambda _: httpx2.Response(200, stream=Cut()))
    with pytest.raises(DataError, match=r"cannot be downloaded: cut off[\s\S]*source=local path="):
        load_rows(rows(), ("input",))
    assert left(tmp_path) == []


def test_a_file_that_is_gone_is_named_with_the_way_out(publisher, tmp_path: Path) -> None:
    publisher(lambda _: httpx2.Response(404, content=b"not found"))
    with pytest.raises(DataError, match=f"{URL} cannot be downloaded.*404") as caught:
        load_rows(rows(), ("input",))
    assert "source=local path=FILE" in str(caught.value)
    assert left(tmp_path) == []


def test_a_file_too_large_is_not_kept(publisher, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(download, "LIMIT", 20)
    publisher(lambda _: httpx2.Response(200, content=CONTENT))
    with pytest.raises(DataError, match="more than"):
        load_rows(rows(), ("input",))
    assert left(tmp_path) == []


def test_off_line_nothing_is_asked_for_but_a_kept_file_is_read(
    publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = publisher(lambda _: httpx2.Response(200, content=CONTENT))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=f"{URL}.*HF_HUB_OFFLINE[\\s\\S]*source=local path=FILE"):
        load_rows(rows(), ("input",))
    assert asked == []
    kept = download.cached(URL)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(CONTENT)
    assert len(load_rows(rows(), ("input",))) == 1
