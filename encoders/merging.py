"""Token merging: density-peak clustering of feature tokens (DPC-KNN), then averages within clusters."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from encoders.merging_dense import DenseSearch
from encoders.merging_screened import ScreenedSearch

__all__ = ["Clusters", "dpc_knn", "merge_tokens"]


class Clusters(NamedTuple):
    """A partition of the tokens of each image.

    assignment: int64 [B, N], the cluster 0..K-1 of each token, -1 for tokens that the mask leaves out.
    centers: int64 [B, K], the token that is the centre of each cluster, ascending (raster order); -1 pads
    the end
        of images that have fewer valid tokens than K.
    """

    assignment: torch.Tensor
    centers: torch.Tensor


def dpc_knn(
    features: torch.Tensor, num_clusters: int, k: int = 5, mask: torch.Tensor | None = None
) -> Clusters:
    """Cluster the tokens of each image around its density peaks.

    features: [B, N, C], any floating dtype. num_clusters: K >= 1. k: neighbours of the density estimate,
    counting the token itself as the published procedure does; at most the number of tokens is used. mask:
    bool [B, N], True for the tokens that count; the others get assignment -1 and influence nothing.

    K >= N is the identity (K becomes N). With a mask, an image with fewer than K valid tokens keeps each
    of them as its own cluster, and its last centres are -1.

    Density-peak clustering with k-nearest-neighbour density (Du et al. 2016, as used for tokens by
    TCFormer and TOFC), in the log domain: with distances divided by sqrt(C), a token is the denser the
    smaller the mean of its k smallest squared distances; delta is the distance to the nearest denser
    token (the largest distance for the densest one), and the K largest log(delta) - mean are the centres.
    All ties go to the lower index, nothing is random. Distances are computed in fixed point, exactly: the
    result does not depend on the batch, the device, the number of threads or autocast.

    Raises TypeError or ValueError on wrong shapes and dtypes, and where a valid token holds a NaN or an
    infinity.
    """
    _check_arguments(features, num_clusters, k, mask)
    batch, num_tokens, width = features.shape
    num_clusters, k = min(num_clusters, num_tokens), min(k, num_tokens)
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        grid = _fixed_point(features.detach(), mask, k)
        if mask is None:
            mask = torch.ones(batch, num_tokens, dtype=torch.bool, device=features.device)
        if num_clusters == num_tokens and bool(mask.all()):
            identity = torch.arange(num_tokens, device=features.device).repeat(batch, 1)
            return Clusters(identity, identity.clone())
        search = _search(features.detach(), mask, grid)
        nearest_sq, nearest = search.neighbours(k)  # [B, N, k] each, in units of step^2
        mean_sq = _mean_of_finite(nearest_sq).masked_fill_(~mask, math.inf)  # [B, N]
        rank = _density_rank(mean_sq)
        delta_sq = _distance_to_denser(search, mask, rank, nearest_sq, nearest)
        # The limits change no order: beyond them one of the two terms below is nothing beside the other.
        unit = (grid.step * grid.step / width).clamp(2.0**-900, 2.0**900)[:, None]  # [B, 1]
        score = 0.5 * torch.log(delta_sq * unit) - mean_sq * unit
        centers = _highest(score, mask, num_clusters)
        return Clusters(_assignment(search, mask, centers), centers)


def merge_tokens(features: torch.Tensor, clusters: Clusters) -> tuple[torch.Tensor, torch.Tensor]:
    """Average the tokens of each cluster.

    features: [B, N, C]; clusters: from `dpc_knn` on the same tokens. Returns merged [B, K, C] in float32
    (float64 for float64 features), differentiable in features, and counts int64 [B, K]. A padded cluster
    (centre -1) has count 0 and a merged row of zeros. Masked tokens are left out, and get no gradient.
    """
    assignment, centers = clusters
    if features.ndim != 3 or features.shape[:2] != assignment.shape:
        raise ValueError(
            f"features of shape {tuple(features.shape)} do not belong to these clusters; expected "
            f"[{assignment.shape[0]}, {assignment.shape[1]}, C]"
        )
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


def _check_arguments(features: torch.Tensor, num_clusters: int, k: int, mask: torch.Tensor | None) -> None:
    if features.ndim != 3 or 0 in features.shape[1:]:
        raise ValueError(f"features must be [B, N, C] with N, C >= 1, got {tuple(features.shape)}")
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got {features.dtype}")
    if num_clusters < 1:
        raise ValueError(f"num_clusters must be at least 1, got {num_clusters}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean, got {mask.dtype}")
    if mask.shape != features.shape[:2]:
        raise ValueError(f"mask must be [B, N] = {tuple(features.shape[:2])}, got {tuple(mask.shape)}")


def _raise_not_finite(features: torch.Tensor, mask: torch.Tensor | None) -> None:
    bad = ~torch.isfinite(features)
    if mask is not None:
        bad &= mask[..., None]
    image, token, channel = bad.nonzero()[0].tolist()
    raise ValueError(
        f"features[{image}, {token}, {channel}] is {features[image, token, channel].item()} "
        f"({int(bad.sum())} of {bad.numel()} values are not finite); merging needs finite features"
    )


class _Grid(NamedTuple):
    """Where integers stand for features: middle float64 [B, C], step float64 [B], a power of two."""

    middle: torch.Tensor
    step: torch.Tensor


def _fixed_point(features: torch.Tensor, mask: torch.Tensor | None, k: int) -> _Grid:
    """A grid of integers small enough that float64 sums over them are exact in any order.

    Each channel is centred on its mid-range first, which leaves distances as they are and takes away the
    constant part of outlier channels.
    """
    width = features.shape[2]
    if mask is None:
        high, low = features.amax(1), features.amin(1)  # [B, C]; a NaN comes through
    else:
        high = features.masked_fill(~mask[..., None], -math.inf).amax(1)
        low = features.masked_fill(~mask[..., None], math.inf).amin(1)
        empty = ~mask.any(1, keepdim=True)  # [B, 1]
        high, low = high.masked_fill(empty, 0.0), low.masked_fill(empty, 0.0)
    if not bool(torch.isfinite(high).all() & torch.isfinite(low).all()):
        _raise_not_finite(features, mask)
    high, low = high.to(torch.float64), low.to(torch.float64)
    middle = low + (high / 2 - low / 2)  # halved first: the difference might overflow
    largest = torch.maximum(high - middle, middle - low).amax(1)  # [B]
    # A sum of k squared distances is at most 4 * width * k * 2^(2 bits), and must stay below 2^53.
    bits = (51 - math.ceil(math.log2(width)) - math.ceil(math.log2(k))) // 2
    # Beyond this exponent the inverse of a step is no float: such differences count as none.
    exponent = (torch.frexp(largest).exponent - bits).clamp(min=-1000)
    return _Grid(middle, torch.ldexp(torch.ones_like(largest), exponent))


def _search(features: torch.Tensor, mask: torch.Tensor, grid: _Grid) -> ScreenedSearch | DenseSearch:
    """What finds the distances between tokens on the grid: the same ones on every device."""
    if features.device.type == "cpu":
        return ScreenedSearch(features, *grid, mask)
    return DenseSearch(features, *grid, mask)


def _mean_of_finite(values: torch.Tensor) -> torch.Tensor:
    finite = torch.isfinite(values)
    return torch.where(finite, values, 0.0).sum(2) / finite.sum(2).clamp(min=1)


def _density_rank(mean_sq: torch.Tensor) -> torch.Tensor:
    """Place of each token in the order of falling density, int64 [B, N]; equal densities in order of
    index."""
    order = torch.argsort(mean_sq, dim=1, stable=True)
    places = torch.arange(mean_sq.shape[1], device=mean_sq.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _distance_to_denser(
    search: ScreenedSearch | DenseSearch,
    mask: torch.Tensor,
    rank: torch.Tensor,
    nearest_sq: torch.Tensor,
    nearest: torch.Tensor,
) -> torch.Tensor:
    """Squared distance [B, N] to the nearest denser token; for the densest one, to the farthest token.

    For most tokens that is among their nearest neighbours; only the others are searched for again.
    """
    neighbour_rank = rank.gather(1, nearest.flatten(1)).view_as(nearest)
    delta_sq = nearest_sq.masked_fill(neighbour_rank >= rank[..., None], math.inf).amin(2)  # [B, N]
    wanted = torch.isinf(delta_sq) & mask
    delta_sq[wanted] = search.to_denser(rank, wanted)
    return delta_sq


def _highest(score: torch.Tensor, mask: torch.Tensor, num_clusters: int) -> torch.Tensor:
    """Indices of the highest scores in raster order, [B, K]; equal scores go to the lower index, -1 pads."""
    num_tokens = score.shape[1]
    order = torch.argsort(score, dim=1, descending=True, stable=True)
    # Coinciding tokens score -inf like masked ones: a second stable sort puts the masked ones last.
    order = order.gather(1, torch.argsort((~mask).gather(1, order).to(torch.uint8), dim=1, stable=True))
    chosen = order[:, :num_clusters]
    chosen = torch.where(mask.gather(1, chosen), chosen, num_tokens).sort(1).values
    return torch.where(chosen < num_tokens, chosen, -1)


def _assignment(
    search: ScreenedSearch | DenseSearch, mask: torch.Tensor, centers: torch.Tensor
) -> torch.Tensor:
    """The cluster of each token, [B, N]: that of the nearest centre, the first of equally near ones."""
    batch, num_tokens = mask.shape
    padded = centers < 0  # [B, K]
    # A centre keeps its own cluster even where it coincides with an earlier centre.
    # One more slot at the end takes the writes of padded centres.
    owner = torch.cat([search.nearest_center(centers), centers.new_zeros(batch, 1)], 1)
    slots = torch.arange(centers.shape[1], device=centers.device).expand_as(centers)
    owner.scatter_(1, torch.where(padded, num_tokens, centers), slots)
    return torch.where(mask, owner[:, :num_tokens], -1)


def _sum_by_slot(values: torch.Tensor, slot: torch.Tensor, num_slots: int) -> torch.Tensor:
    """Sum values [B, N, C] into [B, K, C] by slot [B, N], reproducibly."""
    if values.device.type == "cpu":  # in token order, whatever the number of threads
        index = slot[..., None].expand_as(values)
        return values.new_zeros(values.shape[0], num_slots, values.shape[2]).scatter_add(1, index, values)
    # Scattered additions race on accelerators. In float64 the product is also out of reach of TF32.
    one_hot = torch.nn.functional.one_hot(slot, num_slots).to(torch.float64)  # [B, N, K]
    return torch.bmm(one_hot.transpose(1, 2), values.to(torch.float64)).to(values.dtype)
