"""A guard may ask the model as it was before fine-tuning, and the tested one again after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conftest import TINY

from ptst.cell import run_cell
from ptst.engine import Ask, question
from ptst.engine.chosen import engine_of
from ptst.engine.rounds import Rounds
from ptst.engine.spelling import Spelling
from ptst.keys import cell_keys
from ptst.schema import Config, Decoding
from ptst.stages.tested_model import TestedModel
from ptst.store import Store


def test_the_models_take_turns(composed: Callable[..., Config], tmp_path: Path) -> None:
    # In half precision the adapter is not merged: it must be put on again
    words = ["model.dtype=bfloat16", "finetune.learning_rate=0.03", "stages=[finetune]"]
    config = composed(*TINY, *words)
    run_cell(config)
    model = TestedModel(config, cell_keys(config), Store(tmp_path / "store"))
    engine = engine_of(config)
    spelling = Spelling(None, config, engine, model.tokenizer)

    def open(which: str):
        own = model if which == "tested" else model.untuned()
        return engine.open(own, config, lambda: False)

    def replies(folder: str, *which: str) -> list[str]:
        (tmp_path / folder).mkdir()
        run = Rounds(
            "test", Decoding(max_new_tokens=8), spelling.prompt, spelling.opens_think, open,
            tmp_path / folder, lambda done, total: None, lambda: False,
        )  # fmt: skip
        asks = [
            Ask(question("Go.").row, model="untuned" if w == "untuned" else "tested") for w in which
        ]
        return [run.replies([ask], f"batches{n}")[0].text for n, ask in enumerate(asks)]

    (tuned,) = replies("one", "tested")
    (plain,) = replies("two", "untuned")
    assert tuned != plain
    turns = ("tested", "untuned", "tested", "untuned")
    assert replies("three", *turns) == [tuned, plain, tuned, plain]
