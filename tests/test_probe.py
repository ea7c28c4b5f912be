"""A probe tells states apart, is scored on questions that it has not seen, and keeps as plain
numbers."""

from __future__ import annotations

import json
from array import array
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ptst.config.compose import compose
from ptst.errors import ConfigError, DataError
from ptst.models import load_model, load_tokenizer
from ptst.probe import (
    Answer,
    Onlooker,
    Probe,
    States,
    check_rows,
    fit,
    held_out,
    quality,
    random_probe,
    read_answers,
    states_of,
    tau_at,
)
from ptst.schema import Rows
from ptst.templates import make_prompt

PROBE = Probe([1.0, 0.0], [2.0, 1.0], [4.0, -1.0], 0.5)


def drawn(n: int = 40, seed: int = 0) -> States:
    """Two clouds in five dimensions, two states of each question."""
    random = np.random.default_rng(seed)
    unsafe = np.arange(n) % 4 < 2
    values = (
        random.standard_normal((n, 5)).astype("float32") * [1, 2, 3, 1, 1] + 2 * unsafe[:, None]
    )
    return States(values, unsafe, tuple(f"q{i // 2}" for i in range(n)))


def micro_rows(name: str, output: str, n: int) -> Rows:
    columns = {"input": "question" if name == "gsm8k" else "instruction", "output": output}
    return Rows(name=name, source="micro", n=n, columns=columns)


@pytest.fixture(scope="module")
def micro() -> Any:
    config = compose(["template@test_template=chat_llama"])
    return config, load_model(config.model, "cpu"), load_tokenizer(config.model)


def test_a_probability_by_hand() -> None:
    # Standardised (3, 2) is (1, 2): 4 - 2 + 0.5 = 2.5, and 1 / (1 + e^-2.5) = .924142.
    assert PROBE.probabilities(np.array([[3.0, 2.0], [1.0, 0.5]])) == pytest.approx([0.924142, 0.5])


def test_fitting_is_what_scikit_learn_does_and_goes_through_json() -> None:
    states = drawn()
    probe = Probe(**json.loads(json.dumps(fit(states.values, states.unsafe).parts)))
    library = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    library.fit(states.values.astype(float), states.unsafe)
    wanted = library.predict_proba(states.values.astype(float))[:, 1]
    assert probe.probabilities(states.values) == pytest.approx(wanted, abs=1e-12)


def test_no_state_is_scored_by_a_probe_that_saw_its_question() -> None:
    """Each question has states and a label of its own: whoever saw one of them knows the other."""
    random = np.random.default_rng(1)
    unsafe = np.repeat(random.random(30) < 0.5, 2)
    values = np.repeat(np.eye(30, dtype="float32"), 2, axis=0)
    states = States(values, unsafe, tuple(f"q{i // 2}" for i in range(60)))
    assert quality(unsafe, fit(states.values, states.unsafe).probabilities(values))["auc"] == 1
    assert quality(unsafe, held_out(states, states))["auc"] < 0.6
    with pytest.raises(ValueError, match="same answers"):
        held_out(states, drawn())


def test_auc_accuracy_and_f1_by_hand() -> None:
    found = quality(np.array([True, True, False, False]), np.array([0.9, 0.4, 0.6, 0.1]))
    assert found == {"auc": 0.75, "accuracy": 0.5, "f1": 0.5}


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9])
def test_a_random_probe_fires_as_often_and_is_another_direction(tau: float) -> None:
    states = drawn(200)
    probe = fit(states.values, states.unsafe)
    own = random_probe(probe, states, tau, seed=3)
    fired = (probe.probabilities(states.values) >= tau).sum()
    assert 0 < fired < 200 and (own.probabilities(states.values) >= tau).sum() == fired
    norms = [np.linalg.norm(p.coefficients) for p in (own, probe)]
    assert norms[0] == pytest.approx(norms[1])
    assert own == random_probe(probe, states, tau, seed=3)
    assert own != random_probe(probe, states, tau, seed=4)
    for never, share in ((1.5, 0.0), (0.0, 1.0)):
        silent = random_probe(probe, states, never, seed=3)
        assert (silent.probabilities(states.values) >= never).mean() == share


def test_an_onlooker_stops_at_tau_and_not_before_its_first_token() -> None:
    onlooker = Onlooker(PROBE, 0.9, 2)
    hidden = torch.tensor([[3.0, 2.0], [1.0, 0.5]])
    stopped, probability = onlooker.look(hidden, 1)
    assert not stopped.any()
    stopped, again = onlooker.look(hidden, 2)
    assert stopped.tolist() == [True, False] and again.tolist() == probability.tolist()
    assert again.tolist() == pytest.approx([0.924142, 0.5])
    assert not Onlooker(PROBE, 1.1, 1).look(hidden, 9)[0].any()
    assert Onlooker(PROBE, 0.0, 1).look(hidden, 9)[0].all()


