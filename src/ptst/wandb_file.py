"""W&B's .wandb files, for which the package has no reader or writer in Python.

A file is a 7-byte header and then LevelDB's log format: blocks of 32 KiB. A record has one part or
several; each part stands behind its CRC-32, its length and its kind (1: a whole record; 2, 3, 4:
the first, a middle, the last part).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768
START = b":W&B\xe1\xbe\x00"


def read_records(file: Path) -> Iterator[Any]:
    """W&B's `Record`s (run, history, summary, exit) that a file has so far.

    They end where the file is damaged.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, parts = file.read_bytes(), len(START), []
    while position + 7 <= len(content):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        position += 7 + length
        if position > len(content):  # being written
            return
        parts.append(content[position - length : position])
        if kind in (1, 4):
            try:
                record = Record.FromString(b"".join(parts))
            except DecodeError:
                return
            yield record
            parts = []


def write_records(file: Path, records: Iterable[Any]) -> None:
    """Write a file of `Record`s."""
    content = bytearray(START)
    for record in records:
        data, first = record.SerializeToString(), True
        while data or first:
            left = BLOCK - len(content) % BLOCK
            if left < 7:
                content += bytes(left)
                left = BLOCK
            part, data = data[: left - 7], data[left - 7 :]
            kind = (1 if first else 4) if not data else (2 if first else 3)
            body = bytes([kind]) + part
            content += struct.pack("<IH", zlib.crc32(body), len(part)) + body
            first = False
    file.write_bytes(content)
