"""The entropy models' networks in floats for training, all experts side by side, and the router that chooses.

Source: AI Flow (arXiv 2506.12479), section II-B1: the analysis network extracts a hyperprior from the merged
features, the synthesis network turns the quantised hyperprior into the mean and scale of every coefficient;
the router rates every entropy model for every token, and the best rated one codes the token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from entropy.tables import LOG_SCALE_STEP, SCALE_MIN


class ExpertLinear(nn.Module):
    """One linear layer for each expert, with one bias for each quality level.

    weight [E, out, in], bias [E, levels, out].
    """

    def __init__(
        self,
        experts: int,
        levels: int,
        in_width: int,
        out_width: int,
        *,
        gain: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        weight = torch.randn(experts, out_width, in_width, generator=generator) * gain / math.sqrt(in_width)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(experts, levels, out_width))

    def forward(self, inputs: Tensor, level: Tensor) -> Tensor:
        """inputs: [E, N, in], or [N, in] for all experts alike; level: [N] from 0. Returns [E, N, out]."""
        return inputs @ self.weight.transpose(1, 2) + self.bias[:, level]


class Analysis(nn.Module):
    """Compressed coefficients to the hyperprior before rounding: [N, C] -> [E, N, D]."""

    def __init__(
        self, width: int, hidden: int, hyper: int, experts: int, levels: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.hidden = ExpertLinear(experts, levels, width, hidden, gain=math.sqrt(2.0), generator=generator)
        self.output = ExpertLinear(experts, levels, hidden, hyper, gain=1.0, generator=generator)

    def forward(self, inputs: Tensor, level: Tensor) -> Tensor:
        """inputs: [N, C]; level: [N]. Returns [E, N, D]."""
        return self.output(torch.relu(self.hidden(inputs, level)), level)


class Synthesis(nn.Module):
    """Quantised hyperprior to scale indices (continuous) and means: [E, N, D] -> twice [E, N, C]."""

    def __init__(
        self, width: int, hidden: int, hyper: int, experts: int, levels: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.trunk = ExpertLinear(experts, levels, hyper, hidden, gain=math.sqrt(2.0), generator=generator)
        self.scale = ExpertLinear(experts, levels, hidden, width, gain=0.3, generator=generator)
        self.mean = ExpertLinear(experts, levels, hidden, width, gain=0.1, generator=generator)

    def set_scales(self, deviation: Tensor) -> None:
        """Begin with the scale that fits channels of this mean absolute deviation: [levels, C]."""
        index = torch.log(deviation.clamp(min=SCALE_MIN) / SCALE_MIN) / LOG_SCALE_STEP
        with torch.no_grad():
            self.scale.bias.copy_(index.expand_as(self.scale.bias))

    def hidden(self, hyper: Tensor, level: Tensor) -> Tensor:
        """Activations between trunk and heads: [E, N, hidden], non-negative."""
        return torch.relu(self.trunk(hyper, level))

    def forward(self, hyper: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """hyper: [E, N, D]; level: [N]. Returns (scale index, mean), [E, N, C] each."""
        hidden = self.hidden(hyper, level)
        return self.scale(hidden, level), self.mean(hidden, level)


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
