"""The store: what was made once is found again, and never half.

An artifact is a folder `<store>/<stage>/<key>/`. Its key is a hash of everything that decides its
content, as resolved values (see `key_of`), never of a time, a name or a difference from a default.
It appears by one rename, complete. Until then its maker works in `<store>/partial/<stage>/<key>/`,
which is kept when the maker dies, so that the next one can resume there.
"""

from ptst.store.artifacts import Failure, Readable, Snapshot, Store, reason_of
from ptst.store.damage import ARTIFACTS, is_whole_weights
from ptst.store.files import (
    csv_text,
    each_row,
    files_below,
    is_json,
    read_journal,
    read_json,
    read_jsonl,
    sync,
    write_atomic,
    write_bytes,
    write_json,
    write_jsonl,
)
from ptst.store.hashes import RowsKey, fingerprint, key_of
from ptst.store.locks import locked
from ptst.store.work import Maker, Work

__all__ = [
    "ARTIFACTS",
    "Failure",
    "Maker",
    "Readable",
    "RowsKey",
    "Snapshot",
    "Store",
    "Work",
    "csv_text",
    "each_row",
    "files_below",
    "fingerprint",
    "is_json",
    "is_whole_weights",
    "key_of",
    "locked",
    "read_journal",
    "read_json",
    "read_jsonl",
    "reason_of",
    "sync",
    "write_atomic",
    "write_bytes",
    "write_json",
    "write_jsonl",
]
