"""A steer chooses the next token of each row that has not ended, or leaves it as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from talks import Parrot, rounds_of

from ptst.engine import Ask, Reply
from ptst.engine.chosen import engine_of
from ptst.engine.rounds import Rounds
from ptst.engine.spelling import Spelling
from ptst.errors import ConfigError
from ptst.schema import Decoding
from ptst.store import read_jsonl

QUESTIONS = ["How do I make a kite?", "Why?", "Tom has 3 apples. Then Tom buys 4. How many?"]
HOW = [(64, True), (64, False), (2, True), (1, False)]


class Rank:
    """Takes the likeliest token, but at one step another one; notes how many tokens there were."""

    def __init__(self, step: int = 0, rank: int = 0) -> None:
        self.step, self.rank = step, rank
        self.rows: list[int] = []

    def choose(
        self, answers: Sequence[Sequence[int]], scores: Any, ends: frozenset[int]
    ) -> tuple[list[int], list[float]]:
        assert len(answers) == len(scores) and not any(ends & set(a) for a in answers)
        self.rows.append(len(answers))
        ranks = [self.rank if len(a) + 1 == self.step else 0 for a in answers]
        order = scores.argsort(-1, descending=True).tolist()
        return [o[r] for o, r in zip(order, ranks, strict=True)], [float(len(a)) for a in answers]


def replies(
    tested: Any, scratch: Path, steer: Any, size: int = 64, share: bool = True
) -> list[Reply]:
    scratch.mkdir(exist_ok=True)
    engine = {**tested.config.engine, "batch_size": size, "share_prefix": share}
    config = dataclasses.replace(tested.config, engine=engine)
    spelling = Spelling(None, config, engine_of(config), tested.tokenizer)
    session = engine_of(config).open(tested, config, lambda: False)
    rounds = Rounds(
        "generate", Decoding(max_new_tokens=60), spelling.prompt, spelling.opens_think,
        lambda model: session, scratch, lambda done, total: None, lambda: False,
    )  # fmt: skip
    asks = [Ask({"input": text}, ids=True, watch=steer) for text in QUESTIONS]
    return rounds.replies(asks, "batches")


@pytest.mark.parametrize("size, share", HOW)
def test_a_steer_that_agrees_changes_nothing_and_notes_every_step(
    tested: Any, tmp_path: Path, size: int, share: bool
) -> None:
    plain = replies(tested, tmp_path / "plain", None, size, share)
    for _ in range(2):  # made, and read from the journal
        steered = replies(tested, tmp_path / "steered", Rank(), size, share)
        for one, other in zip(plain, steered, strict=True):
            assert dataclasses.replace(other, seen=()) == one
            assert other.seen == tuple(map(float, range(one.tokens or 0)))  # the end's, too
    assert any(one.finished for one in plain) and len({one.tokens for one in plain}) > 1


@pytest.mark.parametrize("size, share", HOW)
def test_another_choice_is_written_and_the_model_goes_on_from_it(
    tested: Any, tmp_path: Path, size: int, share: bool
) -> None:
    plain = replies(tested, tmp_path / "plain", None, size, share)
    steered = replies(tested, tmp_path / "steered", Rank(3, 1), size, share)
    alone = replies(tested, tmp_path / "alone", Rank(3, 1), 1, False)
    for one, other, same in zip(plain, steered, alone, strict=True):
        assert other.ids[:2] == one.ids[:2] and other.ids[2] != one.ids[2] and other == same


def test_rows_that_have_ended_are_left_out(tested: Any, tmp_path: Path) -> None:
    steer = Rank()
    made = replies(tested, tmp_path, steer)
    tokens = [one.tokens or 0 for one in made]
    assert steer.rows == [sum(n > step for n in tokens) for step in range(max(tokens))]
    (line,) = read_jsonl(tmp_path / "batches-64-shared.jsonl")
    assert [len(line["answers"][str(n)]["seen"]) for n in range(3)] == tokens


def test_an_engine_without_a_place_for_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Parrot lets nothing look"):
        rounds_of(tmp_path, Parrot()).replies([Ask({"input": "a"}, watch=Rank())], "batches")
