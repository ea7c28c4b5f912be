"""The forward pass: the logits of the positions that count, with little other computation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ptst.objective import Batch, Positions, TrainingRow
from ptst.train.parts import parts_of
from ptst.train.rows import collate

SHARED_FROM = 16
"""Tokens: a shorter common beginning is not worth a second forward pass."""

LARGE = 20_000_000
"""Parameters from which on computing padding, and logits that nothing reads, costs more than to
avoid them. A smaller model's numbers are, to the bit, those of whole batches."""


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
        self.large = sum(p.numel() for p in model.parameters()) >= LARGE

    @property
    def parameters(self) -> dict[str, Any]:
        named = self.model.named_parameters()  # DDP puts "module." in front
        return {name.removeprefix("module."): p for name, p in named if p.requires_grad}

    def batch(self, rows: Sequence[TrainingRow]) -> Batch:
        device = next(self.model.parameters()).device
        made = collate(rows, [-1] * len(rows), self.pad)
        inputs = {name: tensor.to(device) for name, tensor in made.items()}
        return batch_of(inputs, (inputs["labels"] != -100).sum())

    def parts(self, batch: Batch) -> list[Batch]:
        """A batch as it runs through the model where the loss is a sum over its labels: rows of
        about one length together, on a CPU. It stays whole where that is not worth it, or where
        dropout is drawn, which depends on the shape."""
        if not self.large or batch.labels.device.type != "cpu" or _draws_dropout(self.model):
            return [batch]
        from ptst.engine.cache import every_layer_grows

        shared = _common_beginning(batch.input_ids, batch.attention_mask)
        once = self.share_prefix and shared >= SHARED_FROM and every_layer_grows(self.model)
        return parts_of(batch, shared if once else 0)

    def __call__(self, batch: Batch) -> Positions:
        from torch.nn.functional import pad

        labels = batch.labels
        counted = (labels != -100).int()
        if not counted.any():  # filling
            counted[:, -1] = 1
        first = int(counted[counted.any(dim=1)].argmax(dim=1).min())
        keep = labels.shape[1] - first + 1
        share = self.share_prefix and labels.device.type == "cpu"
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        labels = labels[:, first:]
        wanted = labels != -100
        if self.large:
            logits = logits_of(self.model, inputs, keep, share, pad(wanted, (0, 1)))
        else:
            logits = logits_of(self.model, inputs, keep, share)[:, :-1][wanted]
        weights = None if batch.weights is None else batch.weights[:, first:][wanted]
        places = (wanted.cumsum(dim=1) - 1)[wanted]
        return Positions(logits, labels[wanted], weights, wanted.nonzero()[:, 0], places)


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


def logits_of(model: Any, inputs: Any, keep: int, share_prefix: bool, at: Any = None) -> Any:
    """Logits of the last `keep` positions, shape (batch, keep, vocabulary).

    What all rows begin with (a system prompt: two thirds of a row under chat_llama) runs through
    the model once; its keys and values serve every row, and get the gradients of every row. This is
    not done where a layer keeps anything else (see `every_layer_grows`).

    Args:
        at: (batch, keep), true where logits are wanted. No others are computed, and the shape is
            (n, vocabulary).
    """
    from transformers import DynamicCache

    from ptst.engine.cache import every_layer_grows

    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    # (Where nothing is shared, a GPU is not waited for.)
    shared = min(_common_beginning(ids, mask), ids.shape[1] - keep) if share_prefix else 0
    if shared < SHARED_FROM or len(ids) == 1 or not every_layer_grows(model):
        with _head_at(model, at):
            logits = model(**inputs, use_cache=False, logits_to_keep=keep).logits
        return logits if at is None else logits[0]
    cache = DynamicCache(config=model.config)
    model(input_ids=ids[:1, :shared], past_key_values=cache, use_cache=True, logits_to_keep=1)
    for layer in cache.layers:
        layer.keys = layer.keys.expand(len(ids), -1, -1, -1)
        layer.values = layer.values.expand(len(ids), -1, -1, -1)
    with _head_at(model, at):
        logits = model(
            input_ids=ids[:, shared:],
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits
    return logits if at is None else logits[0]


def _common_beginning(ids: Any, mask: Any) -> int:
    """How many tokens all rows of a batch begin with."""
    alike = ((ids == ids[:1]) & (mask == 1)).all(dim=0).long()
    return int(alike.cumprod(dim=0).sum())


@contextmanager
def _head_at(model: Any, at: Any) -> Iterator[None]:
    """The model's head gets the hidden states at some positions as one row; None: all of them.

    What a model does with its logits afterwards (a scale, a soft cap) it does with each apart.
    """
    if at is None:
        yield
        return
    head = getattr(model, "module", model).get_output_embeddings()  # DDP's own is in `module`
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][at][None], *args[1:]))
    try:
        yield
    finally:
        hook.remove()


def _draws_dropout(model: Any) -> bool:
    """Whether a pass in training draws anything, LoRA's dropout included."""
    from torch.nn import Dropout

    layers = any(isinstance(module, Dropout) and module.p > 0 for module in model.modules())
    inner = model.config.get_text_config()
    return layers or bool(getattr(inner, "attention_dropout", 0))
