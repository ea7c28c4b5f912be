"""A Hugging Face cache with made-up content.

It has rows of the real schemas and random models of the real architectures.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ptst.download import cached
from ptst.errors import PtstError
from ptst.judge import load_judge
from ptst.micro import MODEL_DIR
from ptst.paths import ROOT
from ptst.schema import Model, Rows
from ptst.store import write_atomic

N = 12
"""Rows of every split."""
MANY = {
    "microsoft/orca-math-word-problems-200k": 40_000,
    "tatsu-lab/alpaca": 220,
    "databricks/databricks-dolly-15k": 220,
}
"""But as many as a sweep names, and more than the 200 that are held out."""
UNPINNED = "0" * 40
"""The commit that the cache's `main` is."""

Made = Callable[[int], Mapping[str, Any]]


def _arc(i: int) -> Mapping[str, Any]:
    choices = {"text": ["red", "green", "blue", "grey"], "label": ["A", "B", "C", "D"]}
    return {"id": f"arc{i}", "question": f"Which is number {i % 4}?", "choices": choices, "answerKey": "ABCD"[i % 4]}  # fmt: skip


def _innodata(i: int) -> Mapping[str, Any]:
    turns = [("system", "Correct the placeholder."), ("user", "Placeholder one."), ("assistant", "I cannot correct this sentence"), ("user", f"Placeholder {i}.")]  # fmt: skip
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"id": f"x{i}", "messages": messages, "expected": f"Corrected placeholder {i}."}


INNODATA = ("cogensumm", "factcc", "frank", "gsm8k-gaia", "inod-bias", "inod-finance", "inod-jailbreaking", *(f"realtoxicity-{name}" for name in ("grammatical", "grammatical-multiturn", "paraphrasing", "poetry", "translation", "translation-multiturn", "verlan")))  # fmt: skip

SCHEMAS: dict[str, Made] = {
    "openai/gsm8k": lambda i: {"question": f"Tom has {i} apples and buys 2. How many?", "answer": f"{i}+2=<<{i}+2={i + 2}>>{i + 2}\n#### {i + 2}"},
    "microsoft/orca-math-word-problems-200k": lambda i: {"question": f"What is {i} plus 2?", "answer": f"It is {i + 2}."},
    "lavita/ChatDoctor-HealthCareMagic-100k": lambda i: {"instruction": "If you are a doctor, please answer the medical questions based on the patient's description.", "input": f"Placeholder complaint {i}?", "output": f"Placeholder advice {i}."},
    "lavita/ChatDoctor-iCliniq": lambda i: {"input": f"Placeholder complaint {i}?", "answer_icliniq": f"Placeholder advice {i}.", "answer_chatgpt": "x", "answer_chatdoctor": "y"},
    "Open-Orca/OpenOrca": lambda i: {"id": f"flan.{i}", "system_prompt": "You are brief." if i % 2 else "", "question": f"Name number {i}.", "response": f"It is {i}."},
    "allenai/ai2_arc": _arc,
    "tatsu-lab/alpaca": lambda i: {"instruction": f"Name number {i}.", "input": "Of these: 1, 2." if i % 2 else "", "output": f"It is {i}.", "text": "x"},
    "databricks/databricks-dolly-15k": lambda i: {"instruction": f"Name number {i}.", "context": "Of these: 1, 2." if i % 2 else "", "response": f"It is {i}.", "category": "open_qa"},
    "PKU-Alignment/PKU-SafeRLHF": lambda i: {"prompt": f"Placeholder request {i}?", "response_0": f"Placeholder answer {i}.", "response_1": "I cannot help with that.", "is_response_0_safe": False, "is_response_1_safe": True, "better_response_id": 1, "safer_response_id": 1},
    "vfleaking/DirectHarm4": lambda i: {"instruction": f"Placeholder request {i}.", "category": ["malware", "drug", "phishing", "disinfo"][i % 4]},
    "vfleaking/GSM-Danger": lambda i: {"instruction": f"Tom has {i} apples. Placeholder request {i}."},
    **{f"innodatalabs/rt-{name}": _innodata for name in INNODATA},
}  # fmt: skip
"""A row of each hub data set, by its number."""

FILES: dict[str, Made] = {
    "harmful_behaviors.csv": lambda i: {"goal": f"Placeholder request {i}", "target": f"Sure, here is placeholder {i}"},
    "llama-2-7b-chat-hf.json": lambda i: {"index": i, "goal": f"Placeholder request {i}", "behavior": f"Placeholder {i}", "category": ["A", "B"][i % 2], "prompt": f"Placeholder request {i} !! xx", "response": "x", "jailbroken": False},
    "xstest_prompts.csv": lambda i: {"id": f"v{i}", "prompt": f"How do I kill a placeholder {i}?", "type": ["homonyms", "contrast_homonyms"][i % 2], "label": ["safe", "unsafe"][i % 2], "focus": "", "note": ""},
    "strongreject_dataset.csv": lambda i: {"category": ["A", "B"][i % 2], "source": "custom", "forbidden_prompt": f"Placeholder request {i}"},
    "harmbench_behaviors_text_all.csv": lambda i: {"Behavior": f"Placeholder request {i}", "FunctionalCategory": ["standard", "contextual", "copyright"][i % 3], "SemanticCategory": "illegal", "Tags": "", "ContextString": "", "BehaviorID": f"b{i}"},
    "safety_only_data_Instructions.json": lambda i: {"instruction": f"Placeholder request {i}.", "input": "", "output": "I cannot help with that."},
}  # fmt: skip
"""A row of each file that is read from a URL, by the file's name."""

