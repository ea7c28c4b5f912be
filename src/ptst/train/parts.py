"""A batch in parts: rows of about one length together, so that little padding is computed.

Of eight GSM8K rows padded to the longest, two fifths are padding. Only one part's activations are
held at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ptst.objective import Batch

ANOTHER_PASS = 64
"""What a further pass over the weights costs, in tokens that run through them (on a CPU)."""

TOGETHER = 512
"""Tokens in a part at most, unless one row has more: more of them are hardly computed faster, and
each holds megabytes of activations (5 in a model of 0.5B parameters)."""


def parts_of(batch: Batch, shared: int) -> list[Batch]:
    """The rows of a batch, each in one part, the longest first.

    Args:
        shared: how many tokens all rows begin with that run through the model once in a part.
    """
    lengths = batch.attention_mask.sum(dim=1).tolist()
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    ends = cuts([lengths[i] for i in order], shared)
    if len(ends) == 1:
        return [batch]
    return [
        _rows(batch, order[begin:end], lengths[order[begin]])
        for begin, end in zip([0, *ends], ends, strict=False)
    ]


def cuts(lengths: Sequence[int], shared: int) -> list[int]:
    """Where parts end, so that the least is computed.

    Args:
        lengths: of the rows, the longest first.
    """
    best: list[tuple[float, list[int]]] = [(0, [])]  # of the first n rows
    for end in range(1, len(lengths) + 1):
        costs = []
        for begin in range(end):
            rows, own = end - begin, lengths[begin] - shared
            tokens = shared + rows * own
            if rows == 1 or tokens <= TOGETHER:
                before, ends = best[begin]
                costs.append((before + tokens + ANOTHER_PASS, [*ends, end]))
        best.append(min(costs))
    return best[-1][1]


def _rows(batch: Batch, rows: Sequence[int], width: int) -> Batch:
    """Some rows of a batch, without the padding that none of them needs."""
    chosen = list(rows)
    return replace(
        batch,
        input_ids=batch.input_ids[chosen, :width],
        attention_mask=batch.attention_mask[chosen, :width],
        labels=batch.labels[chosen, :width],
        weights=None if batch.weights is None else batch.weights[chosen, :width],
        numbers=batch.numbers[chosen],
    )
