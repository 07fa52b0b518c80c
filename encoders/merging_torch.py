"""Merging of tensors: on a CPU through the arrays behind them, on an accelerator where they are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from encoders import merging_peaks

if TYPE_CHECKING:
    from encoders.merging import Blocks

Array = NDArray[Any]

# A block of distance rows stays under this many entries (float64: 256 MiB), however many tokens there are.
_MAX_BLOCK_ENTRIES = 1 << 25


Pair = tuple[torch.Tensor, torch.Tensor]  # assignment and centres


def cluster(
    features: torch.Tensor, num_clusters: int, k: int, mask: torch.Tensor | None, blocks: Blocks | None
) -> Pair:
    """`encoders.dpc_knn` of a tensor, with checked arguments: assignment and centres, beside the features."""
    valid = np.ones(features.shape[:2], dtype=np.bool_) if mask is None else mask.cpu().numpy()
    search = _cluster_here if features.device.type == "cpu" else _cluster_there
    return beside(features, *search(features.detach(), num_clusters, k, valid, blocks))


def beside(features: torch.Tensor, assignment: Array, centers: Array) -> Pair:
    """Clusters as tensors on the device of the features."""
    return (
        torch.from_numpy(assignment).to(features.device),
        torch.from_numpy(centers).to(features.device),
    )


def _cluster_here(
    features: torch.Tensor, num_clusters: int, k: int, valid: Array, blocks: Blocks | None
) -> tuple[Array, Array]:
    values = features if features.dtype == torch.float64 else features.float()
    return merging_peaks.cluster(values.numpy(), num_clusters, k, valid, blocks)


def _cluster_there(
    features: torch.Tensor, num_clusters: int, k: int, valid: Array, blocks: Blocks | None
) -> tuple[Array, Array]:
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        high, low = _range(features, valid)
        if not (np.isfinite(high).all() and np.isfinite(low).all()):
            merging_peaks.raise_not_finite(features.double().cpu().numpy(), valid)

        def search_on(middle: Array, step: Array) -> DenseSearch:
            return DenseSearch(features, middle, step, valid)

        return merging_peaks.density_peaks(high, low, valid, num_clusters, k, blocks, search_on)


class DenseSearch:
    """Nearest tokens by exact products in float64: all distances of a block of tokens at once, on any device.

    features: tensor [B, N, C]; middle: float64 [B, C] and step: float64 [B], which take features to integer
    points whose squared distances are below 2^53, so that sums are exact in any order; mask: bool [B, N],
    False for tokens to leave out. All but the features are arrays, and so is what the methods take and give.
    """

    def __init__(self, features: torch.Tensor, middle: Array, step: Array, mask: Array) -> None:
        self._device = features.device
        on_grid = self._here(middle)[:, None], self._here(step)[:, None, None]
        valid = self._here(mask)
        points = features.to(torch.float64, copy=True).sub_(on_grid[0]).div_(on_grid[1])
        points.round_().masked_fill_(~valid[..., None], 0.0)
        norms = points.square().sum(2, keepdim=True)  # [B, N, 1]
        ones = torch.ones_like(norms)
        # Two matrices [B, N, C + 2] whose product, left @ right^T, is all squared distances at once, exactly.
        self._left = torch.cat([points, norms, ones], 2)
        self._right = torch.cat([points * -2.0, ones, norms], 2)
        self._mask = valid

    def _here(self, values: Array) -> torch.Tensor:
        return torch.as_tensor(values, device=self._device)

    def neighbours(self, k: int) -> tuple[Array, Array]:
        """See `merging_peaks.Search`."""
        batch, num_tokens, _ = self._left.shape
        all_valid = bool(self._mask.all())
        values, indices = [], []
        for rows in _row_blocks(batch, num_tokens, num_tokens):
            distances = torch.bmm(self._left[:, rows], self._right.transpose(1, 2))  # [B, R, N]
            if not all_valid:
                distances.masked_fill_(~self._mask[:, None], math.inf)
            nearest = distances.topk(k, dim=2, largest=False, sorted=False)
            values.append(nearest.values)
            indices.append(nearest.indices)
        return torch.cat(values, 1).cpu().numpy(), torch.cat(indices, 1).cpu().numpy()

    def to_denser(self, rank: Array, wanted: Array) -> Array:
        """See `merging_peaks.Search`."""
        num_tokens = rank.shape[1]
        found = [self._left.new_empty(0)]
        for left, right, ranks, mask, chosen in zip(
            self._left, self._right, self._here(rank), self._mask, self._here(wanted), strict=True
        ):
            tokens = chosen.nonzero()[:, 0]
            for rows in _row_blocks(1, len(tokens), num_tokens):
                row = tokens[rows]
                distances = left[row] @ right.T  # [R, N]
                denser = ranks < ranks[row, None]  # masked tokens rank last: never denser
                nearest_denser = distances.masked_fill(~denser, math.inf).amin(1)
                farthest = distances.masked_fill_(~mask, 0.0).amax(1)
                found.append(torch.where(ranks[row] == 0, farthest, nearest_denser))
        return torch.cat(found).cpu().numpy()

    def nearest_center(self, centers: Array, among: Array | None = None) -> Array:
        """See `merging_peaks.Search`."""
        chosen = self._here(centers)
        token = chosen.clamp(min=0)
        to_centers = self._right.gather(1, token[..., None].expand(-1, -1, self._right.shape[2]))
        distances = torch.bmm(self._left, to_centers.transpose(1, 2))  # [B, N, K]
        if among is not None:
            counts = torch.zeros(among.shape[0], centers.shape[1] + 1, dtype=torch.bool, device=self._device)
            last = centers.shape[1]  # the column of -1
            places = torch.tensor(np.where(among < 0, last, among), device=self._device)
            counts.scatter_(1, places, True)
            distances.masked_fill_(~counts[:, :-1], math.inf)
        return distances.masked_fill_((chosen < 0)[:, None], math.inf).argmin(2).cpu().numpy()


def _row_blocks(batch: int, num_rows: int, num_columns: int) -> list[slice]:
    size = max(1, _MAX_BLOCK_ENTRIES // (batch * num_columns))
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def merge(
    features: torch.Tensor, assignment: torch.Tensor, centers: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`encoders.merge_tokens` of a tensor, differentiable in it."""
    num_clusters = centers.shape[1]
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    valid = assignment >= 0  # [B, N]
    with torch.autocast(features.device.type, enabled=False):
        # Selected, not multiplied: a NaN under the mask must not spread.
        values = torch.where(valid[..., None], features.to(dtype), 0.0)  # [B, N, C]
        slot = torch.where(valid, assignment, 0)
        counts = torch.zeros_like(centers).scatter_add_(1, slot, valid.to(torch.int64))
        sums = _sum_by_slot(values, slot, num_clusters)  # [B, K, C]
        return sums / counts.clamp(min=1)[..., None].to(dtype), counts


