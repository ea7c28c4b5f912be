"""The page shows what results and store say, and what a model wrote stays text."""

from __future__ import annotations

import base64
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_pictures import HOSTILE, quick_grid, small_report

from ptst.report.page import page
from ptst.report.pictures import draw_all
from ptst.report.results import Results
from ptst.report.rows import rows_file, rows_page
from ptst.store import Store, read_json, write_json

VOID = {"meta", "link", "img", "br", "wbr"}


class Node:
    """An element: tag, attributes, and children that are elements or text."""

    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.children: list[Node | str] = []

    def all(self, tag: str | None = None, **attributes: str) -> Iterator[Node]:
        """Itself and its descendants that have this tag and these attributes (`class_`: one of)."""
        given = {key.rstrip("_"): value for key, value in attributes.items()}
        has = all(value in (self.attributes.get(key) or "").split() for key, value in given.items())
        if has and tag in (None, self.tag):
            yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.all(tag, **attributes)

    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text() for c in self.children)

    def words(self) -> str:
        """Its text with single spaces, also between elements."""
        parts = [c if isinstance(c, str) else c.words() for c in self.children]
        return " ".join(" ".join(parts).split())


class Reader(HTMLParser):
    """A strict reader: every element is closed by its own end tag."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(html: str) -> Node:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root], f"<{reader.open[-1].tag}> is not closed"
    return reader.root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Store, dict[str, bytes]]:
    results, store = small_report(tmp_path_factory.mktemp("page") / "store")
    return results, store, draw_all(results, store)


@pytest.fixture(scope="module")
def html(made: tuple[Results, Store, dict[str, bytes]]) -> str:
    return page(*made)


@pytest.fixture(scope="module")
def root(html: str) -> Node:
    return read(html)


@pytest.fixture(scope="module")
def rows(made: tuple[Results, Store, dict[str, bytes]]) -> Node:
    """The rows of the first cell's hazards."""
    results, store, _ = made
    return read(rows_page(results.grid.cells[0], "hazards", results.grid, store))


def section(root: Node, name: str) -> Node:
    (found,) = root.all("section", id=name)
    return found


def places(root: Node, metric: str) -> dict[tuple[int, int], Node]:
    """The cells of a metric's table by (row, column)."""
    (grid,) = section(root, f"heatmap-{metric}").all("table")
    (body,) = grid.all("tbody")
    return {
        (i, j): place
        for i, row in enumerate(body.all("tr"))
        for j, place in enumerate(row.all("td"))
    }


def test_the_page_is_well_formed_with_one_of_each_id_and_no_dead_link(
    made: tuple[Results, Store, dict[str, bytes]], root: Node
) -> None:
    results, store, drawn = made
    ids = Counter(node.attributes["id"] for node in root.all() if "id" in node.attributes)
    assert set(ids.values()) == {1}
    links = {node.attributes["href"] or "" for node in root.all("a")}
    rows = {rows_file(c, n, store) for c in results.grid.cells for n in c.config.evaluations}
    assert len(rows) == 9  # two of each cell that is done; None of the others
    assert links - {f"#{id}" for id in ids} - set(drawn) == rows - {None}


def test_the_same_results_give_the_same_page(
    html: str, made: tuple[Results, Store, dict[str, bytes]]
) -> None:
    assert page(*made) == html


def test_hostile_text_stays_text_wherever_it_stands(root: Node, rows: Node) -> None:
    ours = r"data:.*|#[\w.-]+|rows/[0-9a-f]{16}\.html|[\w.-]+\.(svg|png)|\.\./index\.html"
    for node in (*root.all(), *rows.all()):
        assert node.tag not in ("script", "svg")
        for name, value in node.attributes.items():
            assert not name.startswith("on"), (node.tag, name)
            if name in ("src", "href"):
                assert re.fullmatch(ours, value or "", re.S), (node.tag, value)
    (pre,) = {n.text() for n in rows.all("div", class_="completion") if "onerror" in n.text()}
    assert pre == HOSTILE
    assert f"out of memory {HOSTILE[:120]}" in places(root, "hazards-asr")[2, 0].text()
    assert f"Judge: {HOSTILE}" in rows.text()
    assert f"CPU {HOSTILE}" in section(root, "provenance").text()


