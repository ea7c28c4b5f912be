"""Drawing 600,000 of 4.2 million rows of OpenOrca's schema: seconds and peak memory, by kind of
file.

    python benchmarks/drawing.py [--rows 4200000] [--draw 600000] [--folder /tmp]

The files are written first (about 7 GB each, one at a time, removed afterwards): slices of one text
of random words, 1.7 kB a row. Each drawing is a process of its own, which holds all drawn rows at
the end (`held`) or hands each on, as fine-tuning does (`handed on`). Prints JSON; nothing here is a
test.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LENGTHS = {"system_prompt": 150, "question": 850, "response": 700}
"""Mean characters of a column; any number up to twice that is as likely."""
BATCH = 10_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_200_000)
    parser.add_argument("--draw", type=int, default=600_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--file", type=Path, help="(for the processes that draw)")
    parser.add_argument("--hold", action="store_true", help="(for the processes that draw)")
    given = parser.parse_args()
    if given.file:
        print(json.dumps(drawing(given.file, given.draw, given.hold)))
        return
    from ptst.provenance import provenance

    results: dict[str, Any] = {"rows": given.rows, "drawn": given.draw}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for name, write in (("train.parquet", parquet), ("train.jsonl", jsonl)):
            file = Path(folder) / name
            write(file, given.rows)
            results[name] = {"file_gb": round(file.stat().st_size / 1e9, 2)}
            for how, hold in (("handed on", []), ("held", ["--hold"])):
                command = [__file__, "--file", str(file), "--draw", str(given.draw), *hold]
                done = subprocess.run(
                    [sys.executable, *command], check=True, stdout=subprocess.PIPE
                )
                results[name][how] = json.loads(done.stdout)
            file.unlink()
    print(json.dumps({**results, "provenance": provenance(0.0)}, indent=2))


def drawing(file: Path, n: int, hold: bool) -> dict[str, float]:
    """Draw from a file in this process."""
    from ptst.data import load_rows, read_rows
    from ptst.schema import Rows

    columns = {"input": "question", "output": "response", "instruction": "system_prompt"}
    rows = Rows(name="drawn", source="local", path=str(file), columns=columns, n=n)
    started = time.monotonic()
    if hold:
        found = len(load_rows(rows, ("input", "output")))
    else:
        found = sum(1 for _ in read_rows(rows, ("input", "output")))
    assert found == n
    seconds = time.monotonic() - started
    return {"seconds": round(seconds, 1), "peak_gb": round(peak_memory() / 1e9, 2)}


def peak_memory() -> int:
    """Bytes of resident memory at their most. (getrusage would count the process that started this
    one.)"""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])


def batches(total: int) -> Iterator[dict[str, list[str]]]:
    """The rows, column by column, some thousand at a time."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(20_000)]
    text = " ".join(draw.choices(words, k=4_000_000))

    def some(mean: int) -> str:
        start = draw.randrange(len(text) - 2 * mean)
        return "." + text[start : start + draw.randint(0, 2 * mean)]

    for first in range(0, total, BATCH):
        indices = range(first, min(first + BATCH, total))
        made = {"id": [f"flan.{i}" for i in indices]}
        yield made | {name: [some(mean) for _ in indices] for name, mean in LENGTHS.items()}


def parquet(file: Path, total: int) -> None:
    """One file with row groups of a million rows, as the real one's."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, pyarrow.string()) for name in ("id", *LENGTHS)])
    made = (pyarrow.record_batch(columns, schema) for columns in batches(total))
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while group := list(itertools.islice(made, 1_000_000 // BATCH)):
            writer.write_table(pyarrow.Table.from_batches(group))


def jsonl(file: Path, total: int) -> None:
    """One JSON object a line."""
    with file.open("w", encoding="utf-8") as written:
        for columns in batches(total):
            for values in zip(*columns.values(), strict=True):
                written.write(json.dumps(dict(zip(columns, values, strict=True))) + "\n")


if __name__ == "__main__":
    main()
