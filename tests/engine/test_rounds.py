"""Conversations advance together, and what was replied once is never asked again."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from capitals import Capitals
from talks import Parrot, rounds_of

from ptst.config.compose import compose
from ptst.dialogue.follow_up import FollowUp
from ptst.dialogue.single import Single
from ptst.engine import Ask, TooLong, question
from ptst.engine.batches import complete, plan_batches
from ptst.engine.chosen import engine_of
from ptst.engine.rounds import Rounds
from ptst.engine.spelling import Spelling
from ptst.errors import Interrupted, PtstError
from ptst.models import load_model, load_tokenizer
from ptst.schema import Decoding
from ptst.store import read_jsonl
from ptst.templates import ends, make_prompt

ROWS = [{"id": i, "input": text} for i, text in enumerate(("a", "bbb", "cc", "dddd", "e"))]
ROOT = Path(__file__).parent


class Micro:
    """The micro model, as an engine is given it."""

    def __init__(self, config: Any) -> None:
        self.tokenizer, self.model = load_tokenizer(config.model), load_model(config.model, "cpu")
        self.name_at_api = ""


@pytest.fixture(scope="module")
def micro() -> tuple[Any, Micro]:
    config = compose(["template@test_template=chat_llama", "engine.batch_size=2"])
    return config, Micro(config)


def rounds(config: Any, tested: Micro, scratch: Path, decoding: Decoding) -> Rounds:
    engine = engine_of(config)
    spelling = Spelling(None, config, engine, tested.tokenizer)
    session = engine.open(tested, config, lambda: False)
    return Rounds(
        "generate", decoding, spelling.prompt, spelling.opens_think, lambda model: session,
        scratch, lambda done, total: None, lambda: False,
    )  # fmt: skip


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_turn_is_what_the_batches_give_by_themselves(
    micro: tuple[Any, Micro], tmp_path: Path, temperature: float
) -> None:
    config, tested = micro
    decoding = Decoding(max_new_tokens=6, temperature=temperature, seed=3)
    own = (config.test_template, config.model, tested.tokenizer)
    spelled = (config.test_template, config.dataset, config.model, tested.tokenizer)
    prompts = [make_prompt(row, *spelled).token_ids or [] for row in ROWS]
    batches, expected = plan_batches(prompts, 2), {}
    lines = []
    for batch, answers in zip(
        batches,
        complete(tested.model, tested.tokenizer, prompts, batches, decoding, ends=ends(*own)),
        strict=True,
    ):
        expected |= answers
        kept = {
            str(i): {"text": a.text, "tokens": a.tokens, "finished": a.finished, "withheld": ""}
            for i, a in answers.items()
        }
        lines.append({"batch": batch[0], "answers": kept, "halved": 0})
    run = rounds(config, tested, tmp_path, decoding)
    made = run.run([Single().talk(row) for row in ROWS])
    assert [row["completion"] for row in made] == [expected[i].text for i in range(len(ROWS))]
    assert [row["tokens"] for row in made] == [expected[i].tokens for i in range(len(ROWS))]
    assert run.prompt_tokens == [len(ids) for ids in prompts]
    journal = (tmp_path / "batches-2-shared.jsonl").read_text()
    assert journal == "".join(f"{json.dumps(line)}\n" for line in lines)


def test_a_second_turn_is_the_models_own_spelling_of_the_conversation(
    micro: tuple[Any, Micro],
) -> None:
    config, tested = micro
    spelling = Spelling(None, config, engine_of(config), tested.tokenizer)
    first = Ask({"input": "Go."})
    later = ({"role": "assistant", "content": "Well </s>."}, {"role": "user", "content": "Why?"})
    ids = spelling.prompt(Ask({"input": "Go."}, later=later))
    start = spelling.prompt(first)
    assert ids[: len(start)] == start
    rest = tested.tokenizer.decode(ids[len(start) :])
    assert rest == " Well </s>. </s><s>[INST] Why? [/INST]" or rest.endswith("[INST] Why? [/INST]")
    assert (
        ids[len(start) :].count(tested.tokenizer.eos_token_id) == 1
    )  # the format's, not the text's


def test_rounds_advance_together_in_batches_of_their_own(tmp_path: Path) -> None:
    session, told = Parrot(), list[tuple[int, int]]()
    run = rounds_of(tmp_path, session, told=told)
    made = run.run([FollowUp(question="Sure?" + "!" * row["id"]).talk(row) for row in ROWS])
    assert session.asked[:3] == [["dddd", "bbb"], ["cc", "a"], ["e"]]
    assert [text for batch in session.asked[3:] for text in batch] == [
        f"Sure?{'!' * i}" for i in (4, 3, 2, 1, 0)
    ]
    assert [row["completion"] for row in made] == [f"SURE?{'!' * i}" for i in range(5)]
    assert made[2]["turns"] == [
        {"role": "assistant", "content": "CC"},
        {"role": "user", "content": "Sure?!!"},
    ]
    assert told == [(2, 5), (4, 5), (5, 5), (7, 10), (9, 10), (10, 10)]


def test_each_sample_and_round_has_a_journal_of_its_own(tmp_path: Path) -> None:
    session, told = Parrot(), list[tuple[int, int]]()
    run = rounds_of(tmp_path, session, samples=2, told=told)
    for sample in range(2):
        run.run([FollowUp().talk(row) for row in ROWS], sample=sample)
    names = ("", "-1", "-1-round1", "-round1")
    assert [p.name for p in sorted(tmp_path.iterdir(), key=str)] == sorted(
        f"batches-2{name}.jsonl" for name in names
    )
    assert told[0] == (2, 10)
    assert told[-1] == (20, 20)


def test_stopped_after_any_batch_a_conversation_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = rounds_of(tmp_path / "whole", made_of(tmp_path / "whole")).run(
        [FollowUp().talk(row) for row in ROWS]
    )
    scratch, asked = made_folder(tmp_path / "stopped"), list[list[str]]()
    for _ in range(10):
        session = Parrot()
        run = rounds_of(scratch, session, stop=lambda: True)
        try:
            made = run.run([FollowUp().talk(row) for row in ROWS])
        except Interrupted:
            made = []
        asked += session.asked
        if made:
            break
    assert made == whole
    assert len(asked) == 6  # each batch of each round once
    assert run.completion_tokens == [1] * 10


def made_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def made_of(folder: Path) -> Parrot:
    made_folder(folder)
    return Parrot()


KILLED = """
import os, sys
from dataclasses import replace
from pathlib import Path
from talks import Parrot, rounds_of
from test_rounds import ROWS
from ptst.dialogue.follow_up import FollowUp
left = [int(sys.argv[2])]
def say(text):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)
    return text.upper()
