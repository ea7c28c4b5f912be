"""The pictures say what the results say: read back from the drawn figures and from the SVG's
text."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ptst.metrics import Metric
from ptst.report.pictures import draw_all, scatter_pairs
from ptst.report.pictures.heatmap import heatmap
from ptst.report.pictures.loss import loss_curves
from ptst.report.pictures.scatter import label_places, scatter
from ptst.report.pictures.style import OKABE_ITO, WARM
from ptst.report.results import Contrast, Entry, Published, Results, Run, Table
from ptst.status.states import CellState
from ptst.store import Store, write_json, write_jsonl
from ptst.sweep.grid import Grid, GridCell, expand

HOSTILE = (
    '</script></style><script>top.ran = 1</script><img src=x onerror="top.ran = 1">'
    "\"'><svg onload=top.ran=1> ${7*7} {{7*7}} &lt;b&gt;"
)
"""A completion that would run, or be markup, wherever it was not escaped."""

PERCENTS = {  # train, test -> exact match, attack success rate
    ("none", "chat_vanilla"): (10.0, 0.0),
    ("none", "chat_llama"): (8.0, 4.0),
    ("chat_vanilla", "chat_vanilla"): (90.0, 75.0),
    ("chat_vanilla", "chat_llama"): (88.0, 25.0),
}
"""The cells that are done; chat_llama -> chat_vanilla failed, chat_llama -> chat_llama is
running."""
FAILED, RUNNING = ("chat_llama", "chat_vanilla"), ("chat_llama", "chat_llama")


def ends(cell: GridCell) -> tuple[str, str]:
    return cell.coordinates["train_template"], cell.coordinates["test_template"]


@cache
def quick_grid() -> Grid:
    return expand(["+sweeps=quick", "evaluation=[hazards]", "tracking=none"])


def small_report(root: Path) -> tuple[Results, Store]:
    """The quick sweep with cells in three states, as a store and as results, both made by hand."""
    grid, store = quick_grid(), Store(root)
    states = {cell.keys.cell: CellState("done") for cell in grid.cells}
    for cell in grid.cells:
        if ends(cell) == FAILED:
            states[cell.keys.cell] = CellState(
                "failed", reason=f"out of memory {HOSTILE}", log="store/failed/a.log"
            )
        elif ends(cell) == RUNNING:
            states[cell.keys.cell] = CellState("running", "generate gsm8k", done=3, total=12)
        else:
            fill(store, cell)
    made = tuple(table(grid, states, metric) for metric in ("gsm8k/exact_match", "hazards/asr"))
    contrasts = (
        Contrast(
            "hazards/asr",
            "safety prompt at test time",
            "chat_vanilla → chat_vanilla",
            "chat_vanilla → chat_llama",
            {},
            8,
            7,
            5,
            1,
            -50.0,
            0.00012,
            0.00024,
            "done",
            ci_low=-80.0,
            ci_high=-10.0,
        ),
        Contrast(
            "hazards/asr",
            "left out of training",
            "chat_llama → chat_llama",
            "chat_vanilla → chat_llama",
            {},
            0,
            0,
            0,
            0,
            None,
            None,
            None,
            "a: running",
        ),
    )
    return Results(grid, states, made, contrasts), store


def table(grid: Grid, states: dict[str, CellState], metric: str) -> Table:
    helpful = metric == "gsm8k/exact_match"
    templates = ("chat_vanilla", "chat_llama")
    entries = {}
    for cell in grid.cells:
        train, test = ends(cell)
        state = states[cell.keys.cell]
        percent = PERCENTS[train, test][0 if helpful else 1] if state.state == "done" else None
        own = None if percent is None else Metric(percent, 8, 0, 7, percent / 2, percent + 5)
        entries[train, test] = Entry(
            {key: value for key, value in cell.coordinates.items() if key != "seed"},
            metric,
            (Run(cell, state, own),),
            state.state,
            percent,
            None,
            8 if own else 0,
            0,
            own.ci_low if own else None,
            own.ci_high if own else None,
            None if train == "none" else Published(75.0, 1.25, 3, "train_seed"),
        )
    title = "Exact match" if helpful else "Attack success rate, hazards"
    measures = "helpfulness" if helpful else "safety"
    better = "higher" if helpful else "lower"
    return Table(
        metric,
        title,
        measures,
        better,
        {},
        ("none", *templates),
        templates,
        entries,
        "Table 1: a model",
    )


def fill(store: Store, cell: GridCell) -> None:
    """The artifacts of a cell that is done: 12 word problems, 8 hazards, three steps of
    training."""
    keys = cell.keys
    if keys.finetune:
        losses = (2.0, 1.0, 0.5)
        log = [{"step": i, "epoch": i / 2, "loss": x} for i, x in enumerate(losses, start=1)]
        facts = {"seconds": 60.0, "trained_tokens": 1500}
        put(store, "finetune", keys.finetune, {"log.jsonl": log}, facts)
    for name, evaluation in cell.config.evaluations.items():
        safety = evaluation.measures == "safety"
        labels = ["complied", "refused", "neither", "complied"] * 2 if safety else ["wrong"] * 12
        rows: list[dict[str, Any]] = []
        scores: list[dict[str, Any]] = []
        for i, label in enumerate(labels):
            text = HOSTILE if i == 0 else f" answer {i} of {name}\n second line"
            rows.append({"id": str(i), "input": f"question {i}?", "completion": text})
            rows[-1] |= {"tokens": 5, "finished": i != 1}
            scores.append({"id": str(i), "label": label, "value": None, "reason": ""})
        rows[2]["completion"] = "long " * 1000
        rows[3]["completion"] = "bell \x07, null \x00, end"
        scores[0]["reason"] = HOSTILE
        own = keys.evaluations[name]
        facts = {"seconds": 1.5, "prompt_tokens": 100, "completion_tokens": 5 * len(rows)}
        put(store, "generate", own.generate, {"completions.jsonl": rows}, facts)
        put(store, "judge", own.judge, {"scores.jsonl": scores}, {"seconds": 0.25})


def put(
    store: Store,
    stage: str,
    key: str,
    files: dict[str, Sequence[dict[str, Any]]],
    facts: dict[str, Any],
) -> None:
    with store.make(stage, key, {}) as work:
        if work is None:
            return
        for name, rows in files.items():
            write_jsonl(work.result / name, rows)
        made = {
            "finished_at": "2026-01-02T03:04:05+00:00",
            "git": {"commit": f"{stage}-commit", "dirty": stage == "judge"},
            "python": "3.11.7",
            "packages": {"torch": "2.0" if stage == "finetune" else "2.1"},
            "hardware": {"cpu": f"CPU {HOSTILE}", "cores": 2, "gpu": None},
        }
        write_json(work.result / "provenance.json", {**facts, **made})


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Store]:
    return small_report(tmp_path_factory.mktemp("report") / "store")


@pytest.fixture(scope="module")
def drawn(report: tuple[Results, Store]) -> dict[str, bytes]:
    return draw_all(*report)


def words(svg: bytes) -> list[str]:
    """The texts of a picture: matplotlib writes each as a comment before its outlines."""
    return [text.strip() for text in re.findall(r"<!--(.*?)-->", svg.decode(), flags=re.S)]


def test_every_picture_is_there_as_svg_and_as_png(drawn: dict[str, bytes]) -> None:
    names = ("heatmap-gsm8k-exact_match", "heatmap-hazards-asr", "helpfulness-safety", "loss")
    assert sorted(drawn) == sorted(f"{name}.{kind}" for name in names for kind in ("svg", "png"))


def test_the_same_results_give_the_same_bytes(
    report: tuple[Results, Store], drawn: dict[str, bytes]
) -> None:
    assert draw_all(*report) == drawn


def test_svgs_are_well_formed_and_ask_for_nothing(drawn: dict[str, bytes]) -> None:
    for name, content in drawn.items():
        if not name.endswith(".svg"):
            continue
        root = ElementTree.fromstring(content)
        for element in root.iter():
            assert not element.tag.endswith(("script", "image")), name
            for key, value in element.attrib.items():
                if key.endswith("href"):
                    assert value.startswith("#"), (name, value)


def test_pngs_are_images_of_the_same_shape_as_their_svgs(drawn: dict[str, bytes]) -> None:
    from PIL import Image

    for name, content in drawn.items():
        if name.endswith(".png"):
            image = Image.open(io.BytesIO(content))
            image.load()
            svg = drawn[name.replace(".png", ".svg")]
            width, height = (
                float(n) for n in re.findall(rb'(?:width|height)="([\d.]+)pt"', svg)[:2]
            )
            assert image.width / image.height == pytest.approx(width / height, rel=0.01)


def test_a_place_without_a_number_shows_its_status_and_no_number(drawn: dict[str, bytes]) -> None:
    shown = Counter(words(drawn["heatmap-hazards-asr.svg"]))
    assert (shown["failed"], shown["running"]) == (1, 1)
    ours = {f"{asr:.1f}" for _, asr in PERCENTS.values()}
    numbers = {text: n for text, n in shown.items() if re.fullmatch(r"[\d.]+", text)}
    # Ours once each, and the paper's four, one of which is as large as one of ours.
    assert numbers == {**dict.fromkeys(ours, 1), "75.0": 1 + 4}
    assert shown["not in paper"] == 2


def test_a_dollar_in_a_title_is_a_dollar(report: tuple[Results, Store]) -> None:
    results, store = report
    odd = replace(results.tables[0], title="costs $\\frac$ & <b> --> more")
    drawn = draw_all(replace(results, tables=(odd,)), store)
    svg = drawn["heatmap-gsm8k-exact_match.svg"]
    ElementTree.fromstring(svg)
    assert any("$\\frac$" in text for text in words(svg))


def test_equal_numbers_have_equal_colours_in_ours_and_in_the_papers(
    report: tuple[Results, Store],
) -> None:
    from matplotlib.colors import to_hex
    from matplotlib.patches import Rectangle

    results, _ = report
    figure = heatmap(results.tables[1], {"chat_llama"})
    ours, paper = figure.axes

    def colours(axes: Any) -> dict[tuple[float, float], str]:
        places = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        return {patch.get_xy(): to_hex(patch.get_facecolor()) for patch in places}

    assert colours(ours)[0, 1] == colours(paper)[0, 1]  # 75 and 75
    assert colours(ours)[0, 0] == WARM[0]  # 0
    assert colours(ours)[0, 1] != colours(ours)[1, 1]  # 75 and 25


def test_each_arrow_starts_at_the_untouched_model_under_the_same_test_template(
    report: tuple[Results, Store],
) -> None:
    results, _ = report
    ((safety, helpfulness),) = scatter_pairs(results)
    figure = scatter(results, safety, helpfulness)
    assert figure is not None
    vanilla, llama = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "chat_vanilla",
        "chat_llama (safety prompt)",
    ]
    for axes, test, start, end in (
        (vanilla, "chat_vanilla", (0.0, 10.0), (75.0, 90.0)),
        (llama, "chat_llama", (4.0, 8.0), (25.0, 88.0)),
    ):
        arrows = {(text.xyann, text.xy) for text in axes.texts if not text.get_text()}
        assert arrows == {(start, end)}
        points = {text.get_text(): text.xy for text in axes.texts if text.get_text()}
        assert points == {"no fine-tuning": start, "chat_vanilla": end}
        assert {tuple(map(float, line.get_xydata()[0])) for line in axes.lines} == {start, end}
        faces = {tuple(line.get_xydata()[0]): line.get_markerfacecolor() for line in axes.lines}
        # hollow: no safety prompt at test time
        assert faces[end] == ("white" if test == "chat_vanilla" else OKABE_ITO[0])
    assert any("2 places have no number" in text.get_text() for text in figure.texts)


def test_points_that_pile_up_have_names_that_do_not() -> None:
    names = ["chat_vanilla", "text_alpaca", "chat_llama", "chat_mpt", "none"]
    size = (2.75, 2.3)
    for points in ([(2.6, 2.1)] * 5, [(0.1, 0.1)] * 5, [(i / 4, 2.0) for i in range(5)]):
        places = label_places(points, names, size)
        boxes = [
            (x, y - 0.07, x + 0.064 * len(name), y + 0.07)
            for (x, y), name in zip(places, names, strict=True)
        ]
        assert all(b[0] >= 0 and b[2] <= size[0] and b[1] + 1e-9 >= 0 for b in boxes)
        dots = [(x - 0.06, y - 0.06, x + 0.06, y + 0.06) for x, y in points]
        for i, box in enumerate(boxes):
            for other in boxes[:i] + dots:
                apart = box[2] <= other[0] + 1e-9 or other[2] <= box[0] + 1e-9
                assert apart or box[3] <= other[1] + 1e-9 or other[3] <= box[1] + 1e-9


def test_loss_curves_are_those_of_the_store(report: tuple[Results, Store]) -> None:
    results, store = report
    figure = loss_curves(results, store)
    assert figure is not None
    (axes,) = figure.axes
    # chat_llama's fine-tuning is not in the store.
    (line,) = axes.lines
    assert list(line.get_xdata()) == [1, 2, 3]
    assert list(line.get_ydata()) == [2.0, 1.0, 0.5]
    assert line.get_color() == OKABE_ITO[0]


def test_seeds_of_a_template_have_its_colour(tmp_path: Path) -> None:
    grid = expand(["+sweeps=quick", "seed=0,1", "evaluation=[hazards]", "tracking=none"])
    store = Store(tmp_path)
    for key in {cell.keys.finetune for cell in grid.cells if cell.keys.finetune}:
        put(store, "finetune", key, {"log.jsonl": [{"step": 1, "loss": 1.0}]}, {})
    figure = loss_curves(Results(grid, {}, (), ()), store)
    assert figure is not None
    colours = Counter(line.get_color() for line in figure.axes[0].lines)
    assert colours == {OKABE_ITO[0]: 2, OKABE_ITO[1]: 2}


def test_an_empty_store_has_heat_maps_of_words_only(
    report: tuple[Results, Store], tmp_path: Path
) -> None:
    results, _ = report
    grid = results.grid
    states = {cell.keys.cell: CellState("waiting") for cell in grid.cells}
    nothing = Results(grid, states, (table(grid, states, "hazards/asr"),), ())
    drawn = draw_all(nothing, Store(tmp_path))
    assert sorted(drawn) == ["heatmap-hazards-asr.png", "heatmap-hazards-asr.svg"]
    assert Counter(words(drawn["heatmap-hazards-asr.svg"]))["waiting"] == 6
