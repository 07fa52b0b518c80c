"""Whitened singular value decomposition of linear layers, and how ranks are shared out among them.

Source: AI Flow (arXiv 2506.12479), section III-A1. With a layer's inputs X [n, T] and S S^T = X X^T, the
singular values of W S say what each component adds to the layer's output on those inputs: leaving out
components h+1 .. r costs exactly the sum of their squared singular values, ||WX - W_u W_v X||^2 (equation 3).
The inputs' covariances are gathered while a model runs (`watch_inputs`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tofc.errors import UserError

RIDGE = 1e-8  # of the mean variance, added where inputs do not fill their space


@dataclass
class Covariance:
    """X X^T of a layer's inputs, summed batch by batch in float64; `count` inputs have been seen.

    `name` stands in errors.
    """

    width: int
    name: str = "the layer"
    count: int = 0
    total: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.total = torch.zeros(self.width, self.width, dtype=torch.float64)

    def add(self, inputs: Tensor) -> None:
        """Adds inputs [..., n]; UserError where one is not finite."""
        flat = inputs.detach().reshape(-1, self.width).double()
        if not bool(torch.isfinite(flat).all()):
            raise UserError(
                f"calibration: the inputs of {self.name} are not all finite (NaN or infinite): look at the "
                "calibration data, or compute in float32"
            )
        self.total += (flat.T @ flat).cpu()
        self.count += len(flat)


@dataclass(frozen=True)
class Whitening:
    """Lower triangular S [n, n], float64, with S S^T = X X^T + `ridge` I; `ridge` is 0 for full rank."""

    factor: Tensor
    ridge: float

    @classmethod
    def of(cls, covariance: Covariance) -> Whitening:
        """By Cholesky; where inputs do not fill their space, with a ridge of RIDGE mean variances.

        UserError where there are no inputs, or only zeros.
        """
        total = covariance.total
        scale = float(total.diagonal().mean())
        if scale <= 0:
            raise UserError(
                f"calibration: {covariance.name} has seen no input other than zero: give pictures"
            )
        ridge = 0.0
        factor, failed = torch.linalg.cholesky_ex(total)
        # A pivot this small is rounding: dividing by it would blow up directions that never occur.
        if int(failed) or float(factor.diagonal().min()) ** 2 < RIDGE * scale:
            ridge = RIDGE * scale
            factor = torch.linalg.cholesky(total + ridge * torch.eye(covariance.width, dtype=torch.float64))
        return cls(factor, ridge)


@dataclass(frozen=True)
class Spectrum:
    """W = (left * values) @ right, float64: left [m, r], values [r] from the largest, right [r, n].

    `values` are the singular values of W S, `right` is V^T S^-1.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def cost(self) -> int:
        """Parameters of one rank."""
        return self.left.shape[0] + self.right.shape[1]

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """W_u^T [h, m] and W_v [h, n] of equation 2: the leading `rank` components, the largest first."""
        root = self.values[:rank].sqrt()
        return (self.left[:, :rank] * root).T.contiguous(), (root[:, None] * self.right[:rank]).contiguous()

    def loss(self, rank: int) -> float:
        """||WX - W_u W_v X||^2 over the calibration inputs (equation 3)."""
        return float(self.values[rank:].square().sum())


def decompose(weight: Tensor, whitening: Whitening | None = None) -> Spectrum:
    """The spectrum of a weight [m, n] after whitening; without, that of the weight itself."""
    matrix = weight.detach().double().cpu()
    if whitening is None:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return Spectrum(left, values, right)
    left, values, right = torch.linalg.svd(matrix @ whitening.factor, full_matrices=False)
    unwhitened = torch.linalg.solve_triangular(whitening.factor, right, upper=False, left=False)
    return Spectrum(left, values, unwhitened)


def rank_for_ratio(num_outputs: int, num_inputs: int, ratio: float) -> int:
    """The rank h with at most `ratio` of the layer's parameters: h (n + m) <= ratio n m; at least 1."""
    if not ratio > 0:
        raise UserError(f"a parameter ratio is {ratio}; give a number above 0")
    rank = int(ratio * num_outputs * num_inputs / (num_outputs + num_inputs) + 1e-9)
    return max(1, min(rank, num_outputs, num_inputs))


def share_ranks(spectra: Mapping[str, Spectrum], budget: int) -> dict[str, int]:
    """Ranks by layer that keep the most energy with `budget` parameters in all.

    Components are taken in the order of the squared singular value that each brings a parameter; every layer
    gets at least one. UserError where the budget does not reach for that.
    """
    least = sum(spectrum.cost for spectrum in spectra.values())
    if budget < least:
        raise UserError(f"{budget} parameters are too few for {len(spectra)} layers: give at least {least}")
    ranks = dict.fromkeys(spectra, 1)
    left = budget - least

    def gain(name: str) -> float:
        spectrum = spectra[name]
        return float(spectrum.values[ranks[name]].square()) / spectrum.cost

    queue = [(-gain(name), name) for name in spectra if len(spectra[name].values) > 1]
    heapq.heapify(queue)
    while queue:
        _, name = heapq.heappop(queue)
        if spectra[name].cost > left:
            continue  # a narrower layer may still fit
        ranks[name] += 1
        left -= spectra[name].cost
        if ranks[name] < len(spectra[name].values):
            heapq.heappush(queue, (-gain(name), name))
    return ranks


def linears(block: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a decoder block by their names in it, e.g. `self_attn.q_proj`."""
    return {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}


@contextmanager
def watch_inputs(
    blocks: Mapping[Any, nn.Module], counts: Callable[[], Tensor | None] = lambda: None
) -> Iterator[dict[Any, dict[str, Covariance]]]:
    """Sums the covariances of everything that passes the linear layers of `blocks` inside the `with`.

    `counts` tells of each pass which of its positions count, bool [B, L]: padding does not; None for all.
    Gives them by block and layer. UserError as soon as an input is not finite.
    """
    found = {
        key: {
            name: Covariance(layer.in_features, f"block {key}, {name}") for name, layer in linears(b).items()
        }
        for key, b in blocks.items()
    }
    handles = []
    for key, block in blocks.items():
        for name, layer in linears(block).items():
            covariance = found[key][name]

            def look(_: nn.Module, inputs: tuple[Any, ...], into: Covariance = covariance) -> None:
                chosen = counts()
                into.add(inputs[0] if chosen is None else inputs[0][chosen])

            handles.append(layer.register_forward_pre_hook(look))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def spectra(block: nn.Module, covariances: Mapping[str, Covariance]) -> dict[str, Spectrum]:
    """The whitened decomposition of every linear layer of a block.

    Layers that see the same inputs (query, key and value; gate and up) are whitened alike, but each on its
    own: covariances are small beside the pass that gathers them.
    """
    return {
        name: decompose(layer.weight, Whitening.of(covariances[name]))
        for name, layer in linears(block).items()
    }
