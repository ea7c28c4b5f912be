"""The model, the losses and the loop of pretraining and of safety fine-tuning.

Losses of arXiv 2407.10264, section 3 (formulas in appendix A), with l the mean cross entropy of an
answer, p the preferred one and l the less preferred:

    supervised   l_p
    unlearning   l_p - gamma l_l
    dpo          -log sigmoid(beta (ref_p - l_p) - gamma (ref_l - l_l))

where ref is the mean cross entropy under the model before safety fine-tuning. DPO here has two
strengths. On an unsafe prompt the refusal is preferred; on a safe one, following the instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tools.pcfg.stages import Stage
from tools.pcfg.world import PAD, TOKENS, Array, Length, Prompts, prompts

EVERY = 50
"""Steps between two checkpoints."""
TEXT_WEIGHT = 0.2
"""Pretraining's loss of the text's own letters, beside that of the answers."""


def new_model(seed: int, width: int, layers: int, length: Length) -> Any:
    """A GPT-2 of four heads with learned places, made from the seed.

    Each place of the answer begins with the vector of the text's place that it is about, plus one
    vector for all of them: a small model finds out which letter to look at sooner.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=TOKENS,
            n_positions=2 + 2 * length.longest,
            n_embd=width,
            n_layer=layers,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            initializer_range=1 / np.sqrt(width),
        )
    )
    places = model.transformer.wpe.weight.data
    places[2 + length.longest :] = (
        places[2 : 2 + length.longest] + torch.randn(width) * places.std()
    )
    return model


def logits_of(model: Any, ids: Array, answer: Array) -> tuple[Tensor, Tensor]:
    """What the model gives where the text's letters are said, and where the answer's are.

    Args:
        ids: (n, 3 + longest); answer: (n, longest), which the model reads as it says it.

    Returns:
        (n, longest, tokens) each.
    """
    row = torch.from_numpy(np.concatenate((ids, answer[:, :-1]), 1))
    logits, width = model(input_ids=row, use_cache=False).logits, ids.shape[1]
    return logits[:, 1 : width - 2], logits[:, width - 1 :]


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """(n,): mean cross entropy of each row's targets, `PAD` left out."""
    losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=PAD, reduction="none")
    return losses.sum(1) / (targets != PAD).sum(1)


def answer_loss(model: Any, asked: Prompts, answer: Array) -> Tensor:
    """(n,): mean cross entropy of an answer to each prompt."""
    return mean_loss(logits_of(model, asked.ids, answer)[1], torch.from_numpy(answer))


def supervised(preferred: Tensor) -> Tensor:
    """l_p."""
    return preferred.mean()


def unlearning(preferred: Tensor, less: Tensor, gamma: float) -> Tensor:
    """l_p - gamma l_l."""
    return (preferred - gamma * less).mean()


def dpo(
    preferred: Tensor, less: Tensor, before: tuple[Tensor, Tensor], beta: float, gamma: float
) -> Tensor:
    """-log sigmoid(beta (ref_p - l_p) - gamma (ref_l - l_l)); `before` has ref_p and ref_l."""
    margin = beta * (before[0] - preferred) - gamma * (before[1] - less)
    return -F.logsigmoid(margin).mean()


def loss_of(model: Any, before: Any, stage: Stage, batch: tuple[Prompts, Prompts]) -> Tensor:
    """The loss of a stage on a batch.

    Args:
        before: the model ahead of safety fine-tuning, for DPO.
        batch: prompts whose instruction is to be followed, and those to be refused.
    """
    follow, refuse = batch
    if stage.method == "pretraining":
        text, answer = logits_of(model, follow.ids, follow.answer)
        said = torch.from_numpy(follow.ids[:, 2:-1])
        of_text = mean_loss(text, said).mean()
        of_answer = mean_loss(answer, torch.from_numpy(follow.answer)).mean()
        return of_answer + TEXT_WEIGHT * of_text
    asked = Prompts(*(np.concatenate((getattr(follow, p), getattr(refuse, p))) for p in PARTS))
    safe = np.arange(len(asked.ids))[:, None] < len(follow.ids)
    preferred = np.where(safe, asked.answer, asked.refusal())
    l_p = answer_loss(model, asked, preferred)
    if stage.method in ("supervised", "ordinary"):
        return supervised(l_p)
    less = np.where(safe, asked.refusal(), asked.answer)
    l_l = answer_loss(model, asked, less)
    if stage.method == "unlearning":
        return unlearning(l_p, l_l, stage.gamma)
    with torch.no_grad():
        reference = answer_loss(before, asked, preferred), answer_loss(before, asked, less)
    return dpo(l_p, l_l, reference, stage.beta, stage.gamma)


PARTS = ("ids", "answer", "mask")


def batch_of(stage: Stage, seed: int, step: int, length: Length) -> tuple[Prompts, Prompts]:
    """The prompts of a step, by stage, seed and step alone."""
    rng = np.random.default_rng([seed, step, *stage.name.encode()])
    pretraining = stage.method == "pretraining"
    safe = stage.rows if pretraining else round(stage.safe * stage.rows)
    follow = prompts("pretraining" if pretraining else "safe", safe, rng, length, test=False)
    return follow, prompts("unsafe", stage.rows - safe, rng, length, test=False)


def train(
    model: Any,
    before: Any,
    stage: Stage,
    seed: int,
    length: Length,
    tell: Callable[[int, float], None],
    checkpoint: Path,
) -> float:
    """Train the model in place; a checkpoint that is there is gone on from, to the same weights.

    AdamW, warm-up over a tenth of the steps, cosine to a twentieth, gradients clipped at 1.

    Args:
        tell: is told the steps done and the loss.

    Returns:
        the mean loss of the last tenth of the steps.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, stage.rate, betas=(0.9, 0.98), weight_decay=0.01)
    first, losses = 0, list[float]()
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        first, losses = len(kept["losses"]), kept["losses"]
    for step in range(first, stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * factor(step, stage.steps)
        loss = loss_of(model, before, stage, batch_of(stage, seed, step, length))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % EVERY == 0 and step + 1 < stage.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            writing = checkpoint.with_suffix(".writing")
            torch.save({**state, "losses": losses}, writing)
            writing.replace(checkpoint)
        tell(step + 1, losses[-1])
    last = losses[-max(1, stage.steps // 10) :]
    return sum(last) / len(last)


def factor(step: int, steps: int) -> float:
    """What the rate is multiplied with: a warm-up over a tenth, then a cosine to a twentieth."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.05 + 0.95 * 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))
