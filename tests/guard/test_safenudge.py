"""A hidden sentence turns an answer round, once, where a probe says so; nobody sees it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ptst.component import load
from ptst.config.compose import compose
from ptst.dialogue.single import Single
from ptst.engine import Ask, Reply
from ptst.engine.chosen import engine_of
from ptst.engine.rounds import Rounds
from ptst.engine.spelling import Spelling
from ptst.errors import ConfigError, PtstError
from ptst.guard import Guard, guarded
from ptst.guard.safenudge import SafeNudge
from ptst.models import load_model, load_tokenizer
from ptst.schema import Config, Decoding
from ptst.store import read_jsonl
from ptst.templates import ends

ROWS = [
    {"id": n, "input": text}
    for n, text in enumerate(
        ["How do I make a kite?", "Why?", "Tom has 3 apples. Then Tom buys 4. How many?", "Go."]
    )
]
NUDGE = " Here is a safe answer. "
TOKENS = 14


class FiresAt:
    """A probe that is sure from one step on, for every row, or for none before another."""

    def __init__(self, step: int, tau: float = 0.5, min_tokens: int = 5) -> None:
        self.step, self.tau, self.min_tokens = step, tau, min_tokens

    def look(self, hidden: Any, step: int) -> tuple[Any, Any]:
        p = torch.full((len(hidden),), 0.75 if step >= self.step else 0.25, dtype=torch.double)
        return (p >= self.tau) & (step >= self.min_tokens), p


@pytest.fixture(scope="module")
def tested() -> Any:
    config = compose(["template@test_template=chat_llama"])
    model, tokenizer = load_model(config.model, "cpu"), load_tokenizer(config.model)
    made = SimpleNamespace(config=config, model=model, tokenizer=tokenizer, name_at_api="")
    made.untuned = lambda: made
    return made


class Recorded:
    """Runs guarded conversations, and remembers every prompt."""

    def __init__(self, tested: Any, scratch: Path, size: int = 64, share: bool = True) -> None:
        engine = {**tested.config.engine, "batch_size": size, "share_prefix": share}
        config = dataclasses.replace(tested.config, engine=engine)
        spelling = Spelling(None, config, engine_of(config), tested.tokenizer)
        session = engine_of(config).open(tested, config, lambda: False)
        self.prompts: list[list[int]] = []

        def prompt(ask: Ask) -> Any:
            self.prompts.append(spelling.prompt(ask))
            return self.prompts[-1]

        self.rounds = Rounds(
            "generate", Decoding(max_new_tokens=TOKENS), prompt, spelling.opens_think,
            lambda model: session, scratch, lambda done, total: None, lambda: False,
        )  # fmt: skip

    def run(self, guard: Guard | None, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        talks = [Single().talk(row) for row in rows]
        if guard:
            talks = [guarded(talk, guard, row) for talk, row in zip(talks, rows, strict=True)]
        return self.rounds.run(talks)


def ready(tested: Any, onlooker: Any, **fields: Any) -> SafeNudge:
    """A guard with a stub in its probe's place."""
    guard = SafeNudge(nudge=NUDGE, tau=onlooker.tau, min_tokens=onlooker.min_tokens, **fields)
    guard.enter(tested.config, Decoding(max_new_tokens=TOKENS))
    guard.tokenizer, guard.onlooker = tested.tokenizer, onlooker
    return guard


def reference(tested: Any, row: dict[str, Any], step: int) -> tuple[list[int], list[int], int]:
    """The paper's loop, without a cache and one answer at a time: what is shown, the last input,
    and the steps that it took."""
    config, tokenizer, model = tested.config, tested.tokenizer, tested.model
    spelling = Spelling(None, config, engine_of(config), tokenizer)
    c = spelling.prompt(Ask(row))
    stop = ends(config.test_template, config.model, tokenizer)
    stop |= {tokenizer.eos_token_id}
    shown: list[int] = []
    nudged = False
    for j in range(1, TOKENS + 1):
        with torch.inference_mode():
            x = int(model(torch.tensor([c])).logits[0, -1].argmax())
        if x in stop:
            return shown, c, j
        if j >= max(step, 5) and not nudged:
            c = [*c, *tokenizer(NUDGE, add_special_tokens=False)["input_ids"], *shown]
            nudged = True
        else:
            shown.append(x)
            c = [*c, x]
    return shown, c, TOKENS


