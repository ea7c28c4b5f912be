"""Train and measure the PCFG world of arXiv 2407.10264, and write a report beside its Table A.1.

`make pcfg`, or `python -m tools.pcfg`; docs/pcfg.md says what it is. Run again, it goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ptst.progress import say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; see the module's first lines.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tools.pcfg", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=2, help="pretrainings (default: %(default)s)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a model that learns nothing, in seconds: to try it out",
    )
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("store/pcfg"),
        help="what was made (default: %(default)s)",
    )
    parser.add_argument(
        "--report", type=Path, default=Path("reports/pcfg"), help="(default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    asked = parser.parse_args(arguments)
    if asked.seeds < 1:
        parser.error(f"--seeds {asked.seeds}: at least one is needed.")
    import torch

    from ptst.store import Store
    from tools.pcfg import report, stages, study

    torch.set_num_threads(asked.threads)
    size = stages.QUICK if asked.quick else stages.FULL
    measured = study.run(size, range(asked.seeds), Store(asked.store))
    sys.stdout.write(report.write(measured, asked.report))
    say(f"written: {asked.report}/report.md, numbers.csv and pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
