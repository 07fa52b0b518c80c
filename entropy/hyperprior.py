"""The entropy models in floats for training: probabilities, the networks of all experts, and their router.

Source: AI Flow (arXiv 2506.12479), section II-B1: the analysis network extracts a hyperprior from the merged
features, the synthesis network turns the quantised hyperprior into the mean and scale of every coefficient;
the router rates every entropy model for every token, and the best rated one codes the token. J. Balle et al.,
"Variational image compression with a scale hyperprior", ICLR 2018.

Rounding with a dead zone d is plain rounding in a warped coordinate: `warp` stretches the central step from
1 to 1 + 2 d and leaves all other steps at 1. So one definition of the probability, the Laplacian mass
between two warped bin edges, serves integers (where it is that of the coding tables) and their continuous
relaxation.

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