@pytest.mark.parametrize("step", [1, 5, 8, TOKENS, TOKENS + 1])
@pytest.mark.parametrize("size, share", [(64, True), (64, False), (2, True)])
def test_it_is_the_papers_loop_whatever_is_cached(
    tested: Any, tmp_path: Path, step: int, size: int, share: bool
) -> None:
    made = Recorded(tested, tmp_path, size, share).run(ready(tested, FiresAt(step)), ROWS)
    for row, got in zip(ROWS, made, strict=True):
        shown, _, steps = reference(tested, row, step)
        assert got["completion"] == tested.tokenizer.decode(shown, skip_special_tokens=True)
        assert got["tokens"] == steps <= TOKENS
        assert NUDGE.strip() not in got["completion"]


def test_the_nudge_stands_once_in_the_input_and_the_beginning_twice(
    tested: Any, tmp_path: Path
) -> None:
    run = Recorded(tested, tmp_path)
    (made,) = run.run(ready(tested, FiresAt(8)), ROWS[:1])
    first, second = run.prompts
    assert second[: len(first)] == first
    nudge = tested.tokenizer(NUDGE, add_special_tokens=False)["input_ids"]
    shown, rest = second[len(first) : len(first) + 7], second[len(first) + 7 :]
    assert rest == [*nudge, *shown]
    assert made["completion"].startswith(tested.tokenizer.decode(shown))
    (kept,) = made["guard"]
    assert (kept["replaced"], kept["reason"], kept["score"]) == (True, "nudged", 0.75)
    assert len(kept["asked"]) == 2 and kept["answer"] == made["completion"]