def _range(features: torch.Tensor, valid: Array) -> tuple[Array, Array]:
    """The largest and the smallest value of each channel of each image, float64 [B, C]; 0 without tokens."""
    mask = torch.as_tensor(valid, device=features.device)
    high = features.masked_fill(~mask[..., None], -torch.inf).amax(1)  # [B, C]; a NaN comes through
    low = features.masked_fill(~mask[..., None], torch.inf).amin(1)
    empty = ~mask.any(1, keepdim=True)  # [B, 1]
    high, low = high.masked_fill(empty, 0.0), low.masked_fill(empty, 0.0)
    return high.double().cpu().numpy(), low.double().cpu().numpy()


def _sum_by_slot(values: torch.Tensor, slot: torch.Tensor, num_slots: int) -> torch.Tensor:
    """Sum values [B, N, C] into [B, K, C] by slot [B, N], reproducibly."""
    if values.device.type == "cpu":  # in token order, whatever the number of threads
        index = slot[..., None].expand_as(values)
        return values.new_zeros(values.shape[0], num_slots, values.shape[2]).scatter_add(1, index, values)
    # Scattered additions race on accelerators. In float64 the product is also out of reach of TF32.
    one_hot = torch.nn.functional.one_hot(slot, num_slots).to(torch.float64)  # [B, N, K]
    return torch.bmm(one_hot.transpose(1, 2), values.to(torch.float64)).to(values.dtype)
