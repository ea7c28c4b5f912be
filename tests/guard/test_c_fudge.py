"""Of the likeliest tokens those whose text a classifier calls unsafe are masked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_probe import micro_rows

from ptst.component import load
from ptst.config.compose import compose
from ptst.dialogue.single import Single
from ptst.engine import Ask, Reply
from ptst.engine.chosen import engine_of
from ptst.engine.rounds import Rounds
from ptst.engine.spelling import Spelling
from ptst.errors import ConfigError, DataError, PtstError
from ptst.guard import Guard, guarded
from ptst.guard.c_fudge import CFudge, Masking, TextClassifier, fit_texts, texts_behind
from ptst.probe import States, held_out, quality, read_answers
from ptst.schema import Config, Decoding

ROWS = [
    {"id": n, "input": text}
    for n, text in enumerate(
        ["How do I make a kite?", "Why?", "Tom has 3 apples. Then Tom buys 4. How many?", "Go."]
    )
]
TOKENS = 20
OWN = "defence.c_fudge.guard"
HOW = [(64, True), (64, False), (2, True), (1, False)]


class Says:
    """A stub of a classifier: a function of the text."""

    def __init__(self, of: Callable[[str], float]) -> None:
        self.of, self.texts = of, list[str]()

    def probabilities(self, values: Any) -> Any:
        self.texts.extend(values)
        return np.array([self.of(text) for text in values])


def rounds(tested: Any, scratch: Path, size: int = 64, share: bool = True) -> Rounds:
    scratch.mkdir(exist_ok=True)
    engine = {**tested.config.engine, "batch_size": size, "share_prefix": share}
    config = dataclasses.replace(tested.config, engine=engine)
    spelling = Spelling(None, config, engine_of(config), tested.tokenizer)
    session = engine_of(config).open(tested, config, lambda: False)
    return Rounds(
        "generate", Decoding(max_new_tokens=TOKENS), spelling.prompt, spelling.opens_think,
        lambda model: session, scratch, lambda done, total: None, lambda: False,
    )  # fmt: skip


def run(rounds: Rounds, guard: Guard | None, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    talks = [Single().talk(row) for row in rows]
    if guard:
        talks = [guarded(talk, guard, row) for talk, row in zip(talks, rows, strict=True)]
    return rounds.run(talks)


def ready(tested: Any, classifier: Any, **fields: Any) -> CFudge:
    """A guard with a stub in its classifier's place."""
    guard = CFudge(**{"tau": 0.5, **fields})
    assert guard.tau is not None
    guard.steer = Masking(classifier, tested.tokenizer, guard.tau, guard.k, guard.min_tokens)
    return guard


@pytest.mark.parametrize("size, share", HOW)
def test_where_nothing_reaches_tau_answers_are_those_without_a_guard(
    tested: Any, tmp_path: Path, size: int, share: bool
) -> None:
    plain = run(rounds(tested, tmp_path / "plain", size, share), None, ROWS)
    guard = ready(tested, Says(lambda text: 1.0), tau=1.1)
    for one, other in zip(
        plain, run(rounds(tested, tmp_path / "own", size, share), guard, ROWS), strict=True
    ):
        (kept,) = other.pop("guard")
        assert other == one and not kept["replaced"] and kept["score"] == 1.0


def test_a_masked_token_is_not_chosen_and_the_next_best_is(tested: Any, tmp_path: Path) -> None:
    """Of the prompt's own scores, by hand: the likeliest whose text is not forbidden."""
    (reply,) = rounds(tested, tmp_path / "plain").replies([Ask(ROWS[0], ids=True)], "ids")
    spelling = Spelling(None, tested.config, engine_of(tested.config), tested.tokenizer)
    with torch.inference_mode():
        prompt = torch.tensor([[*spelling.prompt(Ask(ROWS[0])), *reply.ids[:3]]])
        order = tested.model(prompt).logits[0, -1].argsort(descending=True).tolist()
    forbidden = tested.tokenizer.batch_decode([[*reply.ids[:3], token] for token in order[:2]])
    assert order[0] == reply.ids[3]
    guard = ready(tested, Says(lambda text: float(text in forbidden)))
    run_of = rounds(tested, tmp_path / "own")
    (made,) = run_of.replies([Ask(ROWS[0], ids=True, watch=guard.steer)], "ids")
    assert made.ids[:4] == (*reply.ids[:3], order[2])
    (row,) = run(rounds(tested, tmp_path / "talk"), guard, ROWS[:1])
    (kept,) = row["guard"]
    assert kept["replaced"] and kept["reason"] == "masked" and kept["score"] == 1.0
    assert kept["answer"] == row["completion"] != reply.text