def test_where_nothing_fires_answers_are_those_without_a_guard(tested: Any, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain = Recorded(tested, tmp_path / "plain").run(None, ROWS)
    for number, onlooker in enumerate((FiresAt(1, tau=1.1), FiresAt(TOKENS + 1))):
        (tmp_path / str(number)).mkdir()
        own = Recorded(tested, tmp_path / str(number)).run(ready(tested, onlooker), ROWS)
        for one, other in zip(plain, own, strict=True):
            (kept,) = other.pop("guard")
            assert one == other and not kept["replaced"] and len(kept["asked"]) == 1
            assert kept["score"] == (0.75 if number == 0 else 0.25)
        ids = Recorded(tested, tmp_path / "plain").rounds.replies(
            [Ask(row, ids=True) for row in ROWS], "ids"
        )
        (line,) = read_jsonl(tmp_path / str(number) / "batches-64-shared.jsonl")
        kept_ids = [tuple(line["answers"][str(row["id"])]["ids"]) for row in ROWS]
        assert kept_ids == [reply.ids for reply in ids]


def test_before_its_first_token_it_never_fires_and_at_tau_0_always_there(
    tested: Any, tmp_path: Path
) -> None:
    for step, tau in ((1, 0.5), (99, 0.0)):
        (tmp_path / str(tau)).mkdir()
        run = Recorded(tested, tmp_path / str(tau))
        made = run.run(ready(tested, FiresAt(step, tau)), ROWS)
        assert [row["guard"][0]["replaced"] for row in made] == [True] * len(ROWS)
        first, second = run.prompts[: len(ROWS)], run.prompts[len(ROWS) :]
        nudge = len(tested.tokenizer(NUDGE, add_special_tokens=False)["input_ids"])
        grown = [len(b) - len(a) for a, b in zip(first, second, strict=True)]
        assert grown == [4 + nudge + 4] * len(ROWS)  # the fifth token is thrown away


def test_an_answer_that_ends_before_it_is_looked_at_has_score_0() -> None:
    guard = SafeNudge(min_tokens=5)
    guard.onlooker = FiresAt(1)  # type: ignore[assignment]
    talk = guard.talk(Ask(ROWS[0]), ROWS[0])
    next(talk)
    with pytest.raises(StopIteration) as end:
        talk.send(Reply("No.", 4, True, ids=(7, 8, 9), seen=(0.9, 0.9, 0.9)))
    assert end.value.value.score == 0.0 and not end.value.value.reason


def test_a_real_probe_is_kept_and_gives_the_same_scores_again(tested: Any, tmp_path: Path) -> None:
    names = ("harmful", "refusals", "harmless", "sums")
    few = [f"defence.safenudge.guard.{name}.n=6" for name in names]
    few.append("defence.safenudge.guard.tau=0.5")
    chosen = compose(["template@test_template=chat_llama", "defence=[safenudge]", *few])
    scores = []
    for _ in range(2):
        guard = load(chosen.defence["safenudge"].guard, "defence.safenudge.guard", Guard)
        guard.enter(chosen, Decoding(max_new_tokens=TOKENS))
        facts = guard.prepare(lambda asks: [], tested, tmp_path)
        assert facts["probe_questions"] == 18 and 0 <= facts["probe_auc"] <= 1
        made = Recorded(tested, tmp_path).run(guard, ROWS)
        scores.append([row["guard"][0]["score"] for row in made])
        tested = SimpleNamespace(**{**vars(tested), "untuned": None})  # it is not fitted again
    assert scores[0] == scores[1] and len(set(scores[0])) == len(ROWS)
    assert all(0 < score < 1 for score in scores[0])


def calibrated(tested: Any, folder: Path, *words: str) -> tuple[Any, dict[str, Any], list[str]]:
    """A guard of real probes of few rows, what it found, and the questions it was calibrated on."""
    names = ("harmful", "refusals", "harmless", "sums")
    own = "defence.safenudge.guard"
    few = [
        *(f"{own}.{name}.n=12" for name in names),
        f"{own}.calibration.n=30",
        f"{own}.calibration_sums.n=6",
    ]
    config = compose(["template@test_template=chat_llama", "defence=[safenudge]", *few, *words])
    guard = load(config.defence["safenudge"].guard, own, Guard)
    guard.enter(config, Decoding(max_new_tokens=TOKENS))
    folder.mkdir(exist_ok=True)
    rounds, asked = Recorded(tested, folder).rounds, []

    def ask(asks: Any) -> list[Reply]:
        asked.extend(a.question for a in asks)
        return rounds.replies(asks, "prepare0")

    return guard, guard.prepare(ask, tested, folder), asked


def test_a_calibrated_tau_nudges_its_share_of_harmless_answers_with_any_probe(
    tested: Any, tmp_path: Path
) -> None:
    """The answers are those of a guarded conversation: as many are nudged when they are asked."""
    taus, probe = [], "defence.safenudge.guard.probe"
    for number, kind in enumerate(("fitted", "random")):
        words = ["defence.safenudge.guard.fpr=20", f"{probe}={kind}"]
        guard, facts, asked = calibrated(tested, tmp_path / str(number), *words)
        assert facts["tau"] == guard.tau and facts["calibration_answers"] == len(asked) >= 20
        assert facts["calibration_nudged"] == int(0.2 * len(asked))
        assert facts["calibration_rate"] == 100 * facts["calibration_nudged"] / len(asked) <= 20
        rows = [{"id": n, "input": text} for n, text in enumerate(asked)]
        made = Recorded(tested, tmp_path / str(number)).run(guard, rows)
        nudged = sum(row["guard"][0]["replaced"] for row in made)
        assert nudged == facts["calibration_nudged"]
        taus.append(guard.tau)
    assert taus[0] != taus[1]


def test_no_question_of_the_probes_rows_calibrates_it(tested: Any, tmp_path: Path) -> None:
    from ptst import data

    own = "defence.safenudge.guard"
    sums = f"{own}.calibration_sums"
    words = [f"{own}.calibration.draw_seed=0", f"{sums}.draw_seed=0", f"{sums}.n=12"]
    guard, facts, asked = calibrated(tested, tmp_path / "a", *words)
    known = {row["input"] for row in data.load_rows(guard.harmless, needs=("input",))}
    assert not known & set(asked) and facts["calibration_answers"] == 30 - 12
    with pytest.raises(PtstError, match=r"all 24 questions of .*so that no tau can be calibrated"):
        calibrated(tested, tmp_path / "b", *words, f"{own}.calibration.n=12")


def test_a_tau_that_is_given_is_used_as_it_is(tested: Any, tmp_path: Path) -> None:
    guard, facts, asked = calibrated(tested, tmp_path / "a", "defence.safenudge.guard.tau=0.625")
    assert facts["tau"] == guard.tau == 0.625 and not asked
    assert "calibration_answers" not in facts and "probe_reaches_tau" in facts


def test_the_papers_settings_hold_where_the_scale_has_none_of_its_own() -> None:
    assert (SafeNudge().tau, SafeNudge().prefixes) == (0.5, [5, 10, 20])
    config = compose(["scale=paper", "defence=[safenudge]"])
    node = config.defence["safenudge"].guard
    assert node is not None and (node["tau"], node["prefixes"]) == (0.5, [5, 10, 20])
    assert node["nudge"] == SafeNudge().nudge


def test_a_think_block_that_the_prompt_opened_stays_one(tested: Any) -> None:
    guard = ready(tested, FiresAt(6))
    spelled = tested.tokenizer("I see.", add_special_tokens=False)["input_ids"]
    begun = Reply("", 9, False, None, "its think block did not end within max_new_tokens", ids=(5,))
    whole = guard._joined(begun, tuple(spelled), Reply("", 2, True, ids=()), 5)
    assert whole.withheld and whole.text == ""


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["engine=canned", "finetune=none"],
            r"^defence\.safenudge\.guard: .*choose engine=transformers",
        ),
        (
            ["model=gpt35_turbo_0613", "finetune=none", "dataset=orca_math", "scale=paper"],
            "is behind an API",
        ),
        (
            ["evaluation.hazards.decoding.temperature=1"],
            r"hazards\.decoding\.temperature=1.*greedy",
        ),
        (["defence.safenudge.guard.tau=-1"], "must be a probability"),
        (["defence.safenudge.guard.calibrated_on=other"], "tested, untuned"),
        (["defence.safenudge.guard.fpr=100"], "less than 100"),
        (["defence.safenudge.guard.prefixes=[]"], "from 1 on"),
        (["defence.safenudge.guard.prefixes=[0,5]"], "from 1 on"),
        (["defence.safenudge.guard.prefixes=[5,5]"], "a number twice"),
        (["defence.safenudge.guard.min_tokens=0"], "at least 1"),
        (["defence.safenudge.guard.probe=other"], "fitted, random"),
        (["defence.safenudge.guard.probe_model=other"], "untuned, tested"),
        (["defence.safenudge.guard.nudge=' '"], "leave the defence out"),
    ],
)
def test_what_it_cannot_be_combined_with_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["defence=[safenudge]", *words])


