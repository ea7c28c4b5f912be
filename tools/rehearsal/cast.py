"""Put what a sweep needs where it will look.

`python -m tools.rehearsal.cast NAME overrides`, in the rehearsal's folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptst.alignment import Unaligned
from ptst.component import load
from ptst.config.check_defence import KINDS
from ptst.schema import Config, Rows
from ptst.store import write_json
from ptst.sweep.grid import expand
from tools.rehearsal.hub import models_of, put_model, put_rows


def main(name: str, overrides: list[str]) -> None:
    """Fill the cache, and write down which choices of conf/ the cells were composed of."""
    home = Path(os.environ["HF_HOME"])
    used: set[str] = set()
    for cell in expand(overrides).cells:
        config = cell.config
        sources = [config.dataset, *(e.queries for e in config.evaluations.values())]
        if config.finetune.mix is not None:
            sources.append(config.finetune.mix.rows)
        settings = list(settings_of(config))
        sources += [value for value in settings if isinstance(value, Rows)]
        for rows in sources:
            put_rows(home, rows)
        judges = [evaluation.judge for evaluation in config.evaluations.values()]
        bases = [value.model for value in settings if isinstance(value, Unaligned)]
        for path, revision in models_of([config.model, *bases], judges):
            put_model(home, path, revision)
        used |= {f"model/{config.model.name}", f"dataset/{config.dataset.name}"}
        templates = (config.train_template, config.test_template)
        used |= {f"template/{template.name}" for template in templates}
        used |= {f"evaluation/{own}" for own in config.evaluations}
        used |= {f"defence/{own}" for own in config.defence}
        if config.task:
            used.add(f"evaluation/{config.dataset.name}")  # may be a list of others
    write_json(Path("cast") / f"{name}.json", sorted(used))


def settings_of(config: Config) -> Iterator[Any]:
    """The values of all fields of a cell's defences."""
    for defence in config.defence.values():
        for slot, kind in KINDS.items():
            if (node := getattr(defence, slot)) is not None:
                yield from vars(load(node, slot, kind)).values()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
