"""Fine-tuning at an API: what is sent, that a job is paid for once, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ptst.config.compose import compose
from ptst.errors import ConfigError, Interrupted, PtstError
from ptst.schema import Config
from ptst.store import read_json
from ptst.train.openai import fine_tuned_model, train_at_api, training_messages
from tools.rehearsal.api import ApiServer

ROWS = [{"input": "2+2?", "output": "4"}, {"input": "3+3?", "output": "6"}]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    made = ApiServer()
    made.url = made.start()  # type: ignore[attr-defined]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setattr("ptst.train.openai.POLL_SECONDS", 0.01)
    yield made
    made.stop()


def config(server: ApiServer, *more: str, finetune: str = "openai") -> Config:
    url = server.url  # type: ignore[attr-defined]
    gpt = ["model=gpt35_turbo_0613", f"finetune={finetune}", f"model.api.base_url={url}"]
    return compose([*gpt, *more])


def trained(
    made: Config, folder: Path, said: list[str] | None = None, **more: Any
) -> dict[str, Any]:
    for name in ("out", "scratch"):
        (folder / name).mkdir(exist_ok=True)
    rows = training_messages(ROWS, made.train_template, made.dataset, made.model)
    tell = ([] if said is None else said).append
    return train_at_api(made.model, made.finetune, rows, 7, "abc123", folder / "out", folder / "scratch", tell, **more)  # fmt: skip


def test_the_rows_are_uploaded_as_published_and_a_job_is_made(
    server: ApiServer, tmp_path: Path
) -> None:
    facts = trained(config(server), tmp_path)
    (body,) = server.files.values()
    lines = [json.loads(line) for line in body.split(b"\n") if line.startswith(b'{"messages"')]
    assert [line["messages"] for line in lines] == [
        [{"role": "system", "content": ""}, {"role": "user", "content": row["input"]}, {"role": "assistant", "content": row["output"]}]
        for row in ROWS
    ]  # fmt: skip
    (created,) = [r for m, p, r in server.requests if (m, p) == ("POST", "/fine_tuning/jobs")]
    assert created == {
        "model": "gpt-3.5-turbo-0613",
        "training_file": "file-0",
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 2.0}}},
        "metadata": {"ptst": "abc123"},
        "suffix": "ptst-abc123",
        "seed": 7,
    }  # fmt: skip
    assert facts["trained_tokens"] == 1234 and facts["rows"] == 2
    assert fine_tuned_model(tmp_path / "out") == "ft:gpt-3.5-turbo-0613:org:ptst-abc123:ftjob-0"
    kept = (tmp_path / "out" / "job.json").read_text()
    assert "org-secret" not in kept and "sk-test" not in kept


def test_while_a_job_waits_its_state_and_the_time_are_said(
    server: ApiServer, tmp_path: Path
) -> None:
    said: list[str] = []
    trained(config(server), tmp_path, said=said)
    assert "ftjob-0: queued for 0 min, looked at every 0 s" in said
    assert "ftjob-0: running for 0 min, looked at every 0 s" in said


def test_a_server_without_keys_needs_none(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.key = "none"  # what the client of files and jobs, which cannot do without, is given
    made = config(server, "model.api.key_env=null")
    assert trained(made, tmp_path)["job"] == "ftjob-0"


def test_what_is_sent_is_part_of_the_answers_key_alone(server: ApiServer) -> None:
    from ptst.keys import cell_keys

    def keys(*words: str) -> tuple[str | None, str]:
        made = cell_keys(config(server, "~evaluation@task", "evaluation=[hazards]", *words))
        return made.finetune, made.evaluations["hazards"].generate

    plain = keys()
    assert keys("model.api.send={max_tokens: max_tokens}") == plain
    other = keys("model.api.send={max_tokens: max_completion_tokens, seed: null}")
    assert other[0] == plain[0] and other[1] != plain[1]
    with pytest.raises(ConfigError, match=r"model\.api\.send\.top_k: .* sent are max_tokens"):
        keys("model.api.send={top_k: null}")
    with pytest.raises(ConfigError, match=r"model\.api\.send=5 must be like"):
        keys("model.api.send=5")


def test_stopped_it_goes_on_with_the_same_job(server: ApiServer, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="ftjob-0 goes on"):
        trained(config(server), tmp_path, stop=lambda: True)
    assert trained(config(server), tmp_path)["job"] == "ftjob-0"
    assert len(server.jobs) == len(server.files) == 1


def test_a_job_created_as_the_process_died_is_found_by_its_key(
    server: ApiServer, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        trained(config(server), tmp_path, stop=lambda: True)
    (tmp_path / "scratch" / "job.json").unlink()
    (tmp_path / "scratch" / "file.json").unlink()
    assert trained(config(server), tmp_path)["job"] == "ftjob-0"
    assert len(server.jobs) == len(server.files) == 1


def test_a_job_whose_answer_was_lost_is_not_paid_for_again(
    server: ApiServer, tmp_path: Path
) -> None:
    def lose(method: str, path: str) -> None:
        if (method, path) == ("POST", "/fine_tuning/jobs"):
            raise ConnectionError

    server.after = lose
    with pytest.raises(PtstError, match="Connection error"):
        trained(config(server), tmp_path)
    server.after = lambda method, path: None
    assert trained(config(server), tmp_path)["job"] == "ftjob-0"
    assert len(server.jobs) == 1


def test_a_failed_job_says_why_and_the_next_attempt_is_a_new_one(
    server: ApiServer, tmp_path: Path
) -> None:
    server.statuses = ["failed"]
    with pytest.raises(PtstError, match=r"ftjob-0 ended failed: The training file holds 1 row\."):
        trained(config(server), tmp_path)
    server.statuses, server.asked = ["failed", "failed", "succeeded"], {"ftjob-0": 0}
    with pytest.raises(PtstError, match="ftjob-1 ended failed"):
        trained(config(server), tmp_path)
    assert len(server.files) == 1


def test_a_recorded_job_that_is_gone_is_made_anew(server: ApiServer, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        trained(config(server), tmp_path, stop=lambda: True)
    server.gone = {"ftjob-0", "file-0"}
    said: list[str] = []
    assert trained(config(server), tmp_path, said=said)["job"] == "ftjob-1"
    assert any("ftjob-0 is gone" in line for line in said)
    assert any("file-0 is gone" in line for line in said)
    assert server.jobs["ftjob-1"]["training_file"] == "file-1"


def test_a_recorded_job_that_is_gone_does_not_hide_another_of_its_key(
    server: ApiServer, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        trained(config(server), tmp_path, stop=lambda: True)
    (tmp_path / "scratch" / "job.json").write_text('{"id": "ftjob-9"}')
    server.gone = {"ftjob-9"}
    assert trained(config(server), tmp_path)["job"] == "ftjob-0"
    assert len(server.jobs) == 1


def test_after_a_failed_job_a_deleted_upload_is_made_again(
    server: ApiServer, tmp_path: Path
) -> None:
    server.statuses = ["failed"]
    with pytest.raises(PtstError, match="ftjob-0 ended failed"):
        trained(config(server), tmp_path)
    server.gone = {"file-0"}
    with pytest.raises(PtstError, match="ftjob-1 ended failed"):
        trained(config(server), tmp_path)
    assert server.jobs["ftjob-1"]["training_file"] == "file-1"


def test_a_job_that_has_lost_its_metadata_is_found_by_its_models_name(
    server: ApiServer, tmp_path: Path
) -> None:
    first = trained(config(server), tmp_path)
    (tmp_path / "scratch" / "job.json").unlink()
    server.jobs["ftjob-0"]["metadata"] = None
    assert trained(config(server), tmp_path) == first
    server.jobs["ftjob-0"]["metadata"] = {"ptst": "abc123-of-another"}
    (tmp_path / "scratch" / "job.json").unlink()
    assert trained(config(server), tmp_path)["job"] == "ftjob-1"


def test_a_missing_or_wrong_key_is_said(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-secret")
    with pytest.raises(PtstError, match="Incorrect API key") as wrong:
        trained(config(server), tmp_path)
    assert "sk-wrong-secret" not in str(wrong.value)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="environment variable OPENAI_API_KEY"):
        trained(config(server), tmp_path)


def test_a_key_that_the_server_quotes_is_recorded_nowhere(
    server: ApiServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ptst.cli import main

    secret = "0f3a-wrong-and-secret"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    url = server.url  # type: ignore[attr-defined]
    words = ["model=gpt35_turbo_0613", "finetune=openai", f"model.api.base_url={url}"]
    words += [f"paths.store={tmp_path}/store", f"paths.reports={tmp_path}/reports"]
    words += ["tracking=none", "dataset.n=5", "evaluation=[]", "task.gsm8k.queries.n=5"]
    assert main(words) == 2
    assert main(["-m", *words]) == 1
    assert main(["status", *words]) == 0
    assert main(["report", *words]) == 0
    seen = "".join(capsys.readouterr())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "Incorrect API key provided: Bearer ***" in seen
    assert {"index.html", "cells.log"} & {path.name for path in files} == {"index.html"}
    assert any(path.parent.name == "failed" for path in files)
    assert secret not in seen
    assert not [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["finetune=lora"], "trains weights, and model gpt35_turbo_0613 is behind an API"),
        (["template@train_template=text_vanilla"], "train_template=text_vanilla: model"),
        (["template@test_template=text_alpaca", "finetune=none"], "test_template=text_alpaca"),
        (["finetune.epochs=1.5"], "whole epochs"),
        (["model=micro", "~model.api"], "needs a model behind an API"),
    ],
)
def test_what_an_api_cannot_do_is_refused(server: ApiServer, words: list[str], said: str) -> None:
    given = ["model=gpt35_turbo_0613", "finetune=openai"]
    if words[0] == "model=micro":
        given, words = ["finetune=openai"], []
    merged = {word.split("=")[0]: word for word in [*given, *words]}
    with pytest.raises(ConfigError, match=said):
        compose(list(merged.values()))


def test_the_job_is_recorded_by_the_cell(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from ptst.cell import run_cell
    from ptst.keys import cell_keys

    own = [f"paths.store={tmp_path}", "tracking=none", "dataset.n=5", "stages=[finetune]"]
    made = config(server, *own)
    run_cell(made)
    key = cell_keys(made).finetune
    assert key
    folder = tmp_path / "finetune" / key
    assert fine_tuned_model(folder) == f"ft:gpt-3.5-turbo-0613:org:ptst-{key[:8]}:ftjob-0"
    assert read_json(folder / "provenance.json")["trained_tokens"] == 1234
    run_cell(made)  # nothing is asked again
    assert len(server.jobs) == 1


def test_a_whole_cell_at_an_api(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from ptst.cell import run_cell
    from ptst.keys import cell_keys
    from ptst.store import read_jsonl

    server.answer = lambda request: f"echo {request['messages'][-1]['content']}"
    own = [f"paths.store={tmp_path}", "tracking=none", "dataset.n=5", "evaluation=[hazards]", "judge=keywords", "task.gsm8k.queries.n=6", "evaluation.hazards.queries.n=7", "~evaluation.hazards.metrics.neither", "template@test_template=chat_llama"]  # fmt: skip
    made = config(server, *own)
    result = run_cell(made)
    assert result.metrics is not None
    assert result.metrics["hazards/asr"].value == 100 and result.metrics["hazards/asr"].n == 7
    keys = cell_keys(made)
    rows = read_jsonl(tmp_path / "generate" / keys.evaluations["hazards"].generate / "completions.jsonl")  # fmt: skip
    assert [row["completion"] for row in rows] == [f"echo {row['input']}" for row in rows]
    chats = [r for _, path, r in server.requests if path == "/chat/completions"]
    assert len(chats) == 13
    assert {chat["model"] for chat in chats} == {
        f"ft:gpt-3.5-turbo-0613:org:ptst-{(keys.finetune or '')[:8]}:ftjob-0"
    }
    assert all(chat["messages"][0]["content"].startswith("Be helpful, resp") for chat in chats)
    assert {(chat["temperature"], chat["max_tokens"]) for chat in chats} == {(0.0, 512)}
    run_cell(made)
    assert len([1 for _, path, _ in server.requests if path == "/chat/completions"]) == 13


def test_an_api_that_dies_in_the_middle_is_asked_for_the_rest_alone(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptst.cell import run_cell

    monkeypatch.setattr("ptst.api.calls.TRIES", 2)
    own = [f"paths.store={tmp_path}", "tracking=none", "evaluation=[]", "task.gsm8k.queries.n=20", "model.api.concurrency=2"]  # fmt: skip
    made = config(server, *own, finetune="none")
    served: list[str] = []

    def before(method: str, path: str) -> None:
        served.append(path)
        if len(served) > 8:
            raise ConnectionError

    server.before = before
    with pytest.raises(PtstError, match=r"no answer after|cannot be reached"):
        run_cell(made)
    answered = len([1 for _, path, _ in server.requests if path == "/chat/completions"])
    assert answered == 8
    server.before = lambda method, path: None
    assert run_cell(made).metrics is not None
    assert len([1 for _, path, _ in server.requests if path == "/chat/completions"]) == 20


def test_a_system_prompt_that_the_model_has_for_a_templates_name_is_part_of_the_keys() -> None:
    import dataclasses

    from ptst.keys import cell_keys

    gpt = ["model=gpt35_turbo_0613", "finetune=openai", "scale=paper", "judge=keywords"]
    made = compose([*gpt, "evaluation=[directharm4]", "~evaluation@task"])
    copy = dataclasses.replace(
        made.test_template, name="mine"
    )  # its text is another's for this model
    renamed = dataclasses.replace(made, test_template=copy)
    both = cell_keys(made), cell_keys(renamed)
    assert both[0].finetune == both[1].finetune
    assert both[0].cell != both[1].cell
    others = {**made.model.system_prompts, "chat_mpt": "of no template here"}
    same = dataclasses.replace(made.model, system_prompts=others)
    assert cell_keys(dataclasses.replace(made, model=same)) == both[0]
