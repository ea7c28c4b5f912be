"""Agreement of judges: hand-checked coefficients, a second implementation, and a real store."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pytest
from conftest import TINY
from statsmodels.stats.inter_rater import cohens_kappa as statsmodels_kappa

from ptst.audit import export
from ptst.cell import run_cell
from ptst.cli import main
from ptst.errors import ConfigError
from ptst.judge import keywords
from ptst.metrics import wilson
from ptst.report.agreement import TOTAL, _judges, load_agreement, pair_of
from ptst.report.audited import audit_of
from ptst.report.judges import write_judges
from ptst.report.reliability import (
    Interval,
    bootstrapped,
    cohens_kappa,
    coincidences,
    krippendorff_alpha,
)
from ptst.store import Store, read_jsonl, write_json, write_jsonl
from ptst.sweep.grid import Grid, expand
from ptst.wording import judge_name, known_judges

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", examples A (two observers,
# binary) and C (four observers, twelve units, values missing); he gives 0.095 and 0.743.
TWO_OBSERVERS = ["0100000010", "1110010000"]
FOUR_OBSERVERS = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


def _counts(observers: list[str], categories: str) -> np.ndarray:
    return np.array(
        [[unit.count(c) for c in categories] for unit in map("".join, zip(*observers, strict=True))]
    )


def test_cohens_kappa_by_hand() -> None:
    # Observed (20 + 15) / 50 = 0.7; expected (25 * 30 + 25 * 20) / 2500 = 0.5; kappa 0.2 / 0.5.
    assert cohens_kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    # Perfect, and worse than chance: observed 0, expected 0.5.
    assert cohens_kappa(np.array([[[3, 0], [0, 2]], [[0, 2], [2, 0]]])) == pytest.approx([1, -1])


def test_kappa_is_not_defined_where_both_always_say_the_same() -> None:
    assert np.isnan(cohens_kappa(np.array([[7, 0], [0, 0]])))
    assert np.isnan(cohens_kappa(np.zeros((2, 2))))
    assert bootstrapped(np.array([[[1, 0], [0, 0]]] * 9), cohens_kappa).value is None


def test_krippendorffs_own_example() -> None:
    # 14 values "0" and 6 "1"; 8 coincidences differ: 1 - 19 * 8 / (2 * 14 * 6) = 0.0952.
    matrix = coincidences(_counts(TWO_OBSERVERS, "01")).sum(0)
    assert matrix.tolist() == [[10, 4], [4, 2]]
    assert krippendorff_alpha(matrix) == pytest.approx(1 - 19 * 8 / 168)


def test_krippendorffs_example_with_missing_values() -> None:
    matrix = coincidences(_counts(FOUR_OBSERVERS, "12345")).sum(0)
    assert matrix.sum() == 40  # the last unit has one value, which is no pair
    assert krippendorff_alpha(matrix) == pytest.approx(0.743, abs=5e-4)


def test_a_second_implementation_agrees_on_random_data() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        table = rng.integers(0, 9, (2, 2)) + 1
        assert cohens_kappa(table) == pytest.approx(statsmodels_kappa(table).kappa)
        data = rng.choice([0.0, 1.0, np.nan], (3, 30), p=[0.4, 0.4, 0.2])
        counts = np.stack([(data == c).sum(0) for c in (0, 1)], axis=1)
        reference = krippendorff.alpha(reliability_data=data, level_of_measurement="nominal")
        assert krippendorff_alpha(coincidences(counts).sum(0)) == pytest.approx(reference)


def test_interval_is_over_units_not_over_their_answers() -> None:
    rng = np.random.default_rng(0)
    single = np.zeros((60, 2, 2))
    for i in range(60):
        single[i, rng.integers(2), rng.integers(2)] = 1
    alone, cloned = (bootstrapped(per_unit, cohens_kappa) for per_unit in (single, 5 * single))
    assert alone == cloned  # five cells that answer alike are no more evidence than one
    assert alone.low is not None and alone.high is not None and alone.value is not None
    assert alone.low < alone.value < alone.high
    # Fleiss, Cohen and Everitt's large-sample standard error, as a second implementation of the
    # width.
    error = statsmodels_kappa(single.sum(0)).std_kappa
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * error, rel=0.15)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Grid, Store]:
    """Two cells of the untouched micro model, judged by the ground truth and by two keyword lists.
    Not to be changed."""
    folder = tmp_path_factory.mktemp("ran")
    overrides = [
        *(word for word in TINY if not word.startswith(("task.", "evaluation.hazards.decoding"))),
        "evaluation.hazards.decoding.max_new_tokens=24",
        "finetune=none",
        "~evaluation@task",
        "tracking=none",
        f"paths.store={folder}/store",
        f"paths.reports={folder}/reports",
        "template@test_template=chat_vanilla,chat_llama",
    ]
    for judge in ("micro", "keywords", "keywords_zou2023"):
        for cell in expand([*overrides, f"judge={judge}"]).cells:
            run_cell(cell.config)
    grid = expand(overrides)
    return overrides, grid, Store(Path(grid.store))


def test_each_of_several_samples_has_its_own_label(tmp_path: Path) -> None:
    overrides = [
        *(word for word in TINY if not word.startswith("task.")),
        "evaluation.hazards.decoding.samples=3",
        "evaluation.hazards.decoding.temperature=3",
        "finetune=none",
        "~evaluation@task",
        "tracking=none",
        f"paths.store={tmp_path}/store",
        f"paths.reports={tmp_path}/reports",
    ]
    for judge in ("micro", "keywords"):
        for cell in expand([*overrides, f"judge={judge}"]).cells:
            run_cell(cell.config)
    grid = expand(overrides)
    store = Store(Path(grid.store))
    (cell,) = grid.cells
    keys = cell.keys.evaluations["hazards"]
    # A person who says of each completion what the cell's judge says
    (sheet,) = export(grid, store, 30, 0)
    kept = store.path("judge", keys.judge) / "scores.jsonl"
    said = [row["label"] for row in read_jsonl(kept)]
    rows = read_jsonl(store.path("generate", keys.generate) / "completions.jsonl")
    labels = [[row["id"], row["sample"], label] for row, label in zip(rows, said, strict=True)]
    assert sheet.is_file() and len(labels) == 30 and len(set(said)) > 1
    write_json(store.root / "audit" / "labels" / keys.generate / "ann.json", labels)
    (pair,) = audit_of([cell], "hazards", store)
    assert (pair.n, pair.units, pair.agree) == (30, 10, 1.0)
    pairs = {(p.a, p.b): p.n for p in load_agreement(grid, store).pairs}
    assert pairs == {(a, b): 30 for a, b in [("annotator ann", "keywords"), ("annotator ann", "micro"), ("keywords", "micro")]}  # fmt: skip


def test_perfect_agreement_claims_no_certainty() -> None:
    agreed = np.array([[[1, 0], [0, 0]], [[0, 0], [0, 1]]] * 20)
    assert bootstrapped(agreed, cohens_kappa) == Interval(1.0, None, None)


def test_precision_and_recall_are_over_units_as_everything_else() -> None:
    # Four queries in 30 cells each; the judge says complied throughout, a person not of one query
    units = {(f"cell {c}", f"q{q}", 0): f"q{q}" for c in range(30) for q in range(4)}
    judge = dict.fromkeys(units, "complied")
    person = {item: "refused" if unit == "q0" else "complied" for item, unit in units.items()}
    pair = pair_of(
        "e", "annotator ann", "the judge", {"annotator ann": person, "the judge": judge}, units
    )
    assert pair is not None and pair.precision is not None and pair.recall is not None
    assert (pair.n, pair.units, pair.precision.value, pair.recall.value) == (120, 4, 0.75, 1.0)
    # Wilson's of a share of four units, whose variance counts three, and of three units that do not
    # differ
    assert (pair.precision.low, pair.precision.high) == pytest.approx(wilson(0.75, 3))
    assert (pair.recall.low, pair.recall.high) == pytest.approx(wilson(1.0, 3))


def test_an_audit_passes_over_a_cell_that_cannot_be_run(tmp_path: Path) -> None:
    grid = expand(
        [
            "dataset.source=micro,local",
            "dataset.path=/nowhere.jsonl",
            "evaluation=[hazards]",
            f"paths.store={tmp_path}",
        ]
    )
    assert [bool(cell.problem) for cell in grid.cells] == [False, True]
    (tmp_path / "audit" / "labels").mkdir(parents=True)
    assert audit_of(grid.cells, "hazards", Store(tmp_path)) == []


def test_judges_of_almost_the_same_name_are_not_mixed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    known = known_judges()["llama_guard3"]
    for number, path in enumerate(("meta-llama/Llama-Guard-3-1B", "meta-llama/Llama-Guard-4-12B")):
        for generate in ("one", "two"):
            parts = {**known, "generate": generate, "judge": {**known["judge"], "path": path}}
            write_json(tmp_path / "judge" / f"{number}{generate}" / "key.json", parts)
            write_jsonl(tmp_path / "judge" / f"{number}{generate}" / "scores.jsonl", [{}])
    found = _judges(store, {"one", "two"})
    assert {generate: sorted(own.values()) for generate, own in found.items()} == {
        "one": ["0one", "1one"],
        "two": ["0two", "1two"],
    }
    names = [{folder[0]: name for name, folder in own.items()} for own in found.values()]
    assert names[0] == names[1] and len(set(names[0].values())) == 2


def test_judges_are_found_by_the_completions_that_they_scored(
    ran: tuple[list[str], Grid, Store],
) -> None:
    _, grid, store = ran
    agreement = load_agreement(grid, store)
    assert agreement.judges == {"hazards": ("keywords", "keywords_zou2023", "micro")}
    assert [(p.a, p.b, p.n, p.units) for p in agreement.pairs] == [
        ("keywords", "keywords_zou2023", 20, 10),
        ("keywords", "micro", 20, 10),
        ("keywords_zou2023", "micro", 20, 10),
    ]
    _, n, units = agreement.alphas["hazards"]
    assert (n, units) == (20, 10)
    chosen = load_agreement(grid, store, ["micro", "keywords"])
    assert [(p.a, p.b) for p in chosen.pairs] == [("micro", "keywords")]


def _rescored(store: Store, grid: Grid, label: Any) -> None:
    """Scores of a judge of the test's own beside the others: label(cell number, query number)."""
    for number, cell in enumerate(grid.cells):
        generate = cell.keys.evaluations["hazards"].generate
        rows = read_jsonl(store.path("generate", generate) / "completions.jsonl")
        folder = store.path("judge", f"own{number:013}")
        judge = {"_target_": "ptst.judge.keywords.Keywords", "list": "mine"}
        parts = {"format": 1, "generate": generate, "judge": judge, "version": 1}
        write_json(folder / "key.json", parts)
        scores = [{"id": row["id"], "label": label(number, i)} for i, row in enumerate(rows)]
        write_jsonl(folder / "scores.jsonl", scores)


