"""The tables of a report as text: Markdown, LaTeX, tidy CSV, and for a terminal.

All of them say the same of every place (`ptst.report.place`), and the same around it (`captions`).
"""

from ptst.report.tables.analyses import outcome_lines, wide_tables
from ptst.report.tables.guards import guard_lines, guards_csv
from ptst.report.tables.latex import latex
from ptst.report.tables.markdown import markdown
from ptst.report.tables.protection import protection_lines, protections_csv
from ptst.report.tables.terminal import show
from ptst.report.tables.tidy import category_csv, tidy_csv

__all__ = [
    "category_csv",
    "guard_lines",
    "guards_csv",
    "latex",
    "markdown",
    "outcome_lines",
    "protection_lines",
    "protections_csv",
    "show",
    "tidy_csv",
    "wide_tables",
]
