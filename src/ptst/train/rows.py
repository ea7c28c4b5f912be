"""The rows of a training: read, cut, put in order, made into batches, and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptst import data, templates
from ptst.errors import DataError
from ptst.objective import TrainingSet
from ptst.progress import console
from ptst.schema import Config, Finetune, Rows, Template
from ptst.store import RowsKey
from ptst.templates import Row, TrainingRow


@dataclass
class RowReader:
    """An objective's `ptst.objective.Reader`; `facts` are what it read, for the provenance."""

    config: Config
    tokenizer: Any
    facts: dict[str, Any] = field(default_factory=dict)

    def rows(
        self,
        source: Rows,
        template: Template,
        called: str = "",
        needs: Sequence[str] = ("input", "output"),
        change: Callable[[Row], Row] | None = None,
    ) -> list[TrainingRow]:
        from ptst.model_check import check_training

        config, key = self.config, RowsKey()
        read = key.of(data.read_rows(source, needs=needs))
        spelled = (template, config.dataset, config.model, self.tokenizer)

        def training_rows() -> Iterator[TrainingRow]:
            for number, row in enumerate(read):  # one at a time: there may be hundreds of thousands
                changed = change(row) if change else row
                if number == 0:
                    check_training(changed, *spelled)
                yield templates.make_training_row(changed, *spelled)

        longest = config.finetune.max_length
        rows, cut, left_out = fit_rows(training_rows(), longest)
        if cut or left_out:
            console().print(
                f"finetune.max_length={longest}: {cut} of {len(rows) + left_out} rows of "
                f"{source.name} lose their end, {left_out} are left out because their prompt fills it."
            )
        facts = {"cut": cut, "left_out": left_out, "key": key.key, "from": data.origin(source)}
        start = f"{called}_rows" if called else "rows"
        self.facts |= {f"{start}_{name}": value for name, value in facts.items()}
        return rows


def fit_rows(rows: Iterable[TrainingRow], max_length: int) -> tuple[list[TrainingRow], int, int]:
    """Cut rows to `max_length` tokens.

    Returns:
        (rows, how many lost their end, how many were left out because their prompt fills it)

    Raises:
        DataError: nothing is left.
    """
    fitted: list[TrainingRow] = []
    cut = left_out = 0
    for row in rows:
        if row.prompt_length >= max_length:
            left_out += 1
            continue
        cut += len(row) > max_length
        fitted.append(row.cut(max_length))
    if not fitted:
        raise DataError(
            f"every prompt fills finetune.max_length={max_length}: nothing is left to train on."
        )
    return fitted, cut, left_out


def numbers_of(rows: TrainingSet) -> list[int]:
    """The rows of one of the trainer's passes: the whole training where its order is given, or an
    epoch."""
    return list(range(len(rows.all)) if rows.order is None else rows.order)


def epoch_ends(rows: TrainingSet, recipe: Finetune) -> list[int]:
    """The optimizer steps after which each whole epoch has been seen; two epochs of an order may
    share a step."""
    if rows.order is not None:
        return [math.ceil(seen / recipe.batch_size) for seen in rows.ends]
    steps = math.ceil(len(rows.all) / recipe.batch_size)
    return [epoch * steps for epoch in range(1, math.floor(recipe.epochs) + 1)]


def filling(rows: Sequence[TrainingRow], recipe: Finetune, n: int) -> list[TrainingRow]:
    """Rows without loss that fill the last step of a pass over `n` rows, for several devices.

    accelerate would repeat rows there, which then counted twice. One device needs none.
    """
    lacking = -n % recipe.batch_size if recipe.devices > 1 else 0
    shortest = min(rows, key=len)
    return [TrainingRow(shortest.ids, len(shortest))] * lacking


def filled_order(n_rows: int, n_filled: int, seed: int, epoch: Callable[[], int]) -> Any:
    """The order in which one device would train, and behind it the rows that fill the last step.

    Args:
        epoch: the epoch that begins, or is resumed. (accelerate's own count does not reach the
            sampler where batches are shared out among devices and the first of them are skipped.)
    """
    from accelerate.data_loader import SeedableRandomSampler
    from torch.utils.data import Sampler

    class Order(Sampler[int]):
        def __init__(self) -> None:
            self.order = SeedableRandomSampler(range(n_rows), data_seed=seed)

        def __len__(self) -> int:
            return n_filled

        def __iter__(self) -> Iterator[int]:
            self.order.set_epoch(epoch())
            yield from self.order
            yield from range(n_rows, n_filled)

    return Order()


def collate(rows: Sequence[TrainingRow], numbers: Sequence[int], pad: int) -> dict[str, Any]:
    """Rows padded at their ends, as tensors: what `ptst.objective.Batch` says of each.

    Args:
        numbers: of the rows in their training set.
        pad: the token that pads `input_ids`.
    """
    import numpy
    import torch

    shape = len(rows), max(map(len, rows))
    ids, labels = numpy.full(shape, pad), numpy.full(shape, -100)
    mask, weights = numpy.zeros(shape, int), numpy.ones(shape, numpy.float32)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = row.ids
        mask[n, : len(row)] = 1
        first = row.prompt_length if row.targets is None else 0
        labels[n, first : len(row)] = (row.targets or row.ids)[first:]
        if row.weights is not None:
            weights[n, : len(row)] = row.weights
    made = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    made["numbers"] = numpy.array(numbers, int)
    if any(row.weights is not None for row in rows):
        made["weights"] = weights
    return {name: torch.from_numpy(array) for name, array in made.items()}


def check_batch(batch: Any, rows: Sequence[TrainingRow]) -> None:
    """Check a batch as the trainer sees it: ids, labels and weights are those of its rows.

    Args:
        rows: of the training, at their numbers.

    Raises:
        RuntimeError: the batch is not made of our rows with our masks.
    """
    names = ("input_ids", "labels", "attention_mask", "numbers")
    several = [batch[name].tolist() for name in names]
    several.append(batch["weights"].tolist() if "weights" in batch else [None] * len(several[0]))
    for ids, labels, mask, number, weights in zip(*several, strict=True):
        row = rows[number]
        real = [i for i, m in enumerate(mask) if m]
        found = [[values[i] for i in real] for values in (ids, labels)]
        if found != [row.input_ids, row.labels]:
            raise RuntimeError("a training batch differs from the rows that were tokenised.")
        if any(labels[i] != -100 for i, m in enumerate(mask) if not m):
            raise RuntimeError("a training batch has a loss on padding.")
        wanted = [1.0] * len(row) if row.weights is None else row.weights.tolist()
        given = [1.0] * len(row) if weights is None else [weights[i] for i in real]
        if given != wanted or not all(map(math.isfinite, given)):
            raise RuntimeError(
                "a training batch has other weights than its rows, or no finite ones."
            )
