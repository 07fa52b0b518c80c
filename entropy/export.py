"""From a trained codec to integers: fixed-point transforms, int8 synthesis, 16-bit analysis, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from entropy.codec import INPUT_LIMIT, INPUT_STEPS, MEAN_STEPS, FeatureCodec
from entropy.hyperprior import ExpertLinear
from entropy.integer import FixedPointMatrix, IntegerLayer, IntegerNetwork, quantize_layer
from entropy.stream import HYPER_LIMIT
from entropy.tables import (
    NUM_SCALES,
    RansTables,
    join_tables,
    laplacian_tables,
    quantize_frequencies,
    reconstruction_offsets,
)

if TYPE_CHECKING:
    from entropy.trainable import TrainableCodec

GRID = 2.0**-14  # of the transform's inputs and outputs, in units of their root mean square
HIDDEN_LIMIT = 255  # 8-bit activations in the synthesis
WIDE_LIMIT = 32767  # 16-bit activations on the encoder's side
HYPER_RANGE = (-HYPER_LIMIT, HYPER_LIMIT)
WIDE_RANGE = (-(2**20), 2**20)  # of means and of the router's scores
HYPER_TAIL = 2.0**-14  # mass that a hyperprior table leaves to its escape, at either end
SCORE_STEP = 2.0**-10


@torch.no_grad()
def export_codec(codec: TrainableCodec, calibration: Tensor) -> FeatureCodec:
    """Turn a trained codec into integers.

    codec: trained; calibration: [M, K, C] features of the source, which show how far activations reach (a
    few hundred tokens suffice). Raises ValueError for features of another width and for weights that are not
    finite.
    """
    config = codec.config
    if calibration.ndim != 3 or calibration.shape[-1] != config.width or calibration.numel() == 0:
        raise ValueError(
            f"calibration features must be [M, K, {config.width}], got {list(calibration.shape)}"
        )
    reach = _activation_reach(codec, calibration)
    analysis, trunk, scale, mean = [], [], [], []
    networks = codec.synthesis
    for expert in range(config.experts):
        wide_step, step = reach.analysis[expert] / WIDE_LIMIT, reach.synthesis[expert] / HIDDEN_LIMIT
        first = _hidden_layer(codec.analysis.hidden, expert, wide_step)
        last = _layer(codec.analysis.output, expert, wide_step, WIDE_LIMIT, 1.0, HYPER_RANGE, 16)
        analysis.append(IntegerNetwork((first, last)))
        between = _layer(networks.trunk, expert, 1.0, HYPER_LIMIT, step, (0, HIDDEN_LIMIT), 8)
        trunk.append(IntegerNetwork((between,)))
        indices = _layer(networks.scale, expert, step, HIDDEN_LIMIT, 1.0, (0, NUM_SCALES - 1), 8)
        scale.append(IntegerNetwork((indices,)))
        means = _layer(networks.mean, expert, step, HIDDEN_LIMIT, 1.0 / MEAN_STEPS, WIDE_RANGE, 8)
        mean.append(IntegerNetwork((means,)))
    wide_step = reach.router / WIDE_LIMIT
    first = _hidden_layer(codec.router.hidden, 0, wide_step)
    last = _layer(codec.router.output, 0, wide_step, WIDE_LIMIT, SCORE_STEP, WIDE_RANGE, 16)
    router = IntegerNetwork((first, last))
    center = to_numpy(codec.center)
    deviation = float(np.sqrt(np.mean((to_numpy(calibration).reshape(-1, config.width) - center) ** 2)))
    return FeatureCodec(
        center=center,
        forward=FixedPointMatrix.quantize(to_numpy(codec.forward_transform), max(deviation, 1e-12) * GRID),
        inverse=FixedPointMatrix.quantize(to_numpy(codec.inverse_transform), GRID),
        gains=to_numpy(codec.gains),
        router=router,
        analysis=tuple(analysis),
        trunk=tuple(trunk),
        scale=tuple(scale),
        mean=tuple(mean),
        tables=join_tables(
            [laplacian_tables(config.dead_zone), _router_tables(codec), *_hyper_tables(codec)]
        ),
        offsets=reconstruction_offsets(config.dead_zone),
        dead_zone=np.array([config.dead_zone]),
    )


class _Reach(NamedTuple):
    analysis: list[float]  # of each expert
    synthesis: list[float]  # of each expert
    router: float


def _activation_reach(codec: TrainableCodec, calibration: Tensor) -> _Reach:
    """Largest hidden activation of each network over the calibration features at all levels."""
    config = codec.config
    flat = codec.transform(calibration.to(codec.center)).reshape(-1, config.width)
    analysis = torch.full((config.experts,), 1e-3)
    synthesis = torch.full((config.experts,), 1e-3)
    router = 1e-3
    for number, gain in enumerate(codec.gains):
        level = torch.full((len(flat),), number, device=flat.device)
        inputs = codec.network_inputs(flat * gain)
        chosen = codec.router(inputs, level).argmax(-1)
        router = max(router, float(codec.router.hidden(inputs, level).max()))
        hidden = torch.relu(codec.analysis.hidden(inputs, level))
        hyper = codec.analysis.output(hidden, level).round().clamp(-HYPER_LIMIT, HYPER_LIMIT)
        between = codec.synthesis.hidden(hyper, level)
        for expert in range(config.experts):
            rows = chosen == expert
            if bool(rows.any()):
                analysis[expert] = max(float(analysis[expert]), float(hidden[expert, rows].max()))
                # Rare peaks may saturate: eight bits are better spent on what is common.
                peak = torch.quantile(between[expert, rows].max(-1).values[: 2**20], 0.999)
                synthesis[expert] = max(float(synthesis[expert]), float(peak))
    # What only the encoder sees has bits to spare for features beyond the calibration.
    return _Reach((2 * analysis).tolist(), synthesis.tolist(), 2 * router)


def _hidden_layer(layer: ExpertLinear, expert: int, output_step: float) -> IntegerLayer:
    """First layer of an encoder network: compressed coefficients in, 16-bit rectified activations out."""
    return _layer(layer, expert, 1.0 / INPUT_STEPS, INPUT_LIMIT, output_step, (0, WIDE_LIMIT), 16)


def _layer(
    layer: ExpertLinear,
    expert: int,
    input_step: float,
    limit: int,
    output_step: float,
    reach: tuple[int, int],
    bits: int,
) -> IntegerLayer:
    return quantize_layer(
        to_numpy(layer.weight[expert]),
        to_numpy(layer.bias[expert]),
        input_step=input_step,
        input_limit=limit,
        output_step=output_step,
        output_range=reach,
        weight_bits=bits,
    )


def _router_tables(codec: TrainableCodec) -> RansTables:
    """Tables of the router's choices, one for each level and left neighbour."""
    shares = to_numpy(torch.softmax(codec.router.context, dim=-1)).reshape(-1, codec.config.experts)
    frequencies = [quantize_frequencies(np.append(share, 0.0)) for share in shares]
    sizes = np.full(len(shares), codec.config.experts + 1, dtype=np.int32)
    return RansTables(np.concatenate(frequencies), sizes, np.zeros(len(shares), dtype=np.int32))


