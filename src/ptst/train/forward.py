"""The forward pass: the logits of the positions that count, with little other computation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ptst.objective import Batch, Positions, TrainingRow
from ptst.train.rows import collate

SHARED_FROM = 16
"""Tokens: a shorter common beginning is not worth a second forward pass."""


class ModelForward:
    """The `ptst.objective.Forward` of a model.

    Args:
        model: what is called, wrapped for several devices or not.
        backward: the trainer's.
        pad: the token that pads rows.
        share_prefix: whether the rows' common beginning may run through the model once (on a CPU),
            see `logits_of`.
    """

    def __init__(
        self, model: Any, backward: Callable[[Any], None], pad: int, share_prefix: bool
    ) -> None:
        self.model, self.backward = model, backward
        self.pad, self.share_prefix = pad, share_prefix

    @property
    def parameters(self) -> dict[str, Any]:
        named = self.model.named_parameters()  # DDP puts "module." in front
        return {name.removeprefix("module."): p for name, p in named if p.requires_grad}

    def batch(self, rows: Sequence[TrainingRow]) -> Batch:
        device = next(self.model.parameters()).device
        made = collate(rows, [-1] * len(rows), self.pad)
        inputs = {name: tensor.to(device) for name, tensor in made.items()}
        return batch_of(inputs, (inputs["labels"] != -100).sum())

    def __call__(self, batch: Batch) -> Positions:
        labels = batch.labels
        counted = (labels != -100).int()
        if not counted.any():  # filling
            counted[:, -1] = 1
        first = int(counted[counted.any(dim=1)].argmax(dim=1).min())
        keep = labels.shape[1] - first + 1
        share = self.share_prefix and labels.device.type == "cpu"
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        logits = logits_of(self.model, inputs, keep, share)[:, :-1]
        labels = labels[:, first:]
        wanted = labels != -100
        weights = None if batch.weights is None else batch.weights[:, first:][wanted]
        places = (wanted.cumsum(dim=1) - 1)[wanted]
        return Positions(logits[wanted], labels[wanted], weights, wanted.nonzero()[:, 0], places)


def batch_of(inputs: dict[str, Any], tokens: Any, devices: int = 1, step: int = 0) -> Batch:
    """What `ptst.train.rows.collate` made, as a batch; see `ptst.objective.Batch`."""
    return Batch(
        inputs["input_ids"],
        inputs["attention_mask"],
        inputs["labels"],
        inputs.get("weights"),
        inputs["numbers"],
        tokens,
        devices,
        step,
    )


def logits_of(model: Any, inputs: Any, keep: int, share_prefix: bool) -> Any:
    """Logits of the last `keep` positions, shape (batch, keep, vocabulary).

    What all rows begin with (a system prompt: two thirds of a row under chat_llama) runs through
    the model once; its keys and values serve every row, and get the gradients of every row. This is
    not done where a layer keeps anything else (see `every_layer_grows`).
    """
    from transformers import DynamicCache

    from ptst.engine.cache import every_layer_grows

    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    alike = ((ids == ids[:1]) & (mask == 1)).all(dim=0).long()
    shared = min(int(alike.cumprod(dim=0).sum()), ids.shape[1] - keep)
    alone = not share_prefix or shared < SHARED_FROM or len(ids) == 1
    if alone or not every_layer_grows(model):
        return model(**inputs, use_cache=False, logits_to_keep=keep).logits
    cache = DynamicCache(config=model.config)
    model(input_ids=ids[:1, :shared], past_key_values=cache, use_cache=True, logits_to_keep=1)
    for layer in cache.layers:
        layer.keys = layer.keys.expand(len(ids), -1, -1, -1)
        layer.values = layer.values.expand(len(ids), -1, -1, -1)
    return model(
        input_ids=ids[:, shared:],
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    ).logits
