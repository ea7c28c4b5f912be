"""engine=vllm with a real vLLM: beside transformers, on the micro model. Skipped where there is
none."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, ptst

from ptst import data
from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.engine import Ask, Completion
from ptst.engine.chosen import engine_of
from ptst.engine.spelling import Spelling
from ptst.engine.vllm import OWN, PYTHON
from ptst.errors import PtstError
from ptst.keys import cell_keys
from ptst.schema import Decoding
from ptst.stages.tested_model import TestedModel
from ptst.store import Store, read_jsonl

pytestmark = [
    pytest.mark.slow,  # vLLM takes its time to start
    pytest.mark.skipif(
        not (os.environ.get(PYTHON) or (OWN / "bin" / "python").exists()),
        reason=f"there is no vLLM: `make vllm`, or {PYTHON}",
    ),
]

LORA = ("finetune=lora", "finetune.learning_rate=0.01", "template@test_template=chat_llama")
GREEDY = Decoding(max_new_tokens=20)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestedModel]:
    """A model with an adapter that changes its answers."""
    store = tmp_path_factory.mktemp("vllm")
    places = [f"paths.store={store}", f"paths.reports={store}/reports", "tracking=none"]
    config = compose([*TINY, *LORA, *places, "engine=vllm", "stages=[finetune]"])
    run_cell(config)
    model = TestedModel(config, cell_keys(config), Store(store))
    yield model
    model.held.served.forget()


@pytest.fixture(scope="module")
def prompts(tuned: TestedModel) -> list[list[int]]:
    """Of queries that are refused, and of word problems: of very different lengths."""
    config = compose([*LORA, "evaluation=[hazards]"])
    spelling = Spelling(None, config, engine_of(config), tuned.tokenizer)
    rows = [
        row
        for name in ("hazards", "gsm8k")
        for row in list(data.read_rows(config.evaluations[name].queries, needs=("input",)))[:12]
    ]
    return [spelling.prompt(Ask(row)) for row in rows]


def answers(
    model: TestedModel, prompts: list[list[int]], decoding: Decoding, *words: str
) -> list[Completion]:
    config = compose([*LORA, *words])
    session = engine_of(config).open(model, config, lambda: False)
    found: dict[int, Completion] = {}
    for made in session.answer(prompts, session.plan(prompts), decoding):
        found |= made
    return [found[i] for i in range(len(prompts))]


def test_greedy_answers_are_those_of_transformers_with_the_adapter_and_without(
    tuned: TestedModel, prompts: list[list[int]]
) -> None:
    made: dict[tuple[str, str], list[Completion]] = {}
    for engine in ("transformers", "vllm"):
        made[engine, "tuned"] = answers(tuned, prompts, GREEDY, f"engine={engine}")
        made[engine, "base"] = answers(tuned.untuned(), prompts, GREEDY, f"engine={engine}")
    for which in ("tuned", "base"):
        assert made["vllm", which] == made["transformers", which]
    assert made["vllm", "tuned"] != made["vllm", "base"]
    finished = {one.finished for both in made.values() for one in both}
    assert finished == {True, False}  # some answers end by themselves, some are cut off


def test_a_sampled_answer_depends_on_its_seed_and_on_no_other_answer(
    tuned: TestedModel, prompts: list[list[int]]
) -> None:
    hot = Decoding(max_new_tokens=12, temperature=2.0, seed=1)
    first = answers(tuned, prompts, hot, "engine=vllm")
    again = answers(tuned, prompts[:5], hot, "engine=vllm")
    assert again == first[:5]
    other = answers(tuned, prompts, replace(hot, seed=2), "engine=vllm")
    assert sum(a == b for a, b in zip(first, other, strict=True)) < 4
    # The likeliest token alone may be drawn
    greedy = answers(tuned, prompts, replace(GREEDY, max_new_tokens=12), "engine=vllm")
    for narrow in (replace(hot, top_k=1), replace(hot, top_p=1e-6)):
        assert answers(tuned, prompts, narrow, "engine=vllm") == greedy
    assert first != greedy


def test_an_answer_ends_at_the_first_stop_token_and_at_no_other(
    tuned: TestedModel, prompts: list[list[int]]
) -> None:
    whole = answers(tuned, prompts[:1], GREEDY, "engine=vllm")[0].ids
    worker: Any = tuned.held.served._process
    stop = whole[3]

    def made(stops: list[int]) -> list[int]:
        sampling = {
            "max_tokens": 32,
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "detokenize": False,
        }
        sampling |= {"stop_token_ids": stops, "ignore_eos": True}
        adapter = str(tuned.files.adapter)
        request = {"prompts": prompts[:1], "seeds": [0], "sampling": sampling, "adapter": adapter}
        (ids,) = worker.ask(request)["answers"]
        return list(ids)

    assert made([stop, 2]) == list(whole[: whole.index(stop) + 1])
    assert len(made([])) == 32  # its own end of text ends nothing


def test_a_process_that_is_killed_is_told_and_not_used_again(
    tuned: TestedModel, prompts: list[list[int]]
) -> None:
    answers(tuned, prompts[:1], GREEDY, "engine=vllm")
    worker: Any = tuned.held.served._process
    os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.raises(PtstError, match=r"killed by SIGKILL; its last words: \S") as died:
        worker.ask({"prompts": [[1]]})
    Path(str(died.value).rpartition(": ")[2].rstrip(")")).unlink()
    assert not worker.alive


def test_a_killed_run_of_a_model_that_was_trained_in_full_goes_on_and_answers_as_transformers(
    tmp_path: Path,
) -> None:
    own = [word for word in TINY if not word.startswith(("task.", "engine."))]
    own += ["finetune=full", "~evaluation@task", "tracking=none", f"paths.store={tmp_path}/store"]
    served = [*own, f"paths.reports={tmp_path}/reports", "engine=vllm", "engine.batch_size=2"]

    def journal() -> int:
        files = (tmp_path / "store/partial").rglob("batches-*.jsonl")
        return sum(len(file.read_text().splitlines()) for file in files)

    killed = ptst(*served, "evaluation.hazards.decoding.max_new_tokens=64")
    while journal() < 2:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    kept = journal()
    assert kept < 5
    runs = [[*served], [*own, f"paths.reports={tmp_path}/reports", "engine=transformers"]]
    for words in runs:
        again = ptst(*words, "evaluation.hazards.decoding.max_new_tokens=64")
        assert again.wait() == 0, again.communicate()
    one, other = (
        read_jsonl(path) for path in (tmp_path / "store").glob("generate/*/completions.jsonl")
    )
    assert one == other and len(one) == 10
