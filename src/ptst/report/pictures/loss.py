"""Loss curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptst.report.pictures.style import colours_of, legend
from ptst.report.results import Results
from ptst.store import Store, read_jsonl

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def loss_curves(results: Results, store: Store) -> Figure | None:
    """The loss of every optimizer step, a panel for each model, data set and recipe."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels: dict[str, dict[str, str]] = {}
    """Title -> key of each fine-tuning -> its train template."""
    for cell in results.grid.cells:
        key = cell.keys.finetune
        if key is None or not (store.path("finetune", key) / "log.jsonl").is_file():
            continue
        own = {k: v for k, v in cell.coordinates.items() if not k.endswith("_template")}
        own.pop("seed", None)
        panels.setdefault(", ".join(own.values()), {})[key] = cell.coordinates["train_template"]
    if not panels:
        return None
    colours = colours_of(results)
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    width, height = 1.0 + across * (6.4 if across == 1 else 4.4) + 1.6, 0.5 + down * 3.2
    figure = Figure(figsize=(width, height), facecolor="white")
    for number, (title, finetunings) in enumerate(panels.items()):
        axes = figure.add_subplot(down, across, number + 1)
        for key, train in finetunings.items():
            log = read_jsonl(store.path("finetune", key) / "log.jsonl")
            steps, losses = [row["step"] for row in log], [row["loss"] for row in log]
            axes.plot(steps, losses, color=colours[train], linewidth=1.0, alpha=0.85)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss")
        axes.set_title(f"Training loss: {title}", loc="left", fontsize=11, weight="bold", pad=10)
    figure.subplots_adjust(
        left=0.7 / width,
        right=1 - 2.0 / width,
        bottom=0.55 / height,
        top=1 - 0.4 / height,
        hspace=0.5,
        wspace=0.22,
    )
    handles = [Line2D([], [], color=c, linewidth=3, label=name) for name, c in colours.items()]
    legend(figure, handles, width - 1.95, height - 0.35, title="trained with")
    return figure
