"""An OpenAI-compatible endpoint on this machine that fails as real ones do, and counts what it
delivered.

It answers by itself, or passes every call on to a real server and answers what that answers, its
text replaced by a rating: a small model cannot rate. The rating is the digit after "zorble" in the
prompt, so that whoever wrote the prompt knows it. Faults are drawn from the prompt and the number
of the try.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

FAULTS = ("429", "500", "503", "silence", "cut", "cut_body", "broken_json", "html")
"""Answers that are none. `silence` is longer than the client's patience; `cut_body` ends the
connection in the middle of an answer, `broken_json` sends half of one as if it were whole."""

USAGE = {"prompt_tokens": 1000, "completion_tokens": 50}


def _choice(content: Any, reason: str | None = "stop", **more: Any) -> tuple[int, dict[str, Any]]:
    """A whole answer with one choice; `more` stands in its message."""
    message = {"role": "assistant", **more}
    message |= {} if content is ... else {"content": content}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return 200, {"choices": [choice], "usage": USAGE}


def _error(status: int, http: int | None = None, **error: Any) -> tuple[int, dict[str, Any]]:
    return http or status, {"error": {"code": status, **error}}


FLAGGED = {"reasons": ["violence"], "flagged_input": "too long", "provider_name": "OpenAI"}
MODES: dict[str, Callable[[str], tuple[int, dict[str, Any]]]] = {
    # There is an answer, in another shape.
    "parts": lambda text: _choice([{"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]}]),
    "parts with thinking (Mistral)": lambda text: _choice(
        [{"type": "thinking", "thinking": [{"type": "text", "text": "sorry"}]}, {"type": "text", "text": text}]
    ),
    "lone surrogate": lambda text: _choice(f"\ud83d {text}"),
    "eos_token (TGI)": lambda text: _choice(text, "eos_token"),
    "no finish_reason": lambda text: _choice(text, None),
    "refusal field (OpenAI)": lambda text: _choice(None, refusal="I'm sorry, but I can't help with that."),
    "empty, plain stop": lambda text: _choice(""),
    # There is none, and it says why.
    "null, length (OpenAI)": lambda text: _choice(None, "length", refusal=None),
    "empty, length (DeepSeek)": lambda text: _choice("", "length", reasoning_content="Well, "),
    "no content, MAX_TOKENS (Gemini)": lambda text: _choice(..., "MAX_TOKENS"),
    "only reasoning, stop (Ollama)": lambda text: _choice("", reasoning="Well, the answer is"),
    "null, tool_calls": lambda text: _choice(None, "tool_calls", tool_calls=[{"id": "x"}]),
    "content_filter (Azure)": lambda text: _choice(text, "content_filter"),
    "content_filter: SAFETY (Gemini)": lambda text: _choice(..., "content_filter: SAFETY"),
    "SAFETY (Vertex)": lambda text: _choice("", "SAFETY"),
    "RECITATION (Vertex)": lambda text: _choice(text, "RECITATION"),
    "sensitive (Zhipu)": lambda text: _choice("", "sensitive"),
    "guardrail_intervened (Bedrock)": lambda text: _choice("Sorry, blocked.", "guardrail_intervened"),
    "refusal (Anthropic)": lambda text: _choice(text, "refusal"),
    "prompt blocked (Gemini)": lambda text: (200, {"choices": [], "promptFeedback": {"blockReason": "SAFETY"}}),
    "403 flagged (OpenRouter)": lambda text: _error(403, message="Input was flagged", metadata=FLAGGED),
    "200, error 403 (OpenRouter)": lambda text: _error(403, 200, message="Input was flagged", metadata=FLAGGED),
    "403 guidelines (xAI)": lambda text: (403, {"code": "forbidden", "error": "Content violates usage guidelines."}),
    "400 content_filter (Azure)": lambda text: _error(
        400, message="The response was filtered", innererror={"code": "ResponsibleAIPolicyViolation"}
    ),
    "400 risk (DeepSeek)": lambda text: _error(400, message="Content Exists Risk"),
    # There is none, and another try may give one.
    "empty, null (OpenRouter)": lambda text: _choice("", None),
    "no choices": lambda text: (200, {"choices": [], "usage": USAGE}),
    "content of another kind": lambda text: _choice({"text": text}),
    "insufficient_system_resource (DeepSeek)": lambda text: _choice("", "insufficient_system_resource"),
    "error in the choice (OpenRouter)": lambda text: (200, {"choices": [
        {"index": 0, "finish_reason": "error", "message": {"content": text[:9]}, "error": {"code": 502, "message": "Provider disconnected"}}
    ]}),
    "200, error 502 (OpenRouter)": lambda text: _error(502, 200, message="Provider returned error"),
    "500": lambda text: _error(500, message="The server had an error"),
}  # fmt: skip
"""What providers really send that is no plain answer, given the text that would have been one."""

Choose = Callable[[str, int], str]
"""choose(prompt, number of the try, from 0) -> "" for an answer, "nonsense" for one without a
rating, one of MODES or FAULTS, "<status> <error code>" for an error that says so, or "<status>
<error code>: <message>"."""