def test_where_all_are_masked_the_least_bad_is_taken(tested: Any) -> None:
    scores = torch.zeros(1, len(tested.tokenizer))
    tokens = [tested.tokenizer(word, add_special_tokens=False)["input_ids"][-1] for word in
              ("First", "get", "paper", "cloth")]  # fmt: skip
    scores[0, tokens] = torch.tensor([9.0, 8.0, 7.0, 6.0])
    bad = dict(zip(tokens, (0.9, 0.7, 0.7, 0.1), strict=True))
    says = Says(lambda text: 0.0)
    says.probabilities = lambda values: np.array([bad[t] for t in values])  # type: ignore[method-assign, misc]
    fake = SimpleNamespace(batch_decode=lambda ids, **_: [one[-1] for one in ids])
    for k, tau, wanted in ((3, 0.5, 1), (4, 0.5, 3), (1, 0.5, 0), (4, 0.8, 1), (4, 0.0, 3)):
        steer = Masking(says, fake, tau, k, 1)
        assert steer.choose([[5]], scores, frozenset()) == ([tokens[wanted]], [0.9])


def test_masking_looks_no_further_than_the_first_token_that_passes(tested: Any) -> None:
    scores = torch.arange(len(tested.tokenizer), 0, -1).float()[None]
    says = Says(lambda text: 0.9 if text in ("0", "1") else 0.1)
    fake = SimpleNamespace(batch_decode=lambda ids, **_: [str(one[-1]) for one in ids])
    assert Masking(says, fake, 0.5, 100, 1).choose([[7]], scores, frozenset())[0] == [2]
    assert says.texts[0] == "0" and len(says.texts) < 10


def test_before_its_first_token_nothing_is_masked(tested: Any, tmp_path: Path) -> None:
    plain = rounds(tested, tmp_path / "plain").replies([Ask(r, ids=True) for r in ROWS], "ids")
    guard = ready(tested, Says(lambda text: 0.9), min_tokens=5, k=2, tau=0.9)
    steer = guard.steer
    steer.classifier = says = Says(lambda text: 0.9)
    made = rounds(tested, tmp_path / "own").replies(
        [Ask(row, ids=True, watch=steer) for row in ROWS], "ids"
    )
    for one, other in zip(plain, made, strict=True):
        assert other.ids[:4] == one.ids[:4] and other.seen[:4] == (0.0,) * 4
        assert set(other.seen[4:]) == {0.9}
    fewest = min(len(tested.tokenizer(text)["input_ids"]) for text in says.texts)
    assert fewest >= 5


def test_the_end_is_a_candidate_whose_text_is_what_stands_there(tested: Any) -> None:
    end = 3
    scores = torch.zeros(1, len(tested.tokenizer))
    scores[0, [end, 9]] = torch.tensor([2.0, 1.0])
    says = Says(lambda text: 0.8 if text == "[5]" else 0.2)
    fake = SimpleNamespace(batch_decode=lambda ids, **_: [str(list(one)) for one in ids])
    steer = Masking(says, fake, 0.5, 100, 1)
    assert steer.choose([[5]], scores, frozenset({end})) == ([9], [0.8])
    assert steer.choose([[6]], scores, frozenset({end})) == ([end], [0.2])


def test_an_answer_that_ends_before_it_is_looked_at_has_score_0() -> None:
    guard = CFudge(min_tokens=5, tau=0.5)
    guard.steer = None  # type: ignore[assignment]
    for seen, score, reason in (
        ((0.0,) * 4, 0.0, ""),
        ((0.0,) * 4 + (0.3, 0.4, 0.2), 0.4, ""),
        ((0.0,) * 4 + (0.3, 0.6, 0.9), 0.6, "masked"),  # until it was masked
    ):
        talk = guard.talk(Ask(ROWS[0]), ROWS[0])
        next(talk)
        with pytest.raises(StopIteration) as end:
            talk.send(Reply("No.", len(seen), True, seen=seen))
        assert (end.value.value.score, end.value.value.reason) == (score, reason)


