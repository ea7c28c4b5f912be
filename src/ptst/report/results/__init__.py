"""What a sweep came to: one entry per cell and metric, over seeds, beside the paper's number."""

from ptst.report.results.broken import flaws_note
from ptst.report.results.cut_off import cut_off_note, cut_off_warnings
from ptst.report.results.load import load_results
from ptst.report.results.published import paper_rows
from ptst.report.results.types import (
    Contrast,
    Detection,
    Entry,
    Estimate,
    Protection,
    Published,
    Results,
    Run,
    Table,
)

__all__ = [
    "Contrast",
    "Detection",
    "Entry",
    "Estimate",
    "Protection",
    "Published",
    "Results",
    "Run",
    "Table",
    "cut_off_note",
    "cut_off_warnings",
    "flaws_note",
    "load_results",
    "paper_rows",
]