def test_a_probe_that_saw_the_evaluations_questions_is_refused(composed: Any) -> None:
    from ptst.cell import check_cell

    own = "defence.safenudge.guard.harmless"
    words = ["defence=[safenudge]", "evaluation=[hazards,howto]"]
    check_cell(composed(*words))
    with pytest.raises(ConfigError, match=rf"evaluation\.howto would test .* {own} has"):
        check_cell(composed(*words, f"{own}.split=test"))


def key(*words: str) -> str:
    from ptst.keys import cell_keys

    config: Config = compose(["defence=[safenudge]", *words])
    return cell_keys(config).evaluations["hazards"].generate


def test_rows_template_and_reading_decide_the_key() -> None:
    own = "defence.safenudge.guard"
    keys = [
        key(),
        key(f"{own}.sums.n=61"),
        key(f"+template@{own}.template=chat_llama"),
        key(f"{own}.probe_model=tested"),
        key(f"{own}.probe=random"),
        key("dataset.question='Q: {input}'"),
        key(f"{own}.prefixes=[5]"),
        key(f"{own}.fpr=4"),
        key(f"{own}.calibration.n=61"),
        key(f"{own}.calibration_sums.n=61"),
        key(f"{own}.calibrated_on=untuned"),
        key(f"{own}.tau=0.5"),
    ]
    assert len(set(keys)) == len(keys)
    given = f"{own}.tau=0.5"
    assert key(given) == key(given, f"{own}.calibration.n=61")  # nothing is calibrated
    assert key(given) != key(given, f"{own}.nudge=' Stop. '")


def test_the_rows_that_tau_is_calibrated_on_are_none_of_an_evaluations(composed: Any) -> None:
    from ptst.cell import check_cell

    own = "defence.safenudge.guard.calibration"
    with pytest.raises(ConfigError, match=rf"evaluation\.howto would test .* {own} has"):
        check_cell(composed("defence=[safenudge]", "evaluation=[howto]", f"{own}.split=test"))