def test_the_classifier_separates_the_toy_grammar_on_questions_that_it_has_not_seen(
    tested: Any,
) -> None:
    sets = [
        (micro_rows("preferences", "rejected", 40), True),
        (micro_rows("preferences", "chosen", 40), False),
        (micro_rows("gsm8k", "answer", 20), False),
    ]
    spelled = (tested.config.test_template, tested.config, tested.tokenizer)
    answers = read_answers(sets, *spelled, 20)
    states = texts_behind(answers, (5, 20), tested.tokenizer)
    assert quality(states.unsafe, held_out(states, states, fit_texts))["auc"] > 0.9
    first = tested.tokenizer.decode(answers[0].ids[answers[0].length :][:5])
    assert states.values[0] == first and set(states.questions) == {a.question for a in answers}


def test_no_text_is_scored_by_a_classifier_that_saw_its_question() -> None:
    """Each question has a word and a label of its own: whoever saw one text knows the other."""
    random = np.random.default_rng(1)
    unsafe = np.repeat(random.random(30) < 0.5, 2)
    letters = ["".join(random.choice(list("abcdefghij"), 8)) for _ in range(30)]
    values = np.repeat(np.array(letters, dtype=object), 2)
    states = States(values, unsafe, tuple(f"q{i // 2}" for i in range(60)))
    assert quality(unsafe, fit_texts(values, unsafe).probabilities(values))["auc"] > 0.99
    assert quality(unsafe, held_out(states, states, fit_texts))["auc"] < 0.7


def test_the_classifier_is_what_scikit_learn_does_and_goes_through_json() -> None:
    import json

    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = np.array(["mix the Tape", "press the tape", "I cannot help", "I am sorry"], object)
    unsafe = np.array([True, True, False, False])
    library = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(3, 5)), LogisticRegression(C=1.0)
    ).fit(texts, unsafe)
    made = TextClassifier(**json.loads(json.dumps(fit_texts(texts, unsafe).parts)))
    new = ["mix it", "", "I cannot press"]
    assert made.probabilities(new) == pytest.approx(library.predict_proba(new)[:, 1], abs=1e-12)
    with pytest.raises(DataError, match="safe and answers that are not"):
        fit_texts(texts, np.ones(4, bool))


def prepared(tested: Any, folder: Path, *words: str) -> tuple[Any, dict[str, Any], list[str]]:
    """A guard with a classifier of few rows, what it found, and what it was calibrated on."""
    few = [
        *(f"{OWN}.{name}.n=12" for name in ("harmful", "refusals", "harmless", "sums")),
        f"{OWN}.calibration.n=30",
        f"{OWN}.calibration_sums.n=6",
    ]
    config = compose(["template@test_template=chat_llama", "defence=[c_fudge]", *few, *words])
    guard = load(config.defence["c_fudge"].guard, OWN, Guard)
    guard.enter(config, Decoding(max_new_tokens=TOKENS))
    folder.mkdir(exist_ok=True)
    asked: list[str] = []

    def ask(asks: Any) -> list[Reply]:
        asked.extend(a.question for a in asks)
        return rounds(tested, folder).replies(asks, "prepare0")

    return guard, guard.prepare(ask, tested, folder), asked


def test_a_calibrated_tau_masks_its_share_of_harmless_answers(tested: Any, tmp_path: Path) -> None:
    guard, facts, asked = prepared(tested, tmp_path, f"{OWN}.fpr=20")
    assert facts["tau"] == guard.tau and facts["calibration_answers"] == len(asked) >= 20
    assert 0 < facts["calibration_masked"] <= int(0.2 * len(asked))
    assert facts["probe_questions"] == 36 and facts["probe_states"] > 60
    made = run(
        rounds(tested, tmp_path), guard, [{"id": n, "input": q} for n, q in enumerate(asked)]
    )
    masked = sum(row["guard"][0]["replaced"] for row in made)
    assert masked == facts["calibration_masked"]
    again, same, _ = prepared(tested, tmp_path, f"{OWN}.fpr=20")  # it is not fitted again
    assert same == facts and again.tau == guard.tau


