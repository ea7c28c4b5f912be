"""PARDEN: what a model does not repeat is replaced, below a threshold set on harmless answers."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from talks import Parrot, rounds_of

from ptst.cell import run_cell
from ptst.component import load
from ptst.config.compose import compose
from ptst.dialogue.single import Single
from ptst.engine import Ask, Reply
from ptst.engine.rounds import Rounds
from ptst.engine.spelling import Spelling
from ptst.engine.transformers import Transformers
from ptst.errors import ConfigError, PtstError
from ptst.guard import Guard, counted, guarded, prepared
from ptst.guard.parden import Parden, bleu, similarity, threshold_at
from ptst.keys import cell_keys
from ptst.models import load_tokenizer
from ptst.schema import Config, Rows
from ptst.store import Store, read_json, read_jsonl
from ptst.templates import encode, make_prompt

PLAN = "First get the oil and the salt. Then shake the oil with the wire. Then press it to draw the lamp."
REFUSAL = "I am sorry, but I cannot repeat that text."
ROWS = [{"id": i, "input": text} for i, text in enumerate(("sand", "snare", "salt", "salt"))]
HARMLESS = Rows(name="howto", source="micro", split="train", n=20, columns={"input": "instruction"})


def item(question: str) -> str:
    """The answer that a repetition is asked of; "" for another question."""
    return question.partition("\ne. ")[2].partition("\n]")[0]


def copies(question: str) -> str:
    """Answers with a plan, and repeats what it is asked to."""
    return f" {item(question)}\n" if item(question) else PLAN.replace("oil", question)


def refuses(question: str) -> str:
    """The same, but that it does not repeat a snare."""
    return REFUSAL if "snare" in item(question) else copies(question)


def completions(
    folder: Path, guard: Guard | None, say: Callable[[str], str], rows: Any = ROWS
) -> Any:
    session = Parrot(say)
    rounds = rounds_of(folder, session)
    talks = [Single().talk(row) for row in rows]
    if guard:
        talks = [guarded(talk, guard, row) for talk, row in zip(talks, rows, strict=True)]
    return rounds.run(talks), session


# BLEU


def test_bleu_is_nltks_and_says_nothing_of_n_grams_that_do_not_occur() -> None:
    from nltk.translate.bleu_score import sentence_bleu

    draw = random.Random(0)
    for _ in range(60):
        letters = draw.choice(["ab ", "abcdefgh "])
        a, b = ("".join(draw.choices(letters, k=draw.randint(1, 40))) for _ in range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            char, word = sentence_bleu([a], b), sentence_bleu([a.split()], b.split())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert bleu(a, b) == char and bleu(a.split(), b.split()) == word


def test_bleu_by_hand() -> None:
    words = PLAN.split()
    assert len(words) == 21
    changed = " ".join([*words[:-1], "kettle."])
    assert similarity(PLAN, PLAN, 60, "char") == similarity(PLAN, PLAN, 60, "word") == 1
    # of 21, 20, 19, 18 n-grams of words one each is another: (20/21 19/20 18/19 17/18) ** 1/4
    assert similarity(PLAN, changed, 60, "word") == pytest.approx((17 / 21) ** 0.25)
    assert 0.9 < similarity(PLAN, changed, 60, "char") < 1
    assert similarity(PLAN, REFUSAL, 60, "word") == pytest.approx(0, abs=1e-9)
    assert similarity(PLAN, REFUSAL, 60, "char") == pytest.approx(0.11, abs=0.02)
    for unit in ("char", "word"):  # two words of each are compared
        assert similarity("First get the jar", "I cannot.", 60, unit) == pytest.approx(0, abs=1e-9)
        assert similarity(PLAN, "", 60, unit) == 0
        assert similarity("No.", "No.", 60, unit) == similarity("7", "7 f.", 60, unit) == 1
    assert similarity("one two three four x", "one two three four y", 4, "word") == 1


# What is replaced


def test_a_model_that_copies_leaves_every_answer_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain, _ = completions(tmp_path / "plain", None, copies)
    made, _ = completions(tmp_path, Parden(threshold=0.9), copies)
    assert [{k: v for k, v in row.items() if k != "guard"} for row in made] == plain
    assert [row["guard"][0]["score"] for row in made] == [0, 0, 0, 0]


def test_a_model_that_refuses_on_a_word_is_caught_on_it_and_nowhere_else(tmp_path: Path) -> None:
    made, _ = completions(tmp_path, Parden(threshold=0.9), refuses)
    assert [row["guard"][0]["replaced"] for row in made] == [False, True, False, False]
    assert made[1]["completion"] == REFUSAL and made[1]["finished"]
    found = made[1]["guard"][0]
    assert found["asked"][0]["answer"] == PLAN.replace("oil", "snare")
    assert found["asked"][1]["model"] == "untuned"
    own = similarity(PLAN.replace("oil", "snare"), REFUSAL, 60, "char")
    assert found["score"] == 1 - own and found["score"] > 0.8


@pytest.mark.parametrize("threshold, replaced", [(-0.01, False), (1.01, True)])
def test_below_0_nothing_is_replaced_and_above_1_everything(
    tmp_path: Path, threshold: float, replaced: bool
) -> None:
    made, _ = completions(tmp_path, Parden(threshold=threshold), refuses)
    assert {row["guard"][0]["replaced"] for row in made} == {replaced}


def test_the_refusal_takes_the_place_where_it_is_chosen_or_nothing_is_repeated(
    tmp_path: Path,
) -> None:
    own = Parden(threshold=0.9, answer="refusal", refusal="No.")
    made, _ = completions(tmp_path, own, refuses)
    assert made[1]["completion"] == "No."
    (silent := tmp_path / "silent").mkdir()
    own = Parden(threshold=0.9, refusal="No.")
    made, _ = completions(silent, own, lambda text: "" if item(text) else PLAN)
    assert {row["completion"] for row in made} == {"No."}
    assert {row["guard"][0]["score"] for row in made} == {1}


def test_an_empty_answer_passes_and_is_counted(tmp_path: Path) -> None:
    made, session = completions(tmp_path, Parden(threshold=1.1), lambda text: "")
    assert {row["completion"] for row in made} == {""} and len(session.questions) == 4
    assert counted(made) == {"answers": 4, "replaced": 0, "asked": 4}
    (mixed := tmp_path / "mixed").mkdir()
    made, _ = completions(
        mixed, Parden(threshold=0.5), lambda text: "" if text == "sand" else copies(text)
    )
    assert counted(made)["without_score"] == 1


def test_the_same_answer_is_repeated_once(tmp_path: Path) -> None:
    made, session = completions(tmp_path, Parden(threshold=0.9), refuses)
    assert len(made) == 4 and sum(bool(item(text)) for text in session.questions) == 3


def test_what_is_asked_depends_on_the_answer_alone() -> None:
    own, answers = Parden(threshold=0.5), (Reply(PLAN, 1, True), Reply(PLAN, 9, False, "hm"))
    rows = ({"id": "0", "input": "x"}, {"id": "7", "input": "y", "hazard": "z"})
    asked = []
    for row, answer in zip(rows, answers, strict=True):
        talk = own.talk(Ask(row), row)
        next(talk)
        asked.append(talk.send(answer))
    assert asked[0] == asked[1]


def test_only_the_first_words_are_repeated_and_line_breaks_are_spaces() -> None:
    asked = Parden(threshold=0.5, words=3).repetition("one\n\ntwo  three four")
    assert item(asked.question) == "one two three"
    assert asked.begin[0].endswith("\ne.") and asked.question.count("\n") == 7


def test_a_repetition_that_is_not_begun_is_found_behind_its_label(tmp_path: Path) -> None:
    own = Parden(threshold=0.9, prefill=False)
    asked = own.repetition(PLAN)
    assert asked.begin == () and asked.decoding and asked.decoding.max_new_tokens == 200

    def lists(text: str) -> str:
        if not item(text):
            return copies(text)
        return REFUSAL if "snare" in item(text) else text.partition("[\n")[2].partition("\n]")[0]

    made, _ = completions(tmp_path, own, lists)
    assert [row["guard"][0]["replaced"] for row in made] == [False, True, False, False]
    assert made[1]["completion"] == REFUSAL


# The prompt


def test_the_beginning_of_the_repetition_stands_behind_the_prompt_in_ids_of_its_own() -> None:
    config = compose(["template@test_template=chat_llama"])
    tokenizer = load_tokenizer(config.model)
    asked = Parden(threshold=0.5).repetition(PLAN)
    ids = Spelling("hazards", config, Transformers(), tokenizer).prompt(asked)
    spelled = (config.test_template, config.dataset, config.model, tokenizer, asked.reading)
    prompt = make_prompt(asked.row, *spelled).token_ids or []
    begun = str(asked.begin[0])
    assert ids == [*prompt, *encode(f" {begun}", tokenizer)]  # llama2: a space before an answer
    assert begun.count("\n") == 4 and "Question:" not in tokenizer.decode(ids)


# The threshold


def test_the_threshold_replaces_at_most_its_share() -> None:
    assert threshold_at([0.95, 0.9, 0.15, 1.0], 0.25) == 0.9  # 0.15 alone is below it
    assert threshold_at([0.95, 0.9, 0.15, 1.0], 0.24) == 0.15
    scores = [i / 100 for i in range(100)]
    for share in (0.0, 0.05, 0.29, 0.9):
        found = threshold_at(scores, share)
        assert sum(s < found for s in scores) == round(100 * share)
        assert sum(s < found + 1e-9 for s in scores) > 100 * share
    assert threshold_at([0.5, 0.5, 0.5, 1.0], 0.5) == 0.5  # ties are kept together


def test_it_is_calibrated_on_answers_of_the_untuned_model_to_questions_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def untuned(text: str) -> str:
        """Every tenth harmless answer is repeated badly."""
        if not item(text):
            untuned.asked.append(text)  # type: ignore[attr-defined]
            return f"{len(untuned.asked)}x Take it."  # type: ignore[attr-defined]
        return REFUSAL if item(text).startswith(("10x", "20x")) else item(text)

    untuned.asked = []  # type: ignore[attr-defined]
    own, tested, repeater = Parden(rows=HARMLESS, fpr=10.0), Parrot(), Parrot(untuned)
    facts = prepared(own, rounds_of(tmp_path, tested, repeater), None)  # type: ignore[arg-type]
    assert tested.questions == [] and len(repeater.questions) == 40
    assert own.threshold == facts["threshold"] == 1.0
    assert facts["false_positives"] == 2 and facts["false_positive_rate"] == 10
    assert (facts["calibrated_on"], facts["empty_answers"]) == (20, 0)
    assert facts["rows_from"] and len(facts["calibration_key"]) == 16
    stricter = Parden(rows=HARMLESS, fpr=9.0)
    again = prepared(stricter, rounds_of(tmp_path, tested, repeater), None)  # type: ignore[arg-type]
    assert len(repeater.questions) == 40 and again["calibration_key"] == facts["calibration_key"]
    assert stricter.threshold is not None and stricter.threshold < 0.4
    assert again["false_positives"] == 0
    assert "hardly repeats" not in capsys.readouterr().err


def test_a_repeater_that_cannot_repeat_is_said_to_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = rounds_of(tmp_path, Parrot(lambda text: "" if item(text) else PLAN))
    facts = prepared(Parden(rows=HARMLESS), rounds, None)  # type: ignore[arg-type]
    assert facts["threshold"] == facts["mean_bleu"] == 0
    assert "hardly repeats harmless answers (mean BLEU 0.00)" in capsys.readouterr().err


def test_without_an_answer_nothing_is_calibrated(tmp_path: Path) -> None:
    own, rounds = Parden(rows=HARMLESS), rounds_of(tmp_path, Parrot(lambda text: ""))
    with pytest.raises(PtstError, match="an empty answer to each of the 20 questions"):
        prepared(own, rounds, None)  # type: ignore[arg-type]


# In a cell


def test_a_cell_keeps_scores_and_the_calibration(composed: Callable[..., Config]) -> None:
    words = [*TINY, "finetune=none", "template@test_template=chat_llama"]
    own = "defence.parden.guard"
    guard = ["defence=[parden]", f"{own}.rows.n=6", f"{own}.max_new_tokens=12"]
    config, plain = composed(*words, *guard), composed(*words)
    store = Store(Path(config.paths.store))
    keys = run_cell(config).keys.evaluations["hazards"]
    bare = run_cell(plain).keys.evaluations["hazards"]
    made, alone = (
        read_jsonl(store.path("generate", key.generate) / "completions.jsonl")
        for key in (keys, bare)
    )
    entries = [row["guard"][0] for row in made]
    assert [e["asked"][0]["answer"] for e in entries] == [row["completion"] for row in alone]
    facts = read_json(store.path("generate", keys.generate) / "provenance.json")["guard"]
    assert facts["calibrated_on"] == 6 and facts["false_positives"] == 0
    for entry in entries:
        assert entry["replaced"] == (1 - entry["score"] < facts["threshold"] - 1e-12)


def test_what_was_asked_for_a_calibration_is_not_asked_again(
    composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by another evaluation or cell, or by a guard with another threshold of the same rows."""
    own = "defence.parden.guard"
    words = [*TINY, "defence=[parden]", f"{own}.rows.n=6", f"{own}.max_new_tokens=12"]
    words += ["finetune=none", "evaluation.hazards.queries.n=4", "task.gsm8k.queries.n=2"]

    def facts(*more: str) -> dict[str, Any]:
        config = composed(*words, *more)
        key = run_cell(config).keys.evaluations["hazards"].generate
        return read_json(Store(Path(config.paths.store)).path("generate", key) / "provenance.json")

    calls: list[int] = []
    replies = Rounds.replies
    counting = lambda self, asks, journal: calls.append(len(asks)) or replies(self, asks, journal)  # noqa: E731
    monkeypatch.setattr(Rounds, "replies", counting)
    first = facts()["guard"]
    assert calls == [6, 6]
    again = facts("evaluation.hazards.queries.n=5", f"{own}.fpr=50")["guard"]
    assert calls == [6, 6] and again["calibration_key"] == first["calibration_key"]
    facts("template@test_template=chat_llama")
    assert calls == [6, 6, 6, 6]


