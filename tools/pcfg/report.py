"""The report: report.md with Table A.1 beside ours, orderings and claims; pictures; numbers.csv."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptst.report.pictures.style import FAINT, MARKERS, OKABE_ITO, marker
from ptst.store import write_atomic
from tools.pcfg.measure import READINGS
from tools.pcfg.numbers import (
    COLUMNS,
    MODELS,
    PAPER,
    TITLES,
    accuracy,
    claims,
    energies,
    gap,
    nearer_to_safe,
    of_stage,
    orderings,
    tau,
)
from tools.pcfg.stages import RATES
from tools.pcfg.study import Measured
from tools.pcfg.world import KINDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TUNED = (*MODELS, *(f"ordinary {rate}" for rate in RATES))
IN_WORDS = {
    "forced": "Each place of the answer is read with the right answer in front of it.",
    "barred": "The same, but the null token cannot be said.",
    "free": "The model reads its own answer: what it would really say.",
}


def write(measured: Sequence[Measured], folder: Path) -> str:
    """Write the report into a folder.

    Returns:
        The text of report.md.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(_lines(measured)) + "\n"
    write_atomic(folder / "report.md", text)
    with (folder / "numbers.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("model", "number", "value", "low", "high", "n"))
        writer.writerows(_numbers(measured))
    for name, figure in (("accuracy", _accuracy(measured)), ("clusters", _clusters(measured))):
        for suffix, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            figure.savefig(folder / f"{name}.{suffix}", dpi=150, metadata=metadata)
    return text


def _lines(measured: Sequence[Measured]) -> Iterator[str]:
    seeds = sorted({one.seed for one in measured})
    last = len(measured[0].values["clusters"]) - 1
    yield "# The PCFG world: safety fine-tuning in letters\n"
    yield f"Seeds {', '.join(map(str, seeds))}; 95 % intervals in brackets; n is counted in tokens.\n"
    for reading in READINGS:
        yield f"\n## Token accuracy, {reading}\n\n{IN_WORDS[reading]}\n"
        yield from _table(measured, reading)
    yield "\n## The paper's orderings\n"
    yield from _ordered(measured)
    yield "\n## The paper's three claims, last layer\n"
    yield from _rows("model", ["claim", "ours", ""], [
        (claim.model, [claim.text, claim.number, claim.verdict]) for claim in claims(measured)
    ])  # fmt: skip
    yield "\n## Claim 1: safe and unsafe prompts move apart\n"
    yield "100 tau / |distance of the means|, safe minus unsafe (at most 200), for each layer.\n"
    yield from _by_layer(measured, ("pretraining", *TUNED), lambda models, n: str(gap(models, n)))
    yield "\nHow well k-means with two clusters tells them apart (percent, mean over seeds):\n"
    yield from _by_layer(measured, ("pretraining", *TUNED), _mean_accuracy)
    yield "\n## Claim 2: the change lies outside the column space\n"
    yield "Share of the change's norm outside the column space of the MLP's first matrix: the mean"
    yield "and each seed; then the share for a change of no direction.\n"
    yield from _by_layer(measured, TUNED, _energy)
    yield ""
    yield from _by_layer(measured, MODELS[:1], lambda models, n: _energy(models, n, "by_chance"))
    yield "\n## Claim 3: attacks look safe\n"
    yield f"100 tau / |distance of the means| in the last layer ({last}); then the share of prompts"
    yield "that are nearer to safe, in percent.\n"
    for value in (tau, nearer_to_safe):
        yield from _rows("model", list(KINDS), [
            (name, [str(value(of_stage(measured, name), last, kind)) for kind in KINDS])
            for name in ("pretraining", *TUNED)
        ])  # fmt: skip
        yield ""
    yield "## Trainings\n"
    yield from _rows("model", ["loss of the last tenth", "seconds"], [
        (f"{one.stage.name}, seed {one.seed}", [f"{one.values['loss']:.4f}", f"{one.values['seconds']:.0f}"])
        for one in measured
    ])  # fmt: skip


def _rows(
    head: str, columns: Sequence[str], rows: Sequence[tuple[str, list[str]]]
) -> Iterator[str]:
    yield f"| {' | '.join((head, *columns))} |"
    yield f"|{'---|' * (len(columns) + 1)}"
    for name, cells in rows:
        yield f"| {' | '.join((name, *cells))} |"


def _by_layer(
    measured: Sequence[Measured],
    names: Sequence[str],
    value: Callable[[Sequence[Measured], int], str],
) -> Iterator[str]:
    layers = range(len(measured[0].values["clusters"]))
    rows = [(name, [value(of_stage(measured, name), n) for n in layers]) for name in names]
    yield from _rows("model", [f"layer {n}" for n in layers], rows)


def _table(measured: Sequence[Measured], reading: str) -> Iterator[str]:
    def cells(name: str) -> list[str]:
        return [
            "-" if (column, reading) == ("null", "barred")
            else str(accuracy(of_stage(measured, name), column, reading))
            for column in COLUMNS
        ]  # fmt: skip

    rows = [("pretraining", cells("pretraining"))]
    for name in MODELS:
        rows += [(name, cells(name)), ("paper", [f"{value:.1f}" for value in PAPER[name]])]
    rows += [(name, cells(name)) for name in TUNED[len(MODELS) :]]
    counts = [accuracy(of_stage(measured, "pretraining"), column, "forced").n for column in COLUMNS]
    yield from _rows("tuning", [TITLES[c] for c in COLUMNS], [*rows, ("n", list(map(str, counts)))])


def _ordered(measured: Sequence[Measured]) -> Iterator[str]:
    found = {reading: orderings(measured, reading) for reading in READINGS}
    verdicts = ("holds", "open", "reversed")
    yield from _rows("of", verdicts, [
        (f"{group}, {reading}", [
            str(sum(one.group == group and one.verdict == verdict for one in found[reading]))
            for verdict in verdicts
        ])
        for reading in READINGS
        for group in ("methods", "rates", "columns")
    ])  # fmt: skip
    yield f"\nThose that do not hold, {READINGS[0]}:\n"
    yield from _rows("more > less", ["paper", "ours", ""], [
        (f"{one.more} > {one.less}", [f"{one.paper:+.1f}", str(one.ours), one.verdict])
        for one in found[READINGS[0]]
        if one.verdict != "holds"
    ])  # fmt: skip


def _mean_accuracy(models: Sequence[Measured], layer: int) -> str:
    shares = [model.values["clusters"][layer]["accuracy"] for model in models]
    return f"{100 * sum(shares) / len(shares):.1f}"


def _energy(models: Sequence[Measured], layer: int, what: str = "energy") -> str:
    values = energies(models, layer, what)
    each = ", ".join(f"{value:.3f}" for value in values)
    return f"{sum(values) / len(values):.3f} ({each})"


def _numbers(measured: Sequence[Measured]) -> Iterator[tuple[Any, ...]]:
    layers = range(len(measured[0].values["clusters"]))
    for name in ("pretraining", *TUNED):
        models = of_stage(measured, name)
        named = {
            f"{column}/{reading}": accuracy(models, column, reading)
            for column in COLUMNS
            for reading in READINGS
            if (column, reading) != ("null", "barred")
        }
        named |= {f"tau/{kind}/{n}": tau(models, n, kind) for kind in KINDS for n in layers}
        named |= {
            f"safe/{kind}/{n}": nearer_to_safe(models, n, kind) for kind in KINDS for n in layers
        }
        for what, number in named.items():
            yield name, what, number.value, number.low, number.high, number.n
        for model in models if name != "pretraining" else []:
            for n, change in enumerate(model.values["changes"]):
                for what, value in change.items():
                    yield name, f"{what}/{n}/seed {model.seed}", value, "", "", 1


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white", layout="constrained")


def _accuracy(measured: Sequence[Measured]) -> Figure:
    """Ours with intervals beside the paper's, a panel for each column."""
    figure = _figure(10.5, 3.4)
    panels = figure.subplots(1, len(COLUMNS), sharey=True)
    for axes, column in zip(panels, COLUMNS, strict=True):
        for place, name in enumerate(MODELS):
            colour = OKABE_ITO[place // 2]
            ours = accuracy(of_stage(measured, name), column, "forced")
            reach = [[max(0, ours.value - ours.low)], [max(0, ours.high - ours.value)]]
            style = marker(MARKERS[0], colour, True)
            axes.errorbar([place], [ours.value], reach, ecolor=colour, **style)
            paper = PAPER[name][COLUMNS.index(column)]
            axes.plot([place], [paper], **marker(MARKERS[3], FAINT, False))
        axes.set_title(TITLES[column], fontsize=8, loc="left")
        axes.set_xticks(range(len(MODELS)), MODELS, rotation=90, fontsize=7)
        axes.set_ylim(-4, 104)
        axes.grid(axis="y", color="#e6e6e6")
    panels[0].set_ylabel("% of tokens; diamonds: paper", fontsize=8)
    return figure


def _clusters(measured: Sequence[Measured]) -> Figure:
    """Where the kinds of prompts lie between the two clusters, by layer, before and after."""
    names = ("pretraining", *MODELS)
    figure = _figure(10.5, 2.8)
    panels = figure.subplots(1, len(names), sharey=True)
    for axes, name in zip(panels, names, strict=True):
        models = of_stage(measured, name)
        layers = range(len(models[0].values["clusters"]))
        for number, kind in enumerate(KINDS):
            points = [tau(models, n, kind) for n in layers]
            reach = [[p.value - p.low for p in points], [p.high - p.value for p in points]]
            style = {**marker(MARKERS[number], OKABE_ITO[number], True), "linestyle": "-"}
            style |= {"color": OKABE_ITO[number], "markersize": 5, "linewidth": 1.2}
            values = [p.value for p in points]
            axes.errorbar(list(layers), values, reach, label=kind, **style)
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.set_title(name, fontsize=8, loc="left")
        axes.set_xticks(list(layers))
        axes.set_xlabel("layer", fontsize=8)
    panels[0].set_ylabel("100 tau / distance of means", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    return figure
