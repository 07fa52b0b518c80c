"""Token merging: clusters of feature tokens by density peaks (DPC-KNN) or blocks, then averages within them.

numpy alone on arrays, and numba where density peaks are searched for; tensors are welcome and come back as
tensors, by way of `merging_torch`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders import merging_peaks
from encoders.merging_peaks import MAX_WIDTH

__all__ = ["Clusters", "block_clusters", "cluster_tokens", "dpc_knn", "merge_tokens"]

Array = NDArray[Any]
Parts = tuple[tuple[int, int], ...]


class Clusters(NamedTuple):
    """A partition of the tokens of each image: arrays for features that are an array, tensors for tensors.

    assignment: int64 [B, N], the cluster 0..K-1 of each token, -1 for tokens that the mask leaves out.
    centers: int64 [B, K], the token that is the centre of each cluster, ascending (raster order), or in the
    order of their blocks; -1 pads the end of images that have fewer valid tokens than K.
    """

    assignment: Any
    centers: Any


def cluster_tokens(features: Any, num_clusters: int, way: str, grid: Parts, k: int = 5) -> Clusters:
    """Cluster the tokens of each image in one of the ways that a checkpoint may name.

    way: "dpc_knn", centres wherever density peaks are highest; "spread", the densest token of each of K equal
    blocks of the grid; "blocks", those blocks themselves. features: [B, N, C]; grid: as for `dpc_knn`; k:
    neighbours of the density estimate. Raises ValueError for another way, and what `dpc_knn` raises.
    """
    if way == "blocks":
        return block_clusters(features, num_clusters, grid)
    if way not in ("dpc_knn", "spread"):
        raise ValueError(f"way is {way!r}; choose dpc_knn, spread or blocks")
    return dpc_knn(features, num_clusters, k, grid=grid if way == "spread" else None)


def dpc_knn(
    features: Any, num_clusters: int, k: int = 5, mask: Any = None, grid: Parts | None = None
) -> Clusters:
    """Cluster the tokens of each image around its density peaks.

    features: [B, N, C], array or tensor of any floating dtype. num_clusters: K >= 1. k: neighbours of the
    density estimate, counting the token itself as the published procedure does; at most the number of tokens
    is used. mask: bool [B, N], True for the tokens that count; the others get assignment -1 and influence
    nothing.

    grid: (rows, columns) of the patches, one pair for each grid whose tokens follow one another in raster
    order. Where it is given, centres are spread: it is cut into K equal blocks (`cut`), the
    densest token of each is a centre, and tokens join the nearest centre of their own block and of those that
    touch it. Without it, centres lie wherever peaks are highest. Not together with a mask.

    K >= N is the identity (K becomes N). With a mask, an image with fewer than K valid tokens keeps each
    of them as its own cluster, and its last centres are -1.

    Density-peak clustering with k-nearest-neighbour density (Du et al. 2016, as used for tokens by
    TCFormer and TOFC), in the log domain: with distances divided by sqrt(C), a token is the denser the
    smaller the mean of its k smallest squared distances; delta is the distance to the nearest denser
    token (the largest distance for the densest one), and the K largest log(delta) - mean are the centres.
    All ties go to the lower index, nothing is random. Distances are computed in fixed point, exactly: the
    result does not depend on the batch, the device, the number of threads, autocast or the library.

    Raises TypeError or ValueError on wrong shapes and dtypes, and where a valid token holds a NaN or an
    infinity.
    """
    _check_arguments(features, num_clusters, k, mask, grid)
    blocks = None if grid is None else cut(tuple(grid), min(num_clusters, features.shape[1]))
    if not isinstance(features, np.ndarray):
        from encoders import merging_torch

        return Clusters(*merging_torch.cluster(features, num_clusters, k, mask, blocks))
    valid = np.ones(features.shape[:2], dtype=np.bool_) if mask is None else mask
    return Clusters(*merging_peaks.cluster(features, num_clusters, k, valid, blocks))


def block_clusters(features: Any, num_clusters: int, grid: Parts) -> Clusters:
    """Cluster the tokens of each image by where they are: the grid cut into K equal blocks.

    features: [B, N, C], whose values are not looked at; grid: as for `dpc_knn`. Blocks are in the order of
    `cut`; the centre of each is the middle one of its tokens in raster order. K >= N is the
    identity (K becomes N). Raises TypeError or ValueError as `dpc_knn` does.
    """
    _check_arguments(features, num_clusters, 1, None, grid)
    batch, num_tokens = features.shape[:2]
    owner = cut(tuple(grid), min(num_clusters, num_tokens)).owner
    middle = np.cumsum(sizes := np.bincount(owner)) - (sizes + 1) // 2
    centers = np.argsort(owner, kind="stable")[middle]
    found = np.tile(owner, (batch, 1)), np.tile(centers, (batch, 1))
    if isinstance(features, np.ndarray):
        return Clusters(*found)
    from encoders import merging_torch

    return Clusters(*merging_torch.beside(features, *found))


class Blocks(NamedTuple):
    """A grid cut into K blocks; read-only, because calls share it.

    owner: int64 [N], the block 0..K-1 of each token. around: int64 [N, M], that block and those that touch
    it, at a corner at least, ascending; -1 fills up.
    """

    owner: Array
    around: Array


@lru_cache(maxsize=64)
def cut(parts: Parts, num_blocks: int) -> Blocks:
    """Cut the tokens of an image into blocks of neighbouring patches, as equal as their number allows.

    parts: (rows, columns) of grids whose tokens follow one another in raster order; each gets blocks in
    proportion to its tokens, and one at least. Blocks are numbered band by band of rows; bands have as many
    as keep blocks square. num_blocks: K, from the number of parts to that of tokens.

    Raises ValueError for other numbers of blocks, and for a part without patches.
    """
    sizes = [rows * columns for rows, columns in parts]
    if not parts or min(min(part) for part in parts) < 1:
        raise ValueError(f"grid is {list(parts)}; give the rows and columns of at least one")
    if not len(parts) <= num_blocks <= sum(sizes):
        raise ValueError(
            f"{num_blocks} blocks of {len(parts)} grids with {sum(sizes)} patches: give {len(parts)} to "
            f"{sum(sizes)}"
        )
    spare = np.cumsum([0, *(size - 1 for size in sizes)]) * (num_blocks - len(parts))
    shares = 1 + np.diff(spare // max(1, sum(sizes) - len(parts)))
    owners, touching, first = [], np.eye(num_blocks, dtype=np.bool_), 0
    for (rows, columns), share in zip(parts, shares.tolist(), strict=True):
        owner = first + _bands(rows, columns, share)  # [rows, columns]
        _touch(owner, touching)
        owners.append(owner.ravel())
        first += share
    owner = np.concatenate(owners)
    around = np.full((num_blocks, int(touching.sum(1).max())), -1)
    for block, others in enumerate(touching):
        around[block, : others.sum()] = np.flatnonzero(others)
    found = Blocks(owner, around[owner])
    for array in found:
        array.setflags(write=False)
    return found


def _bands(rows: int, columns: int, count: int) -> Array:
    """The block, from 0, of each patch of one grid, int64 [rows, columns]."""
    fewest = -(-count // columns)  # a band has no more blocks than columns
    bands = int(np.clip(round((count * rows / columns) ** 0.5), fewest, min(rows, count)))
    tops, firsts = np.arange(bands + 1) * rows // bands, np.arange(bands + 1) * count // bands
    owner = np.empty((rows, columns), dtype=np.int64)
    for band in range(bands):
        size = firsts[band + 1] - firsts[band]
        widths = np.diff(np.arange(size + 1) * columns // size)
        owner[tops[band] : tops[band + 1]] = firsts[band] + np.repeat(np.arange(size), widths)
    return owner


def _touch(owner: Array, touching: Array) -> None:
    """Mark in touching, bool [K, K], which blocks have patches next to one another, also across a corner."""
    rows, columns = owner.shape
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        left, start = max(0, -right), max(0, right)
        here = owner[: rows - down, left : columns - start]
        there = owner[down:, start : columns - left]
        touching[here, there] = touching[there, here] = True


def merge_tokens(features: Any, clusters: Clusters) -> tuple[Any, Any]:
    """Average the tokens of each cluster.

    features: [B, N, C]; clusters: from `dpc_knn` on the same tokens. Returns merged [B, K, C] in float32
    (float64 for float64 features), and counts int64 [B, K]; of tensors differentiable in features. A padded
    cluster (centre -1) has count 0 and a merged row of zeros. Masked tokens are left out, and get no
    gradient.
    """
    assignment, centers = clusters
    if features.ndim != 3 or features.shape[:2] != assignment.shape:
        raise ValueError(
            f"features of shape {tuple(features.shape)} do not belong to these clusters; expected "
            f"[{assignment.shape[0]}, {assignment.shape[1]}, C]"
        )
    if not isinstance(features, np.ndarray):
        from encoders import merging_torch

        return merging_torch.merge(features, assignment, centers)
    features = merging_peaks.as_points(features)
    merged = np.zeros((*centers.shape, features.shape[2]), dtype=features.dtype)  # [B, K, C]
    counts = np.zeros(centers.shape, dtype=np.int64)
    for values, cluster, total, count in zip(features, assignment, merged, counts, strict=True):
        _sum_by_cluster(values, cluster, total, count)
    merged /= np.maximum(counts, 1)[..., None].astype(merged.dtype)
    return merged, counts


def _sum_by_cluster(features: Array, assignment: Array, sums: Array, counts: Array) -> None:
    """Fill sums [K, C] and counts [K]; tokens of a cluster are added in order, which sums of floats show."""
    tokens = np.argsort(assignment, kind="stable")[np.count_nonzero(assignment < 0) :]  # by cluster
    counts[:] = np.bincount(assignment[tokens], minlength=len(counts))
    first = np.cumsum(counts) - counts
    for nth in range(counts.max()):
        larger = np.flatnonzero(counts > nth)
        sums[larger] += features[tokens[first[larger] + nth]]


def _check_arguments(features: Any, num_clusters: int, k: int, mask: Any, grid: Parts | None) -> None:
    if features.ndim != 3 or 0 in features.shape[1:]:
        raise ValueError(f"features must be [B, N, C] with N, C >= 1, got {tuple(features.shape)}")
    if features.shape[2] > MAX_WIDTH:
        raise ValueError(f"features may be up to {MAX_WIDTH} wide, got {tuple(features.shape)}")
    if not _is_floating(features):
        raise TypeError(f"features must be floating point, got {features.dtype}")
    if num_clusters < 1:
        raise ValueError(f"num_clusters must be at least 1, got {num_clusters}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if grid is not None:
        patches = sum(rows * columns for rows, columns in grid)
        if mask is not None or patches != features.shape[1]:
            raise ValueError(
                f"a grid of {patches} patches does not go with {features.shape[1]} tokens"
                f"{'' if mask is None else ' and a mask'}: give that of all tokens"
            )
    if mask is None:
        return
    if str(mask.dtype).removeprefix("torch.") != "bool":
        raise TypeError(f"mask must be boolean, got {mask.dtype}")
    if mask.shape != features.shape[:2]:
        raise ValueError(f"mask must be [B, N] = {tuple(features.shape[:2])}, got {tuple(mask.shape)}")


def _is_floating(features: Any) -> bool:
    if isinstance(features, np.ndarray):
        return features.dtype.kind == "f"
    return bool(features.is_floating_point())
