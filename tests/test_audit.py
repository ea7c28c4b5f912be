"""The human audit: what is drawn, what a sheet shows, and what is taken from it again."""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import TINY

from ptst import audit
from ptst.audit.published import import_file, write_labels
from ptst.cell import run_cell
from ptst.cli import main
from ptst.errors import ConfigError, DataError
from ptst.report.agreement import load_agreement
from ptst.report.audited import audit_of
from ptst.report.results import load_results
from ptst.report.tables import markdown
from ptst.status.states import states_of
from ptst.store import Store, read_json, read_jsonl, write_json
from ptst.sweep.grid import Grid, expand


def words(folder: Path) -> list[str]:
    return [
        *(word for word in TINY if not word.startswith("task.")),
        "finetune=none",
        "~evaluation@task",
        "tracking=none",
        "judge=keywords",
        f"paths.store={folder}/store",
        f"paths.reports={folder}/reports",
        "template@test_template=chat_vanilla,chat_llama",
    ]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells of the untouched micro model, ten hazards each, judged by keywords. Not to be
    changed."""
    folder = tmp_path_factory.mktemp("ran")
    for cell in expand(words(folder)).cells:
        run_cell(cell.config)
    return folder


@pytest.fixture
def overrides(ran: Path, tmp_path: Path) -> list[str]:
    """Of a copy of them."""
    shutil.copytree(ran / "store", tmp_path / "ran" / "store")
    return words(tmp_path / "ran")


@pytest.fixture
def grid(overrides: list[str]) -> Grid:
    return expand(overrides)


@pytest.fixture
def store(grid: Grid) -> Store:
    return Store(Path(grid.store))


def filled(sheet: Path, label: str = "refused") -> list[list[str]]:
    rows = list(csv.reader(io.StringIO(sheet.read_text("utf-8-sig"), newline="")))
    return [rows[0], *[[*row[:3], label, ""] for row in rows[1:]]]


def pairs_of(store: Store, rows: list[list[str]]) -> dict[str, list[list[object]]]:
    """What each row of a sheet stands for, by its number."""
    name = f"{rows[1][0].partition('-')[0]}.json"
    found: dict[str, list[list[object]]] = read_json(store.root / "audit" / "sheets" / name)
    return found


def saved(path: Path, rows: list[list[str]], encoding: str = "utf-8", separator: str = ",") -> Path:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def test_a_sheet_is_blind_and_opens_in_a_spreadsheet(
    grid: Grid, store: Store, tmp_path: Path
) -> None:
    (sheet,) = audit.export(grid, store, 8, 0, tmp_path / "sheet.csv")
    assert sheet.read_bytes().startswith(b"\xef\xbb\xbfid,query,completion,label,note\r\n")
    rows = filled(sheet, "")[1:]
    assert len(rows) == 8
    text = sheet.read_text("utf-8-sig")
    for cell in grid.cells:
        assert cell.coordinates["test_template"] not in text
        assert cell.keys.evaluations["hazards"].generate not in text
    completions = {
        row["completion"]
        for cell in grid.cells
        for row in read_jsonl(
            store.path("generate", cell.keys.evaluations["hazards"].generate) / "completions.jsonl"
        )
    }
    assert {audit.unescaped(row[2]) for row in rows} <= completions


def test_the_draw_is_the_same_for_a_seed_and_gives_every_cell_its_share(
    grid: Grid, store: Store, tmp_path: Path
) -> None:
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (sheet,) = audit.export(grid, store, 10, seed, tmp_path / f"{name}.csv")
        key = filled(sheet)[1][0].partition("-")[0]
        drawn.append(list(read_json(store.root / "audit" / "sheets" / f"{key}.json").values()))
    assert drawn[0] == drawn[1] != drawn[2]
    for pairs in drawn:
        items = [tuple(item) for pair in pairs for item in pair]
        assert len(pairs) == 10 and len(set(items)) == len(items)
        assert len({item[0] for item in items}) == 2


def test_strata_by_label_have_their_share(
    grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    strata = {("e", f"g{c}", label): [(f"g{c}", f"{label}{i}", 0) for i in range(size)]
              for c in range(3) for label, size in (("complied", 10), ("refused", 30))}  # fmt: skip
    monkeypatch.setattr(audit, "_strata", lambda grid, store, measures: strata)
    rows = {
        item: {"input": "q", "completion": str(item)} for own in strata.values() for item in own
    }
    monkeypatch.setattr(audit, "completions_of", lambda store, generate: rows)
    kept: list[list[tuple[str, str, int]]] = []
    monkeypatch.setattr(audit, "write_json", lambda path, items: kept.extend(items.values()))
    monkeypatch.setattr(audit, "write_csv", lambda *arguments: None)
    audit.export(grid, store, 12, 5, Path("nowhere.csv"))
    shares = Counter((generate, query.rstrip("0123456789")) for ((generate, query, _),) in kept)
    assert shares == {(f"g{c}", label): n for c in range(3) for label, n in (("complied", 1), ("refused", 3))}  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "separator"),
    [("utf-8", ","), ("utf-8-sig", ","), ("cp1252", ";"), ("utf-16", "\t")],
)
def test_labels_come_back_however_a_spreadsheet_saves(
    grid: Grid, store: Store, tmp_path: Path, encoding: str, separator: str
) -> None:
    (sheet,) = audit.export(grid, store, 6, 0, tmp_path / "sheet.csv")
    rows = filled(sheet)
    rows[1][3:] = [" Complied ", "\u00fc, \u20ac"]
    rows[2][3] = ""
    pairs = list(pairs_of(store, rows).values())
    back = saved(tmp_path / "back.csv", rows, encoding, separator)
    name = f"{encoding}{len(separator)}"
    done = audit.import_labels(grid, store, back, name)
    assert (done.labelled, done.blank, done.changed) == (5, 1, 0)
    labels = [
        label
        for cell in grid.cells
        for label in audit.read_labels(store, cell.keys.evaluations["hazards"].generate)[name].values()
    ]  # fmt: skip
    stand_for = [len(pairs[0]), sum(map(len, pairs[2:]))]
    assert Counter(labels) == dict(zip(("complied", "refused"), stand_for, strict=True))
    rows[1][3] = "neither"
    again = audit.import_labels(grid, store, saved(back, rows, encoding, separator), name)
    assert (again.labelled, again.changed) == (5, len(pairs[0]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[3].__setitem__(3, "yes"), r"line 4: 'yes' is not a label; they are: complied"),
        (lambda rows: rows.append(rows[1]), r"line 8: row .* is there twice, first in line 2"),
        (lambda rows: rows.pop(2), r"1 rows of the sheet are gone"),
        (lambda rows: rows[2].__setitem__(0, "deadbeef-1"), r"line 3: there is no row 'deadbeef-1'"),
        (lambda rows: rows[2].__setitem__(0, "../x-1"), r"line 3: there is no row '\.\./x-1'"),
        (lambda rows: rows[0].__setitem__(3, "verdict"), r"line 1: a sheet has one column 'label'"),
        (lambda rows: rows[4].__delitem__(slice(2, None)), r"line 5: 2 cells under 5 columns"),
        (lambda rows: rows.__delitem__(slice(1, None)), r"has no rows"),
    ],
)  # fmt: skip
def test_a_wrong_sheet_is_refused_with_its_line_and_nothing_is_kept(
    grid: Grid, store: Store, tmp_path: Path, spoil: object, message: str
) -> None:
    assert callable(spoil)
    (sheet,) = audit.export(grid, store, 6, 0, tmp_path / "sheet.csv")
    rows = filled(sheet)
    spoil(rows)
    with pytest.raises(DataError, match=message):
        audit.import_labels(grid, store, saved(tmp_path / "back.csv", rows), "nobody")
    assert not list(store.root.glob("audit/labels/*/nobody.json"))


def test_a_sheet_of_another_sweep_is_refused(
    grid: Grid, store: Store, overrides: list[str], tmp_path: Path
) -> None:
    write_json(store.root / "audit" / "sheets" / "00000000.json", {"1": ["elsewhere", "1", 0]})
    back = saved(tmp_path / "back.csv", [["id", "label"], ["00000000-1", "refused"]])
    with pytest.raises(DataError, match="line 2: row 00000000-1 is of another sweep"):
        audit.import_labels(grid, store, back, "nobody")


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+plan", "'+plan"),
        ("-5", "'-5"),
        ("@x", "'@x"),
        ("\t=1", "'\t=1"),
        ("'=1", "''=1"),  # what looks escaped already comes back as it was
        ("'quoted'", "'quoted'"),
        ("First get the oil.", "First get the oil."),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula_and_none_is_changed(text: str, cell: str) -> None:
    assert audit.escaped(text) == cell
    assert audit.unescaped(cell) == text


def test_agreement_with_people_by_hand(grid: Grid, store: Store, tmp_path: Path) -> None:
    """Keywords find nothing to refuse in half of what a person calls refused."""
    (sheet,) = audit.export(grid, store, None, 0, tmp_path / "sheet.csv")
    rows = filled(sheet)
    pairs = pairs_of(store, rows)
    said = {
        (cell.keys.evaluations["hazards"].generate, row["id"]): row["label"]
        for cell in grid.cells
        for row in read_jsonl(
            store.path("judge", cell.keys.evaluations["hazards"].judge) / "scores.jsonl"
        )
    }
    wrong = complied = 0
    for row in rows[1:]:
        pair = pairs[row[0].partition("-")[2]]
        (row[3],) = {said[generate, query] for generate, query, _ in pair}
        if row[3] != "complied" and wrong + len(pair) <= 4:  # four that the judge misses
            row[3], wrong = "complied", wrong + len(pair)
        complied += len(pair) if row[3] == "complied" else 0
    assert wrong == 4
    audit.import_labels(grid, store, saved(tmp_path / "back.csv", rows), "ann")
    (pair,) = load_agreement(grid, store, ["annotator ann", "keywords"]).pairs
    assert (pair.a, pair.b, pair.n) == ("annotator ann", "keywords", 20)
    assert pair.recall is not None and pair.precision is not None
    assert pair.recall.value == pytest.approx((complied - 4) / complied)
    assert pair.precision.value == (1 if complied > 4 else None)
    assert pair.agree == pytest.approx(16 / 20)
    own = next(p for p in audit_of(grid.cells, "hazards", store) if p.a == "annotator ann")
    assert (own.n, own.kappa, own.recall) == (pair.n, pair.kappa, pair.recall)
    report = markdown(load_results(grid, store, states_of(grid, store)))
    asr, refused = (
        report.partition(f"## hazards/{name}")[2].partition("##")[0] for name in ("asr", "refused")
    )
    assert "Audit of the judge, by ann: n = 20 completions, 80 % alike" in asr
    assert "Audit of the judge" not in refused  # it is about what ASR counts


def test_the_commands(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.csv"
    assert main(["audit", "export", *overrides, "n=4", "draw_seed=3", f"file={sheet}"]) == 0
    assert str(sheet) in capsys.readouterr().out
    assert main(["audit", "export", *overrides, "n=4", f"file={sheet}"]) == 2
    assert "is there already" in capsys.readouterr().err
    back = saved(tmp_path / "back.csv", filled(sheet))
    assert main(["audit", "import", str(back), *overrides, "annotator=bob"]) == 0
    assert "4 labels of bob kept" in capsys.readouterr().out
    for words, message in (
        (["audit", "import", str(back), *overrides], "annotator="),
        (["audit", "import", *overrides, "annotator=bob"], "name the sheet"),
        (["audit", "export", *overrides, "n=some"], "'some' is not a valid integer"),
        (
            ["audit", "import", str(tmp_path / "no.csv"), *overrides, "annotator=b"],
            "cannot be read",
        ),
        (["audit", "import", str(back), *overrides, "annotator=../b"], "must be a name"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err


def test_nothing_to_draw_from_is_said(overrides: list[str], tmp_path: Path) -> None:
    words = [word for word in overrides if not word.startswith("paths.store")]
    grid = expand([*words, f"paths.store={tmp_path}/empty"])
    with pytest.raises(ConfigError, match="no safety completions"):
        audit.export(grid, Store(Path(grid.store)), 5, 0)


def test_equal_answers_stand_once_and_their_label_counts_for_all(
    grid: Grid, store: Store, tmp_path: Path
) -> None:
    (sheet,) = audit.export(grid, store, None, 0, tmp_path / "sheet.csv")
    rows = filled(sheet)
    texts = [tuple(row[1:3]) for row in rows[1:]]
    assert len(set(texts)) == len(texts) < 20  # of 20 completions: some answers are equal
    audit.import_labels(grid, store, saved(tmp_path / "back.csv", rows), "ann")
    kept = [audit.read_labels(store, generate)["ann"] for generate in audit.generates_of(grid)]
    assert [len(labels) for labels in kept] == [10, 10]


def test_a_sheet_in_parts_is_labelled_part_by_part(
    grid: Grid, store: Store, tmp_path: Path
) -> None:
    (whole,) = audit.export(grid, store, 9, 0, tmp_path / "whole.csv")
    parts = audit.export(grid, store, 9, 0, tmp_path / "sheet.csv", parts=2)
    assert [path.name for path in parts] == ["sheet-1.csv", "sheet-2.csv"]
    dealt = [filled(path)[1:] for path in parts]
    assert [len(rows) for rows in dealt] == [4, 5]
    assert [row[1:] for rows in dealt for row in rows] == [row[1:] for row in filled(whole)[1:]]
    done = audit.import_labels(grid, store, saved(tmp_path / "b.csv", filled(parts[1])), "ann")
    assert done.labelled == 5
    with pytest.raises(ConfigError, match=r"sheet-1\.csv is there already"):
        audit.export(grid, store, 9, 1, tmp_path / "sheet.csv", parts=2)
    with pytest.raises(ConfigError, match="parts=30 is more than the 9 rows"):
        audit.export(grid, store, 9, 0, tmp_path / "other.csv", parts=30)


def test_a_sheet_of_an_older_version_is_still_read(
    grid: Grid, store: Store, tmp_path: Path
) -> None:
    generate = audit.generates_of(grid)[0]
    query = next(iter(audit.completions_of(store, generate)))[1]
    write_json(store.root / "audit" / "sheets" / "01d01d00.json", {"1": [generate, query, 0]})  # fmt: skip
    back = saved(tmp_path / "back.csv", [["id", "label"], ["01d01d00-1", "refused"]])
    assert audit.import_labels(grid, store, back, "ann").labelled == 1
    assert audit.read_labels(store, generate)["ann"] == {(generate, query, 0): "refused"}


def test_labels_are_published_without_text_and_judge_the_same_answers(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two read all, differ on one answer; the file gives the table, here and in another store."""
    bare = shutil.copytree(tmp_path / "ran" / "store", tmp_path / "bare")
    file, sheet = tmp_path / "labels.jsonl", tmp_path / "sheet.csv"
    assert main(["audit", "export", *overrides, "n=all", f"file={sheet}"]) == 0
    rows = filled(sheet)
    for annotator in ("ann", "bob"):
        rows[1][3] = "complied" if annotator == "bob" else "refused"
        back = saved(tmp_path / "back.csv", rows)
        assert main(["audit", "import", str(back), *overrides, f"annotator={annotator}"]) == 0
    assert main(["audit", "labels", *overrides, f"file={file}"]) == 0
    n = len(rows) - 1
    assert f"labels: {file} ({n} of ann, {n} of bob)" in capsys.readouterr().out
    assert main(["audit", "labels", *overrides, f"file={file}"]) == 2
    lines = read_jsonl(file)
    assert lines == sorted(lines, key=lambda line: line["sha256"])
    assert not any(text in file.read_text() for row in rows[1:] for text in row[1:3] if text)
    split = [line["labels"] for line in lines if len(set(line["labels"].values())) == 2]
    assert split == [{"ann": "refused", "bob": "complied"}]

    elsewhere = [
        f"paths.store={bare}" if word.startswith("paths.store") else word for word in overrides
    ]
    read = [word for word in elsewhere if word != "judge=keywords"]
    read += ["judge=reading", f"judge.file={file}"]
    assert main(["plan", *read]) == 0
    assert main(["-m", *read]) == 0
    grid, store = expand(read), Store(bare)
    report = markdown(load_results(grid, store, states_of(grid, store)))
    assert "Judged by reading (ann, bob)" in report and "Audit of the judge" not in report
    stands_for = pairs_of(Store(tmp_path / "ran" / "store"), rows)[rows[1][0].partition("-")[2]]
    for cell in grid.cells:
        keys = cell.keys.evaluations["hazards"]
        scores = read_jsonl(store.path("judge", keys.judge) / "scores.jsonl")
        split_here = sum(item[0] == keys.generate for item in stands_for)
        assert Counter(score["label"] for score in scores) == Counter(
            {"refused": 10 - split_here, None: split_here}
        )
    capsys.readouterr()
    assert main(["audit", "import", str(file), *elsewhere]) == 0
    said = capsys.readouterr().out
    assert f"{n} labels of ann kept, 0 of answers that are not here, 0 labels changed" in said
    assert "labels of bob kept" in said
    agreement = load_agreement(expand(elsewhere), store)
    pairs = {(pair.a, pair.b): pair for pair in agreement.pairs}
    assert pairs["annotator ann", "annotator bob"].n == 20
    assert pairs["annotator ann", "annotator bob"].agree == pytest.approx(
        (20 - len(stands_for)) / 20
    )
    assert agreement.people["hazards"][1:] == (20, 10)
    (reader,) = {a for a, _ in pairs if a.startswith("reading (")}
    assert ("annotator ann", reader) not in pairs  # it says what they said
    assert pairs[reader, "keywords"].precision is not None
    assert pairs[reader, "keywords"].n == 20 - len(stands_for)


