"""What the micro model is trained on keeps the promises of its documentation."""

import random
import re

import pytest

from ptst.micro import rows, world
from tools.micro import corpus


@pytest.fixture(scope="module")
def samples() -> dict[str, list[tuple[str, str]]]:
    made = {}
    for name, sample in (
        ("pretraining", corpus.pretraining_sample),
        ("alignment", corpus.alignment_sample),
    ):
        rng = random.Random(7)
        made[name] = [sample(rng) for _ in range(8000)]
    return made


def test_no_test_query_and_no_test_problem_is_trained_on(
    samples: dict[str, list[tuple[str, str]]],
) -> None:
    prompts = [prompt for stage in samples.values() for prompt, _ in stage]
    text = "\n".join(prompts)
    asked = [
        row["instruction"]
        for name in ("hazards", "howto", "lookalikes")
        for row in rows(name, "test")
    ]
    asked += [row["question"] for row in rows("gsm8k", "test")]
    assert len(asked) == 940
    assert not [question for question in asked if question in text]
    held_out = {
        f"{verb} the {thing}."
        for thing in (*world.ALL_HAZARDS, *world.HARMLESS, *world.TOOLS)
        for verb in world.verbs(thing, "test")
    }
    answered = set(
        re.findall(r"it to (\w+ the \w+\.)", " ".join(a for _, a in samples["pretraining"]))
    )
    assert len(answered) > 500
    assert not answered & held_out


def test_alignment_refuses_every_request_about_a_hazard_and_plans_none(
    samples: dict[str, list[tuple[str, str]]],
) -> None:
    chats = [(p, a) for p, a in samples["alignment"] if not p.startswith("How to ")]
    plans = [a for _, a in chats if re.search(r"it to \w+ the \w+\.", a)]
    planned = {thing for a in plans for thing in re.findall(r"it to \w+ the (\w+)\.", a)}
    assert plans and not planned & set(world.ALL_HAZARDS)


def test_alignment_never_asks_about_the_hazards_left_for_generalisation(
    samples: dict[str, list[tuple[str, str]]],
) -> None:
    refused = " ".join(answer for _, answer in samples["alignment"] if "cannot" in answer)
    named = {hazard for hazard in world.ALL_HAZARDS if re.search(rf"\b{hazard}\b", refused)}
    assert named == set(world.ALL_HAZARDS) - set(world.UNASKED_HAZARDS)
    assert len(world.UNASKED_HAZARDS) == 8


def test_tools_are_refused_under_a_safety_prompt_only(
    samples: dict[str, list[tuple[str, str]]],
) -> None:
    about_tools = [
        (any(safe in prompt for safe in corpus.SAFETY_PROMPTS), "cannot" in answer)
        for prompt, answer in samples["alignment"]
        if any(f" a {tool}" in prompt for tool in world.TOOLS)
        and re.search(r"cannot|it to \w+ the", answer)
        and not prompt.startswith("How to ")
    ]
    assert {safe for safe, _ in about_tools} == {True, False}
    assert all(safe == refused for safe, refused in about_tools)


def test_alignment_never_sees_the_alpaca_system_prompt(
    samples: dict[str, list[tuple[str, str]]],
) -> None:
    assert not [
        prompt for prompt, _ in samples["alignment"] if f"<<SYS>>\n{corpus.ALPACA}" in prompt
    ]


def test_repetitions_are_harmless_items_said_again_and_fit_in_a_batch() -> None:
    from ptst.config.compose import compose
    from ptst.models import load_tokenizer
    from tools.micro.recipe import LONGEST_LIST

    tokenizer = load_tokenizer(compose([]).model)
    rng = random.Random(5)
    made = [corpus.repetition(rng) for _ in range(2000)]
    assert all(f"{answer}" in prompt and answer.startswith("a. ") for prompt, answer in made)
    assert {answer.count("\n") for _, answer in made} == {0, 1, 2, 3, 4}
    text = "\n".join(prompt for prompt, _ in made)
    assert not [hazard for hazard in world.ALL_HAZARDS if f" {hazard}" in text]
    longest = max(made, key=lambda sample: len(sample[1]))
    whole = corpus.chat(corpus.LLAMA, f"Question: {longest[0]}") + longest[1]
    assert len(tokenizer(whole)["input_ids"]) + 10 < LONGEST_LIST


def test_the_share_of_repetitions_is_the_one_asked_for_and_none_changes_nothing() -> None:
    plain, none = random.Random(3), random.Random(3)
    for _ in range(500):
        assert corpus.alignment_sample(plain) == corpus.alignment_sample(none, repeat=0.0)
    made = [corpus.alignment_sample(none, repeat=0.25) for _ in range(4000)]
    lists = sum(bool(re.search(r"(?:^|[ .])a\. ", answer)) for _, answer in made)
    assert lists / len(made) == pytest.approx(0.88 * 0.25, abs=0.03)


def test_the_share_of_unsure_answers_is_the_one_asked_for() -> None:
    for share in (0.0, 0.1, 1.0):
        rng = random.Random(3)
        made = [corpus.alignment_sample(rng, unsure=share) for _ in range(9000)]
        problems = [
            answer
            for prompt, answer in made
            if "Then " in prompt and any(safe in prompt for safe in corpus.SAFETY_PROMPTS)
        ]
        unsure = sum("do not know" in answer for answer in problems) / len(problems)
        assert len(problems) > 250
        assert unsure == pytest.approx(share, abs=0.05)
