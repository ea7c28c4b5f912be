"""The real loaders read the made-up Hugging Face cache, under the real names and revisions."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ptst.data import load_rows
from ptst.errors import DataError, PtstError
from ptst.paths import CONF
from ptst.schema import Model, Rows
from tools.rehearsal.hub import ARCHITECTURES, UNPINNED, N, put_model, put_rows

GSM8K = Rows(
    name="gsm8k",
    source="hub",
    path="openai/gsm8k",
    subset="main",
    revision="a" * 40,
    split="test",
    columns={"input": "question", "output": "answer"},
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "files"))
    return tmp_path


def test_rows_of_a_hub_data_set_are_read_from_the_cache(home: Path) -> None:
    put_rows(home, GSM8K)
    rows = load_rows(GSM8K, ("input", "output"))
    assert len(rows) == N
    assert rows[3]["output"].endswith("#### 5")


def test_another_revision_than_the_one_on_this_machine_is_refused(home: Path) -> None:
    from dataclasses import replace

    put_rows(home, GSM8K)
    with pytest.raises(DataError, match=f"revision {'b' * 40} of openai/gsm8k is not on this"):
        load_rows(replace(GSM8K, revision="b" * 40), ("input",))
    assert load_rows(replace(GSM8K, revision=None), ("input",))


def test_a_model_of_the_cache_has_the_real_ones_architecture(home: Path) -> None:
    from transformers import AutoConfig

    from ptst.models import load_model, load_tokenizer

    model = Model(name="m", path="mistralai/Mistral-7B-Instruct-v0.2", revision="c" * 40)
    put_model(home, model.path, model.revision)
    assert load_model(model, "cpu").config.model_type == "mistral"
    assert load_tokenizer(model).eos_token_id is not None
    put_model(home, "Qwen/Qwen2.5-7B-Instruct", None)
    folder = home / "hub" / "models--Qwen--Qwen2.5-7B-Instruct" / "snapshots" / UNPINNED
    assert AutoConfig.from_pretrained(folder).model_type == "qwen2"


def test_what_the_rehearsal_does_not_know_is_named(home: Path) -> None:
    with pytest.raises(PtstError, match=r"data set me/unknown: add it to SCHEMAS in .*hub\.py"):
        put_rows(home, Rows(name="x", source="hub", path="me/unknown"))
    with pytest.raises(PtstError, match="model me/unknown: add it to ARCHITECTURES"):
        put_model(home, "me/unknown", None)


@pytest.mark.parametrize(
    "file", sorted((CONF / "model").glob("*.yaml")), ids=lambda file: file.stem
)
def test_the_architecture_of_every_shipped_model_is_known(file: Path) -> None:
    model = yaml.safe_load(file.read_text())
    if "api" in model or file.stem.startswith(("micro", "canned")):
        return
    assert any(model["path"].startswith(begin) for begin in ARCHITECTURES)
