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
from ptst.cell import run_cell
from ptst.cli import main
from ptst.errors import ConfigError, DataError
from ptst.report.agreement import audit_of, load_agreement
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


def saved(path: Path, rows: list[list[str]], encoding: str = "utf-8", separator: str = ",") -> Path:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def test_a_sheet_is_blind_and_opens_in_a_spreadsheet(
    grid: Grid, store: Store, tmp_path: Path
) -> None:
    sheet = audit.export(grid, store, 8, 0, tmp_path / "sheet.csv")
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
        sheet = audit.export(grid, store, 10, seed, tmp_path / f"{name}.csv")
        key = filled(sheet)[1][0].partition("-")[0]
        drawn.append(list(read_json(store.root / "audit" / "sheets" / f"{key}.json").values()))
    assert drawn[0] == drawn[1] != drawn[2]
    for items in drawn:
        assert sorted(Counter(item[0] for item in items).values()) == [5, 5]
        assert len({tuple(item) for item in items}) == 10


def test_strata_by_label_have_their_share(
    grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    strata = {("e", f"g{c}", label): [(f"g{c}", f"{label}{i}", 0) for i in range(size)]
              for c in range(3) for label, size in (("complied", 10), ("refused", 30))}  # fmt: skip
    monkeypatch.setattr(audit, "_strata", lambda grid, store: strata)
    rows = {item: {"input": "q", "completion": "c"} for own in strata.values() for item in own}
    monkeypatch.setattr(audit, "completions_of", lambda store, generate: rows)
    kept: list[list[str]] = []
    monkeypatch.setattr(audit, "write_json", lambda path, items: kept.extend(items.values()))
    monkeypatch.setattr(audit, "write_csv", lambda *arguments: None)
    audit.export(grid, store, 12, 5, Path("nowhere.csv"))
    shares = Counter((generate, query.rstrip("0123456789")) for generate, query, _ in kept)
    assert shares == {(f"g{c}", label): n for c in range(3) for label, n in (("complied", 1), ("refused", 3))}  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "separator"),
    [("utf-8", ","), ("utf-8-sig", ","), ("cp1252", ";"), ("utf-16", "\t")],
)
def test_labels_come_back_however_a_spreadsheet_saves(
    grid: Grid, store: Store, tmp_path: Path, encoding: str, separator: str
) -> None:
    sheet = audit.export(grid, store, 6, 0, tmp_path / "sheet.csv")
    rows = filled(sheet)
    rows[1][3:] = [" Complied ", "\u00fc, \u20ac"]
    rows[2][3] = ""
    back = saved(tmp_path / "back.csv", rows, encoding, separator)
    name = f"{encoding}{len(separator)}"
    done = audit.import_labels(grid, store, back, name)
    assert (done.labelled, done.blank, done.changed) == (5, 1, 0)
    labels = [
        label
        for cell in grid.cells
        for label in audit.read_labels(store, cell.keys.evaluations["hazards"].generate)[name].values()
    ]  # fmt: skip
    assert sorted(labels) == ["complied", *["refused"] * 4]
    rows[1][3] = "neither"
    again = audit.import_labels(grid, store, saved(back, rows, encoding, separator), name)
    assert (again.labelled, again.changed) == (5, 1)


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
    sheet = audit.export(grid, store, 6, 0, tmp_path / "sheet.csv")
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
    sheet = audit.export(grid, store, 20, 0, tmp_path / "sheet.csv")
    rows = filled(sheet)
    items = read_json(store.root / "audit" / "sheets" / f"{rows[1][0].partition('-')[0]}.json")
    said = {
        (cell.keys.evaluations["hazards"].generate, row["id"]): row["label"]
        for cell in grid.cells
        for row in read_jsonl(
            store.path("judge", cell.keys.evaluations["hazards"].judge) / "scores.jsonl"
        )
    }
    wrong = 0
    for row in rows[1:]:
        generate, query, _ = items[row[0].partition("-")[2]]
        row[3] = said[generate, query]
        if row[3] != "complied" and wrong < 4:  # four that the judge misses
            row[3], wrong = "complied", wrong + 1
    complied = sum(row[3] == "complied" for row in rows[1:])
    audit.import_labels(grid, store, saved(tmp_path / "back.csv", rows), "ann")
    (pair,) = load_agreement(grid, store, ["human ann", "keywords"]).pairs
    assert (pair.a, pair.b, pair.n) == ("human ann", "keywords", 20)
    assert pair.recall is not None and pair.precision is not None
    assert pair.recall.value == pytest.approx((complied - 4) / complied)
    assert pair.precision.value == (1 if complied > 4 else None)
    assert pair.agree == pytest.approx(16 / 20)
    own = next(p for p in audit_of(grid.cells, "hazards", store) if p.a == "human ann")
    assert (own.n, own.kappa, own.recall) == (pair.n, pair.kappa, pair.recall)
    report = markdown(load_results(grid, store, states_of(grid, store)))
    asr, refused = (
        report.partition(f"## hazards/{name}")[2].partition("##")[0] for name in ("asr", "refused")
    )
    assert "Human audit of the judge, by ann: n = 20 completions, 80 % alike" in asr
    assert "Human audit" not in refused  # it is about what ASR counts


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
