"""Secrets reach no message, no record and no screen, whoever quotes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptst import redact
from ptst.api.answers import read_answer, read_error
from ptst.api.endpoint import Endpoint
from ptst.config.compose import compose
from ptst.errors import ConfigError, PtstError, in_one_line
from ptst.progress import say
from ptst.store import Store

SECRET = "a1B2c3D4e5F6"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Incorrect API key provided: sk-proj-abcdefghij0123456789.", "Incorrect API key provided: ***."),
        ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer ***"),
        ("cannot reach http://me:hunter2@proxy:80/", "cannot reach http://***@proxy:80/"),
        ("GET /v1?key=AIzaSyA123&x=1", "GET /v1?***&x=1"),
        ("hf_abcdefghijklmnopqr of HF_TOKEN", "*** of HF_TOKEN"),
        ("https://api.openai.com/v1: task-oriented sk-learn, hf_hub", None),
        ("set judge.api_key_env=OPENAI_API_KEY", None),
        ("mail me@example.org, see https://example.org/@me", None),
    ],
)  # fmt: skip
def test_what_is_shaped_like_a_secret_is_hidden_and_nothing_else(
    text: str, left: str | None
) -> None:
    assert redact.redacted(text) == (text if left is None else left)


def test_every_secret_of_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZORBLE_API_KEY", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, f"{SECRET}-{name}")
        assert redact.redacted(f"it says {SECRET}-{name}!") == "it says ***!"
    monkeypatch.setenv("ZORBLE_API_KEY", "none")
    assert redact.redacted("nonetheless") == "nonetheless"


def test_errors_records_and_lines_hold_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZORBLE_API_KEY", SECRET)
    assert str(PtstError(f"it says {SECRET}")) == "it says ***"
    with pytest.raises(PtstError) as raised, in_one_line("reading"):
        raise ValueError("x" * 295 + SECRET)  # cut in its middle
    assert SECRET[:4] not in str(raised.value)
    say(f"a line with {SECRET}")
    assert "a line with ***" in capsys.readouterr().err
    store = Store(tmp_path)
    try:
        raise PtstError("no") from ValueError(f"it says {SECRET}")
    except PtstError as error:
        store.record_failure("one", error)
    store.record_failure("two", RuntimeError(f"it says {SECRET}"))  # another library's
    for path in (tmp_path / "failed").iterdir():
        assert SECRET not in path.read_text() and path.read_text()


def test_a_key_is_hidden_whatever_its_variable_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZORBLE", SECRET + "7")
    assert Endpoint("m", api_key_env="ZORBLE").key() == SECRET + "7"
    assert str(PtstError(f"{SECRET}7")) == "***"


def test_a_key_at_the_edge_of_what_is_quoted_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZORBLE_API_KEY", SECRET)
    for n in (490, 495, 499):
        body = b"x" * n + SECRET.encode()
        assert SECRET[:4] not in str(read_error(500, {}, body))
    body = json.dumps({"choices": [{"message": {"content": 7, "note": SECRET}}]}).encode()
    with pytest.raises(ValueError) as raised:
        read_answer(body)
    assert SECRET not in str(raised.value)


GPT = ("model=gpt35_turbo_0613", "finetune=none")
RUBRIC = ("judge=rubric", "evaluation.hazards.metrics={asr: complied}")


@pytest.mark.parametrize(
    ("overrides", "secret", "says"),
    [
        ((*GPT, "model.api.key_env=sk-abc123"), "sk-abc123", r"model\.api\.key_env"),
        ((*GPT, "model.api.key_env=0123456789abcdef"), "0123456789abcdef", r"model\.api\.key_env"),
        ((*RUBRIC, "judge.api_key_env=gsk_Abc123def"), "gsk_Abc123def", r"judge\.api_key_env"),
        ((*RUBRIC, "judge.api_key_env=AKIA1234ABCD"), "AKIA1234ABCD", r"judge\.api_key_env"),
        ((*GPT, "model.api.base_url='https://me:hunter2@host/v1'"), "hunter2", r"model\.api\.base_url"),
        ((*RUBRIC, "judge.base_url='https://me:hunter2@host/v1'"), "hunter2", r"judge\.base_url"),
        ((*RUBRIC, "judge.base_url='https://host/v1?api-key=hunter2'"), "hunter2", r"judge\.base_url"),
        (("dataset.source=url", "dataset.path='https://me:hunter2@host/rows.csv'"), "hunter2", r"dataset\.path"),
    ],
)  # fmt: skip
def test_a_secret_in_the_configuration_is_refused_and_not_shown(
    overrides: tuple[str, ...], secret: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        compose(overrides)
    assert secret not in str(raised.value) and "hunter2" not in str(raised.value)
    assert secret not in str(PtstError(f"cell {overrides[-1]}: no"))  # who names the override


def test_names_of_variables_and_plain_addresses_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "K_2", "null"):
        compose([*GPT, f"model.api.key_env={name}"])
        compose([*RUBRIC, f"judge.api_key_env={name}"])
    monkeypatch.setenv("my_key", SECRET)
    compose([*GPT, "model.api.key_env=my_key"])
    compose([*GPT, "model.api.base_url='http://localhost:8000/v1/'"])
    with pytest.raises(ConfigError, match=r"model\.api\.base_url=localhost:8000/v1 .*http"):
        compose([*GPT, "model.api.base_url='localhost:8000/v1'"])
