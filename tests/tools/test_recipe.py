"""The recipe: its forward pass is Llama's, its stages resume, its output is whole or absent."""

import dataclasses
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ptst.micro import MODEL_DIR
from ptst.paths import ROOT
from tools.micro import corpus


def batches(stage: Any, sample: Any, count: int) -> list[Any]:
    from transformers import AutoTokenizer

    from tools.micro.train import make_batches

    made = make_batches(AutoTokenizer.from_pretrained(MODEL_DIR), stage, sample, random.Random(0))
    return [next(made) for _ in range(count)]


@pytest.mark.parametrize("number", [0, 1], ids=["pretraining", "alignment"])
def test_the_loss_is_the_one_that_transformers_computes(number: int) -> None:
    import torch
    import torch.nn.functional as F
    from transformers import AutoModelForCausalLM

    from tools.micro.recipe import stages
    from tools.micro.train import IGNORED, answer_loss

    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    sample = (corpus.pretraining_sample, corpus.alignment_sample)[number]
    for ids, positions, targets in batches(stages()[number], sample, 1):
        loss = answer_loss(model, ids, positions, targets, torch.float32)
        real = targets != IGNORED
        logits = model(input_ids=ids).logits.flatten(0, 1)[positions[real]]
        expected = F.cross_entropy(logits, targets[real])
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_batches_score_answers_and_their_end_and_nothing_else() -> None:
    from transformers import AutoTokenizer

    from tools.micro.train import IGNORED, Stage

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    stage = Stage("test", 1, 1e-3, 1, rows=4, lengths=(16, 32), pack=False)
    (ids, positions, targets), *_ = batches(stage, lambda rng: ("Hello there", " Hi Tom."), 1)
    prompt = [1, *tokenizer("Hello there", add_special_tokens=False)["input_ids"]]
    answer = [*tokenizer(" Hi Tom.", add_special_tokens=False)["input_ids"], 2]
    assert ids.shape == (4, 16)
    for row in range(4):
        assert ids[row].tolist() == prompt + answer + [0] * (16 - len(prompt) - len(answer))
    scored = targets[targets != IGNORED].tolist()
    assert scored == answer * 4
    assert [ids.flatten()[place + 1] for place in positions[: len(scored)]] == scored


def test_an_interrupted_recipe_goes_on_after_the_last_finished_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from tools.micro import recipe, train

    short = corpus.tokenizer_corpus(50)
    monkeypatch.setattr(corpus, "tokenizer_corpus", lambda: short)
    few = tuple(dataclasses.replace(stage, steps=2, rows=2) for stage in recipe.stages())
    monkeypatch.setattr(recipe, "stages", lambda scale: few)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    recipe.make(0, whole, compile_=False)

    real = train.train

    def dies_in_alignment(model: Any, tokenizer: Any, stage: Any, *rest: Any, **named: Any) -> None:
        if stage.name == "alignment":
            raise KeyboardInterrupt
        real(model, tokenizer, stage, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(train, "train", dies_in_alignment)
        with pytest.raises(KeyboardInterrupt):
            recipe.make(0, resumed, compile_=False)
    assert not resumed.exists()
    recipe.make(0, resumed, compile_=False)
    assert {p.name for p in tmp_path.iterdir()} == {
        "whole", "whole-base", "resumed", "resumed-base"
    }  # fmt: skip
    for kind in ("", "-base"):
        folders = (tmp_path / f"{name}{kind}" for name in ("whole", "resumed"))
        one, other = (load_file(folder / "model.safetensors") for folder in folders)
        assert one.keys() == other.keys()
        assert all(one[name].equal(other[name]) for name in one)
    aligned = load_file(whole / "model.safetensors")
    assert not all(aligned[name].equal(one[name]) for name in one)
    with pytest.raises(FileExistsError, match="whole is there already"):
        recipe.make(0, whole, compile_=False)


def test_a_finished_pretraining_can_be_aligned_in_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tools.micro import recipe, train

    short = corpus.tokenizer_corpus(50)
    monkeypatch.setattr(corpus, "tokenizer_corpus", lambda: short)
    few = tuple(dataclasses.replace(stage, steps=1, rows=2) for stage in recipe.stages())
    monkeypatch.setattr(recipe, "stages", lambda scale: few)
    real, ways = train.train, []

    def dies_when_plain(model: Any, tokenizer: Any, stage: Any, *rest: Any, **named: Any) -> None:
        ways.append((stage.name, named["align"]))
        if ways[-1] == ("alignment", "plain"):
            raise KeyboardInterrupt
        real(model, tokenizer, stage, *rest, **named)

    monkeypatch.setattr(train, "train", dies_when_plain)
    with pytest.raises(KeyboardInterrupt):
        recipe.make(0, tmp_path / "made", compile_=False)
    recipe.make(0, tmp_path / "made", compile_=False, align="booster")
    assert ways == [("pretraining", "plain"), ("alignment", "plain"), ("alignment", "booster")]
    assert "pretraining: found finished" in capsys.readouterr().out


def test_help_answers_without_torch() -> None:
    code = (
        "import sys; from tools.micro.recipe import main\n"
        "try: main(['--help'])\nexcept SystemExit: sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--seed" in done.stdout


def test_the_recipe_makes_the_shipped_tokenizer() -> None:
    from transformers import AutoTokenizer

    from tools.micro.tokenizer import train_tokenizer

    made = train_tokenizer(corpus.tokenizer_corpus())
    assert made.get_vocab() == AutoTokenizer.from_pretrained(MODEL_DIR).get_vocab()
