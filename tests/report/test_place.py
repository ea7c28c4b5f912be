"""What stands in a place of a table, in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from test_results import ANSWERS, hazards, loaded

from ptst.metrics import Metric
from ptst.report.place import figures_of, metric_in_words, place_in_words
from ptst.report.results import Contrast, Published

PLACE = ("chat_vanilla", "chat_vanilla")


def test_a_number_stands_with_its_spread_and_the_papers(tmp_path: Path) -> None:
    table = hazards(loaded(tmp_path, ANSWERS))
    place = place_in_words(table, *PLACE)
    assert place is not None
    assert (place.number, place.std, place.spread) == ("100.0", "", "(64.6–100.0)")
    assert (place.short_spread, place.scored, place.note) == ("(65–100)", "", "")
    assert place.paper_in_full == "11.0 ± 0.8"
    assert place_in_words(table, "chat_vanilla", "chat_mpt") is None

    entry = replace(table.entries[PLACE], std=1.25, n=5, missing=3)
    entry = replace(entry, paper=Published(2.0, None, 1, None, (("Table 6b", 0.75),)))
    place = place_in_words(replace(table, entries={PLACE: entry}), *PLACE)
    assert place is not None
    assert (place.spread, place.short_spread) == ("± 1.2", "± 1.2")
    assert (place.scored, place.note) == ("5 of 8", "5 of 8 scored")
    assert place.paper_in_full == "2.0 (Table 6b: 0.8)"

    gone = replace(entry, mean=None, status="failed (1 of 3 seeds)")
    place = place_in_words(replace(table, entries={PLACE: gone}), *PLACE)
    assert place is not None and (place.number, place.status) == ("", "failed (1 of 3 seeds)")


def test_a_metric_stands_with_its_interval() -> None:
    assert metric_in_words(Metric(35.04, 8, 0, 8, 25.4, 45.6)) == "35.0 (25–46)"
    assert metric_in_words(Metric(0.5, 1, 0, 1, None, None, (0.0, 1.0))) == "0.500"
    assert metric_in_words(Metric(None, 0, 8, 0, None, None)) == "no score"


def test_a_contrast_has_figures_where_it_has_a_difference() -> None:
    contrast = Contrast("hazards/asr", "kind", "a", "b", {}, 8, 7, 5, 1, -50.0, 1.2e-05, None)
    figures = figures_of(replace(contrast, ci_low=-80.0, ci_high=9.6))
    assert figures is not None
    assert (figures.difference, figures.interval) == ("−50.0", "[−80, 10]")
    assert (figures.p, figures.p_holm) == ("1.2e-05", "no test")
    assert figures_of(replace(contrast, difference=None)) is None
