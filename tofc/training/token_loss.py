"""Cross-entropy of each token through a language-model head, without holding all logits at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tofc.training.packing import IGNORED

MAX_LOGITS = 2**26  # values held at once: 256 MiB in float32; a vocabulary of 152,000 leaves 441 rows


def token_losses(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses float32 [B, T] of `targets` int64 [B, T] given the last states [B, T, D], and which are missed.

    `head` maps states to logits [..., V]. Where `targets` is IGNORED, a loss is zero and nothing is missed.
    More than MAX_LOGITS logits are computed in parts, once forward and once more for the gradient, in which
    they are not kept. All positions are computed, learned or not: a matrix of a new shape every step costs
    more than the spare rows.
    """
    rows, wanted = hidden.flatten(0, 1), targets.flatten()
    vocabulary = head(rows[:1].detach()).shape[-1]
    part = max(1, MAX_LOGITS // vocabulary)
    if len(rows) <= part:
        losses, missed = _losses(rows, wanted, head)
    else:
        parts = [
            checkpoint(_losses, some, wants, head, use_reentrant=False)
            for some, wants in zip(rows.split(part), wanted.split(part), strict=True)
        ]
        losses, missed = (torch.cat(each) for each in zip(*parts, strict=True))
    return losses.view_as(targets), missed.view_as(targets)


def _losses(rows: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    logits = head(rows).float()
    losses = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    return losses, (logits.argmax(-1) != targets) & (targets != IGNORED)