def _hyper_tables(codec: TrainableCodec) -> list[RansTables]:
    """Tables of the hyperprior, one set for each level."""
    grid = torch.arange(-HYPER_LIMIT, HYPER_LIMIT + 1, device=codec.center.device)
    channels = codec.config.experts * codec.config.hyper
    sets = []
    for prior in codec.prior:
        mass = to_numpy(prior(grid.float().expand(channels, -1)))
        tables = [_cut_tails(row) for row in mass]
        sets.append(
            RansTables(
                np.concatenate([frequencies for frequencies, _ in tables]),
                np.array([frequencies.size for frequencies, _ in tables], dtype=np.int32),
                np.array([minimum for _, minimum in tables], dtype=np.int32),
            )
        )
    return sets


def _cut_tails(mass: NDArray[np.float64]) -> tuple[NDArray[np.uint16], int]:
    """Table over the values that carry a distribution, and its first value; the tails go to the escape."""
    share = mass / mass.sum()
    below = np.cumsum(share)
    first = int(np.searchsorted(below, HYPER_TAIL))
    last = max(first, int(np.searchsorted(below, 1.0 - HYPER_TAIL)))
    last = min(last, share.size - 1)
    kept = share[first : last + 1]
    return quantize_frequencies(np.append(kept, 1.0 - kept.sum())), first - HYPER_LIMIT


def to_numpy(values: Tensor) -> np.ndarray:
    """A detached float64 copy on the host."""
    return values.detach().cpu().double().numpy()
