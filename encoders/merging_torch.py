"""Merging of tensors: on a CPU through the arrays behind them, on an accelerator where they are."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from encoders import merging
from encoders.merging import Clusters, as_points, density_peaks, raise_not_finite
from encoders.merging_blocks import Parts
from encoders.merging_dense import DenseSearch
from encoders.merging_threads import Team

_PROCESS = os.getpid()  # a fork has none of its parent's threads, and waits for them in vain


def cluster(
    features: torch.Tensor, num_clusters: int, k: int, mask: torch.Tensor | None, grid: Parts | None = None
) -> Clusters:
    """`encoders.dpc_knn` of a tensor, with checked arguments; the clusters are tensors beside it."""
    device = features.device
    valid = np.ones(features.shape[:2], dtype=np.bool_) if mask is None else mask.cpu().numpy()
    search = _cluster_here if device.type == "cpu" else _cluster_there
    return beside(features, *search(features.detach(), num_clusters, k, valid, grid))


def beside(features: torch.Tensor, assignment: NDArray[Any], centers: NDArray[Any]) -> Clusters:
    """Clusters as tensors on the device of the features."""
    return Clusters(*(torch.from_numpy(part).to(features.device) for part in (assignment, centers)))


def _cluster_here(
    features: torch.Tensor, num_clusters: int, k: int, valid: NDArray[Any], grid: Parts | None
) -> Clusters:
    values = features if features.dtype == torch.float64 else features.float()
    team = Team(torch.get_num_threads(), _openmp() if os.getpid() == _PROCESS else 0)
    return merging.cluster(as_points(values.numpy()), num_clusters, k, valid, grid, team)


def _cluster_there(
    features: torch.Tensor, num_clusters: int, k: int, valid: NDArray[Any], grid: Parts | None
) -> Clusters:
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        high, low = _range(features, valid)
        if not (np.isfinite(high).all() and np.isfinite(low).all()):
            raise_not_finite(features.double().cpu().numpy(), valid)

        def search_on(fixed: merging.FixedPoint) -> DenseSearch:
            return DenseSearch(features, fixed.middle, fixed.step, valid)

        return density_peaks(high, low, valid, num_clusters, k, grid, search_on)


@cache
def _openmp() -> int:
    """The address of the function by which PyTorch's threads share a loop; 0 where they are not OpenMP's."""
    function = getattr(ctypes.CDLL(torch._C.__file__), "GOMP_parallel", None)
    return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0


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


def _range(features: torch.Tensor, valid: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
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
