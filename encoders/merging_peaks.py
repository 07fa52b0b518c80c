"""Which tokens are density peaks: ranks, scores and centres, the same for every search."""

from __future__ import annotations

from typing import Any

import numpy as np

from encoders.merging_threads import Array, compiled


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
def to_denser_neighbour(nearest_sq: Array, nearest: Array, rank: Array) -> Array:
    """Squared distance of each token to the nearest denser one of its neighbours, infinite where none is."""
    batch, num_tokens, k = nearest_sq.shape
    found = np.full((batch, num_tokens), np.inf)
    for image in range(batch):
        for token in range(num_tokens):
            for at in range(k):
                if rank[image, nearest[image, token, at]] < rank[image, token]:
                    found[image, token] = min(found[image, token], nearest_sq[image, token, at])
    return found


@compiled(set())
def highest(mean_sq: Array, delta_sq: Array, unit: Array, mask: Array, num_clusters: int) -> Array:
    """The tokens of the highest score, log(delta) - mean, in raster order, int64 [B, K]; -1 pads.

    mean_sq, delta_sq: float64 [B, N] in multiples of unit, float64 [B]. Equal scores go to the lower index.
    """
    centers = np.full((len(mask), num_clusters), -1)
    for image in range(len(mask)):
        tokens = np.nonzero(mask[image])[0]
        losses = np.empty(tokens.size)
        for place, token in enumerate(tokens):  # coinciding tokens are log(0) apart: infinite, and the last
            delta, mean = delta_sq[image, token] * unit[image], mean_sq[image, token] * unit[image]
            losses[place] = mean - 0.5 * np.log(delta)
        chosen = np.sort(tokens[np.argsort(losses, kind="mergesort")[:num_clusters]])
        centers[image, : chosen.size] = chosen
    return centers