def test_a_calibrated_tau_is_the_smallest_that_at_most_its_share_reaches() -> None:
    scores = [0.1, 0.9, 0.4, 0.7, 0.7, 0.2, 0.3, 0.5, 0.6, 0.8]
    assert tau_at(scores, 0.1) == np.nextafter(0.8, 1)  # 0.9 alone reaches it, and no smaller one
    assert tau_at(scores, 0.19) == tau_at(scores, 0.1)
    assert tau_at(scores, 0.2) == tau_at(scores, 0.3) == np.nextafter(0.7, 1)  # 0.7 stands twice
    assert tau_at(scores, 0) == np.nextafter(0.9, 1)
    assert tau_at([1.0] * 3, 0.5) > 1  # nothing reaches it


def test_states_are_those_behind_the_prefixes_whoever_is_in_the_batch(micro: Any) -> None:
    config, model, tokenizer = micro
    sets = [
        (micro_rows("preferences", "rejected", 3), True),
        (micro_rows("safety", "output", 3), False),
    ]
    answers = read_answers(sets, config.test_template, config, tokenizer)
    assert [answer.unsafe for answer in answers] == [True] * 3 + [False] * 3
    found = states_of(model, answers)
    one_by_one = [states_of(model, [answer]) for answer in answers]
    assert found.values == pytest.approx(np.concatenate([s.values for s in one_by_one]), abs=1e-4)
    spelled = (config.test_template, config.dataset, config.model, tokenizer)
    prompt = make_prompt({"input": answers[0].question}, *spelled).token_ids or []
    assert answers[0].ids[: answers[0].length].tolist() == prompt
    assert len(answers[0].ids) == len(prompt) + 20
    for row, prefix in enumerate((5, 10, 20)):
        with torch.inference_mode():
            ids = torch.tensor([answers[0].ids[: len(prompt) + prefix].tolist()])
            wanted = model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
        assert found.values[row] == pytest.approx(wanted.numpy(), abs=1e-4)


def test_other_prefixes_have_other_states_of_the_same_answer(micro: Any) -> None:
    config, model, tokenizer = micro
    sets = [(micro_rows("preferences", "rejected", 2), True)]
    spelled = (config.test_template, config, tokenizer)
    usual = states_of(model, read_answers(sets, *spelled))
    answers = read_answers(sets, *spelled, 23)
    assert {len(answer.ids) - answer.length for answer in answers} == {23}
    found = states_of(model, answers, [4, 5, 10, 20, 23])
    assert found.values.shape == (10, usual.values.shape[1])
    shared = [1, 2, 3, 6, 7, 8]
    assert found.values[shared] == pytest.approx(usual.values, abs=1e-4)
    assert found.questions == tuple(a.question for a in answers for _ in range(5))


def test_a_short_answer_has_fewer_states_and_its_end_is_none_of_it(micro: Any) -> None:
    config, model, tokenizer = micro
    answers = read_answers(
        [(micro_rows("safety", "output", 4), False)], config.test_template, config, tokenizer
    )
    ended = tokenizer.eos_token_id
    assert all(ended not in answer.ids[answer.length :] for answer in answers)
    short = [Answer(a.ids[: a.length + 7], a.length, False, a.question) for a in answers[:1]]
    assert len(states_of(model, short).values) == 1
    too_long = Answer(array("i", [1] * 3000), 2990, False, "long")
    assert states_of(model, [too_long, *short]).questions == (answers[0].question,)


def test_a_probe_separates_the_toy_grammar(micro: Any) -> None:
    config, model, tokenizer = micro
    sets = [
        (micro_rows("preferences", "rejected", 40), True),
        (micro_rows("preferences", "chosen", 40), False),
        (micro_rows("howto", "answer", 20), False),
        (micro_rows("gsm8k", "answer", 20), False),
    ]
    states = states_of(model, read_answers(sets, config.test_template, config, tokenizer))
    assert quality(states.unsafe, held_out(states, states))["auc"] > 0.9


def test_one_class_and_invented_hazards_for_a_real_model_are_refused() -> None:
    states = drawn()
    with pytest.raises(DataError, match="safe and answers that are not"):
        fit(states.values, np.ones(40, bool))
    config = compose(["scale=paper"])
    with pytest.raises(ConfigError, match=r"here\.harmful\.source=local.*columns"):
        check_rows(micro_rows("preferences", "rejected", 3), "here", config)
