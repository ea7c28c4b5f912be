"""What W&B's server does where runs are uploaded, on this machine: it takes them, and keeps what
came.

It answers what `wandb sync` of W&B 0.31 asks (GraphQL under /graphql, a run's stream under /files)
and hands out addresses of its own for files. It can fail for chosen runs.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from wandb_endpoint import VIEWER, reply

Fail = Callable[[str, str], int]
"""fail(what, run) -> an HTTP status instead of an answer, or 0. `what` is the operation of a
GraphQL request, "file_stream" or "upload"; `run` is "" where the request names none."""


@dataclass
class Run:
    """What arrived of a run. `history` has every line that was sent, in order, also those sent
    again."""

    place: str = ""
    """<entity>/<project>"""
    config: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    group: str | None = None
    job_type: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)


@dataclass
class Artifact:
    """A table is uploaded as one of these, too."""

    run: str
    name: str
    place: str
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


@dataclass
class WandbServer:
    """Runs in threads of its own while it is entered.

    Attributes:
        runs: by id.
        artifacts: in the order in which they were begun.
        keys: API keys that were sent.
        requests: "<what> <run>" of each, those that failed, too.
    """

    fail: Fail = lambda what, run: 0
    runs: dict[str, Run] = field(default_factory=dict)
    artifacts: list[Artifact] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> WandbServer:
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """(status, content) of the answer to a request; keeps what the request brought."""
        if path.startswith("/sdk/"):  # telemetry
            return 200, {}
        query = json.loads(body) if path == "/graphql" else {}
        what, run = self._meaning(path, query)
        self.requests.append(f"{what} {run}")
        if status := self.fail(what, run):
            return status, {"error": "broken for a test"}
        if path == "/graphql":
            data = self._graphql(what, query.get("variables") or {})
            return (200, {"data": data}) if data else (400, {"error": f"{what} is not known here"})
        if what == "file_stream":
            self._stream(self.runs[run], json.loads(body))
        else:
            kind, owner, name = path.removeprefix("/upload/").split("/", 2)
            files = self.runs[owner].files if kind == "run" else self.artifacts[int(owner)].files
            files[name] = body
        return 200, {}

    def _meaning(self, path: str, query: dict[str, Any]) -> tuple[str, str]:
        if path == "/graphql":
            own = query.get("variables") or {}
            own = own.get("input", own)
            what = query["operationName"]
            named = own.get("runName") or (
                own.get("name") if what == "UpsertBucket" else own.get("run")
            )
            return what, named or ""
        if path.endswith("/file_stream"):
            return "file_stream", path.split("/")[-2]
        _, _, kind, owner, _ = path.split("/", 4)
        return "upload", owner if kind == "run" else self.artifacts[int(owner)].run

    def _graphql(self, what: str, own: dict[str, Any]) -> dict[str, Any]:
        if what == "Viewer":
            return {"viewer": VIEWER}
        if what == "RunResumeStatus":
            return {"model": {"name": own["project"], "entity": {"name": "me"}, "bucket": None}}
        if what == "UpsertBucket":
            known = own["name"] in self.runs
            run = self.runs.setdefault(own["name"], Run())
            run.config = {k: v["value"] for k, v in json.loads(own["config"]).items()}
            run.name = own["displayName"] or run.name
            run.group = own["groupName"] or run.group
            run.job_type = own["jobType"] or run.job_type
            entity = {"id": "entity", "name": own.get("entity") or "me"}
            run.place = f"{entity['name']}/{own['project']}"
            project = {"id": "project", "name": own["project"], "entity": entity}
            bucket = {
                "id": own["name"],
                "name": own["name"],
                "displayName": run.name,
                "description": None,
                "config": "{}",
                "sweepName": None,
                "project": project,
                "historyLineCount": len(run.history),
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": not known}}
        if what == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if what == "CreateRunFiles":
            files = [
                {"name": name, "uploadUrl": f"{self.url}/upload/run/{own['run']}/{name}"}
                for name in own["files"]
            ]
            return {"createRunFiles": {"runID": own["run"], "uploadHeaders": [], "files": files}}
        if what == "CreateArtifact":
            given = own["input"]
            place = f"{given['entityName'] or 'me'}/{given['projectName']}"
            self.artifacts.append(
                Artifact(given["runName"], given["artifactCollectionName"], place)
            )
            number = str(len(self.artifacts) - 1)
            sequence = {"latestArtifact": None}
            made = {"id": number, "state": "PENDING", "artifactSequence": sequence}
            return {"createArtifact": {"artifact": made}}
        if what == "CreateArtifactManifest":
            file = self._file(own["artifactID"], own["name"]) | {"id": "file"}
            return {
                "createArtifactManifest": {"artifactManifest": {"id": "manifest", "file": file}}
            }
        if what == "CreateArtifactFiles":
            edges = [
                {
                    "node": self._file(spec["artifactID"], spec["name"])
                    | {
                        "storagePath": spec["name"],
                        "uploadMultipartUrls": None,
                        "artifact": {"id": spec["artifactID"]},
                    }
                }
                for spec in own["input"]["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if what == "CommitArtifact":
            self.artifacts[int(own["artifactID"])].committed = True
            return {"commitArtifact": {"artifact": {"id": own["artifactID"], "digest": ""}}}
        return {}

    def _file(self, artifact: str, name: str) -> dict[str, Any]:
        address = f"{self.url}/upload/artifact/{artifact}/{name}"
        return {"uploadUrl": address, "uploadHeaders": []}

    def _stream(self, run: Run, sent: dict[str, Any]) -> None:
        for name, part in sent.get("files", {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if name == "wandb-history.jsonl":
                run.history += lines
                run.offsets += range(part["offset"], part["offset"] + len(lines))
            elif name == "wandb-summary.json":
                run.summary = lines[-1]
        if sent.get("complete"):
            run.exit_codes.append(sent["exitcode"])


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client has ended
                super().handle()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            sent = self.headers.get("Authorization", "").removeprefix("Basic ")
            with server.lock:
                if sent:
                    server.keys.add(base64.b64decode(sent).decode().partition(":")[2])
                status, content = server.answer(self.path, body)
            reply(self, status, content)

        do_GET = do_POST = do_PUT = _answer

    return Handler