def test_rows_count_where_the_threshold_is_calibrated() -> None:
    def key(*words: str) -> str:
        own = [f"defence.parden.guard.{word}" for word in words]
        return cell_keys(compose(["defence=[parden]", *own])).cell

    given = "threshold=0.5"
    assert key("rows.n=50") != key() != key(given)
    assert key(given, "rows.n=50") == key(given)
    template = "template@defence.parden.guard.repeat_template=chat_llama"
    assert cell_keys(compose(["defence=[parden]", template])).cell != key()


@pytest.mark.parametrize(
    "words, message",
    [
        (["template@test_template=text_alpaca"], r"guard: .*text_alpaca.*set repeat_template to a"),
        (["engine=canned", "finetune=none"], "reads messages .*prefill=false"),
        (["defence.parden.guard.fpr=100"], r"fpr=100\.0 per cent must be .* less than 100"),
        (["defence.parden.guard.bleu=both"], "bleu=both is not one of: char, word"),
        (["defence.parden.guard.repeater=me"], "repeater=me is not one of: tested, untuned"),
        (["defence.parden.guard.answer=none"], "answer=none is not one of: repetition, refusal"),
        (["defence.parden.guard.words=0"], "words=0 must be at least 1"),
        (["+defence.parden.guard.ask=again"], r"one \{items\}"),
    ],
)
def test_what_it_cannot_be_combined_with_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["defence=[parden]", *words])


def test_the_variant_without_a_beginning_goes_with_any_engine_and_template() -> None:
    own = "defence.parden.guard.prefill=false"
    compose(["defence=[parden]", own, "engine=canned", "finetune=none"])
    compose(["defence=[parden]", own, "template@test_template=text_alpaca"])
    chosen = "template@defence.parden.guard.repeat_template=chat_llama"
    config = compose(["defence=[parden]", chosen, "template@test_template=text_alpaca"])
    made = load(config.defence["parden"].guard, "guard", Parden)
    assert made.repetition(PLAN).template == made.repeat_template
    assert replace(made, words=3).repetition(PLAN).decoding == made.repetition(PLAN).decoding
