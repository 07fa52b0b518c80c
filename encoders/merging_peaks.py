"""The small steps of merging, the same for every search: grid, ranks, scores, centres, clusters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from encoders.merging_threads import Array, compiled


@compiled(set())
def middle_and_step(high: Array, low: Array, bits: int) -> Any:
    """The middle of each range, float64 [B, C], and the least power of two by which all of an image fit into
    bits, float64 [B]."""
    middle, step = np.empty(high.shape), np.empty(len(high))
    for image in range(len(high)):
        largest = 0.0
        for channel in range(high.shape[1]):
            upper, lower = high[image, channel], low[image, channel]
            center = lower + (upper / 2 - lower / 2)  # halved first: the difference might overflow
            middle[image, channel] = center
            largest = max(largest, upper - center, center - lower)
        # Beyond this exponent the inverse of a step is no float: such differences count as none.
        step[image] = math.ldexp(1.0, max(math.frexp(largest)[1] - bits, -1000))
    return middle, step


@compiled(set())
def rank_by_density(nearest_sq: Array, mask: Array) -> Any:
    """The mean of the finite distances of each token, and its place in the order of falling density.

    nearest_sq: float64 [B, N, k], integers, so that sums are exact. Returns float64 [B, N], infinite for
    tokens that the mask leaves out, and int64 [B, N]; equal densities in order of index.
    """
    batch, num_tokens = mask.shape
    mean_sq, rank = np.empty((batch, num_tokens)), np.empty((batch, num_tokens), dtype=np.int64)
    for image in range(batch):
        for token in range(num_tokens):
            total, count = 0.0, 0
            for distance in nearest_sq[image, token]:
                if distance < np.inf:
                    total, count = total + distance, count + 1
            mean_sq[image, token] = total / max(count, 1) if mask[image, token] else np.inf
        order = np.argsort(mean_sq[image], kind="mergesort")  # stable
        for place in range(num_tokens):
            rank[image, order[place]] = place
    return mean_sq, rank


@compiled(set())
def to_denser_neighbour(nearest_sq: Array, nearest: Array, rank: Array, mask: Array) -> Any:
    """Squared distance of each token to the nearest denser one of its neighbours, infinite where none is.

    float64 [B, N]; and for which of the tokens that count none is, bool [B, N].
    """
    batch, num_tokens, k = nearest_sq.shape
    found, wanted = np.full((batch, num_tokens), np.inf), np.empty((batch, num_tokens), dtype=np.bool_)
    for image in range(batch):
        for token in range(num_tokens):
            for at in range(k):
                if rank[image, nearest[image, token, at]] < rank[image, token]:
                    found[image, token] = min(found[image, token], nearest_sq[image, token, at])
            wanted[image, token] = found[image, token] == np.inf and mask[image, token]
    return found, wanted


@compiled(set())
def highest(
    mean_sq: Array, delta_sq: Array, step: Array, width: int, mask: Array, num_clusters: int
) -> Array:
    """The tokens of the highest score, log(delta) - mean, in raster order, int64 [B, K]; -1 pads.

    mean_sq, delta_sq: float64 [B, N] in multiples of step^2, float64 [B]. Equal scores go to the lower index.
    """
    centers = np.full((len(mask), num_clusters), -1)
    for image in range(len(mask)):
        # The limits change no order: beyond them one of the two terms is nothing beside the other.
        limited = min(max(step[image], 2.0**-450), 2.0**450)
        unit = limited * limited / width
        tokens = np.nonzero(mask[image])[0]
        losses = np.empty(tokens.size)
        for place, token in enumerate(tokens):  # coinciding tokens are log(0) apart: infinite, and the last
            delta, mean = delta_sq[image, token] * unit, mean_sq[image, token] * unit
            losses[place] = mean - 0.5 * np.log(delta)
        chosen = np.sort(tokens[np.argsort(losses, kind="mergesort")[:num_clusters]])
        centers[image, : chosen.size] = chosen
    return centers


@compiled(set())
def densest(rank: Array, owner: Array, num_blocks: int) -> Array:
    """The token of lowest rank of each block, int64 [B, K].

    rank: int64 [B, N], owner: int64 [N], the block of each token.
    """
    centers = np.full((len(rank), num_blocks), -1)
    for image in range(len(rank)):
        for token in range(owner.size):
            best = centers[image, owner[token]]
            if best < 0 or rank[image, token] < rank[image, best]:
                centers[image, owner[token]] = token
    return centers


@compiled(set())
def assign(nearest_center: Array, centers: Array, mask: Array) -> Array:
    """The cluster of each token, int64 [B, N]: that of its nearest centre; -1 for masked tokens."""
    owner = np.where(mask, nearest_center, -1)
    for image in range(len(centers)):
        for cluster, token in enumerate(centers[image]):
            if token >= 0:  # its own, even where it coincides with an earlier centre
                owner[image, token] = cluster
    return owner