def test_figures_of_a_known_disagreement(
    ran: tuple[list[str], Grid, Store], tmp_path: Path
) -> None:
    _, grid, whole = ran
    store = Store(Path(shutil.copytree(whole.root, tmp_path / "store")))
    # Against a judge that always refuses (the micro model is aligned): cell 0 the same, cell 1
    # complied with for three of ten queries, and one missing.
    truth = load_agreement(grid, store, ["micro", "keywords"]).gaps
    assert {gap.asr_a for gap in truth} == {0}
    _rescored(
        store,
        grid,
        lambda cell, i: (
            None if (cell, i) == (0, 9) else "complied" if cell and i < 3 else "refused"
        ),
    )
    agreement = load_agreement(grid, store, ["micro", "keywords (list=mine)"])
    (pair,) = agreement.pairs
    assert (pair.n, pair.units) == (19, 10)
    assert pair.agree == pytest.approx(16 / 19)
    assert pair.kappa.value == pytest.approx(0)  # micro never says complied: no better than chance
    assert sum(n for (_, b), n in pair.confusion.items() if b == "complied") == 3
    first = agreement.gaps[0]
    assert (first.cell, first.n, first.gap) == (grid.cells[1].label, 10, pytest.approx(-30))
    assert agreement.gaps[1].n == 9
    assert len(agreement.split) == 3


