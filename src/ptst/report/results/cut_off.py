"""What a report says of answers that were cut off at max_new_tokens."""

from __future__ import annotations

from ptst.metrics import MANY_CUT_OFF, many_cut_off
from ptst.report.results.types import Results, Table
from ptst.stages.length_limit import how_to_lift, length_limit
from ptst.sweep.grid import GridCell


def cut_off_note(table: Table) -> str | None:
    """ "3 to 20 of 20 answers a run were cut off at max_new_tokens=64"; None without answers."""
    name = table.metric.partition("/")[0]
    runs = [run for entry in table.entries.values() for run in entry.runs if run.metric]
    metrics = [run.metric for run in runs if run.metric]
    if not metrics:
        return None
    counts = sorted({-1 if m.unfinished is None else m.unfinished for m in metrics})
    limits = sorted({run.cell.config.evaluations[name].decoding.max_new_tokens for run in runs})
    at = f"max_new_tokens={' or '.join(map(str, limits))}"
    if counts[0] < 0:
        return f"how many answers were cut off at {at} is not recorded: an older version made them"
    if counts == [0]:
        return f"no answer was cut off ({at})"
    sizes = sorted({m.n + m.missing for m in metrics})
    asked = " to ".join(dict.fromkeys(map(str, (sizes[0], sizes[-1]))))
    several = " to ".join(dict.fromkeys(map(str, (counts[0], counts[-1]))))
    return f"{several} of {asked} answers a run were cut off at {at}"


def cut_off_warnings(results: Results) -> list[str]:
    """A warning for each evaluation with many answers cut off, and what lifts the limit."""
    cells: dict[str, dict[str, tuple[GridCell, bool]]] = {}
    for table in results.tables:
        name = table.metric.partition("/")[0]
        for run in (run for entry in table.entries.values() for run in entry.runs if run.metric):
            assert run.metric is not None
            many = many_cut_off(run.metric.unfinished, run.metric.n + run.metric.missing)
            cells.setdefault(name, {})[run.cell.keys.cell] = run.cell, many
    said = []
    for name, of_evaluation in cells.items():
        cut = [cell.config for cell, many in of_evaluation.values() if many]
        if cut:
            limits = " and ".join(dict.fromkeys(length_limit(config, name) for config in cut))
            said.append(
                f"{name}: in {len(cut)} of {len(of_evaluation)} cells {MANY_CUT_OFF:.0%} of the answers or "
                f"more were cut off at {limits}, and judged by what stood there until then. "
                f"{how_to_lift(cut[0], name)}"
            )
    return said
