"""The router: rates every entropy model for every token; the best rated one codes the token.

Source: AI Flow (arXiv 2506.12479), section II-B1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from entropy.hyperprior import ExpertLinear


class Router(nn.Module):
    """Scores of the experts, and what it costs to name the one chosen beside its left neighbour's.

    context: logits [levels, E + 1, E], row e for a neighbour that chose e, the last row for no neighbour.
    """

    def __init__(
        self, width: int, hidden: int, experts: int, levels: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.hidden = ExpertLinear(1, levels, width, hidden, gain=math.sqrt(2.0), generator=generator)
        self.output = ExpertLinear(1, levels, hidden, experts, gain=1.0, generator=generator)
        self.context = nn.Parameter(torch.zeros(levels, experts + 1, experts))

    def forward(self, inputs: Tensor, level: Tensor) -> Tensor:
        """inputs: [N, C]; level: [N]. Returns scores [N, E]."""
        return self.output(torch.relu(self.hidden(inputs, level)), level)[0]

    def bits(self, neighbours: Tensor, level: Tensor) -> Tensor:
        """Bits of naming each expert, [B, K, E]. neighbours: [B, K], E where there is none; level: [B]."""
        return -functional.log_softmax(self.context, dim=-1)[level[:, None], neighbours] / math.log(2.0)


def usage_by_level(probabilities: Tensor, level: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """How often each expert is used at each quality level.

    probabilities: [B, K, E] of every token; level: [B] of the pictures. Returns the summed probabilities
    [levels, E] and the number of tokens [levels]; sums of several batches may be added before dividing.
    """
    batch, tokens, experts = probabilities.shape
    sums = probabilities.new_zeros(levels, experts).index_add(0, level, probabilities.sum(1))
    counts = probabilities.new_zeros(levels).index_add(0, level, probabilities.new_full((batch,), tokens))
    return sums, counts


def balance_loss(sums: Tensor, counts: Tensor) -> Tensor:
    """Squared difference between usage and equal usage, summed over experts, averaged over tokens: a scalar.

    sums [levels, E], counts [levels]: of `usage_by_level`. Each level is balanced by itself: over all levels
    together, an expert for every level would pass as balance, and none would be left to choose from.
    """
    usage = sums / counts.clamp(min=1.0)[:, None]
    excess = (usage - 1.0 / sums.shape[1]).square().sum(1)
    return (excess * counts).sum() / counts.sum().clamp(min=1.0)
