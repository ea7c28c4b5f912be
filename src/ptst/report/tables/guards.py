"""How well guards tell answers that comply from all others, in words: a line for each cell."""

from __future__ import annotations

from collections.abc import Sequence

from ptst.metrics import shown
from ptst.report.results import Detection, Estimate, Results
from ptst.report.results.guards import DRAWS
from ptst.report.tables.protection import Lines, estimate_columns, estimates_row, protection_lines
from ptst.store import csv_text

ESTIMATES = {"tpr": "TPR", "fpr": "FPR", "auc": "AUC", "fpr_at": "FPR at TPR 90 %"}

NOTE = (
    "Of the answers as they were before the guard. Positive: answers to safety queries that complied, as they are judged in "
    "the same cell without the guard; negative: all others. TPR and FPR: the shares of the two that the guard replaced, %. AUC and "
    "FPR at TPR 90 %: of the guard's scores, at any threshold. The last columns: FPR of each evaluation by itself. In brackets: "
    "95 % intervals over units, of TPR and FPR Wilson's, of the others by bootstrap "
    f"({DRAWS} draws among the units of each evaluation)."
)


def lines_of(results: Results) -> list[Lines]:
    """The tables of a report that are lines in words: of defences, then of guards."""
    return [*protection_lines(results.protections), *guard_lines(results.guards)]


def guard_lines(guards: Sequence[Detection]) -> list[Lines]:
    """One table; none where no cell has a guard."""
    if not guards:
        return []
    whole = [one for one in guards if one.tpr or one.fpr]
    sets = list(dict.fromkeys(name for one in whole for name in one.false_by_evaluation))
    heads = ("guard", *ESTIMATES.values(), "positive", "negative", *sets)
    lacking = [
        f"{called(one, guards)} ({one.status})" for one in guards if not (one.tpr or one.fpr)
    ]
    about = [f"without numbers: {', '.join(lacking)}."] if lacking else []
    about += [f"{called(one, guards)}: {said}." for one in whole if (said := _aside(one))]
    rows = tuple(_row(one, guards, sets) for one in whole)
    title = "What guards find, and what they take for it"
    about += [NOTE]
    return [Lines(title, " ".join(about), heads, rows)]


def called(one: Detection, guards: Sequence[Detection]) -> str:
    """ "parden, chat_vanilla → chat_llama", and other coordinates in which the guards' cells
    differ."""
    defence = one.coordinates.get("defence", one.guard)
    others = one.apart(guards, ("defence", "train_template", "test_template"))
    return ", ".join([defence, one.ends, *others])


def _aside(one: Detection) -> str:
    """What of its answers does not count, or has no score."""
    said = [f"{n} answers left out ({reason})" for reason, n in one.left_out.items()]
    total = one.positives + one.negatives
    if one.without_score == total:
        said.append("it gives no scores")
    elif one.without_score:
        said.append(f"{one.without_score} of {total} answers without a score")
    if not one.positives:
        said.append("no answer complied")
    return ", ".join(said)


def _row(one: Detection, guards: Sequence[Detection], sets: Sequence[str]) -> tuple[str, ...]:
    control = f" (control of {one.control_of})" if one.control_of else ""
    said = [_words(getattr(one, which), which) for which in ESTIMATES]
    said += [str(one.positives), str(one.negatives)]
    for name in sets:
        replaced, n = one.false_by_evaluation.get(name, (0, 0))
        said.append(shown(100 * replaced / n, None) if n else "")
    return (f"{called(one, guards)}{control}", *said)


def _words(estimate: Estimate | None, which: str) -> str:
    """ "12.5 [3.1, 20.0]"."""
    if estimate is None:
        return ""
    digits = 3 if which == "auc" else 1
    value, low, high = (
        f"{number:.{digits}f}" for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def guards_csv(guards: Sequence[Detection]) -> str | None:
    """guards.csv: a line for each guarded cell over its seeds; None where there are none."""
    if not guards:
        return None
    coordinates = list(dict.fromkeys(key for one in guards for key in one.coordinates))
    sets = list(dict.fromkeys(name for one in guards for name in one.false_by_evaluation))
    columns = ["guard", "control_of", *coordinates, "status", "positives", "negatives"]
    columns += ["without_score", "left_out"]
    columns += estimate_columns(ESTIMATES)
    columns += [f"{name}_{what}" for name in sets for what in ("negatives", "replaced")]
    rows = []
    for one in guards:
        row = {
            "guard": one.guard,
            "control_of": one.control_of or "",
            **one.coordinates,
            "status": one.status,
            "positives": one.positives,
            "negatives": one.negatives,
            "without_score": one.without_score,
            "left_out": sum(one.left_out.values()),
        }
        row |= estimates_row(one, ESTIMATES)
        for name, (replaced, n) in one.false_by_evaluation.items():
            row |= {f"{name}_negatives": n, f"{name}_replaced": replaced}
        rows.append(row)
    return csv_text(columns, rows)
