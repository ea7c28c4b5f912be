"""Where W&B's server stands, on this machine: it records what it is sent, and keeps views as W&B
does.

It answers the GraphQL operations that the wandb package (through its wandb-core) sends for a
dashboard, and says of any other that it does not know it.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def reply(handler: BaseHTTPRequestHandler, status: int, content: Any) -> None:
    """Answer a request with JSON."""
    text = json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(text)))
    handler.end_headers()
    handler.wfile.write(text)


@dataclass
class Endpoint:
    """Runs in a thread of its own while it is entered.

    Attributes:
        projects: "<entity>/<project>" of those that are there.
        views: (type, name) -> what a view was last given, with its id.
        charts: "<entity>/<name>" -> what a chart was given.
        asked: (operation, variables) of every request, in order.
        paths: every path that was asked for, by any method.
        keys: what requests named as their key.
        refuse: operations that are answered with an error.
        conflict: status of the answer that a chart is there already.
    """

    projects: set[str] = field(default_factory=set)
    views: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    charts: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    refuse: set[str] = field(default_factory=set)
    conflict: int = 409

    def __enter__(self) -> Endpoint:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                endpoint.paths.append(self.path)
                kind, _, said = self.headers.get("Authorization", "").partition(" ")
                if kind == "Basic":
                    said = base64.b64decode(said).decode().partition(":")[2]
                endpoint.keys |= {said} - {""}
                asks = self.path == "/graphql"  # what else wandb-core posts is about itself
                reply(self, *(endpoint.answer(json.loads(body)) if asks else (200, {})))

            def do_GET(self) -> None:
                endpoint.paths.append(self.path)
                reply(self, 404, {})

            do_CONNECT = do_PUT = do_HEAD = do_GET

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def mutations(self) -> list[tuple[str, dict[str, Any]]]:
        """Those of `asked` that change something."""
        return [(name, given) for name, given in self.asked if name in MUTATIONS]

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        query, given = body["query"], body.get("variables") or {}
        (name,) = re.findall(r"^\s*(?:query|mutation)\s+(\w+)", query, flags=re.MULTILINE)
        self.asked.append((name, given))
        if name in self.refuse:
            return 403, {"errors": [{"message": f"permission denied: {name}"}]}
        if name == "CreateCustomChart":
            id = f"{given['entity']}/{given['chartName']}"
            if id in self.charts:
                return self.conflict, {"errors": [{"message": f"{id} already exists"}]}
            self.charts[id] = given
            return 200, {"data": {"createCustomChart": {"chart": {"id": id}}}}
        if name == "View":
            return 200, {"data": {"project": self._project(given)}}
        if name == "upsertView":
            return 200, {"data": {"upsertView": self._upsert(given)}}
        if name == "Viewer":
            return 200, {"data": {"viewer": VIEWER}}
        return 400, {"errors": [{"message": f"{name} is not known here: {query}"}]}

    def _project(self, given: dict[str, Any]) -> dict[str, Any] | None:
        if f"{given['entity']}/{given['project']}" not in self.projects:
            return None
        view = self.views.get((given["type"], given["name"]))
        return {"allViews": {"edges": [{"node": view}] if view else []}}

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        json.loads(given["spec"])
        known = next((v for v in self.views.values() if v["id"] == given.get("id")), None)
        assert known or "id" not in given, "the id of a view that was never made"
        number = len(self.views) + 1
        view = {
            "id": known["id"] if known else base64.b64encode(b"View:%d" % number).decode(),
            **{key: given[key] for key in ("name", "displayName", "description", "spec", "type")},
        }
        self.views[given["type"], given["name"]] = view
        return {"view": view, "inserted": known is None}


MUTATIONS = ("CreateCustomChart", "upsertView")
VIEWER = {
    "id": "VXNlcjox",
    "entity": "me",
    "username": "me",
    "email": "me@example.org",
    "admin": False,
    "flags": "{}",
    "teams": {"edges": []},
}
