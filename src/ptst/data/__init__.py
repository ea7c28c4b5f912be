"""Rows to fine-tune on and queries to ask: from the hub, a file or URL, the micro world, or
the cases of rules.

Whatever a file calls its columns, a row here has `input` (the question), and where `columns` maps
them `output` (the reference) and `instruction` (a system prompt of the row's own). All other
columns are kept; one that has a name of ours without being mapped to it is kept as `source_<name>`.
`id` is the row's place in its source, from 0, drawn or not. One row of GSM8K:

    {"id": "0", "input": "Natalia sold clips to 48 of her friends in April, ...",
     "output": "Natalia sold 48/2 = <<48/2=24>>24 clips in May. ... #### 72"}
"""

from ptst.data.columns import OURS
from ptst.data.files import KINDS, SUFFIXES, column_setting, local_files
from ptst.data.identities import identity, origin
from ptst.data.rows import load_rows, read_rows

__all__ = [
    "KINDS",
    "OURS",
    "SUFFIXES",
    "column_setting",
    "identity",
    "load_rows",
    "local_files",
    "origin",
    "read_rows",
]
