"""Probabilities in training: the Laplacian model of quantised residuals, and densities of the hyperprior.

Rounding with a dead zone d is plain rounding in a warped coordinate: `warp` stretches the central step from
1 to 1 + 2 d and leaves all other steps at 1. So one definition of the probability, the Laplacian mass
between two warped bin edges, serves integers (where it is that of the coding tables) and their continuous
relaxation. Source: AI Flow (arXiv 2506.12479), section II-B1; J. Balle et al., "Variational image
compression with a scale hyperprior", ICLR 2018.

A density is a module that maps values [channels, n] to the probability of the unit bin around each. Any such
module can be given to `TrainableCodec`; the one here needs nothing but torch. `tofc.training.trainable`
brings CompressAI's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from entropy.tables import LOG_SCALE_STEP, NUM_SCALES, SCALE_MIN

BITS = 1.0 / math.log(2.0)


def round_through(values: Tensor) -> Tensor:
    """Round to integers; the gradient passes as if nothing had been rounded (straight-through estimator)."""
    return values + (values.round() - values).detach()


def warp(position: Tensor, dead_zone: float) -> Tensor:
    """From the coordinate of plain rounding to that of the residual: the central step widens."""
    return position + dead_zone * (2.0 * position).clamp(-1.0, 1.0)


def unwarp(residual: Tensor, dead_zone: float) -> Tensor:
    """Inverse of `warp`: rounding its result rounds the residual with the dead zone."""
    edge = 0.5 + dead_zone
    inside = residual * (0.5 / edge)
    return torch.where(residual.abs() < edge, inside, residual - dead_zone * residual.sign())


def scale_from_index(index: Tensor) -> Tensor:
    """Laplacian scale b of a (continuous) table index; indices saturate at 0 and 63."""
    return SCALE_MIN * torch.exp(LOG_SCALE_STEP * index.clamp(0.0, NUM_SCALES - 1.0))


def laplacian_bits(positions: Tensor, scale: Tensor, dead_zone: float) -> Tensor:
    """Cost in bits of unit bins around `positions` (in the coordinate of `unwarp`) under a zero-mean
    Laplacian.

    At integers this is -log2 of the probability that the tables of `tables.laplacian_tables` quantise; in
    between it is its continuous relaxation. positions, scale: any one shape; scale is b > 0. Returns that
    shape, >= 0.
    """
    centre = positions.abs()
    lower = warp(centre - 0.5, dead_zone)
    upper = warp(centre + 0.5, dead_zone)
    # Two forms, each stable on its side: a bin that holds zero, and a bin wholly in the tail.
    astride = -torch.log1p(
        (-0.5 * (torch.exp(lower.clamp(max=0.0) / scale) + torch.exp(-upper / scale))).clamp(min=-0.999999)
    )
    tail = lower.clamp(min=0.0) / scale - torch.log(-torch.expm1(-(upper - lower) / scale)) + math.log(2.0)
    return BITS * torch.where(lower < 0.0, astride, tail)


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
