"""Distance search on a CPU: a product of bytes says which pairs matter, integers decide among them.

A matrix product of tokens rounded to bytes bounds every squared distance from below. A pair whose bound is
already too large is done with; the others, a few for each token, are computed exactly from the integers. So
the answers are those of `merging_dense`, to the bit, however the product is computed: it decides only how
many pairs are computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders import merging_kernels as kernels

_MAX_BLOCK_ENTRIES = 1 << 22  # a block of products, 16 MiB, however many tokens there are
_MAX_KEPT_ENTRIES = 1 << 24  # products of all images, 64 MiB, are kept where they fit
_SYMMETRIC_ROWS = 192  # of the products of all tokens with all, half are computed, this many rows at once

Array = NDArray[Any]
# left @ right^T of bytes, [..., R, C] and [..., N, C]: int32, or float32 with what sums lose in it.
Multiply = Callable[[Array, Array], Array]


def multiply_floats(left: Array, right: Array) -> Array:
    """left @ right^T of bytes as float32, which has fast products everywhere."""
    return left.astype(np.float32) @ right.astype(np.float32).swapaxes(-1, -2)


class Tokens(NamedTuple):
    """The tokens of one image, and what bounds their distances.

    points: int32 [N, C]. For the bounds they are moved by their mean, which leaves distances as they are and
    makes lengths short: rounded, int8 [N, C], is what they are then divided by scales, float64 [N]. lengths,
    float64 [N], are theirs; norms, float64 [N], the squares, infinite for tokens to leave out; errors,
    float64 [N], upper bounds of the lengths of what rounding takes away.
    """

    scales: Array
    norms: Array
    lengths: Array
    errors: Array
    points: Array
    rounded: Array

    def select(self, index: Array | slice) -> Tokens:
        """Some of the tokens, [R] or a slice of rows."""
        return Tokens(*(part[index] for part in self))

    def without_bytes(self) -> tuple[Array, ...]:
        """All but the bytes, for `merging_kernels.nearest`."""
        return tuple(self[:5])


class ScreenedSearch:
    """Nearest tokens by exact distances between integer points.

    features: [B, N, C], float32 or float64, contiguous; middle: float64 [B, C] and step: float64 [B], which
    take features to integer points of absolute value up to 2^26, whose squared distances are below 2^53;
    mask: bool [B, N], False for tokens to leave out; multiply: how bytes are multiplied, which changes no
    result.
    """

    def __init__(
        self, features: Array, middle: Array, step: Array, mask: Array, multiply: Multiply = multiply_floats
    ) -> None:
        self._multiply = multiply
        self._images = [_tokens(*image) for image in zip(features, middle, step, mask, strict=True)]
        batch, num_tokens, _ = features.shape
        kept = batch * num_tokens**2 <= _MAX_KEPT_ENTRIES and num_tokens**2 <= _MAX_BLOCK_ENTRIES
        self._products = self._all_products([t.rounded for t in self._images]) if kept else [None] * batch

    def neighbours(self, k: int) -> tuple[Array, Array]:
        """The k smallest squared distances of each token, itself included, and to which tokens: [B, N, k]
        each.

        Where there are fewer valid tokens than k, infinite distances fill up.
        """
        images = zip(self._images, self._products, strict=True)
        found = [self._nearest(tokens, tokens, k, products) for tokens, products in images]
        return np.stack([f[0] for f in found]), np.stack([f[1] for f in found])

    def to_denser(self, rank: Array, wanted: Array) -> Array:
        """Squared distances, one after another, of the wanted tokens (bool [B, N]) to the nearest token of
        lower rank; of the token of rank 0 to the farthest token."""
        found = []
        for tokens, products, ranks, chosen in zip(
            self._images, self._products, rank.astype(np.int32), wanted, strict=True
        ):
            index = np.flatnonzero(chosen)
            products = None if products is None else products[index]
            own = ranks[index]
            distance = self._nearest(tokens.select(index), tokens, 1, products, (own, ranks))[0][:, 0]
            for first in np.flatnonzero(own == 0):
                distance[first] = kernels.farthest(tokens.points, tokens.norms, index[first])
            found.append(distance)
        return np.concatenate(found)

    def nearest_center(self, centers: Array) -> Array:
        """The place in centers [B, K] of the nearest centre, the first of equally near ones: [B, N]."""
        found = []
        for tokens, products, center in zip(self._images, self._products, centers, strict=True):
            center = center[center >= 0]
            products = None if products is None else np.ascontiguousarray(products[center].T)
            found.append(self._nearest(tokens, tokens.select(center), 1, products)[1][:, 0])
        return np.stack(found)

    def _nearest(
        self,
        queries: Tokens,
        tokens: Tokens,
        k: int,
        products: Array | None,
        both_ranks: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Array]:
        """Squared distances float64 [Q, k] of each query to its k nearest tokens, and their places [Q, k].

        Equal distances in order of place; infinite distances where there are fewer than k. products: of
        their bytes, [Q, N], where they are at hand. both_ranks: int32 [Q] and [N]; where given, only tokens
        of lower rank than the query count.
        """
        num_queries, num_tokens = len(queries.norms), len(tokens.norms)
        distances = np.full((num_queries, k), np.inf)
        places = np.zeros((num_queries, k), dtype=np.int64)
        if num_tokens == 0:
            return distances, places
        if both_ranks is None:
            both_ranks = np.ones(num_queries, dtype=np.int32), np.zeros(num_tokens, dtype=np.int32)
        own_ranks, ranks = both_ranks
        size = max(1, _MAX_BLOCK_ENTRIES // num_tokens if products is None else num_queries)
        for start in range(0, num_queries, size):
            rows = slice(start, start + size)
            block = self._product(queries.rounded[rows], tokens.rounded) if products is None else products
            kernels.nearest(
                queries.select(rows).without_bytes(), own_ranks[rows], tokens.without_bytes(), ranks,
                block, distances[rows], places[rows],
            )  # fmt: skip
        return distances, places

    def _product(self, left: Array, right: Array) -> Array:
        return np.ascontiguousarray(self._multiply(left, right))

    def _all_products(self, rounded: list[Array]) -> list[Array | None]:
        """The products [N, N] of all tokens of each image with all."""
        if len(rounded) == 1 or len(rounded[0]) > 2 * _SYMMETRIC_ROWS:
            return [self._symmetric_product(image) for image in rounded]
        # Many small products are worth less than the threads' waiting for each other after each of them.
        together = np.stack(rounded)
        return list(self._product(together, together))

    def _symmetric_product(self, rounded: Array) -> Array:
        """rounded @ rounded^T, [N, N], for little more than half its cost."""
        num_tokens = len(rounded)
        if num_tokens <= 2 * _SYMMETRIC_ROWS:
            return self._product(rounded, rounded)
        products = np.empty((num_tokens, num_tokens), dtype=self._product(rounded[:1], rounded[:1]).dtype)
        for start in range(0, num_tokens, _SYMMETRIC_ROWS):
            stop = min(start + _SYMMETRIC_ROWS, num_tokens)
            products[start:stop, start:] = self._multiply(rounded[start:stop], rounded[start:])
            products[stop:, start:stop] = products[start:stop, stop:].T
        return products


def _tokens(features: Array, middle: Array, step: float, mask: Array) -> Tokens:
    num_tokens, width = features.shape
    points = np.empty((num_tokens, width), dtype=np.int32)
    sums = np.zeros(width, dtype=np.int64)
    kernels.to_grid(features, middle, 1.0 / float(step), mask, points, sums)
    offset = (sums // num_tokens).astype(np.int32)
    rounded = np.empty((num_tokens, width), dtype=np.int8)
    scales, norms, lengths, errors = np.empty((4, num_tokens))
    tokens = Tokens(scales, norms, lengths, errors, points, rounded)
    kernels.to_bytes(offset, rounded, *tokens.without_bytes())
    norms[~mask] = np.inf
    return tokens
