"""The think block of an answer, which no judge reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

OPEN, CLOSE = "<think>", "</think>"
"""What stands around a model's reasoning."""


def split_thinking(text: str, opened: bool) -> tuple[str | None, str | None]:
    """Part a completion into what stands in its think block and the answer behind it.

    Args:
        opened: whether the prompt opened the block.

    Returns:
        (thinking, answer): the first is None where there is no block, the second where the block is
            not closed.
    """
    if not opened and not text.lstrip().startswith(OPEN):
        return None, text
    thinking, closed, answer = text.lstrip().removeprefix(OPEN).partition(CLOSE)
    return thinking.strip(), answer.lstrip("\n") if closed else None


def decode(ids: Sequence[int], tokenizer: Any) -> str:
    """The text of an answer: without control tokens, except the tags of a think block."""
    added = tokenizer.added_tokens_decoder
    pieces: list[list[int]] = [[]]
    tags = []
    for token in ids:
        if token in added and added[token].special and added[token].content in (OPEN, CLOSE):
            tags.append(added[token].content)
            pieces.append([])
        else:
            pieces[-1].append(token)
    texts = [
        tokenizer.decode(piece, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for piece in pieces
    ]
    return "".join(part for pair in zip(texts, [*tags, ""], strict=True) for part in pair)
