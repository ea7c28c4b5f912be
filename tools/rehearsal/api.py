"""A stand-in for an OpenAI-compatible API: files, fine-tuning jobs and chats, kept in memory.

No server that fine-tunes through this API can run here. What it takes and gives follows OpenAI's
reference; OpenAI's own client parses the answers. All requests are recorded.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HYPERPARAMETERS = {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 2.0}


@dataclass
class ApiServer:
    """A server on this machine.

    Attributes:
        key: the API key that it accepts.
        answer: what a chat is answered: (request) -> text.
        statuses: what a job says each time it is asked; the last one stays.
        before, after: called with (method, path) before a request is done, and when it is done but
            not yet answered; ConnectionError cuts the connection.
        gone: jobs and files that were deleted.
    """

    key: str = "sk-test"
    answer: Callable[[dict[str, Any]], str] = lambda request: "I cannot help with that."
    statuses: list[str] = field(default_factory=lambda: ["queued", "running", "succeeded"])
    before: Callable[[str, str], None] = lambda method, path: None
    after: Callable[[str, str], None] = lambda method, path: None
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def start(self) -> str:
        """Start; the base URL."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.respond("POST")

            def do_GET(self) -> None:
                self.respond("GET")

            def respond(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.split("?")[0].removeprefix("/v1")
                given = self.headers.get("Authorization")
                if given != f"Bearer {owner.key}":
                    said = f"Incorrect API key provided: {given}."
                    return self.send(401, {"error": {"message": said}})
                try:
                    owner.before(method, path)
                    status, made = owner.handle(method, path, body)
                    owner.after(method, path)
                except ConnectionError:
                    self.close_connection = True
                    return None
                return self.send(status, made)

            def send(self, status: int, made: Any) -> None:
                text = json.dumps(made).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def stop(self) -> None:
        """Stop."""
        self.server.shutdown()
        self.server.server_close()

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and answer of a request."""
        if (method, path) == ("POST", "/files"):
            name = f"file-{len(self.files)}"
            self.files[name] = body
            self.requests.append((method, path, None))
            return 200, self.file(name)
        request = json.loads(body) if body else None
        self.requests.append((method, path, request))
        if (name := path.rsplit("/", 1)[1]) in self.gone:
            return 404, {"error": {"message": f"No such object: {name}"}}
        if (method, path) == ("POST", "/fine_tuning/jobs"):
            assert request is not None
            name = f"ftjob-{len(self.jobs)}"
            self.jobs[name] = {
                "id": name,
                "object": "fine_tuning.job",
                "created_at": 0,
                "model": request["model"],
                "organization_id": "org-secret",
                "result_files": [],
                "seed": request["seed"],
                "training_file": request["training_file"],
                "hyperparameters": HYPERPARAMETERS,
                "metadata": request["metadata"],
                "method": request["method"],
                "suffix": request["suffix"],
            }
            return 200, self.job(name)
        if path.startswith("/files/"):
            return 200, self.file(name)
        if path == "/fine_tuning/jobs":
            there = [self.job(name) for name in self.jobs if name not in self.gone]
            return 200, {"object": "list", "data": there, "has_more": False}
        if path.startswith("/fine_tuning/jobs/"):
            return 200, self.job(name)
        if path == "/chat/completions":
            assert request is not None
            message = {"role": "assistant", "content": self.answer(request)}
            usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
            return 200, {
                "id": "chat",
                "object": "chat.completion",
                "created": 0,
                "model": request["model"],
                "choices": [
                    {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
                ],
                "usage": usage,
            }
        return 404, {"error": {"message": f"{path}: not found"}}

    def file(self, name: str) -> dict[str, Any]:
        """What there is to say of a file."""
        return {
            "id": name,
            "object": "file",
            "bytes": len(self.files[name]),
            "created_at": 0,
            "filename": "x",
            "purpose": "fine-tune",
            "status": "processed",
        }

    def job(self, name: str) -> dict[str, Any]:
        """A job as it is now; every look moves it on."""
        count = self.asked[name] = self.asked.get(name, -1) + 1
        status = self.statuses[min(count, len(self.statuses) - 1)]
        done = status == "succeeded"
        error = {"code": "bad", "message": "The training file holds 1 row.", "param": None}
        about = dict(self.jobs[name])
        named = f"ft:{about['model']}:org:{about.pop('suffix')}:{name}"
        return about | {
            "status": status,
            "fine_tuned_model": named if done else None,
            "trained_tokens": 1234 if done else None,
            "error": error if status == "failed" else None,
        }