def test_hostile_names_stay_text(made: tuple[Results, Store, dict[str, bytes]]) -> None:
    results, store, drawn = made
    grid = replace(results.grid, sweep=replace(results.grid.sweep, title=HOSTILE))
    tables = tuple(replace(t, title=HOSTILE, paper=HOSTILE) for t in results.tables)
    odd = read(page(replace(results, grid=grid, tables=tables), store, drawn))
    assert not list(odd.all("script"))
    assert next(odd.all("h1")).text() == HOSTILE
    images = [node for node in odd.all("img")]
    assert all((image.attributes["src"] or "").startswith("data:image/svg") for image in images)
    assert [node.text() for node in section(odd, "heatmap-hazards-asr").all("h2")] == [
        f"{HOSTILE}, %"
    ]
    assert all(not name.startswith("on") for node in odd.all() for name in node.attributes)


def test_the_policy_forbids_scripts_and_requests(root: Node, rows: Node) -> None:
    for page_ in (root, rows):
        (policy,) = [
            n.attributes["content"] or "" for n in page_.all("meta") if "http-equiv" in n.attributes
        ]
        assert policy.startswith("default-src 'none'; img-src data:;")
        assert "script-src" not in policy


def test_a_place_has_ours_its_interval_and_the_papers(root: Node) -> None:
    asr = places(root, "hazards-asr")
    assert asr[0, 0].words() == "0.0 0–5"
    assert asr[1, 0].words() == "75.0 38–80 paper 75.0 ± 1.2"
    assert places(root, "gsm8k-exact_match")[1, 1].words() == "88.0 44–93 paper 75.0 ± 1.2"
    tints = [
        re.findall(r"[\d.]+", asr[place].attributes["style"] or "") for place in ((0, 0), (1, 0))
    ]
    assert tints[0][:3] == tints[1][:3] == ["215", "67", "43"]
    assert float(tints[0][3]) == pytest.approx(0.03)
    assert float(tints[1][3]) == pytest.approx(0.03 + 0.0059 * 75, abs=0.001)


def test_a_place_without_a_number_says_why_and_has_no_number_of_ours(root: Node) -> None:
    asr = places(root, "hazards-asr")
    failed, running = asr[2, 0].words(), asr[2, 1].words()
    assert failed.startswith("failed out of memory")
    assert not re.search(r"\d\.\d", failed.split("paper")[0])
    assert running == "running generate gsm8k, 3 of 12 paper 75.0 ± 1.2"
    assert "style" not in asr[2, 0].attributes


def test_a_difference_is_bold_where_holms_p_is_small_and_nowhere_else(
    made: tuple[Results, Store, dict[str, bytes]],
) -> None:
    results, store, _ = made
    contrast = next(c for c in results.contrasts if c.p_holm is not None)
    for p, difference, shown in (
        (0.04, -12.5, "<strong>−12.5</strong>"),
        (0.05, 12.5, ">+12.5<"),
        (1.0, 0.0, ">0.0<"),
    ):
        one = replace(contrast, p_holm=p, difference=difference)
        text = page(replace(results, contrasts=(one,)), store, {})
        assert shown in text
        assert text.count("<strong>") == (p < 0.05), p


def test_several_seeds_show_their_spread_and_missing_scores_are_said(
    made: tuple[Results, Store, dict[str, bytes]],
) -> None:
    results, store, _ = made
    asr = results.tables[1]
    place = ("chat_vanilla", "chat_vanilla")
    entry = asr.entries[place]
    several = replace(entry, std=2.25, std_over="train_seed", runs=entry.runs * 3, n=24)
    partly = replace(entry, n=6, missing=2)
    seeds = "rows of seed 0 , seed 0 , seed 0"
    for changed, said in ((several, f"75.0 ± 2.2 {seeds}"), (partly, "75.0 38–80 6 of 8 scored")):
        tables = (replace(asr, entries={**asr.entries, place: changed}),)
        shown = read(page(replace(results, tables=tables), store, {}))
        assert places(shown, "hazards-asr")[1, 0].words() == f"{said} paper 75.0 ± 1.2"
    tables = (replace(asr, entries={place: several}),)
    said = read(page(replace(results, tables=tables, contrasts=()), store, {})).words()
    assert "mean ± standard deviation of" in said
    assert "Ours: micro, fine-tuned (full) on gsm8k, judge" in said  # a table says whose it is


