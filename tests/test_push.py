"""Uploading a fine-tuning, against an endpoint on this machine that records what it is sent."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from wandb_endpoint import reply

from ptst.cell import run_cell
from ptst.cli import main
from ptst.config.compose import compose

SECRET = "hf_" + "x" * 34


class Hub(BaseHTTPRequestHandler):
    """Answers what huggingface_hub asks when it uploads; `refuse` answers 403."""

    refuse = False
    made: list[dict[str, Any]] = []  # noqa: RUF012
    files: dict[str, bytes] = {}  # noqa: RUF012

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.refuse:
            return self.answer({"error": f"no rights for {SECRET}"}, 403)
        if self.path == "/api/repos/create":
            self.made.append(json.loads(body))
            return self.answer(
                {"url": f"http://{self.headers['Host']}/team/model", "id": "team/model"}
            )
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/team/model/commit/1",
                    "commitOid": "1",
                    "pullRequestUrl": None,
                }
            )
        return self.answer({})

    def do_GET(self) -> None:
        self.answer({}, 403 if self.refuse else 200)

    def answer(self, content: dict[str, Any], status: int = 200) -> None:
        reply(self, status, content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    from huggingface_hub import constants

    kind = type("ThisHub", (Hub,), {"made": [], "files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    yield kind
    server.shutdown()
    server.server_close()


def test_the_weights_arrive_with_the_card_and_nothing_of_this_machine(
    hub: type[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [*TINY, f"paths.store={tmp_path}", "tracking=none", "finetune=lora"]
    run_cell(compose(own))
    capsys.readouterr()
    assert main(["push", *own, "repo=team/model"]) == 0
    assert capsys.readouterr().out.endswith("/team/model/commit/1\n")
    assert hub.made[0]["name"] == "model" and hub.made[0]["visibility"] == "private"
    (weights,) = tmp_path.glob("finetune/*/weights")
    for file in weights.iterdir():
        if file.name != "README.md":
            assert hub.files[file.name] == file.read_bytes()
    assert main(["card", *own]) == 0
    assert hub.files["README.md"].decode() == capsys.readouterr().out.rstrip("\n")
    assert not any(str(tmp_path).encode() in content for content in hub.files.values())
    hub.refuse = True
    assert main(["push", *own, "repo=team/model"]) == 2
    said = capsys.readouterr().err
    assert "the hub refuses team/model" in said and "403" in said and SECRET not in said
    assert main(["push", *own, "repo=a/b/c"]) == 2
    assert "repo=a/b/c" in capsys.readouterr().err


def test_what_has_no_weights_is_refused_before_the_hub_is_asked(
    hub: type[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", "finetune=none", f"paths.store={tmp_path}", "repo=team/model"]) == 2
    assert "there is nothing to publish" in capsys.readouterr().err
    assert hub.made == []
