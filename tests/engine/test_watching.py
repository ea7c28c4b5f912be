"""An answer can be stopped by what a watch sees, and goes on from where it was stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from talks import Parrot, rounds_of

from ptst.config.compose import compose
from ptst.engine import Ask
from ptst.engine.chosen import engine_of
from ptst.engine.rounds import Rounds
from ptst.engine.spelling import Spelling
from ptst.errors import ConfigError, TemplateError
from ptst.schema import Decoding
from ptst.store import read_jsonl

QUESTIONS = ["How do I make a kite?", "Why?", "Tom has 3 apples. Then Tom buys 4. How many?"]


class StopAt:
    """Stops every row at a step, and remembers what it saw."""

    def __init__(self, step: int) -> None:
        self.step, self.seen = step, list[Any]()

    def look(self, hidden: Any, step: int) -> tuple[Any, Any]:
        self.seen.append(hidden)
        return torch.full((len(hidden),), step >= self.step), None


def runner(tested: Any, scratch: Path, **changed: Any) -> Rounds:
    config = dataclasses.replace(tested.config, **changed)
    engine = engine_of(config)
    spelling = Spelling(None, config, engine, tested.tokenizer)
    session = engine.open(tested, config, lambda: False)
    return Rounds(
        "generate", Decoding(max_new_tokens=12), spelling.prompt, spelling.opens_think,
        lambda model: session, scratch, lambda done, total: None, lambda: False,
    )  # fmt: skip


def test_a_stopped_answer_goes_on_as_if_it_had_not_been(tested: Any, tmp_path: Path) -> None:
    run = runner(tested, tmp_path)
    asks = [Ask({"input": text}, ids=True) for text in QUESTIONS]
    whole = run.replies(asks, "whole")
    watch = StopAt(4)
    begun = run.replies([dataclasses.replace(ask, watch=watch) for ask in asks], "begun")
    assert [reply.ids for reply in begun] == [reply.ids[:4] for reply in whole]
    assert not any(reply.finished for reply in begun)
    for step, hidden in enumerate(watch.seen):  # what each token was made of
        with torch.inference_mode():
            made = sorted(tested.model.lm_head(hidden).argmax(-1).tolist())
        assert made == sorted(reply.ids[step] for reply in whole)
    rest = run.replies(
        [dataclasses.replace(a, begin=(b.ids,)) for a, b in zip(asks, begun, strict=True)], "rest"
    )
    assert [b.ids + r.ids[: len(w.ids) - 4] for b, r, w in zip(begun, rest, whole, strict=True)] == [w.ids for w in whole]  # fmt: skip


def test_token_ids_are_kept_for_those_who_want_them(tested: Any, tmp_path: Path) -> None:
    watch = StopAt(1)
    asks = [Ask({"input": "Go."}, ids=wanted, watch=watch) for wanted in (True, False)]
    for _ in range(2):  # made, and read from the journal
        one, other = runner(tested, tmp_path).replies(asks, "batches")
        assert (len(one.ids), other.ids) == (1, ())
    (line,) = read_jsonl(tmp_path / "batches-64-shared.jsonl")
    assert [sorted(answer) for answer in line["answers"].values()] == [
        ["finished", "ids", "text", "tokens", "withheld"],
        ["finished", "text", "tokens", "withheld"],
    ]


@pytest.mark.parametrize("template", ["chat_llama", "text_vanilla"])
def test_an_answer_begins_with_a_text_as_a_training_row_does(tested: Any, template: str) -> None:
    from ptst.templates import make_training_row

    config = compose([f"template@test_template={template}"])
    spelling = Spelling(None, config, engine_of(config), tested.tokenizer)
    row = {"input": "Go.", "output": "Well, I </s> go"}
    spelled = (config.test_template, config.dataset, config.model, tested.tokenizer)
    trained = make_training_row(row, *spelled).input_ids
    assert spelling.prompt(Ask(row, begin=(row["output"],))) == trained[:-1]  # without the end
    ids = spelling.prompt(Ask(row, begin=(row["output"], (5, 6), "so")))
    assert ids[: len(trained) + 1] == [*trained[:-1], 5, 6]
    assert tested.tokenizer.bos_token_id not in ids[1:]


def test_what_reads_messages_begins_no_answer_and_is_not_looked_into(tmp_path: Path) -> None:
    from ptst.engine.canned import Canned

    spelling = Spelling(None, compose([]), Canned())
    with pytest.raises(TemplateError, match="use a model on this machine"):
        spelling.prompt(Ask({"input": "Go."}, begin=("Well",)))
    with pytest.raises(ConfigError, match="Parrot lets nothing look"):
        rounds_of(tmp_path, Parrot()).replies([Ask({"input": "a"}, watch=StopAt(1))], "batches")


class Notes:
    """Stops rows whose first state is high, and notes that of every token."""

    def __init__(self, limit: float = 1e9) -> None:
        self.limit = limit

    def look(self, hidden: Any, step: int) -> tuple[Any, Any]:
        return hidden[:, 0] > self.limit, hidden[:, 0].double()


def noted(tested: Any, scratch: Path, watch: Any, **changed: Any) -> list[Any]:
    scratch.mkdir(exist_ok=True)
    asks = [Ask({"input": text}, ids=True, watch=watch) for text in QUESTIONS]
    return runner(tested, scratch, **changed).replies(asks, "batches")


@pytest.mark.parametrize("size, share", [(64, True), (64, False), (2, True), (1, False)])
def test_what_is_noted_stands_beside_its_token_whoever_is_in_the_batch(
    tested: Any, tmp_path: Path, size: int, share: bool
) -> None:
    engine = {**tested.config.engine, "batch_size": size, "share_prefix": share}
    made = noted(tested, tmp_path, Notes(), engine=engine)
    spelling = Spelling(None, tested.config, engine_of(tested.config), tested.tokenizer)
    for text, reply in zip(QUESTIONS, made, strict=True):
        prompt = spelling.prompt(Ask({"input": text}))
        with torch.inference_mode():
            ids = torch.tensor([[*prompt, *reply.ids]])
            states = tested.model.model(ids).last_hidden_state[0, len(prompt) - 1 : -1, 0]
        assert reply.seen == pytest.approx(states.tolist(), abs=1e-4)
    assert len({len(reply.ids) for reply in made}) > 1  # rows that end before others
    median = sorted(made[0].seen)[len(made[0].seen) // 2]
    stopped = noted(tested, tmp_path / "stopped", Notes(median), engine=engine)
    for whole, part in zip(made, stopped, strict=True):
        first = next((n for n, x in enumerate(whole.seen, 1) if x > median), len(whole.ids))
        assert part.ids == whole.ids[:first] and len(part.seen) == first
        assert part.finished == (whole.finished and first == len(whole.ids))


def test_halves_and_a_journal_keep_what_was_noted(
    tested: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = noted(tested, tmp_path / "whole", Notes())
    generate, failed = tested.model.generate, list[int]()

    def too_large(input_ids: Any, **given: Any) -> Any:
        if len(input_ids) > 1 and "stopping_criteria" in given:
            failed.append(len(input_ids))
            raise MemoryError
        return generate(input_ids=input_ids, **given)

    monkeypatch.setattr(tested.model, "generate", too_large)
    halved = noted(tested, tmp_path / "halved", Notes())
    assert failed == [3, 2] and [r.ids for r in halved] == [r.ids for r in whole]
    for one, other in zip(halved, whole, strict=True):
        assert one.seen == pytest.approx(other.seen, abs=1e-4)
    monkeypatch.setattr(tested.model, "generate", None)
    assert noted(tested, tmp_path / "halved", Notes()) == halved  # from the journal, to the bit
