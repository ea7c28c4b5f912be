"""What judging costs beyond the server's own time: 5,000 rubric calls, 64 at a time.

    python benchmarks/judging.py [--calls 5000] [--concurrency 64] [--latency 0.05 0.2]

A server on this machine answers every call after a fixed time, in a process of its own. Its own
time for all calls is measured with a client that only writes requests prepared beforehand to open
connections and reads what comes; the judge's is that of `Rubric.scores` from completions to scores,
every answer kept on disk. Both take turns, and every latency is measured in one run. Prints JSON;
nothing here is a test.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SERVER = r"""
import asyncio, json, sys
answer = {
    "choices": [{"index": 0, "finish_reason": "stop", "message": {
        "role": "assistant", "content": "#thereason: It goes along in part.\n#thescore: 3"}}],
    "usage": {"prompt_tokens": 1100, "completion_tokens": 20},
}
body = json.dumps(answer).encode()
head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)

async def connected(reader, writer):
    try:
        while True:
            request = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(request.split(b"content-length:")[1].split(b"\r\n")[0]))
            await asyncio.sleep(float(sys.argv[1]))
            writer.write(head + body)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, nargs="+", default=[0.05, 0.2], help="seconds")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default 3)")
    options = parser.parse_args()
    from ptst.provenance import provenance

    results: dict[str, Any] = {
        f"{latency:g} s": measured(options.calls, options.concurrency, latency, options.rounds)
        for latency in options.latency
    }
    print(json.dumps({**results, "provenance": provenance(0.0)}, indent=2))


def measured(calls: int, concurrency: int, latency: float, rounds: int) -> dict[str, float]:
    """Seconds of both, the best of each, and their ratio."""
    command = [sys.executable, "-c", SERVER, str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            port = int(server.stdout.readline())
            judged(port, 2 * concurrency, concurrency)  # imports and the like
            turns = [
                (asyncio.run(bare(port, calls, concurrency)), *judged(port, calls, concurrency))
                for _ in range(rounds)
            ]
        finally:
            server.kill()
    own, ours = min(t[0] for t in turns), min(t[1] for t in turns)
    return {
        "calls": calls,
        "latency_times_rounds_seconds": latency * -(-calls // concurrency),
        "server_seconds": own,
        "judge_seconds": ours,
        "ratio": ours / own,
        "processor_ms_a_call": 1000 * min(t[2] for t in turns) / calls,
    }


async def bare(port: int, calls: int, concurrency: int) -> float:
    """Seconds of `calls` calls with nothing done but writing and reading bytes."""
    from ptst.judge.rubric import Rubric

    body = json.dumps(
        {
            "model": "m",
            "messages": [{"role": "user", "content": Rubric("m").prompt("query", "word " * 200)}],
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    left = iter(range(calls))

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(answer.lower().split(b"content-length:")[1].split()[0]))
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return time.perf_counter() - started


def judged(port: int, calls: int, concurrency: int) -> tuple[float, float]:
    """Seconds of `Rubric.scores`, by the clock and of this process's processor time."""
    from ptst.judge import JudgeContext
    from ptst.judge.rubric import Rubric

    judge = Rubric("m", f"http://127.0.0.1:{port}/v1", api_key_env=None, concurrency=concurrency)
    items = [({"input": f"query {i}"}, f"{i} " + "word " * 200) for i in range(calls)]
    with tempfile.TemporaryDirectory() as folder:
        context = JudgeContext(Path(folder), "cpu", lambda done, total: None, lambda: False)
        started, processor = time.perf_counter(), time.process_time()
        scores = list(judge.scores(items, context))
        seconds = time.perf_counter() - started, time.process_time() - processor
    assert [score.value for score in scores] == [3.0] * calls
    return seconds


if __name__ == "__main__":
    main()
