"""Analysis and synthesis networks of the entropy models, all experts side by side, in floats for training.

Source: AI Flow (arXiv 2506.12479), section II-B1: the analysis network extracts a hyperprior from the merged
features, the synthesis network turns the quantised hyperprior into the mean and scale of every coefficient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

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