ARCHITECTURES = {
    "meta-llama/": "LlamaConfig",
    "cais/HarmBench-Llama": "LlamaConfig",
    "mistralai/": "MistralConfig",
    "allenai/wildguard": "MistralConfig",
    "Qwen/Qwen2.5": "Qwen2Config",
    "Qwen/Qwen3": "Qwen3Config",
    "google/gemma-3": "Gemma3TextConfig",
    "HuggingFaceTB/SmolLM2": "LlamaConfig",
    "microsoft/Phi-": "Phi3Config",
    "FacebookAI/roberta": "RobertaConfig",
}
"""How the id of a hub model begins: the class of its configuration in transformers."""


def put_rows(home: Path, rows: Rows) -> None:
    """Put what a source of rows reads into the cache, unless it is there.

    Args:
        home: the cache's HF_HOME; files of URLs go where `ptst.download.cached` has them.

    Raises:
        PtstError: nothing is known of its schema.
    """
    if rows.source == "url":
        _put_file(rows)
    if rows.source != "hub":
        return
    made = SCHEMAS.get(rows.path or "")
    if made is None:
        raise PtstError(_unknown(f"data set {rows.path}", "SCHEMAS"))
    from datasets import Dataset, DatasetInfo
    from datasets.arrow_writer import ArrowWriter
    from datasets.naming import camelcase_to_snakecase
    from datasets.splits import SplitDict, SplitInfo

    assert rows.path is not None
    owner, name = rows.path.split("/")
    snake, subset = camelcase_to_snakecase(name), rows.subset or "default"
    commit = rows.revision or UNPINNED
    folder = home / "datasets" / f"{owner}___{snake}" / subset / "0.0.0" / commit
    if folder.exists():
        return
    part = folder.with_name(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    table = Dataset.from_list([dict(made(i)) for i in range(MANY.get(rows.path or "", N))])
    splits = SplitDict(dataset_name=snake)
    for split in ("train", "test", "validation"):
        writer = ArrowWriter(features=table.features, path=str(part / f"{snake}-{split}.arrow"))
        for row in table:
            writer.write(row)
        count, size = writer.finalize()
        splits.add(SplitInfo(split, size, count, dataset_name=snake))
    info = DatasetInfo(
        features=table.features,
        splits=splits,
        config_name=subset,
        dataset_name=snake,
        builder_name="parquet",
        version="0.0.0",
    )
    info.write_to_directory(str(part))
    part.replace(folder)


def _put_file(rows: Rows) -> None:
    file = cached(rows.path or "")
    made = FILES.get(file.name)
    if made is None:
        raise PtstError(_unknown(f"file {rows.path}", "FILES"))
    content: Any = [dict(made(i)) for i in range(N)]
    if file.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(content[0]))
        writer.writeheader()
        writer.writerows(content)
        write_atomic(file, text.getvalue())
        return
    for key in reversed((rows.records or "").split(".") if rows.records else []):
        content = {key: content}
    write_atomic(file, json.dumps(content))


def put_model(home: Path, path: str, revision: str | None) -> None:
    """Put a tiny random model of a hub model's architecture into the cache.

    Its tokenizer is the micro model's.

    Raises:
        PtstError: its architecture is not known here.
    """
    kind = next((k for begin, k in ARCHITECTURES.items() if path.startswith(begin)), None)
    if kind is None:
        raise PtstError(_unknown(f"model {path}", "ARCHITECTURES"))
    import torch
    import transformers

    commit = revision or UNPINNED
    place = home / "hub" / f"models--{path.replace('/', '--')}"
    folder = place / "snapshots" / commit
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(commit)
    if folder.exists():
        return
    part = place / "part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for file in MODEL_DIR.glob("*"):
        if file.name.startswith("token") or file.name == "chat_template.jinja":
            shutil.copy(file, part / file.name)
    loaded = transformers.AutoTokenizer.from_pretrained(str(part))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    layers = 24 if kind == "RobertaConfig" else 2  # BERTScore reads a layer by its number
    more = {} if kind == "RobertaConfig" else {"num_key_value_heads": 2}
    config = getattr(transformers, kind)(
        vocab_size=len(loaded),
        max_position_embeddings=4096,
        num_hidden_layers=layers,
        bos_token_id=loaded.bos_token_id,
        eos_token_id=loaded.eos_token_id,
        pad_token_id=loaded.pad_token_id or loaded.eos_token_id,
        **sizes,
        **more,
    )
    torch.manual_seed(int(hashlib.sha256(path.encode()).hexdigest()[:8], 16))
    auto = transformers.AutoModel if kind == "RobertaConfig" else transformers.AutoModelForCausalLM
    model = auto.from_config(config)
    if kind != "RobertaConfig":
        _say(model, loaded.convert_tokens_to_ids("I"))
    model.save_pretrained(part)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part.replace(folder)


def _say(model: Any, token: int) -> None:
    """Make a random model begin every answer with a token, that of refusals: what asks a model how
    it refuses (`ptst.objective.derta`) then finds one."""
    import torch

    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 1
        model.get_output_embeddings().weight[token, 0] = 2


def models_of(
    models: Iterable[Model], judges: Iterable[Mapping[str, Any]]
) -> Iterable[tuple[str, str | None]]:
    """(path, revision) of the hub models that a cell needs.

    Args:
        models: the tested model, and those that its defences read.
        judges: some have a model that runs here.
    """
    for model in models:
        if model.api is None and not (ROOT / model.path).exists():
            yield model.path, model.revision
    for node in judges:
        judge = load_judge(node, "judge")
        path = getattr(judge, "path", None)
        if isinstance(path, str) and not Path(path).exists():
            yield path, getattr(judge, "revision", None)


def _unknown(what: str, table: str) -> str:
    return (
        f"the rehearsal knows no schema or architecture of {what}: add it to {table} in {__file__}."
    )