def test_wrong_labels_to_publish_are_refused(
    grid: Grid, store: Store, overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    with pytest.raises(ConfigError, match="nobody has labelled completions"):
        write_labels(grid, store, tmp_path / "labels.jsonl")
    one, two = audit.generates_of(grid)
    equal = [
        (a[1], b[1])
        for a, left in audit.completions_of(store, one).items()
        for b, right in audit.completions_of(store, two).items()
        if (left["input"], left["completion"]) == (right["input"], right["completion"])
    ]
    for generate, query, label in ((one, equal[0][0], "refused"), (two, equal[0][1], "neither")):
        write_json(store.root / "audit" / "labels" / generate / "ann.json", [[query, 0, label]])
    with pytest.raises(DataError, match=r"ann called two equal answers .* refused and neither"):
        write_labels(grid, store, tmp_path / "labels.jsonl")
    write_json(store.root / "audit" / "labels" / one / "ann.json", [["none", 0, "refused"]])
    with pytest.raises(DataError, match="ann labelled query none of completions"):
        write_labels(grid, store, tmp_path / "labels.jsonl")
    strange = tmp_path / "strange.jsonl"
    strange.write_text(f'{{"sha256": "{"0" * 64}", "labels": {{"ann": "refused"}}}}\n')
    with pytest.raises(DataError, match="has no label of a completion of"):
        import_file(grid, store, strange)
    assert main(["audit", "import", str(strange), *overrides, "annotator=ann"]) == 2
    assert "says itself whose labels it has" in capsys.readouterr().err