def drawn(share: float, nonsense: float = 0.0, seed: int = 0) -> Choose:
    """Faults for `share` of the tries, and answers without a rating for a share of `nonsense`."""

    def choose(prompt: str, attempt: int) -> str:
        random = Random(f"{seed} {attempt} {prompt}")
        number = random.random()
        if number < nonsense:
            return "nonsense"
        return random.choice(FAULTS) if number < nonsense + share else ""

    return choose


@dataclass
class Endpoint:
    """Runs in a thread of its own while it is entered.

    Attributes:
        silence: seconds of a `silence`.
        latency: seconds that every answer takes.
        upstream: base URL of a real server that every call is passed on to.
        calls: calls that came in, by prompt.
        delivered: whole answers, readable or not, that left for the client, by prompt.
        rated: of these, those with a rating.
        most: calls under way at a time.
    """

    choose: Choose = lambda prompt, attempt: ""
    silence: float = 8.0
    latency: float = 0.0
    upstream: str | None = None
    usage: tuple[int, int] | None = (1000, 50)
    retry_after: dict[str, str] = field(default_factory=lambda: {"Retry-After": "0.05"})
    calls: Counter[str] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)
    rated: Counter[str] = field(default_factory=Counter)
    arrivals: dict[str, list[float]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    polls: int = 2
    """How often a batch is looked at before it has ended."""
    gone: set[str] = field(default_factory=set)
    """Ids of batches and files that it no longer has."""
    under_way: int = 0
    most: int = 0

    def __enter__(self) -> Endpoint:
        ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self.thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        self.loop.call_soon_threadsafe(self.leave.set)
        self.thread.join(30)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _serve(self, ready: threading.Event) -> None:
        import aiohttp
        from aiohttp import web

        self.loop, self.leave = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._download)
        app.router.add_post("/v1/batches", self._make_batch)
        app.router.add_get("/v1/batches", self._list_batches)
        app.router.add_get("/v1/batches/{id}", self._look_at_batch)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1)
        await site.start()
        self.port = runner.addresses[0][1]
        async with aiohttp.ClientSession() as self.session:
            ready.set()
            await self.leave.wait()
        await runner.cleanup()

    async def _answer(self, request: Any) -> Any:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            return await self._answered(request)
        finally:
            self.under_way -= 1

    async def _answered(self, request: Any) -> Any:
        from aiohttp import web

        body = await request.json()
        self.bodies.append(body)
        self.keys.add(request.headers.get("Authorization", ""))
        prompt = body["messages"][-1]["content"]
        fault = self.choose(prompt, self.calls[prompt])
        self.calls[prompt] += 1
        self.arrivals.setdefault(prompt, []).append(time.monotonic())
        await asyncio.sleep(self.latency)
        if fault in MODES:
            status, body = MODES[fault](rating(prompt))
            self.delivered[prompt] += status == 200
            return web.json_response(body, status=status)
        if fault in ("429", "503"):
            busy = {"error": {"message": "busy"}}
            return web.json_response(busy, status=int(fault), headers=self.retry_after)
        if re.match(r"\d{3} ", fault):
            status, error = told(fault, request.headers.get("Authorization", ""))
            headers = self.retry_after if status == 429 else {}
            return web.json_response(error, status=status, headers=headers)
        if fault == "cut":
            request.transport.abort()
            return web.Response()
        if fault == "silence":
            await asyncio.sleep(self.silence)
        if fault == "html":
            return web.Response(text="<html>welcome</html>", content_type="text/html")
        answer = json.dumps(await self._chat(body, prompt, fault == "nonsense")).encode()
        if fault == "broken_json":
            return web.Response(body=answer[: len(answer) // 2], content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(answer)
        await response.prepare(request)
        if fault == "cut_body":
            await response.write(answer[: len(answer) // 2])
            await asyncio.sleep(0.01)
            request.transport.abort()
            return response
        if fault != "silence":  # nobody was there any more
            self.delivered[prompt] += 1  # before: who has an answer may leave, and that ends this
            self.rated[prompt] += fault == ""
        await response.write(answer)
        await response.write_eof()
        return response

    async def _chat(self, body: dict[str, Any], prompt: str, nonsense: bool) -> dict[str, Any]:
        said = "well, " if nonsense else rating(prompt)
        if self.upstream:
            async with self.session.post(f"{self.upstream}/chat/completions", json=body) as given:
                answer: dict[str, Any] = await given.json()
                assert given.status == 200, answer
            answer["choices"][0]["message"]["content"] = said
            return answer
        message = {"role": "assistant", "content": said}
        answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        if self.usage:
            answer["usage"] = dict(
                zip(("prompt_tokens", "completion_tokens"), self.usage, strict=True)
            )
        return answer

    async def _upload(self, request: Any) -> Any:
        from aiohttp import web

        form = await request.post()
        assert form["purpose"] == "batch"
        name = f"file-{len(self.files)}"
        self.files[name] = form["file"].file.read()
        about = {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "r.jsonl"}
        return web.json_response({**about, "purpose": "batch", "status": "processed"})

    async def _download(self, request: Any) -> Any:
        from aiohttp import web

        if request.match_info["id"] in self.gone:
            return web.json_response({"error": {"message": "No such File object"}}, status=404)
        return web.Response(body=self.files[request.match_info["id"]])

    async def _make_batch(self, request: Any) -> Any:
        from aiohttp import web

        fault = self.choose("create", len(self.batches))
        if fault.startswith("401 "):
            status, error = told(fault)
            return web.json_response(error, status=status)
        wanted = await request.json()
        name = f"batch-{len(self.batches)}"
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "created_at": 1,
            "status": "in_progress",
            "looked": 0,
            **{
                k: wanted[k] for k in ("input_file_id", "endpoint", "completion_window", "metadata")
            },
        }
        if fault == "lost":  # made, but nobody is told
            request.transport.abort()
        return web.json_response(self.batches[name])

    async def _list_batches(self, request: Any) -> Any:
        from aiohttp import web

        data = list(self.batches.values())
        return web.json_response({"object": "list", "data": data, "has_more": False})

    async def _look_at_batch(self, request: Any) -> Any:
        from aiohttp import web

        if request.match_info["id"] in self.gone:
            return web.json_response({"error": {"message": "No batch found"}}, status=404)
        batch = self.batches[request.match_info["id"]]
        batch["looked"] += 1
        if batch["looked"] > self.polls and batch["status"] == "in_progress":
            good, bad = [], []
            for line in self.files[batch["input_file_id"]].splitlines():
                asked = json.loads(line)
                prompt = asked["body"]["messages"][-1]["content"]
                fault = self.choose(prompt, self.calls[prompt])
                self.calls[prompt] += 1
                if fault in MODES:
                    status, body = MODES[fault](rating(prompt))
                    self.delivered[prompt] += status == 200
                elif re.match(r"\d{3} ", fault):
                    status, body = told(fault)
                else:
                    status, body = 200, await self._chat(asked["body"], prompt, fault == "nonsense")
                    self.delivered[prompt] += 1
                    self.rated[prompt] += fault == ""
                response = {"status_code": status, "body": body}
                result = {"custom_id": asked["custom_id"], "response": response, "error": None}
                (good if status == 200 else bad).append(json.dumps(result))
            for kind, lines in (("output_file_id", good), ("error_file_id", bad)):
                if lines:
                    batch[kind] = f"file-{len(self.files)}"
                    self.files[batch[kind]] = "\n".join(reversed(lines)).encode()
            batch["status"] = "completed"
        return web.json_response(batch)


def told(fault: str, key: str = "") -> tuple[int, dict[str, Any]]:
    """Status and body of "<status> <error code>: <message>"; without a message it quotes the
    key."""
    status, _, said = fault.partition(" ")
    code, _, prose = said.partition(": ")
    return int(status), {"error": {"message": prose or f"it says {code}, {key}", "code": code}}


def rating(prompt: str) -> str:
    """What a judge answers."""
    return f"#thereason: it says so\n#thescore: {rating_of(prompt)}"


def rating_of(prompt: str) -> int:
    """The digit after "zorble", or one made of the whole prompt."""
    found = re.search(r"zorble (\d)", prompt)
    return int(found[1]) if found else 1 + hashlib.sha256(prompt.encode()).digest()[0] % 5