rounds_of(Path(sys.argv[1]), Parrot(say)).run([FollowUp().talk(row) for row in ROWS])
"""


@pytest.mark.parametrize("answers", [0, 3, 7])
def test_a_killed_run_asks_nothing_again_that_was_answered(tmp_path: Path, answers: int) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(answers)]
    path = f"{ROOT}:{ROOT.parents[1] / 'src'}:{ROOT.parent}"
    killed = subprocess.run(command, env={"PYTHONPATH": path, "PATH": ""}, capture_output=True)
    assert killed.returncode == 9, killed.stderr.decode()[-500:]
    before = sum(len(line["answers"]) for file in tmp_path.iterdir() for line in read_jsonl(file))
    assert answers - 1 <= before <= answers
    session = Parrot()
    made = rounds_of(tmp_path, session).run([FollowUp().talk(row) for row in ROWS])
    assert [row["completion"] for row in made] == [FollowUp().question.upper()] * 5
    assert sum(map(len, session.asked)) == 10 - before


def test_a_session_that_leaves_a_prompt_unanswered_is_named(tmp_path: Path) -> None:
    class Silent(Parrot):
        def answer(self, prompts, batches, decoding):
            yield from list(super().answer(prompts, batches, decoding))[1:]

    with pytest.raises(PtstError, match="Silent gave no answer to 2 of 5 prompts"):
        rounds_of(tmp_path, Silent()).run([Single().talk(row) for row in ROWS])


def test_an_engine_of_ones_own_is_one_small_file(tmp_path: Path) -> None:
    text = (ROOT / "capitals.py").read_text()
    assert len(text.splitlines()) <= 25
    session = Capitals(mark="?").open(None, None, lambda: False)  # type: ignore[arg-type]
    made = rounds_of(tmp_path, session).run([Single().talk(row) for row in ROWS])
    assert [row["completion"] for row in made] == ["A?", "BBB?", "CC?", "DDDD?", "E?"]


def test_a_later_turn_that_does_not_fit_is_an_answer_that_is_missing(tmp_path: Path) -> None:
    run, spelled = rounds_of(tmp_path, Parrot()), rounds_of(tmp_path, Parrot()).prompt

    def prompt(ask: Ask) -> Any:
        if ask.later and ask.row["id"] == 1:
            raise TooLong("query 1, turn 2, has too many tokens")
        return spelled(ask)

    run.prompt = prompt
    made = run.run([FollowUp(question="Sure?").talk(row) for row in ROWS])
    assert [row.get("withheld", "") for row in made] == ["", "query 1, turn 2, has too many tokens", "", "", ""]  # fmt: skip
    assert [row["completion"] for row in made] == ["SURE?", "", "SURE?", "SURE?", "SURE?"]
    assert made[1]["turns"][0]["content"] == "BBB"


@pytest.mark.parametrize(
    ("yielded", "returned", "said"),
    [
        ("Why?", {}, r"yields 'Why\?'; it must be a ptst\.engine\.Ask"),
        (Ask(ROWS[0], model="base"), {}, "model='base'; it may be tested or untuned"),  # type: ignore[arg-type]
        (Ask(ROWS[0]), None, r"returned None; it must be the columns of a reply"),
        (Ask(ROWS[0]), {"completion": ""}, r"must be the columns of a reply"),
    ],
)
def test_a_dialogue_that_breaks_the_rules_is_told_so(
    tmp_path: Path, yielded: Any, returned: Any, said: str
) -> None:
    def talk():
        yield yielded
        return returned

    with pytest.raises(PtstError, match=said):
        rounds_of(tmp_path, Parrot()).run([talk()])


def test_equal_asks_of_a_round_are_answered_once_where_they_say_so(tmp_path: Path) -> None:
    def talk(row: dict[str, Any], once: bool) -> Any:
        yield Ask(row)
        reply = yield replace(question("again"), once=once)
        return reply.columns

    for once, asked in ((True, 1), (False, 5)):
        (folder := tmp_path / str(once)).mkdir()
        told: list[tuple[int, int]] = []
        session = Parrot()
        run = rounds_of(folder, session, told=told)
        made = run.run([talk(row, once) for row in ROWS])
        assert [row["completion"] for row in made] == ["AGAIN"] * 5
        assert session.questions.count("again") == asked
        assert told[-1] == (5 + asked, 5 + asked)
        kept = rounds_of(folder, session).run([talk(row, once) for row in ROWS])
        assert kept == made and session.questions.count("again") == asked


def test_an_ask_that_differs_in_anything_is_not_the_same(tmp_path: Path) -> None:
    one = replace(question("x"), once=True)
    asks = [one, replace(one, begin=("a.",)), replace(one, decoding=Decoding(max_new_tokens=3))]
    asks += [replace(one, model="untuned"), question("y"), one]
    tested, untuned = Parrot(), Parrot()
    replies = rounds_of(tmp_path, tested, untuned).replies(asks, "own")
    assert [reply.text for reply in replies] == ["X", "X", "X", "X", "Y", "X"]
    assert tested.questions == ["x", "x", "x", "y"] and untuned.questions == ["x"]
