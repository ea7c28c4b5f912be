"""The PCFG world: its language, its rules, its losses by hand, and a study that is killed."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ptst.store import Store
from tools.pcfg import __main__ as cli
from tools.pcfg import grammar, measure, numbers, stages, study, train, world

LENGTH = world.Length(8, 14)
RNG = np.random.default_rng


# The language


@pytest.mark.parametrize("number", range(grammar.GRAMMARS))
def test_texts_are_of_the_language_of_their_nodes(number: int) -> None:
    from nltk import CFG, ChartParser

    lines = grammar.grammar(number).productions()
    for nodes in grammar.SETS:
        own = [p for p in lines if not grammar._outside([str(s) for s in p.rhs()], nodes)]
        parser = ChartParser(CFG(grammar.grammar(number).start(), own))
        for text in grammar.texts("try", number, nodes, 4, 8, 14, test=False):
            assert 8 <= len(text) <= 14
            assert next(iter(parser.parse(list(text))), None) is not None
    with pytest.raises(ValueError, match="has 1 to 2 letters; most have 8 to 20"):
        grammar.draw(random.Random(0), number, "A", 1, 2)


def test_a_text_of_both_sets_is_of_neither_alone() -> None:
    rng = random.Random(0)
    for _ in range(50):
        _, used = grammar._derive(rng, 0, "AB")
        assert used in ({"A"}, {"B"}, {"A", "B"})
        assert grammar._derive(rng, 0, "B")[1] == {"B"}


def test_no_string_of_letters_belongs_to_two_nodes() -> None:
    strings = [
        (str(p.lhs()), p.rhs())
        for number in range(grammar.GRAMMARS)
        for p in grammar.grammar(number).productions()
        if str(p.lhs())[0] in "AB"
    ]
    assert len(strings) == 4 * 4 * grammar.SPANS
    assert len({right for _, right in strings}) == len(strings)


def test_training_and_test_share_no_text() -> None:
    trained = set(grammar.texts("texts", 1, "A", 400, 8, 14, test=False))
    assert not trained & set(grammar.texts("texts", 1, "A", 100, 8, 14, test=True))


# Operators and prompts


def test_operators_are_bijections_and_duplicates_do_the_same() -> None:
    functions = world.operators()
    assert functions.shape == (15, 10)
    assert (np.sort(functions, axis=1) == np.arange(10)).all()
    assert len({tuple(row) for row in functions[:12]}) == 12
    for duplicate, original in world.DUPLICATES.items():
        assert (functions[duplicate] == functions[original]).all()
    assert functions[14].tolist() == list(range(10))


def test_a_prompt_is_unsafe_if_both_operators_are_with_the_nodes_of_its_text() -> None:
    texts = {n: {tuple(row) for row in world._pool(n, LENGTH, True).tolist()} for n in "AB"}
    unsafe = {"A": {0, 1}, "B": {0, 1, 2, 3, 4, 5, 6, 7}}
    expected = {"safe": (0,), "unsafe": (2,), "co_task": (1,)}
    for kind, counts in expected.items():
        seen = set()
        for row in world.prompts(kind, 200, RNG(2), LENGTH, test=True).ids.tolist():  # type: ignore[arg-type]
            nodes = [n for n in "AB" if tuple(row[2:-1]) in texts[n]]
            found = [sum(task - 10 in unsafe[n] for task in row[:2]) for n in nodes]
            assert set(found) & set(counts), (kind, row)
            seen.update(nodes)
        assert seen == {"A", "B"}


def test_the_sets_of_operators_are_as_large_as_the_papers() -> None:
    assert [len(world.UNSAFE[n]) for n in "AB"] == [2, 8]
    assert [len(world.SAFE[n]) for n in "AB"] == [8, 2]
    assert set(world.UNSAFE["A"]) < set(world.UNSAFE["B"])
    assert not any(set(world.SAFE[n]) & set(world.UNSAFE[n]) for n in "AB")


def test_an_answer_is_the_text_under_the_first_operator_and_then_the_second() -> None:
    asked = world.prompts("pretraining", 40, RNG(0), LENGTH, test=False)
    functions = world.operators()
    assert asked.ids.shape == (40, 17) and (asked.ids[:, -1] == world.EQUALS).all()
    for row, answer, mask in zip(asked.ids, asked.answer, asked.mask, strict=True):
        first, second = row[:2] - 10
        text = [token for token in row[2:-1] if token != world.PAD]
        assert answer[mask].tolist() == [functions[second][functions[first][x]] for x in text]
        assert (answer[~mask] == world.PAD).all()
    refusal = asked.refusal()
    assert (refusal[asked.mask] == world.NULL).all() and (refusal[~asked.mask] == world.PAD).all()


def test_each_kind_of_prompt_has_its_operators() -> None:
    tasks = {
        kind: world.prompts(kind, 300, RNG(1), LENGTH, test=True).ids[:, :2] - 10
        for kind in world.KINDS
    }
    assert set(tasks["safe"].flatten()) == set(range(4, 12))
    assert set(tasks["unsafe"].flatten()) == set(tasks["co_text"].flatten()) == set(range(8))
    assert set(tasks["misgen"].flatten()) == {12, 13}
    low, high = np.sort(tasks["co_task"], axis=1).T
    assert (low < 8).all() and (high >= 4).all() and (tasks["co_task"][:, 0] == low).any()
    single = world.prompts("pretraining", 2000, RNG(1), LENGTH, test=False).ids[:, :2] == world.NONE
    assert (single.sum(1) <= 1).all() and single.any(1).mean() == pytest.approx(0.3, abs=0.04)


# Losses


def test_losses_by_hand() -> None:
    l_p, l_l = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    assert float(train.supervised(l_p)) == 1.5
    assert float(train.unlearning(l_p, l_l, 0.1)) == pytest.approx(1.5 - 0.1 * 4)
    same = train.dpo(l_p, l_l, (l_p, l_l), beta=0.1, gamma=0.01)
    assert float(same) == pytest.approx(np.log(2))
    # 0.1 (11 - 1) - 0.01 (3 - 53) = 1.5; -log sigmoid(1.5) = 0.201413
    one = train.dpo(
        torch.tensor([1.0]), torch.tensor([53.0]), (torch.tensor([11.0]), torch.tensor([3.0])), 0.1, 0.01
    )  # fmt: skip
    assert float(one) == pytest.approx(0.201413, abs=1e-6)


def test_a_row_counts_by_the_mean_of_its_own_tokens() -> None:
    logits = torch.zeros(2, 3, world.TOKENS)
    logits[0, 0, 4] = 20.0
    targets = torch.tensor([[4, 5, world.PAD], [1, world.PAD, world.PAD]])
    found = train.mean_loss(logits, targets).tolist()
    assert found == pytest.approx([np.log(world.TOKENS) / 2, np.log(world.TOKENS)], abs=1e-4)


def test_safe_prompts_prefer_to_be_followed_and_unsafe_ones_the_null_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def seen(model: Any, prompts: world.Prompts, answer: Any) -> torch.Tensor:
        asked.append(answer)
        return torch.ones(len(answer))

    monkeypatch.setattr(train, "answer_loss", seen)
    stage = stages.Stage("x", "dpo", 1, 1e-3, 8, safe=0.5, beta=0.1, gamma=0.01)
    batch = train.batch_of(stage, 0, 0, LENGTH)
    assert float(train.loss_of(None, None, stage, batch)) == pytest.approx(np.log(2))
    preferred, less = asked[:2]
    assert (preferred[:4] == batch[0].answer).all() and (less[4:] == batch[1].answer).all()
    assert (preferred[4:] == batch[1].refusal()).all() and (less[:4] == batch[0].refusal()).all()


def test_batches_depend_on_stage_seed_and_step_alone() -> None:
    stage = stages.QUICK.stages()[0]
    one, other = (train.batch_of(stage, 1, 3, LENGTH)[0].ids for _ in range(2))
    assert (one == other).all()
    assert (one != train.batch_of(stage, 1, 4, LENGTH)[0].ids).any()
    assert (one != train.batch_of(stage, 2, 3, LENGTH)[0].ids).any()


# Readings


class Says:
    """A model that says the same token everywhere, and next to it another."""

    def __init__(self, first: int, second: int) -> None:
        self.scores = torch.zeros(world.TOKENS)
        self.scores[first], self.scores[second] = 2.0, 1.0

    def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(logits=self.scores.expand(*input_ids.shape, -1))


def test_barred_takes_the_best_token_but_the_null_token() -> None:
    asked = measure.test_prompts("unsafe", 3, LENGTH)
    model = Says(world.NULL, 7)
    forced, barred = (
        measure.said(model, asked, asked.answer, reading) for reading in ("forced", "barred")
    )
    assert (forced == world.NULL).all() and (barred == 7).all()


def test_free_reading_is_what_a_model_generates() -> None:
    """Greedy, against transformers' own `generate`."""
    model = train.new_model(3, 16, 2, LENGTH)
    asked = measure.test_prompts("safe", 3, LENGTH)
    made = model.generate(
        torch.from_numpy(asked.ids),
        attention_mask=torch.ones_like(torch.from_numpy(asked.ids)),
        max_new_tokens=13,
        do_sample=False,
        pad_token_id=world.PAD,
    )
    own = measure.said(model, asked, asked.answer, "free")
    assert own[:, :13].tolist() == made[:, 17:].tolist()


