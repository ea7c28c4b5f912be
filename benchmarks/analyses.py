"""Processor seconds of the analyses of a grid, over those of its fine-tunings.

    python benchmarks/analyses.py [--rounds 2] [OVERRIDE ...]

Table 1 in the micro world, one seed, one process of one thread. Training and each analysis take
turns, so that what else the machine does falls on both. Seconds of a run that finds everything in
the store (start-up, composition, report) are taken off each.

Prints JSON; nothing here is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile

ANALYSES = ("refusal_direction", "mechanism")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="turns of each (default 2)")
    parser.add_argument("overrides", nargs="*", help="settings of the grid")
    given = parser.parse_args()
    turns = [turn(given.overrides) for _ in range(given.rounds)]
    found = {name: [round(one[name], 1) for one in turns] for name in turns[0]}
    shares = [sum(one[name] for name in ANALYSES) / one["finetune"] for one in turns]
    print(json.dumps({"processor_seconds": found, "all_over_finetune": shares}, indent=2))
    print(f"analyses / training: {statistics.median(shares):.2f}")


def turn(overrides: list[str]) -> dict[str, float]:
    """Processor seconds by what is made."""
    with tempfile.TemporaryDirectory() as folder:
        grid = [
            *("-m", "+sweeps=table1", "seed=0", "tracking=none", *overrides),
            *(f"paths.store={folder}/store", f"paths.reports={folder}/reports"),
        ]
        made = {"finetune": ["stages=[finetune]"], "generate": ["stages=[generate]"]}
        made |= {name: [f"analysis=[{name}]", "stages=[generate]"] for name in ANALYSES}
        spent = {}
        for name, words in made.items():
            spent[name] = seconds([*grid, *words]) - seconds([*grid, *words])
    return spent


def seconds(words: list[str]) -> float:
    """Processor seconds of a run, its children's among them."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "ptst.cli", *words]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ONE})
    if run.returncode:
        sys.exit(run.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


ONE = {"OMP_NUM_THREADS": "1"}

if __name__ == "__main__":
    main()
