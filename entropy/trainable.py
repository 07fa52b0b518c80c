"""The codec as a differentiable module: what training optimises, and what `export` turns into integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from entropy.codec import FeatureCodec
from entropy.hyperprior import (
    Analysis,
    Density,
    LogisticMixture,
    Router,
    Synthesis,
    laplacian_bits,
    round_through,
    scale_from_index,
    unwarp,
)
from entropy.order import left_neighbours, stream_order
from entropy.tables import reconstruction_offsets


@dataclass(frozen=True)
class CodecConfig:
    """Shape of a codec.

    width: C of the features; experts: entropy models E; hyper: hyperprior values of a token; analysis_hidden,
    synthesis_hidden, router_hidden: hidden widths; steps: quantisation step of each quality level, coarsest
    first, in units of the features' root mean square deviation; dead_zone: extra half-width of the zero bin,
    in [0, 0.5); hyperprior: without it every hyperprior value is held at zero, and scales and means are those
    of expert, level and channel alone.
    """

    width: int
    experts: int = 4
    hyper: int = 8
    analysis_hidden: int = 64
    synthesis_hidden: int = 48
    router_hidden: int = 32
    steps: tuple[float, ...] = (4.0, 2.8, 2.0, 1.4, 1.0, 0.6, 0.3, 0.12)
    dead_zone: float = 0.1
    hyperprior: bool = True

    def __post_init__(self) -> None:
        for name in ("width", "experts", "hyper", "analysis_hidden", "synthesis_hidden", "router_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"codec {name} must be at least 1, got {getattr(self, name)}")
        if self.experts > 64 or self.hyper > 64 or len(self.steps) > 16:
            raise ValueError(
                "a codec has at most 64 experts, 64 hyperprior values a token and 16 quality levels"
            )
        if (
            not self.steps
            or min(self.steps) <= 0
            or list(self.steps) != sorted(set(self.steps), reverse=True)
        ):
            raise ValueError(f"codec steps must be positive and fall from level to level, got {self.steps}")
        if not 0 <= self.dead_zone < 0.5:
            raise ValueError(f"codec dead_zone must be in [0, 0.5), got {self.dead_zone}")


class CodecOutput(NamedTuple):
    """What one pass gives: decoded [B, K, C], rate [B, K] in bits a token, router [B, K, E] probabilities.

    coefficients and decoded_coefficients [B, K, C] are the features and their decoding in the transform's
    domain, where mean squared error is distortion relative to the features' variance; aligned_rate [B, K] is
    the rate of rounded values alone.
    """

    decoded: Tensor
    rate: Tensor
    router: Tensor
    coefficients: Tensor
    decoded_coefficients: Tensor


class TrainableCodec(nn.Module):
    """Merged features [B, K, C] through transform, router, hyperprior and quantisation, with gradients.

    config: the shape; density: makes the factorised prior of the hyperprior, one module a level (see
    `prior`); seed: of the initial weights. Call `fit_transform` before training.
    """

    center: Tensor
    forward_transform: Tensor
    inverse_transform: Tensor
    offsets: Tensor

    def __init__(self, config: CodecConfig, density: Density = LogisticMixture, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        width, experts, levels, hyper = config.width, config.experts, len(config.steps), config.hyper
        self.config = config
        self.router = Router(width, config.router_hidden, experts, levels, generator=generator)
        self.analysis = Analysis(width, config.analysis_hidden, hyper, experts, levels, generator=generator)
        self.synthesis = Synthesis(
            width, config.synthesis_hidden, hyper, experts, levels, generator=generator
        )
        self.prior = nn.ModuleList(density(experts * hyper) for _ in range(levels))
        # Gains grow from level to level by construction: rate is monotone in quality whatever training does.
        log_gain = -torch.tensor(config.steps).log()
        self.first_gain = nn.Parameter(log_gain[:1, None].repeat(1, width))
        growth = log_gain.diff()[:, None].repeat(1, width)
        self.gain_growth = nn.Parameter(growth + torch.log(-torch.expm1(-growth)))  # inverse of softplus
        if not config.hyperprior:
            self.analysis.requires_grad_(False).output.weight.zero_()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("forward_transform", torch.eye(width))
        self.register_buffer("inverse_transform", torch.eye(width))
        self.register_buffer(
            "offsets", torch.tensor(reconstruction_offsets(config.dead_zone), dtype=torch.float32)
        )

    @property
    def gains(self) -> Tensor:
        """Multipliers of the coefficients before rounding: [levels, C], growing with the level."""
        return torch.cat([self.first_gain, functional.softplus(self.gain_growth)]).cumsum(0).exp()

    @torch.no_grad()
    def fit_transform(self, features: Tensor, weight: Tensor | None = None) -> None:
        """Set the transform to the features' principal axes, and the first scales to what they spread.

        features: [..., C], all that is known of the source. weight: [C, C] positive semi-definite matrix of
        the distortion (x - y)^T weight (x - y) that matters downstream; without it the plain squared error.
        The transform is such that equal steps in every coefficient are best for that distortion, and that
        the mean variance of a coefficient is one.
        """
        flat = features.reshape(-1, self.config.width).double()
        if len(flat) < 2 or not torch.isfinite(flat).all():
            raise ValueError("fitting the transform needs at least two tokens, and no NaN or infinity")
        center = flat.mean(0)
        root = _matrix_root(weight, self.config.width, flat.device)
        axes_input = (flat - center) @ root  # root is symmetric
        covariance = axes_input.T @ axes_input / len(flat)
        variance, axes = torch.linalg.eigh(covariance)
        axes = axes.flip(-1)  # widest first
        axes = axes * torch.where(axes.sum(0) < 0, -1.0, 1.0)
        deviation = variance.sum().div(self.config.width).sqrt().clamp(min=1e-12)
        self.center.copy_(center)
        self.forward_transform.copy_((root @ axes / deviation).T)
        self.inverse_transform.copy_(torch.linalg.solve(root, axes) * deviation)
        spread = (
            (axes_input @ axes / deviation).abs().mean(0)
        )  # mean absolute deviation is a Laplacian's scale
        self.synthesis.set_scales((spread[None] * self.gains.double()).float())

    def transform(self, features: Tensor) -> Tensor:
        """Features [..., C] to decorrelated coefficients [..., C]."""
        return (features - self.center) @ self.forward_transform.T

    def network_inputs(self, scaled: Tensor) -> Tensor:
        """Scaled coefficients as router and analysis see them; see `codec.compress_range`."""
        return torch.copysign(2.0 * (torch.sqrt(1.0 + scaled.abs()) - 1.0), scaled)

    def forward(
        self,
        features: Tensor,
        level: Tensor | int,
        *,
        temperature: float = 1.0,
        noise: Tensor | None = None,
    ) -> CodecOutput:
        """Pass features through the codec.

        features: [B, K, C]; level: quality level from 0, one int or [B]; temperature: of the router's
        softmax, in training. In training mode outputs are weighted over all experts and `noise`, uniform in
        [-0.5, 0.5) and [B, K, C + D], stands for rounding in the rate's gradients (none: the rate at the
        values themselves); in evaluation mode the best rated expert alone codes, with rounded values, and
        nothing is random.
        """
        batch, tokens, width = features.shape
        level = torch.as_tensor(level, device=features.device).expand(batch)
        flat_level = level.repeat_interleave(tokens)  # [N], N = B K
        coefficients = self.transform(features)
        gain = self.gains[flat_level]  # [N, C]
        scaled = coefficients.reshape(-1, width) * gain
        inputs = self.network_inputs(scaled)

        scores = self.router(inputs, flat_level)  # [N, E]
        chosen = scores.argmax(-1)
        if self.training:
            share = functional.softmax(scores / temperature, dim=-1)
        else:
            share = functional.one_hot(chosen, self.config.experts).to(scores.dtype)
        naming = self._naming_bits(chosen.reshape(batch, tokens), level).reshape(-1, self.config.experts)

        if noise is None:
            noise = features.new_zeros(batch, tokens, width + self.config.hyper)
        residual_noise, hyper_noise = noise.flatten(0, 1).split([width, self.config.hyper], dim=-1)
        hyper = self.analysis(inputs, flat_level).clamp(-127.0, 127.0)  # [E, N, D]
        hyper_bits = self._hyper_bits(hyper, flat_level, hyper_noise)  # [E, N]
        index, mean = self.synthesis(round_through(hyper), flat_level)  # [E, N, C] each
        position = unwarp(scaled - mean, self.config.dead_zone)
        residual = round_through(position)
        residual_bits = self._residual_bits(position, residual, index, residual_noise).sum(-1)  # [E, N]

        offset = self.offsets[index.detach().round().nan_to_num().clamp(0, len(self.offsets) - 1).long()]
        decoded = (residual + residual.detach().sign() * offset + mean) / gain
        rate = ((residual_bits + hyper_bits).T + naming).mul(share).sum(-1).reshape(batch, tokens)
        mixed = torch.einsum("enc,ne->nc", decoded, share).reshape(batch, tokens, width)
        return CodecOutput(
            mixed @ self.inverse_transform.T + self.center,
            rate,
            share.reshape(batch, tokens, -1),
            coefficients,
            mixed,
        )

    def _naming_bits(self, chosen: Tensor, level: Tensor) -> Tensor:
        """Bits of naming each expert, [B, K, E], beside the nearest on its left that was sent before it."""
        order = stream_order(chosen.shape[1])
        left = left_neighbours(order)
        place = torch.empty(len(order), dtype=torch.long)
        place[torch.from_numpy(order)] = torch.from_numpy(np.where(left < 0, len(order), order[left]))
        known = functional.pad(chosen, (0, 1), value=self.config.experts)
        return self.router.bits(known[:, place.to(chosen.device)], level)

    def _residual_bits(self, position: Tensor, residual: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """Bits of the rounded residual; in training, with the gradient of the noisy relaxation for its
        position.

        Scales learn from the values that will be coded; positions, whose rounding has no useful gradient,
        from the relaxation: noise in the rate itself would teach scales to expect values that never occur.
        """
        if not self.training:
            return laplacian_bits(residual, scale_from_index(index.round()), self.config.dead_zone)
        exact = laplacian_bits(residual.detach(), scale_from_index(index), self.config.dead_zone)
        relaxed = laplacian_bits(position + noise, scale_from_index(index.detach()), self.config.dead_zone)
        return exact + relaxed - relaxed.detach()

    def _hyper_bits(self, hyper: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Bits of each token's hyperprior under its level's prior: [E, N, D] -> [E, N]."""
        values = hyper + noise if self.training else hyper.round()
        experts, tokens, width = values.shape
        channels = values.transpose(1, 2).reshape(experts * width, tokens)  # [E D, N]
        bits = torch.zeros(experts, tokens, device=values.device)
        for each in level.unique().tolist():
            rows = torch.nonzero(level == each)[:, 0]
            likelihood = self.prior[each](channels[:, rows]).reshape(experts, width, -1)
            bits = bits.index_add(1, rows, -likelihood.log().sum(1) / math.log(2.0))
        return bits

    def export(self, calibration: Tensor) -> FeatureCodec:
        """The codec in integers, ready to code. calibration: [M, K, C] features; see `entropy.export`."""
        from entropy.export import export_codec

        return export_codec(self, calibration)


def _matrix_root(weight: Tensor | None, width: int, device: torch.device) -> Tensor:
    """Symmetric root of a distortion weight, kept invertible: float64 [C, C]."""
    if weight is None:
        return torch.eye(width, dtype=torch.float64, device=device)
    if weight.shape != (width, width) or not torch.isfinite(weight).all():
        raise ValueError(
            f"distortion weight must be a finite [{width}, {width}] matrix, got {list(weight.shape)}"
        )
    values, vectors = torch.linalg.eigh((weight + weight.T).double() / 2)
    if float(values[-1]) <= 0 or float(values[0]) < -1e-6 * float(values[-1]):
        raise ValueError("distortion weight must be positive semi-definite and not zero")
    values = values.clamp(
        min=float(values[-1]) * 1e-4
    )  # directions that hardly matter must still be invertible
    return (vectors * values.sqrt()) @ vectors.T