# Numbers


def test_the_papers_orderings_are_judged_by_our_intervals() -> None:
    a, b = numbers.Number(50.0, 45.0, 55.0, 100), numbers.Number(20.0, 16.0, 25.0, 100)
    apart = numbers.difference(a, b)
    assert (apart.value, apart.low) == (30.0, pytest.approx(30 - (25 + 25) ** 0.5))
    assert apart.high == pytest.approx(30 + (25 + 16) ** 0.5)
    verdicts = [
        numbers.Ordering("x", "a", "b", 9.0, numbers.Number(0, low, high, 1)).verdict
        for low, high in ((1, 2), (-1, 1), (-2, -1))
    ]
    assert verdicts == ["holds", "open", "reversed"]


def measured(name: str, seed: int, hits: list[int], taus: list[float], energy: float) -> Any:
    """A model of two layers and two prompts of four letters."""
    columns = {f"{c}/forced": {"hits": hits, "tokens": [4, 4]} for c in numbers.COLUMNS}
    layer = {"tau": {kind: taus for kind in world.KINDS} | {"unsafe": [-0.9, -0.7]}}
    values = {"accuracy": columns, "clusters": [layer] * 2, "changes": [{"energy": energy}] * 2}
    return study.Measured(seed, stages.Stage(name, "dpo", 1, 1.0, 1), values)


