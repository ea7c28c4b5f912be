"""Batched generation with transformers.

Prompts are sorted by length, so that a batch pads little, and padded on the left. What all prompts
of a set begin with (for example a long system prompt) runs through the model once and its key-value
cache is shared: with chat_llama that is nearly all of a short query's prompt. A model whose layers
do more than keep what they have seen (sliding windows, linear attention) reads every prompt whole,
and one that does not leave padding out answers prompts of one length together.

The batches of a set are fixed before the first one runs, and a set is resumed at a batch's border:
a prompt is always answered beside the same others, so an interrupted run ends with the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

from ptst.chat import decode
from ptst.engine import Completion, Steer, Watch
from ptst.engine.padding import padding_is_left_out
from ptst.models import ids_of, make_padding_exist
from ptst.schema import Decoding

Ids = list[int]


def plan_batches(prompts: Sequence[Ids], batch_size: int) -> list[list[int]]:
    """Indices of the prompts in each batch, longest first (what does not fit fails at once)."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def shared_prefix(prompts: Sequence[Ids]) -> Ids:
    """The longest common beginning that leaves every prompt at least one token of its own."""
    room = min(len(prompt) for prompt in prompts) - 1
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return [column[0] for column in alike][:room]


def of_one_length(prompts: Sequence[Ids], batch: Sequence[int]) -> list[list[int]]:
    """A batch in parts that need no padding."""
    parts: dict[int, list[int]] = {}
    for i in batch:
        parts.setdefault(len(prompts[i]), []).append(i)
    return list(parts.values())


def complete(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Ids],
    batches: Sequence[Sequence[int]],
    decoding: Decoding,
    share_prefix: bool = True,
    ends: frozenset[int] = frozenset(),
    halved: Callable[[], None] = lambda: None,
    watch: Watch | Steer | None = None,
) -> Iterator[dict[int, Completion]]:
    """Answer prompts batch by batch.

    Args:
        prompts: token ids, BOS included; all of the set, also those not in `batches`.
        batches: indices into `prompts`, as from `plan_batches`; leave out what is done.
        ends: ids of tokens that end an answer, beside `eos_token` and those of the model's
            generation config.
        halved: called each time that a batch did not fit in memory and is answered in halves.
        watch: what may stop an answer, or choose its tokens.

    Yields:
        For each batch its completions by prompt index.
    """
    if not batches:
        return
    from ptst.engine.cache import every_layer_grows, prefix_cache

    ends |= ids_of(tokenizer.eos_token_id) | ids_of(model.generation_config.eos_token_id)

    prefix = shared_prefix(prompts) if share_prefix and every_layer_grows(model) else []
    make_padding_exist(tokenizer, model.config)
    pad = tokenizer.pad_token_id
    if prefix and not padding_is_left_out(model, pad, prompts[0], behind=0.5):
        prefix = []
    cache = prefix_cache(model, prefix) if prefix else None
    padded = bool(prefix) or padding_is_left_out(model, pad, prompts[0], behind=0)

    def answer(part: list[int]) -> dict[int, Completion]:
        return _answer(model, tokenizer, prompts, part, decoding, ends, len(prefix), cache, watch)

    for batch in batches:
        answers: dict[int, Completion] = {}
        for part in [list(batch)] if padded else of_one_length(prompts, batch):
            answers |= _halving(answer, part, halved)
        yield answers


def _halving(
    answer: Callable[[list[int]], dict[int, Completion]],
    batch: list[int],
    halved: Callable[[], None],
) -> dict[int, Completion]:
    """One batch; if it does not fit in memory, its halves."""
    import torch

    try:
        return answer(batch)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _out_of_memory(error) or len(batch) == 1:
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    halved()
    answers: dict[int, Completion] = {}
    for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
        answers |= _halving(answer, half, halved)
    return answers


def _out_of_memory(error: Exception) -> bool:
    import torch

    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
    )


def _answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Ids],
    batch: Sequence[int],
    decoding: Decoding,
    ends: frozenset[int],
    prefix_length: int,
    cache: Any,
    watch: Watch | Steer | None,
) -> dict[int, Completion]:
    import torch
    from transformers import GenerationConfig

    from ptst.engine.cache import batch_cache
    from ptst.engine.watching import watching

    # The layout of a row is prefix, padding, rest: the cached prefix stands in front of all rows,
    # and the attention mask (from which generate() takes the positions) leaves the padding out.
    width = max(len(prompts[i]) for i in batch)
    rows, masks = [], []
    for i in batch:
        pad = width - len(prompts[i])
        prefix, rest = prompts[i][:prefix_length], prompts[i][prefix_length:]
        rows.append(prefix + [tokenizer.pad_token_id] * pad + rest)
        masks.append([1] * prefix_length + [0] * pad + [1] * len(rest))
    past = batch_cache(model, cache, len(batch), width + decoding.max_new_tokens)
    sampling = decoding.temperature > 0
    if sampling:
        torch.manual_seed(decoding.seed * 1_000_003 + batch[0])
    # A configuration of its own: the model's may sample, penalise repetition or cut off by itself.
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=sampling,
        temperature=decoding.temperature if sampling else None,
        top_p=decoding.top_p if sampling else None,
        top_k=decoding.top_k if sampling else None,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    with torch.inference_mode(), watching(model, watch, ends) as watched:
        output = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(masks, device=model.device),
            past_key_values=past,
            generation_config=config,
            **watched.arguments,
        )
    answers = {}
    steps, seen = watched.steps, watched.seen or [()] * len(batch)
    for number, (i, ids) in enumerate(zip(batch, output[:, width:].tolist(), strict=True)):
        ids = ids[: steps.get(number)]
        end = next((k for k, token in enumerate(ids) if token in ends), None)
        kept = tuple(ids if end is None else ids[:end])
        ended = end is not None
        noted = seen[number][: len(kept) + (ended and isinstance(watch, Steer))]
        text = decode(kept, tokenizer)
        answers[i] = Completion(text, len(kept) + ended, ended, "", kept, noted)
    return answers
