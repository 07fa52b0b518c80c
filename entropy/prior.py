"""Factorised densities of the hyperprior in training.

A density is a module that maps values [channels, n] to the probability of the unit bin around each. Any such
module can be given to `TrainableCodec`; the one here needs nothing but torch. `tofc.training.trainable`
brings CompressAI's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Density = Callable[[int], nn.Module]
LIKELIHOOD_FLOOR = 2.0**-24


class LogisticMixture(nn.Module):
    """A mixture of three logistic distributions for each channel."""

    def __init__(self, channels: int, components: int = 3) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(channels, components))
        self.location = nn.Parameter(torch.linspace(-1.0, 1.0, components).repeat(channels, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, components))

    def forward(self, values: Tensor) -> Tensor:
        """values: [channels, n]. Returns the mass of [value - 0.5, value + 0.5] in (0, 1], same shape."""
        centre = values[..., None] - self.location[:, None]  # [channels, n, components]
        width = torch.exp(-self.log_scale.clamp(-4.0, 4.0))[:, None]
        # Mirrored to the lower tail, where differences of the distribution function keep their digits.
        far = -centre.abs()
        mass = torch.sigmoid((far + 0.5) * width) - torch.sigmoid((far - 0.5) * width)
        weights = functional.softmax(self.logits, dim=-1)[:, None]
        return (weights * mass).sum(-1).clamp(min=LIKELIHOOD_FLOOR)