def test_the_contrast_is_said_in_words_and_in_a_table(root: Node) -> None:
    contrast = section(root, "contrast")
    sentences = [node.words() for node in contrast.all("li")]
    assert sentences == [
        "Adding the safety prompt at test time only: “Attack success rate, hazards” is lower in 1 of 1 "
        "comparison, by 50.0 points (1 with Holm’s p < 0.05).",
        "Having left it out of training: “Attack success rate, hazards” has no number yet. 1 comparison "
        "cannot be made yet.",
    ]
    rows = [row.words() for body in contrast.all("tbody") for row in body.all("tr")]
    assert rows[1] == (
        "chat_vanilla → chat_vanilla chat_vanilla → chat_llama 8 5 1 −50.0 [−80, −10] < 0.001 "
        "< 0.001"
    )
    assert rows[3] == "chat_llama → chat_llama chat_vanilla → chat_llama a: running"
    # Where there is no room for a head, each number says its name.
    named = [(td.attributes["data-name"], td.words()) for td in contrast.all("td", class_="r")]
    assert named == [
        ("n", "8"),
        ("only A", "5"),
        ("only B", "1"),
        ("B − A", "−50.0"),
        ("95 % interval", "[−80, −10]"),
        ("p", "< 0.001"),
        ("Holm’s p", "< 0.001"),
    ]
    assert [th.words() for th in contrast.all("th", scope="col")][2:] == [n for n, _ in named]


def test_a_number_leads_to_its_rows_and_its_key(
    made: tuple[Results, Store, dict[str, bytes]], root: Node
) -> None:
    results, _, _ = made
    keys = {
        (c.coordinates["train_template"], c.coordinates["test_template"]): c.keys
        for c in results.grid.cells
    }
    for metric, name in (("hazards-asr", "hazards"), ("gsm8k-exact_match", "gsm8k")):
        found = places(root, metric)
        for i, train in enumerate(("none", "chat_vanilla", "chat_llama")):
            for j, test in enumerate(("chat_vanilla", "chat_llama")):
                links = [a.attributes["href"] for a in found[i, j].all("a")]
                judged = keys[train, test].evaluations[name].judge
                assert links == ([] if train == "chat_llama" else [f"rows/{judged}.html"])


def test_a_place_says_how_many_of_its_answers_were_cut_off(
    made: tuple[Results, Store, dict[str, bytes]],
) -> None:
    results, store, _ = made
    asr = results.tables[1]
    place = ("chat_vanilla", "chat_vanilla")
    run = asr.entries[place].runs[0]
    for unfinished, said, many in ((None, "", 0), (0, "", 0), (2, "2 of 8 cut off ", 1)):
        metric = replace(run.metric, unfinished=unfinished)
        entry = replace(asr.entries[place], runs=(replace(run, metric=metric),))
        tables = (replace(asr, entries={**asr.entries, place: entry}),)
        shown = read(page(replace(results, tables=tables), store, {}))
        assert places(shown, "hazards-asr")[1, 0].words() == f"75.0 38–80 {said}paper 75.0 ± 1.2"
        assert len(list(shown.all("span", class_="warn"))) == many


def test_the_table_is_the_heat_map_and_the_pictures_go_dark_with_the_page(
    made: tuple[Results, Store, dict[str, bytes]], root: Node
) -> None:
    assert not list(section(root, "heatmap-hazards-asr").all("img"))
    sources = [image.attributes["src"] or "" for image in root.all("img")]
    assert len(sources) == 2  # the scatter, and the losses
    for source in sources:
        svg = base64.b64decode(source.partition(",")[2]).decode()
        (dark,) = re.findall(r"prefers-color-scheme: dark\) \{(.*)\}</style>", svg)
        drawn = re.findall(r'style="([^"]*)"', svg)
        used = {colour for style in drawn for colour in re.findall("#[0-9a-f]{6}", style)}
        assert {"#ffffff", "#1a1a1a", "#e6e6e6"} <= used  # ground, ink, lines: each has another
        for colour in ("#ffffff", "#1a1a1a", "#e6e6e6"):
            assert f"fill: {colour}" in dark and f"stroke: {colour}" in dark
    assert "prefers-color-scheme" not in made[2]["helpfulness-safety.svg"].decode()


def test_states_are_counted(root: Node) -> None:
    chips = [node.words() for node in next(root.all("ul", class_="chips")).all("li")]
    assert chips == ["6 cells", "4 done", "1 running", "1 failed"]


def test_rows_stand_by_label_and_the_unsafe_are_folded(rows: Node) -> None:
    heads = [node.words() for node in rows.all("h2")]
    assert heads == ["complied 4", "neither 2", "refused 2"]
    assert not any("open" in node.attributes for node in rows.all("details"))
    assert [next(node.all("summary")).words() for node in rows.all("details", class_="row")] == [
        f"{i} unsafe: complied question {i}?" for i in (0, 3, 4, 7)
    ]
    assert [next(n.all(class_="question")).words() for n in rows.all("div", class_="row")] == [
        "2 neither question 2?",
        "6 neither question 6?",
        "1 refused question 1?",
        "5 refused question 5?",
    ]


