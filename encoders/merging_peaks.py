"""DPC-KNN read from top to bottom: density, distance to what is denser, centres, and the nearest centre.

Du et al. 2016, as used for tokens by TCFormer and TOFC; in the log domain, and exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from encoders.merging import Blocks

Array = NDArray[Any]

MAX_WIDTH = 1 << 15  # more channels would make the bounds of `merging_search` loose


def cluster(
    features: Array, num_clusters: int, k: int, mask: Array, blocks: Blocks | None
) -> tuple[Array, Array]:
    """`encoders.dpc_knn` of arrays, with checked arguments: assignment and centres."""
    from encoders.merging_search import ScreenedSearch  # here, because numba takes half a second to import

    features = as_points(features)
    high, low = _range(features, mask)

    def search_on(middle: Array, step: Array) -> ScreenedSearch:
        return ScreenedSearch(features, middle, step, mask)

    return density_peaks(high, low, mask, num_clusters, k, blocks, search_on)


class Search(Protocol):
    """What finds the distances between tokens on the grid: the same ones in every implementation.

    All arguments and results are numpy arrays; distances are squared and in units of step^2.
    """

    def neighbours(self, k: int) -> tuple[Array, Array]:
        """The k smallest distances of each token, itself included, and to which: [B, N, k] each.

        Where there are fewer valid tokens than k, infinite distances fill up.
        """

    def to_denser(self, rank: Array, wanted: Array) -> Array:
        """Distances, one after another, of the wanted tokens (bool [B, N]) to the nearest token of lower
        rank; of the token of rank 0 to the farthest token."""

    def nearest_center(self, centers: Array, among: Array | None = None) -> Array:
        """The place in centers [B, K] of the nearest centre, the first of equally near ones: [B, N].

        among: int64 [N, M], the places that count for each token, ascending and -1 for none; all if left out.
        """


def density_peaks(
    high: Array,
    low: Array,
    mask: Array,
    num_clusters: int,
    k: int,
    blocks: Blocks | None,
    search_on: Callable[[Array, Array], Search],
) -> tuple[Array, Array]:
    """`dpc_knn` given the range of each channel, float64 [B, C], and a search on the grid made of it.

    blocks: equal ones, as many as clusters, the densest token of each of which is a centre; None for centres
    wherever peaks are highest. search_on takes middle, float64 [B, C], and step, float64 [B], as
    `fixed_point` gives them.
    """
    (batch, num_tokens), width = mask.shape, high.shape[1]
    num_clusters, k = min(num_clusters, num_tokens), min(k, num_tokens)
    if num_clusters == num_tokens and mask.all():
        identity = np.tile(np.arange(num_tokens), (batch, 1))
        return identity, identity.copy()
    middle, step = fixed_point(high, low, k)
    search = search_on(middle, step)
    nearest_sq, nearest = search.neighbours(k)  # [B, N, k] each, in units of step^2
    mean_sq, order = _by_density(nearest_sq, mask)  # [B, N] each
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(num_tokens)[None], axis=1)
    if blocks is not None:
        centers = _densest(rank, order, blocks.owner, num_clusters)
        return _assign(search.nearest_center(centers, blocks.around), centers, mask), centers
    # For most tokens a denser one is among the neighbours; only for the others it is searched for.
    is_denser = (
        np.take_along_axis(rank, nearest.reshape(batch, -1), 1).reshape(nearest.shape) < rank[..., None]
    )
    delta_sq = np.where(is_denser, nearest_sq, np.inf).min(2)
    wanted = np.isinf(delta_sq) & mask
    delta_sq[wanted] = search.to_denser(rank, wanted)
    centers = _highest(mean_sq, delta_sq, step, width, mask, num_clusters)
    return _assign(search.nearest_center(centers), centers, mask), centers


def fixed_point(high: Array, low: Array, k: int) -> tuple[Array, Array]:
    """Where integers stand for features: middle float64 [B, C], step float64 [B], a power of two.

    high, low: float64 [B, C], the range of each channel. Each channel is centred on its mid-range, which
    leaves distances as they are and takes away the constant part of outlier channels. The integers are small
    enough for float32, and float64 sums over k squared distances of them are exact in any order.
    """
    # A sum of k squared distances is at most 4 * width * k * 2^(2 bits), and must stay below 2^53.
    bits = min(24, (51 - math.ceil(math.log2(high.shape[1])) - math.ceil(math.log2(k))) // 2)
    middle = low + (high / 2 - low / 2)  # halved first: the difference might overflow
    largest = np.maximum(high - middle, middle - low).max(1)
    # Beyond this exponent the inverse of a step is no float: such differences count as none.
    return middle, np.ldexp(1.0, np.maximum(np.frexp(largest)[1] - bits, -1000))


def _by_density(nearest_sq: Array, mask: Array) -> tuple[Array, Array]:
    """The mean of the finite distances [B, N, k] of each token, and the tokens in order of falling density.

    float64 [B, N], infinite for tokens that the mask leaves out, and int64 [B, N]; equal ones by index.
    """
    finite = np.isfinite(nearest_sq)
    mean_sq = np.where(finite, nearest_sq, 0.0).sum(2) / np.maximum(finite.sum(2), 1)
    mean_sq[~mask] = np.inf
    return mean_sq, np.argsort(mean_sq, axis=1, kind="stable")


def _highest(
    mean_sq: Array, delta_sq: Array, step: Array, width: int, mask: Array, num_clusters: int
) -> Array:
    """The tokens of the highest score, log(delta) - mean, in raster order, int64 [B, K]; -1 pads.

    mean_sq, delta_sq: float64 [B, N] in multiples of step^2, float64 [B]. Equal scores go to the lower index.
    """
    # The limits change no order: beyond them one of the two terms is nothing beside the other.
    limited = np.clip(step, 2.0**-450, 2.0**450)
    unit = (limited * limited / width)[:, None]
    # The C library's logarithm: numpy's depends on the processor. Tokens that coincide are log(0) apart, and
    # come last.
    delta = np.where(mask, delta_sq * unit, 0.0)
    logarithms = [math.log(value) if value > 0 else -math.inf for value in delta.ravel().tolist()]
    losses = np.where(mask, mean_sq * unit, 0.0) - 0.5 * np.reshape(logarithms, delta.shape)
    chosen = np.lexsort((losses, ~mask))[:, :num_clusters]  # stable
    last = mask.shape[1]  # sorts behind all tokens
    centers = np.sort(np.where(np.take_along_axis(mask, chosen, 1), chosen, last), axis=1)
    return np.where(centers == last, -1, centers)


def _densest(rank: Array, order: Array, owner: Array, num_blocks: int) -> Array:
    """The token of lowest rank of each block, int64 [B, K].

    rank: int64 [B, N], order: the tokens by their rank, owner: int64 [N], the block of each token.
    """
    first = np.full((len(rank), num_blocks), rank.shape[1])
    for image, ranks in enumerate(rank):
        np.minimum.at(first[image], owner, ranks)
    return np.take_along_axis(order, first, 1)


def _assign(nearest_center: Array, centers: Array, mask: Array) -> Array:
    """The cluster of each token, int64 [B, N]: that of its nearest centre; -1 for masked tokens."""
    owner = np.where(mask, nearest_center, -1)
    for assignment, tokens in zip(owner, centers, strict=True):
        present = np.flatnonzero(tokens >= 0)
        assignment[tokens[present]] = present  # its own, even where it coincides with an earlier centre
    return owner


def _range(features: Array, mask: Array) -> tuple[Array, Array]:
    """The largest and the smallest value of each channel of each image, float64 [B, C]; 0 without tokens."""
    if mask.all():
        high, low = features.max(1), features.min(1)
    else:
        high = np.where(mask[..., None], features, -np.inf).max(1)
        low = np.where(mask[..., None], features, np.inf).min(1)
        high[~mask.any(1)] = low[~mask.any(1)] = 0.0
    if not (np.isfinite(high).all() and np.isfinite(low).all()):
        raise_not_finite(features, mask)
    return high.astype(np.float64), low.astype(np.float64)


def raise_not_finite(features: Array, mask: Array) -> None:
    """Raises the ValueError that names the first of the values that are not finite."""
    bad = ~np.isfinite(features) & mask[..., None]
    image, token, channel = np.argwhere(bad)[0].tolist()
    raise ValueError(
        f"features[{image}, {token}, {channel}] is {features[image, token, channel]} "
        f"({int(bad.sum())} of {bad.size} values are not finite); merging needs finite features"
    )


def as_points(features: Array) -> Array:
    """Features as the kernels take them: float64 stays, everything else becomes float32; contiguous."""
    return np.ascontiguousarray(features, dtype=None if features.dtype == np.float64 else np.float32)