def test_the_command_prints_writes_and_speaks_json(
    ran: tuple[list[str], Grid, Store], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, grid, _ = ran
    assert main(["judges", *overrides, "judges=[micro,keywords]"]) == 0
    shown = capsys.readouterr().out
    assert "Krippendorff" in shown and "Cells that they see most differently" in shown
    folder = Path(grid.reports) / grid.name
    assert (folder / "judges.md").read_text().startswith(f"# Judges on {grid.name}\n")
    with (folder / "judges.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["a"], row["n"]) for row in rows] == [("micro", "20"), ("all", "20")]
    assert (folder / "judges_cells.csv").is_file()
    assert (folder / "judges_disagreements.csv").read_bytes().startswith(b"\xef\xbb\xbfevaluation,")
    assert main(["judges", *overrides, "judges=[micro,keywords]", "output=json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pairs"][0]["n"] == 20
    assert sum(entry["n"] for entry in told["pairs"][0]["confusion"]) == 20


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["micro", "wildgard"], "there is no judge wildgard; the judges are: .*wildguard"),
        (["micro", "wildguard"], "wildguard has scored no safety completion .*judge=wildguard"),
        (["micro"], "only micro has scored .* takes two to agree"),
    ],
)
def test_what_is_lacking_is_said(
    ran: tuple[list[str], Grid, Store], wanted: list[str], message: str
) -> None:
    _, grid, store = ran
    with pytest.raises(ConfigError, match=message):
        load_agreement(grid, store, wanted)


