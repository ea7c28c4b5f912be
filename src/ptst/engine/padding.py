"""Whether padding in a row leaves a model's answer alone, found by trying it.

Most architectures leave out what the attention mask says. Some do not: a recurrent layer may read
padding as text, and where a bias grows with the distance in columns (ALiBi) padding between two
tokens moves them apart. Nothing in a configuration says so.
"""

from __future__ import annotations

from typing import Any

TOKENS = 16
"""Of a prompt, for a trial: enough for something to follow from them, and cheap."""

PADDING = 64
"""In a trial. Far more than its tokens, so that a model which reads padding cannot hide it."""


def padding_is_left_out(model: Any, pad_token: int, prompt: list[int], behind: float) -> bool:
    """Whether the logits of the next tokens are the same with padding in the row and without.

    Args:
        prompt: any prompt of the set; its first tokens are tried.
        behind: the share of the tokens that stands before the padding: 0 pads on the left.
    """
    import torch

    ids = prompt[:TOKENS]
    place = round(behind * len(ids))
    padded = [*ids[:place], *[pad_token] * PADDING, *ids[place:]]
    mask = [*[1] * place, *[0] * PADDING, *[1] * (len(ids) - place)]
    plain = _next_logits(model, pad_token, ids, [1] * len(ids))
    beside = _next_logits(model, pad_token, padded, mask)
    if beside.shape != plain.shape:  # one of them ended
        return False
    difference = (beside - plain).abs().mean()
    # Rounding changes logits by far less than this part of their spread: 3e-4 in float32, 9e-2 in
    # bfloat16.
    return bool(difference <= torch.finfo(model.dtype).eps ** 0.5 * plain.std())


def _next_logits(model: Any, pad_token: int, ids: list[int], mask: list[int]) -> Any:
    """Logits of two tokens behind one row, (2, vocabulary), or of one where the answer ends.

    By generate(), as for answers: the second token is the first that reads the cache.
    """
    import torch
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=2,
        do_sample=False,
        pad_token_id=pad_token,
        output_logits=True,
        return_dict_in_generate=True,
    )
    with torch.inference_mode():
        made = model.generate(
            input_ids=torch.tensor([ids], device=model.device),
            attention_mask=torch.tensor([mask], device=model.device),
            generation_config=config,
        )
    return torch.cat(made.logits).float()