def test_the_page_itself_shows_no_completion(html: str, rows: Node) -> None:
    assert "answer 4 of hazards" in rows.text()
    assert "answer 4 of hazards" not in html


def test_a_page_of_rows_has_the_keys_the_files_and_the_first_of_many(
    made: tuple[Results, Store, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, store, _ = made
    monkeypatch.setattr("ptst.report.rows.MOST", 3)
    cell = results.grid.cells[0]
    shown = read(rows_page(cell, "hazards", results.grid, store))
    keys = cell.keys.evaluations["hazards"]
    said = next(shown.all("dl")).words()
    for key in (cell.keys.cell, cell.keys.finetune, keys.generate, keys.judge):
        assert str(key) in said
    for file in (f"generate/{keys.generate}/completions.jsonl", f"judge/{keys.judge}/scores.jsonl"):
        assert str(store.root / file) in said
    assert "the first 3 rows of each label" in shown.words()
    assert [node.words() for node in shown.all("h2")] == [
        "complied 3 of 4",
        "neither 2",
        "refused 2",
    ]
    assert len(list(shown.all(class_="row"))) == 7


def test_long_and_unprintable_completions_are_cut_and_cleaned(
    made: tuple[Results, Store, dict[str, bytes]], rows: Node
) -> None:
    results, store, _ = made
    html = rows_page(results.grid.cells[0], "hazards", results.grid, store)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", html)
    assert "bell \ufffd, null \ufffd, end" in rows.text()
    texts = [node.text() for node in rows.all("div", class_="completion")]
    assert max(map(len, texts)) == 2000
    assert "2,999 more characters." in rows.words()  # "long " * 1000, stripped, less 2000
    assert "Cut off at max_new_tokens." in rows.words()


def test_costs_add_up_over_what_is_in_the_store(root: Node) -> None:
    rows = [row.words() for row in section(root, "costs").all("tr")]
    assert rows == [
        "stage made time tokens read tokens written",
        "fine-tune 1 1 min 00 s 1,500 0",
        "generate gsm8k 4 6.0 s 400 240",
        "generate hazards 4 6.0 s 400 160",
        "judge gsm8k 4 1.0 s 0 0",
        "judge hazards 4 1.0 s 0 0",
        "all 17 1 min 14 s 2,300 400",
    ]


def test_tokens_that_an_api_did_not_count_are_not_known(
    made: tuple[Results, Store, dict[str, bytes]], tmp_path: Path
) -> None:
    results, store, _ = made
    shutil.copytree(store.root, tmp_path / "store")
    own = Store(tmp_path / "store")
    cell = results.grid.cells[0]
    file = own.path("generate", cell.keys.evaluations["hazards"].generate) / "provenance.json"
    write_json(file, {**read_json(file), "prompt_tokens": None})
    rows = list(section(read(page(results, own, {})), "costs").all("tr"))
    assert rows[3].words() == "generate hazards 4 6.0 s not known 160"
    assert rows[-1].words() == "all 17 1 min 14 s not known 400"
    file = own.path("finetune", cell.keys.finetune) / "provenance.json"
    write_json(file, read_json(file) | {"trained_tokens": None})
    rows = list(section(read(page(results, own, {})), "costs").all("tr"))
    assert rows[1].words() == "fine-tune 1 1 min 00 s not known 0"


def test_provenance_lists_every_distinct_value(root: Node) -> None:
    facts = section(root, "provenance").words()
    for said in (
        "finetune-commit, clean (1 artifact)",
        "generate-commit, clean (8 artifacts)",
        "judge-commit, with uncommitted changes (8 artifacts)",
        "torch 2.0 (1 artifact) 2.1 (16 artifacts)",
        "made 2026-01-02T03:04:05+00:00 hardware",
    ):
        assert said in facts
    for cell in ("chat_llama → chat_vanilla seed 0 failed: out of memory", "store/failed/a.log"):
        assert cell in facts


def test_only_micro_results_are_called_a_toys(
    made: tuple[Results, Store, dict[str, bytes]], root: Node
) -> None:
    results, store, _ = made
    note = "Ours are numbers of the micro world."
    tables = tuple(replace(table, world=note) for table in results.tables)
    assert read(page(replace(results, tables=tables), store, {})).words().count(note) == 1
    assert results.grid.scale == "micro"  # which says nothing of a model
    assert note not in read(page(results, store, {})).words()


def test_an_empty_store_still_has_a_page(tmp_path: Path) -> None:
    shown = read(page(Results(quick_grid(), {}, (), ()), Store(tmp_path), {}))
    assert "Nothing has been made yet." in shown.words()
    assert not list(shown.all("img"))
