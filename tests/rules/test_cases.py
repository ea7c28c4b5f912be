"""The cases: how many, always the same, and none that asks for what its kind does not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

from ptst import data, rules
from ptst.rules.cases import BEHAVIOURS
from ptst.schema import Config, Rows

CASES = rules.rows()


def exchanges(case: dict, reply: str) -> list[tuple[str, str]]:
    return [(message, reply) for message in (case["input"], *case["then"])]


def test_there_are_25_of_each_behaviour_and_suite() -> None:
    assert Counter(behaviour.kind for behaviour in BEHAVIOURS.values()) == {
        "harmless": 9,
        "helpful": 10,
    }
    assert {b.scenario for b in BEHAVIOURS.values()} == set(rules.SCENARIOS)
    assert set(Counter((c["suite"], c["behaviour"]) for c in CASES).values()) == {25}
    assert len(CASES) == 3 * 475


def test_a_seed_gives_the_same_cases_and_another_seed_others() -> None:
    assert json.dumps(rules.rows()) == json.dumps(CASES)
    first = rules.rows(each=2)
    assert first == [case for case in CASES if case["number"] < 2]
    assert rules.rows(seed=1, each=2) != first


def test_no_two_cases_of_a_behaviour_and_suite_are_alike() -> None:
    texts = Counter(
        json.dumps([c["suite"], c["behaviour"], c["params"], c["input"], c["then"]]) for c in CASES
    )
    assert max(texts.values()) == 1


def test_silence_breaks_no_rule_of_a_harmless_case_and_one_of_every_helpful_case() -> None:
    for quirks in (False, True):
        silent = [(c["kind"], bool(rules.failure(c, exchanges(c, ""), quirks))) for c in CASES]
        assert Counter(silent) == {("harmless", False): 675, ("helpful", True): 750}


def test_an_echo_of_the_rules_breaks_them_in_every_case() -> None:
    for case in CASES:
        echo = rules.SCENARIOS[case["scenario"]].text(case["params"])
        assert rules.failure(case, exchanges(case, echo)), case


def test_correct_always_passes_two_helpful_behaviours() -> None:
    right = {
        c["behaviour"]
        for c in CASES
        if c["kind"] == "helpful" and not rules.failure(c, exchanges(c, "Correct"))
    }
    assert right == {"binary_search_confirm", "questions_confirm"}


def test_each_fits_its_scenario() -> None:
    assert [c for c in CASES if rules.wrong_case(c)] == []


def test_suites_differ_in_what_is_asked() -> None:
    by_suite = {suite: [c for c in CASES if c["suite"] == suite] for suite in rules.SUITES}
    assert {c["length"] for c in by_suite["basic"]} == {1}
    assert set(Counter(c["family"] for c in by_suite["redteam"])) == {
        "authority", "new_rule", "letters", "translation", "story", "repeat",
    }  # fmt: skip
    prefilled = [c for c in CASES if c["prefilled"]]
    assert {c["suite"] for c in prefilled} == {"benign"} and len(prefilled) == 8 * 19


def rows(**settings: object) -> list[dict]:
    return data.load_rows(Rows("rules", "rules", **settings), ("input",))  # type: ignore[arg-type]


def test_a_draw_takes_as_many_of_each_behaviour_and_suite() -> None:
    drawn = rows(n=3 * 19 * 2, draw_seed=1)
    assert set(Counter((r["suite"], r["behaviour"]) for r in drawn).values()) == {2}
    assert [r["id"] for r in drawn] == sorted((r["id"] for r in drawn), key=int)
    assert rows(n=114, draw_seed=2) != drawn == rows(n=114, draw_seed=1)
    few = Counter((r["suite"], r["behaviour"]) for r in rows(n=60))
    assert sorted(few.values()) == [1] * 54 + [2] * 3
    basic = rows(n=19, where={"suite": "basic"})
    assert {r["suite"] for r in basic} == {"basic"} and len({r["behaviour"] for r in basic}) == 19


def test_the_draw_and_the_version_of_the_cases_are_part_of_the_key(
    composed: Callable[..., Config],
) -> None:
    queries = composed("evaluation=[rules]").evaluation["rules"].queries
    assert data.identity(queries) == {"rules": 1, "columns": {}}
    drawn = composed("evaluation=[rules]", "evaluation.rules.queries.n=57").evaluation["rules"]
    assert data.identity(drawn.queries) == {"rules": 1, "columns": {}, "n": 57, "draw_seed": 0}
