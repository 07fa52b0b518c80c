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
    """Scores of the experts, and what it costs to name the one chosen after its left neighbour's.

    context: logits [levels, E + 1, E], row e for a neighbour that chose e, the last row for a first token.
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

    def bits(self, chosen: Tensor, level: Tensor) -> Tensor:
        """Cost in bits of naming each expert: [B, K, E]. chosen: [B, K], the tokens' experts; level: [B]."""
        experts = self.context.shape[-1]
        before = functional.pad(chosen, (1, 0), value=experts)[:, :-1]
        return -functional.log_softmax(self.context, dim=-1)[level[:, None], before] / math.log(2.0)


def balance_loss(probabilities: Tensor) -> Tensor:
    """Summed squared difference between the experts' mean usage and equal usage: [..., E] -> scalar."""
    usage = probabilities.flatten(0, -2).mean(0)
    return ((usage - 1.0 / usage.numel()) ** 2).sum()