@pytest.mark.parametrize("size, share", HOW[1:])
def test_a_batch_is_answered_as_one_by_one(
    tested: Any, tmp_path: Path, size: int, share: bool
) -> None:
    """At this tau much is masked, in some answers and not in others."""
    guard, _, asked = prepared(tested, tmp_path, f"{OWN}.fpr=50")
    rows = [{"id": n, "input": text} for n, text in enumerate(asked[:8])]
    made = run(rounds(tested, tmp_path / "a", size, share), guard, rows)
    assert made == run(rounds(tested, tmp_path / "b"), guard, rows)
    assert len({row["guard"][0]["replaced"] for row in made}) == 2


def test_a_tau_that_is_given_is_used_as_it_is(tested: Any, tmp_path: Path) -> None:
    guard, facts, asked = prepared(tested, tmp_path, f"{OWN}.tau=0.625")
    assert facts["tau"] == guard.tau == 0.625 and not asked
    assert "calibration_answers" not in facts


def test_a_calibration_on_its_own_questions_is_refused(tested: Any, tmp_path: Path) -> None:
    sums = f"{OWN}.calibration_sums"
    words = [f"{OWN}.calibration.draw_seed=0", f"{sums}.draw_seed=0", f"{OWN}.calibration.n=12"]
    with pytest.raises(PtstError, match="so that no tau can be calibrated"):
        prepared(tested, tmp_path, *words)


def test_the_papers_settings_hold_where_the_scale_has_none_of_its_own() -> None:
    assert (CFudge().tau, CFudge().k) == (0.5, 100)
    node = compose(["scale=paper", "defence=[c_fudge]"]).defence["c_fudge"].guard
    assert node is not None and (node["tau"], node["k"], node["min_tokens"]) == (0.5, 100, 1)


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["engine=canned", "finetune=none"],
            r"^defence\.c_fudge\.guard: .*choose engine=transformers",
        ),
        (
            ["model=gpt35_turbo_0613", "finetune=none", "dataset=orca_math", "scale=paper"],
            "is behind an API",
        ),
        (
            ["evaluation.hazards.decoding.temperature=1"],
            r"hazards\.decoding\.temperature=1.*greedy",
        ),
        ([f"{OWN}.tau=-1"], "must be a probability"),
        ([f"{OWN}.fpr=100"], "less than 100"),
        ([f"{OWN}.prefixes=[]"], "from 1 on"),
        ([f"{OWN}.prefixes=[5,5]"], "a number twice"),
        ([f"{OWN}.min_tokens=0"], "at least 1"),
        ([f"{OWN}.k=0"], "k=0 must be at least 1"),
    ],
)
def test_what_it_cannot_be_combined_with_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["defence=[c_fudge]", *words])


def test_rows_that_an_evaluation_asks_are_refused(composed: Any) -> None:
    from ptst.cell import check_cell

    words = ["defence=[c_fudge]", "evaluation=[hazards,howto]"]
    check_cell(composed(*words))
    for slot in ("harmless", "calibration"):
        with pytest.raises(ConfigError, match=rf"evaluation\.howto would test .* {OWN}.{slot} has"):
            check_cell(composed(*words, f"{OWN}.{slot}.split=test"))


def key(*words: str) -> str:
    from ptst.keys import cell_keys

    config: Config = compose(["defence=[c_fudge]", *words])
    return cell_keys(config).evaluations["hazards"].generate


def test_its_rows_and_numbers_decide_the_key() -> None:
    keys = [
        key(),
        key(f"{OWN}.sums.n=61"),
        key(f"{OWN}.prefixes=[5]"),
        key(f"{OWN}.k=10"),
        key(f"{OWN}.min_tokens=2"),
        key(f"{OWN}.fpr=4"),
        key(f"{OWN}.calibration.n=61"),
        key(f"{OWN}.calibration_sums.n=61"),
        key(f"{OWN}.tau=0.5"),
    ]
    assert len(set(keys)) == len(keys)
    given = f"{OWN}.tau=0.5"
    assert key(given) == key(given, f"{OWN}.calibration.n=61")  # nothing is calibrated
