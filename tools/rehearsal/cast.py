"""Put what a sweep needs where it will look.

`python -m tools.rehearsal.cast NAME overrides`, in the rehearsal's folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
        for rows in sources:
            put_rows(home, rows)
        judges = [evaluation.judge for evaluation in config.evaluations.values()]
        for path, revision in models_of(config.model, judges):
            put_model(home, path, revision)
        used |= {f"model/{config.model.name}", f"dataset/{config.dataset.name}"}
        templates = (config.train_template, config.test_template)
        used |= {f"template/{template.name}" for template in templates}
        used |= {f"evaluation/{own}" for own in config.evaluations}
        if config.task:
            used.add(f"evaluation/{config.dataset.name}")  # may be a list of others
    write_json(Path("cast") / f"{name}.json", sorted(used))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
