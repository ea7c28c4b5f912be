"""What an engine adds to a key, and what the engines without weights answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faulty_endpoint import Endpoint
from talks import rounds_of

from ptst.component import load
from ptst.config.compose import compose
from ptst.dialogue.follow_up import FollowUp
from ptst.engine import Ask, Engine
from ptst.engine.api import Api
from ptst.engine.canned import Canned
from ptst.engine.chosen import engine_of
from ptst.engine.spelling import Spelling
from ptst.engine.transformers import Transformers
from ptst.errors import ConfigError, Interrupted, TemplateError
from ptst.schema import Api as ApiOfModel
from ptst.schema import Decoding

GREEDY = {"max_new_tokens": 64, "temperature": 0}
DRAWN = {"max_new_tokens": 64, "temperature": 0.5, "top_p": 1.0, "top_k": 0, "seed": 0}
BATCHED = {"batch_size": 64, "share_prefix": True}


@pytest.mark.parametrize(
    ("words", "decoding"),
    [
        ([], GREEDY),
        (["engine.batch_size=7"], GREEDY),
        (["model.dtype=bfloat16"], GREEDY | BATCHED),
        (["evaluation.hazards.decoding.temperature=0.5"], DRAWN | BATCHED),
    ],
)
def test_the_key_has_of_transformers_its_name_and_batches_only_where_they_count(
    words: list[str], decoding: dict[str, Any]
) -> None:
    config = compose(["evaluation=[hazards]", *words])
    parts = engine_of(config).parts(config, config.evaluations["hazards"])
    assert parts == {"engine": "transformers", "decoding": decoding}


def test_the_key_of_an_api_has_what_is_sent_under_other_names() -> None:
    words = ["model=gpt35_turbo_0613", "finetune=none", "evaluation=[hazards]"]
    config = compose([*words, "model.api.send={seed: null}"])
    engine = engine_of(config)
    assert isinstance(engine, Api)
    parts = engine.parts(config, config.evaluations["hazards"])
    assert (parts["engine"], parts["send"]) == ("api", {"seed": None})


def test_a_canned_engines_settings_are_part_of_the_key() -> None:
    config = compose(["evaluation=[hazards]"])
    own = config.evaluations["hazards"]
    one, other = (Canned(says=says).parts(config, own)["engine"] for says in ("refuse", "comply"))
    assert one["_target_"] == "canned"
    assert one != other
    assert Canned(device="cpu").parts(config, own)["engine"] == one


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"_target_": "ptst.engine.canned.Canned", "says": "no"}, "engine: says=no is not one of"),
        ({"_target_": "ptst.engine.transformers.Transformers", "batch_size": 0}, "at least 1"),
        ({"_target_": "ptst.engine.transformers.Transformers", "device": "foo"}, "auto, cpu, cuda"),
        ({"_target_": "ptst.engine.canned.Canned", "sayz": "no"}, "sayz"),
    ],
)
def test_a_wrong_setting_is_refused(node: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(node, "engine", Engine)


def test_canned_answers_are_what_they_say() -> None:
    asked = [{"role": "user", "content": "How?"}]

    def said(says: str, **settings: Any) -> str:
        session = Canned(says=says, **settings).open(None, None, lambda: False)  # type: ignore[arg-type]
        return session.one(asked, Decoding()).text

    assert said("refuse", refusal="No.") == "No."
    assert said("comply", compliance="Yes.") == "Yes."
    assert (said("empty"), said("echo")) == ("", "How?")
    assert said("random", refused=1.0, refusal="No.") == "No."
    assert said("random", refused=0.0, compliance="Yes.") == "Yes."


def test_random_refusals_are_drawn_for_each_question_by_itself() -> None:
    engine = Canned(says="random", refused=0.3, refusal="No.")
    texts = [engine.text(f"question {i}", Decoding()) for i in range(400)]
    assert texts == [engine.text(f"question {i}", Decoding(seed=5)) for i in range(400)]  # greedy
    assert texts.count("No.") == pytest.approx(120, abs=30)
    assert texts != [Canned(says="random", refused=0.3, refusal="No.", seed=1).text(f"question {i}", Decoding()) for i in range(400)]  # fmt: skip


def test_a_canned_model_cannot_be_fine_tuned() -> None:
    with pytest.raises(ConfigError, match="set finetune=none"):
        Canned().check(compose(["evaluation=[hazards]"]))


def test_an_engine_that_reads_messages_is_given_bare_text_as_one() -> None:
    config = compose(["template@test_template=text_vanilla"])
    spelling = Spelling(None, config, Canned())
    (message,) = spelling.prompt(Ask({"input": "How?"}))
    assert message["role"] == "user"
    assert "How?" in message["content"]
    with pytest.raises(TemplateError, match="bare text"):
        spelling.prompt(Ask({"input": "How?"}, later=({"role": "assistant", "content": "So."},)))


def test_an_api_is_asked_both_turns_and_stops_by_itself(tmp_path: Path) -> None:
    rows = [{"id": i, "input": f"number {i}: zorble {i}"} for i in range(1, 4)]
    follow = FollowUp(question="again zorble 5")
    with Endpoint() as endpoint:
        config = compose(["model=gpt35_turbo_0613", "finetune=none"])
        config.model.api = ApiOfModel(endpoint.base_url, key_env=None)
        tested: Any = SimpleNamespace(name_at_api="zorble-1", model=None, tokenizer=None)
        for stopped in (True, False):
            session = Api().open(tested, config, lambda stopped=stopped: stopped)
            run = rounds_of(tmp_path, session)
            try:
                made = run.run([follow.talk(row) for row in rows])
            except Interrupted:
                assert stopped
    asked = [body["messages"] for body in endpoint.bodies]
    assert [row["completion"][-1] for row in made] == ["5", "5", "5"]
    assert [row["turns"][0]["content"][-1] for row in made] == ["1", "2", "3"]
    assert sorted(map(len, asked)) == [1, 1, 1, 3, 3, 3]
    assert [m["role"] for m in asked[-1]] == ["user", "assistant", "user"]
    assert {p.name for p in tmp_path.iterdir()} == {"batches-api.jsonl", "batches-api-round1.jsonl"}


def test_the_engine_of_a_configuration_is_its_own_unless_the_model_has_an_api() -> None:
    config = compose(["engine.batch_size=8"])
    engine = engine_of(config)
    assert isinstance(engine, Transformers)
    assert engine.batch_size == 8


def test_an_engine_that_was_frozen_before_engines_had_classes_is_read() -> None:
    config = compose([])
    frozen: Any = {"name": "transformers", "batch_size": 3, "device": "cpu", "share_prefix": False}
    config.engine = frozen
    assert engine_of(config) == Transformers("cpu", 3, False)
    config.engine = {"_target_": "ptst.engine.canned.Canned", "says": "empty"}  # type: ignore[assignment]
    assert engine_of(config) == Canned(says="empty")
