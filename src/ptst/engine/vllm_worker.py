"""Answers with vLLM, in the environment that has it. Run by ptst.engine.vllm:

    python -I vllm_worker.py PARENT < requests > replies

A request is a line of JSON on standard input, its reply a line on standard output:

    {"load": {...}}                                     {"ready": "0.32.0"}
    {"prompts": [[1, 5], ...], "seeds": [0, ...],       {"answers": [[6, 2], ...]}
     "sampling": {...}, "adapter": null or a folder}
    what fails                                          {"error": "..."}

`load` are arguments of vllm.LLM, `sampling` of vllm.SamplingParams. Answers are token ids, the one
that ended an answer included. What vLLM itself writes to standard output goes to standard error.
The process ends with its parent, and takes what it started with it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from queue import SimpleQueue
from typing import IO, Any


def main(parent: int) -> None:
    """Answer requests until the parent has gone."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # vLLM prints what it likes
    todo: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests, todo), daemon=True).start()
    threading.Thread(target=_stay_with, args=(parent,), daemon=True).start()
    server = Server()
    while True:
        request = todo.get()
        try:
            reply = server.load(request["load"]) if "load" in request else server.answer(request)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


class Server:
    """A model that vLLM has loaded, and the adapters that it was asked with."""

    def __init__(self) -> None:
        self.model: Any = None
        self.adapters: dict[str, int] = {}

    def load(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Load a model; once."""
        import vllm

        self.model = vllm.LLM(**arguments)
        return {"ready": vllm.__version__}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer prompts together.

        What they have in common is computed once for them, and nothing is left of earlier ones:
        the same request gets the same answers, whatever came before it.
        """
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        self.model.reset_prefix_cache()
        adapter = None
        if folder := request["adapter"]:
            number = self.adapters.setdefault(folder, len(self.adapters) + 1)
            adapter = LoRARequest(f"adapter{number}", number, folder)
        made = self.model.generate(
            [{"prompt_token_ids": prompt} for prompt in request["prompts"]],
            [SamplingParams(**request["sampling"], seed=seed) for seed in request["seeds"]],
            lora_request=adapter,
            use_tqdm=False,
        )
        return {"answers": [list(one.outputs[0].token_ids) for one in made]}


def _listen(requests: IO[str], todo: SimpleQueue[dict[str, Any]]) -> None:
    """Take requests while others are answered; where there will be no more, end."""
    for line in requests:
        todo.put(json.loads(line))
    _end()


def _stay_with(parent: int) -> None:
    """End where the parent has gone and a process that it forked holds the pipe open."""
    while os.getppid() == parent:
        time.sleep(1)
    _end()


def _end() -> None:
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