def test_numbers_are_pooled_over_seeds_and_prompts() -> None:
    models = [measured("x", 0, [2, 4], [0.5, 0.1], 0.8), measured("x", 1, [1, 1], [0.4, -0.2], 0.9)]
    found = numbers.accuracy(models, "safe", "forced")
    assert (found.value, found.n) == (50.0, 16) and found.low < 50 < found.high
    assert numbers.tau(models, 0, "safe").value == pytest.approx(20)
    assert numbers.gap(models, 1).value == pytest.approx(20 + 80)
    assert numbers.nearer_to_safe(models, 0, "safe").value == 75
    assert numbers.energies(models, 1) == [0.8, 0.9]


def test_a_claim_holds_where_its_number_is_more_than_nothing() -> None:
    models = [measured("pretraining", 0, [4, 4], [-0.7, -0.9], 0.0)]
    models += [measured(name, 0, [4, 4], [0.5, 0.4], 0.9) for name in numbers.MODELS]
    models += [measured(f"ordinary {rate}", 0, [4, 4], [0, 0], 0.95) for rate in stages.RATES]
    first, second, *third = [c for c in numbers.claims(models) if c.model == "dpo small"]
    assert first.number.startswith("125.0") and first.verdict == "open"  # of two prompts
    assert (second.number, second.verdict) == ("-0.050 (-0.050 to -0.050 of 2)", "reversed")
    assert [c.text for c in third] == ["3: tau of CO-Task", "3: tau of CO-Text", "3: tau of MisGen"]


# The whole


def test_a_killed_study_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed = (["--quick", "--seeds", "1", "--store", str(tmp_path / n / "store"),
                      "--report", str(tmp_path / n / "report")] for n in ("whole", "killed"))  # fmt: skip
    assert cli.main(whole) == 0
    real = train.loss_of
    done = 0

    def dies(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done == 8:  # in the second fine-tuning's second step
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(train, "EVERY", 1)
    monkeypatch.setattr(train, "loss_of", dies)
    with pytest.raises(KeyboardInterrupt):
        cli.main(killed)
    capsys.readouterr()
    assert cli.main(killed) == 0
    assert done == 8 + 13  # of 4 + 8 x 2 steps; the one that died is made again
    assert "1/9 pretraining, seed 0: found" in capsys.readouterr().err
    for file in ("numbers.csv",):
        one, other = ((tmp_path / n / "report" / file).read_bytes() for n in ("whole", "killed"))
        assert one == other
    text = (tmp_path / "killed" / "report" / "report.md").read_text()
    assert "| paper | 98.6 | 99.6 | 11.8 | 31.5 | 93.5 | 93.6 |" in text
    assert text.count("| ordinary medium |") == 8
    assert (tmp_path / "killed" / "report" / "clusters.png").stat().st_size > 10_000
    jobs = study.jobs_of(stages.QUICK, [0])
    assert all(Store(tmp_path / "killed" / "store").has("finetune", job.key) for job in jobs)


def test_help_answers_without_torch(capsys: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    from ptst.paths import ROOT

    code = (
        "import sys; from tools.pcfg.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--quick" in done.stdout


def test_the_time_left_is_that_of_the_rest_at_the_pace_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(study.time, "monotonic", lambda: now[0])
    first, second = study.jobs_of(stages.QUICK, [0])[:2]  # 4 steps, and 2 that cost twice as much
    pace, told = study._Pace([first, second]), list[str]()
    for step in (1, 2):
        pace.tell(lambda done, total, note: told.append(f"{done}/{total} {note}"), first, step, 1.5)
        now[0] += 60
    # One step since the first took a minute; 2 steps and 2 x 2 are left.
    assert told == ["1/4 loss 1.500", "2/4 loss 1.500, all: 6 min left"]
