"""BERTScore against embeddings made by hand, a plain loop, and the package bert-score."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import JUDGE_CONTEXT

from ptst.errors import ConfigError, DataError, Interrupted
from ptst.judge import checked
from ptst.judge.bert_score import BertScore, precision_and_recall
from ptst.keys import judge_parts
from ptst.store import key_of

TEXTS = (
    "Take the tea twice a day, and rest.",
    "Hello doctor, I have a cough",
    "rest",
    "the fever of Tom is high </s> and the cough is bad " * 4,
)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa of three layers that has learnt nothing, with a tokenizer of its own."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    folder = tmp_path_factory.mktemp("roberta")
    bpe = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(TEXTS, vocab_size=320, special_tokens=specials)
    bpe.save_model(str(folder))
    tokenizer = RobertaTokenizer.from_pretrained(folder, model_max_length=48)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=50,
        initializer_range=0.5,
    )
    RobertaModel(config).save_pretrained(folder)
    return folder


def judge(folder: Path, **fields: Any) -> BertScore:
    return BertScore(**{"path": str(folder), "revision": None, "layer": 2, **fields})


def values(made: BertScore, pairs: list[tuple[str, str]]) -> list[float]:
    items = [({"id": str(i), "output": ref}, text) for i, (text, ref) in enumerate(pairs)]
    scores = list(made.scores(items, JUDGE_CONTEXT))
    assert {score.label for score in scores} == {"scored"}
    return [score.value or 0.0 for score in scores]


PAIRS = [(a, b) for a in TEXTS for b in TEXTS]


def test_matching_by_hand() -> None:
    # answer: x, y and padding; reference: x, (x + y) / sqrt 2 and a mark that does not count, along
    # -x
    half = 0.5**0.5
    answers = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    references = torch.tensor([[[1.0, 0.0], [half, half], [-1.0, 0.0]]])
    tokens = torch.tensor([[True, True, False]])
    everywhere = torch.tensor([[True, True, True]])
    (found,) = precision_and_recall(answers, tokens, tokens, references, everywhere, tokens)
    # x matches x (1), y the middle (.7071); x matches x (1), the middle either (.7071)
    assert found == pytest.approx(((1 + half) / 2, (1 + half) / 2))
    turned = references * torch.tensor([[[1.0], [1.0], [-2.0]]])  # the mark is now 2 x
    (found,) = precision_and_recall(answers, tokens, tokens, turned, everywhere, tokens)
    assert found == pytest.approx(((2 + half) / 2, (1 + half) / 2))  # matched with, not counted


def test_a_text_is_itself_and_an_empty_one_is_nothing(roberta: Path) -> None:
    made = judge(roberta)
    assert values(made, [(TEXTS[0], TEXTS[0]), (" \n", TEXTS[0])]) == pytest.approx([1.0, 0.0])
    assert values(made, [("", TEXTS[0])]) == [0.0]


def test_scores_equal_those_of_a_plain_loop(roberta: Path) -> None:
    from transformers import RobertaModel, RobertaTokenizer

    model = RobertaModel.from_pretrained(roberta).eval()
    tokenizer = RobertaTokenizer.from_pretrained(roberta)

    def embedded(text: str) -> list[torch.Tensor]:
        ids = tokenizer(" " + text.strip(), add_special_tokens=False, split_special_tokens=True)
        row = [0, *ids["input_ids"][:46], 2]
        with torch.inference_mode():
            hidden = model(torch.tensor([row]), output_hidden_states=True).hidden_states[2][0]
        return [vector / vector.norm() for vector in hidden]

    def f1(text: str, reference: str) -> float:
        a, b = embedded(text), embedded(reference)
        precision = [max(float(x @ y) for y in b) for x in a[1:-1]]
        recall = [max(float(x @ y) for x in a) for y in b[1:-1]]
        p, r = sum(precision) / len(precision), sum(recall) / len(recall)
        return 2 * p * r / (p + r)

    expected = [f1(a, b) for a, b in PAIRS]
    assert len({round(value, 4) for value in expected}) > 4
    for batch_size in (1, 3, 32):
        made = judge(roberta, batch_size=batch_size)
        assert values(made, PAIRS) == pytest.approx(expected, abs=1e-5)


def test_scores_equal_those_of_the_package_where_it_has_the_space_and_no_special_tokens(
    roberta: Path,
) -> None:
    bert_score = pytest.importorskip("bert_score")
    scorer = bert_score.BERTScorer(model_type=str(roberta), num_layers=2, device="cpu")
    own = type(scorer._tokenizer).encode

    def spaced(self: Any, text: str, **settings: Any) -> Any:
        return own(self, f" {text}", **settings)

    type(scorer._tokenizer).encode = spaced  # the space that the package asks for, and does not get
    try:
        plain = [(a, b) for a, b in PAIRS if "</s>" not in a + b]
        _, _, expected = scorer.score([a for a, _ in plain], [b for _, b in plain])
    finally:
        type(scorer._tokenizer).encode = own
    assert values(judge(roberta), plain) == pytest.approx(expected.tolist(), abs=1e-5)


def test_another_layer_gives_other_scores_and_one_too_many_is_refused(roberta: Path) -> None:
    assert values(judge(roberta, layer=1), PAIRS[1:2]) != values(judge(roberta), PAIRS[1:2])
    with pytest.raises(ConfigError, match=r"judge\.layer=17: .* has 3 layers"):
        values(judge(roberta, layer=17), PAIRS)
    with pytest.raises(ConfigError, match=r"judge\.layer=0 must be at least 1"):
        judge(roberta, layer=0)


def test_key_follows_content_not_place(roberta: Path, tmp_path: Path) -> None:
    def key(**fields: Any) -> str:
        return key_of(judge_parts({"_target_": "ptst.judge.bert_score.BertScore", **fields}))

    copy = shutil.copytree(roberta, tmp_path / "copy")
    own = {"revision": None, "layer": 2}
    assert key(path=str(roberta), **own) == key(path=str(copy), batch_size=3, **own)
    assert key(path=str(copy), **own) != key(path=str(copy), **own | {"layer": 1})
    before = key(path=str(copy), **own)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.5}))
    assert key(path=str(copy), **own) != before
    # Of a hub model its id and commit: what stores hold of them has this key.
    assert judge_parts({"_target_": "ptst.judge.bert_score.BertScore"})["judge"] == {
        "_target_": "ptst.judge.bert_score.BertScore",
        "path": "FacebookAI/roberta-large",
        "revision": "722cf37b1afa9454edce342e7895e588b6ff1d59",
        "layer": 17,
    }


def test_its_origin_is_its_model_and_the_commit() -> None:
    commit = "722cf37b1afa9454edce342e7895e588b6ff1d59"
    assert BertScore().origin() == {"path": "FacebookAI/roberta-large", "commit": commit}


def test_what_cannot_be_scored_says_why(roberta: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"query 0: its reference, `output`, is empty"):
        values(judge(roberta), [("rest", " ")])
    nothing = r"judge\.path=.*: no such model directory"
    with pytest.raises(ConfigError, match=nothing):
        values(judge(tmp_path), PAIRS)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        values(judge(tmp_path), PAIRS)
    judge(roberta).ready()
    for wrong in (judge(tmp_path), judge(roberta, layer=17)):  # before anything is trained
        with pytest.raises(ConfigError, match=r"cannot be loaded|has 3 layers"):
            wrong.ready()


def test_it_tells_how_far_it_is_and_stops_when_it_is_told(roberta: Path) -> None:
    told: list[tuple[int, int]] = []
    items = [({"id": "0", "output": b}, a) for a, b in PAIRS[:5]]
    context = replace(JUDGE_CONTEXT, tell=lambda done, total: told.append((done, total)))
    assert len(list(judge(roberta, batch_size=2).scores(items, context))) == 5
    assert told == [(2, 5), (4, 5), (5, 5)]
    context = replace(JUDGE_CONTEXT, stop=lambda: True)
    with pytest.raises(Interrupted, match="BERTScore: 0 of 5"):
        list(judge(roberta).scores(items, context))


@pytest.mark.parametrize(("found", "value"), [(1.0000001192092896, 1.0), (-0.25, 0.0)])
def test_rounding_and_opposite_embeddings_do_not_leave_the_scale(
    roberta: Path, found: float, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer in its reference's own words has cosines of 1, or in float32 a little more."""
    monkeypatch.setattr("ptst.judge.bert_score.precision_and_recall", lambda *_: [(found, found)])
    items = [({"id": "0", "output": "rest"}, "rest")]
    made = judge(roberta)
    (score,) = checked(made, items, made.scores(items, JUDGE_CONTEXT))
    assert score.value == value