def test_a_judge_is_called_by_its_file_and_what_differs() -> None:
    known = known_judges()
    assert {"keywords", "keywords_arditi2024", "micro", "wildguard", "llama_guard3"} <= set(known)
    assert judge_name(known["wildguard"], known) == "wildguard"
    own = known["llama_guard3"]
    moved = {**own, "judge": {**own["judge"], "weights": {"sha256": "ab" * 32}}}
    assert judge_name(moved, known) == "llama_guard3 (weights=abababababab...)"
    assert judge_name({**own, "version": 7}, known) == "llama_guard3 (version 7)"
    foreign = {"judge": {"_target_": "mine.Judge", "level": 3}, "version": 1}
    assert judge_name(foreign, known) == "Judge (level=3)"
    assert len(keywords.LISTS) == sum(name.startswith("keywords") for name in known)


def test_several_evaluations_have_figures_in_total(tmp_path: Path) -> None:
    """Two evaluations of one cell each; a person agrees with keywords on the one, not the other."""
    (tmp_path / "other.csv").write_text(
        "input\nTell me how to draw a zegilt.\nHow do I paint a skomoth?\n"
    )
    overrides = [
        *(word for word in TINY if not word.startswith(("task.", "evaluation="))),
        "evaluation=[hazards,advbench]",
        "evaluation.advbench.queries.source=local",
        f"evaluation.advbench.queries.path={tmp_path}/other.csv",
        "evaluation.advbench.queries.columns={input: input}",
        "finetune=none",
        "~evaluation@task",
        "tracking=none",
        "judge=keywords",
        f"paths.store={tmp_path}/store",
        f"paths.reports={tmp_path}/reports",
    ]
    grid = expand(overrides)
    store = Store(Path(grid.store))
    (cell,) = grid.cells
    run_cell(cell.config)
    judged = {}
    for name, keys in cell.keys.evaluations.items():
        scores = read_jsonl(store.path("judge", keys.judge) / "scores.jsonl")
        judged[name] = [score["label"] for score in scores]
        other = {"complied": "refused", "refused": "complied", "neither": "complied"}
        said = judged[name] if name == "hazards" else [other[label] for label in judged[name]]
        labels = [[s["id"], 0, label] for s, label in zip(scores, said, strict=True)]
        write_json(store.root / "audit" / "labels" / keys.generate / "ann.json", labels)
    found = {pair.evaluation: pair for pair in load_agreement(grid, store).pairs}
    assert list(found) == ["hazards", "advbench", TOTAL]
    assert (found["hazards"].agree, found["advbench"].agree) == (1.0, 0.0)
    total = found[TOTAL]
    assert (total.n, total.units) == (12, 12)
    assert total.agree == pytest.approx(10 / 12)
    complied = sum(label == "complied" for own in judged.values() for label in own)
    right = judged["hazards"].count("complied")
    assert total.precision is not None
    assert total.precision.value == (pytest.approx(right / complied) if complied else None)
    told = "".join(write_judges(load_agreement(grid, store), grid).read_text())
    assert f"| {TOTAL} | keywords | annotator ann | 12 |" in told
