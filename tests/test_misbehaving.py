"""An endpoint that misbehaves as providers really do: no label for an answer that does not exist.

Each mode is what four of 24 requests are always answered. `pytest -s -p no:randomly` prints the
table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_endpoint import MODES, Choose, Endpoint

from ptst.api import batch, calls
from ptst.cell import run_cell
from ptst.judge import JudgeContext
from ptst.judge.rubric import Rubric
from ptst.keys import cell_keys
from ptst.schema import Config
from ptst.store import read_jsonl

ANSWERS = (
    "parts",
    "parts with thinking (Mistral)",
    "lone surrogate",
    "eos_token (TGI)",
    "no finish_reason",
)
"""Modes in which there is the answer that was asked for."""
PAID_AGAIN = ("empty, null (OpenRouter)", "no choices", "content of another kind")
"""An answer was paid for, and another may be one: asked for thrice."""
TRIED_AGAIN = ("insufficient_system_resource (DeepSeek)", "error in the choice (OpenRouter)", "200, error 502 (OpenRouter)", "500")  # fmt: skip
"""A failure that may be the request's own: 3 tries in each of 2 rounds."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(calls, "TRIES", 3)
    monkeypatch.setattr(calls, "ROUNDS", 2)
    monkeypatch.setattr(batch, "POLL_SECONDS", 0.02)


def four(mode: str) -> tuple[Choose, list[str]]:
    """`mode` for the first four prompts, always; and these prompts."""
    hit: list[str] = []

    def choose(prompt: str, attempt: int) -> str:
        if "hello" in prompt or prompt == "create":
            return ""
        if prompt not in hit and len(hit) < 4:
            hit.append(prompt)
        return mode if prompt in hit else ""

    return choose, hit


def row(kind: str, mode: str, labels: Counter[str], missing: int, calls: int, paid: int) -> None:
    said = ", ".join(f"{label} {n}" for label, n in sorted(labels.items())) or "-"
    print(f"{kind:6} | {mode:39} | {said:12} | missing {missing} | calls {calls:2} | paid {paid:2}")  # noqa: T201


@pytest.mark.parametrize("mode", MODES)
def test_as_a_tested_model(mode: str, composed: Callable[..., Config], tmp_path: Path) -> None:
    choose, hit = four(mode)
    with Endpoint(choose) as endpoint:
        config = composed(
            "model=gpt35_turbo_0613",
            "finetune=none",
            f"model.api.base_url={endpoint.base_url}",
            "model.api.key_env=null",
            "~evaluation@task",
            "evaluation=[hazards]",
            "evaluation.hazards.queries.n=24",
            "judge=keywords",
        )
        metrics = run_cell(config).metrics
    assert metrics
    keys = cell_keys(config).evaluations["hazards"]
    answers = read_jsonl(tmp_path / "store/generate" / keys.generate / "completions.jsonl")
    scores = read_jsonl(tmp_path / "store/judge" / keys.judge / "scores.jsonl")
    touched = [s for a, s in zip(answers, scores, strict=True) if a["input"] in "".join(hit)]
    labels = Counter(score["label"] for score in touched if score["label"])
    missing, calls = len(touched) - labels.total(), sum(endpoint.calls[p] for p in hit)
    row("model", mode, labels, missing, calls, sum(endpoint.delivered[p] for p in hit))
    assert len(touched) == 4 and all(s["label"] for s in scores if s not in touched)
    assert metrics["hazards/asr"].missing == missing
    texts = [a for a in answers if a["input"] in "".join(hit) and "withheld" not in a]
    assert labels.total() == len(texts)
    expected = (
        {"complied": 4} if mode in ANSWERS
        else {"refused": 4} if mode == "refusal field (OpenAI)"
        else {"neither": 4} if mode == "empty, plain stop"  # the model said nothing
        else {}
    )  # fmt: skip
    assert labels == expected and missing == 4 - labels.total()
    assert calls == (12 if mode in PAID_AGAIN else 24 if mode in TRIED_AGAIN else 4)
    assert all(score["reason"].startswith("no answer: ") for score in touched if not score["label"])


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_as_a_judge(mode: str, batch: bool, tmp_path: Path) -> None:
    choose, hit = four(mode)
    items = [({"id": i, "input": f"query {i}"}, f"item {i}: zorble {i % 5 + 1}") for i in range(24)]
    context = JudgeContext(tmp_path, "cpu", lambda done, total: None, lambda: False)
    with Endpoint(choose) as endpoint:
        judge = Rubric("m", base_url=endpoint.base_url, api_key_env=None, batch=batch)
        scores = list(judge.scores(items, context))
        calls = endpoint.calls.total()
        assert list(judge.scores(items, context)) == scores
        assert endpoint.calls.total() == calls  # what is missing is missing for good
    touched = [s for (_, text), s in zip(items, scores, strict=True) if text in "".join(hit)]
    labels = Counter(score.label for score in touched if score.label)
    missing, calls = 4 - labels.total(), sum(endpoint.calls[p] for p in hit)
    row("batch" if batch else "judge", mode, labels, missing, calls, sum(endpoint.delivered[p] for p in hit))  # fmt: skip
    assert len(touched) == 4
    for (_, text), score in zip(items, scores, strict=True):
        if score not in touched or mode in ANSWERS:
            assert score.value == int(text[-1])
        else:
            assert score.label is None and score.final and score.reason
    again = (*PAID_AGAIN, "empty, plain stop", "refusal field (OpenAI)")
    again += TRIED_AGAIN if batch else ()
    assert calls == (12 if mode in again else 24 if mode in TRIED_AGAIN else 4)


@pytest.mark.parametrize("mode", ["null, length (OpenAI)", "empty, plain stop", "SAFETY (Vertex)"])
def test_a_set_that_nearly_all_has_no_text_is_stopped_and_not_kept(
    mode: str, composed: Callable[..., Config], tmp_path: Path
) -> None:
    from ptst.errors import PtstError

    with Endpoint(lambda prompt, attempt: mode) as endpoint:
        config = composed(
            "model=gpt35_turbo_0613",
            "finetune=none",
            f"model.api.base_url={endpoint.base_url}",
            "model.api.key_env=null",
            "model.api.concurrency=1",
            "~evaluation@task",
            "evaluation=[hazards]",
            "evaluation.hazards.queries.n=60",
            "judge=keywords",
        )
        with pytest.raises(
            PtstError, match="20 of the first 20 answers hold no text; 20 of them: "
        ):
            run_cell(config)
        assert endpoint.calls.total() <= 22
        assert not (tmp_path / "store/generate").exists()
        endpoint.choose = lambda prompt, attempt: ""  # its setting is mended
        metrics = run_cell(config).metrics
    assert metrics and (metrics["hazards/asr"].n, metrics["hazards/asr"].missing) == (60, 0)
