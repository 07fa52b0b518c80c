"""Distance search on a CPU: a product of bytes says which pairs matter, integers decide among them.

A matrix product of tokens rounded to bytes bounds every squared distance from below. A pair whose bound is
already too large is done with; the others, a few for each token, are computed exactly from the integers. So
the answers are those of `merging_dense`, to the bit, however the product is computed: it decides only how
many pairs are computed twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders import merging_kernels as kernels
from encoders import merging_products

_MAX_BLOCK_ENTRIES = 1 << 22  # a block of products, 16 MiB, however many tokens there are
_MIN_UNIT_ENTRIES = 1 << 17  # fewer distances than that, or bytes, are not worth waking a thread for
_UNITS_PER_THREAD = 6  # more are more evenly spread, and more to hand out

Array = NDArray[Any]


class Tokens(NamedTuple):
    """Tokens of some images, and what bounds their distances.

    points: int32 [B, N, C]. For the bounds they are moved by a typical one, which leaves distances as they
    are and makes lengths short: rounded, int8 [B, N, C'], is what they are then divided by scales, float64
    [B, N], and zeros up to a width that is a multiple of 64. lengths, float64 [B, N], are theirs; norms,
    float64 [B, N], the squares, infinite for tokens to leave out; errors, float64 [B, N], upper bounds of the
    lengths of what rounding takes away; sums, int32 [B, N], those of the bytes.
    """

    scales: Array
    norms: Array
    lengths: Array
    errors: Array
    points: Array
    rounded: Array
    sums: Array

    def part(self, images: slice, rows: slice) -> Tokens:
        """Some rows of some images."""
        return Tokens(*(values[images, rows] for values in self))

    def select(self, index: Array) -> Tokens:
        """Some tokens of each image, by index [B, R]; where that is negative, tokens to leave out."""
        images = np.arange(len(index))[:, None]
        chosen = Tokens(*(values[images, index] for values in self))
        chosen.norms[index < 0] = np.inf
        return chosen


class ScreenedSearch:
    """Nearest tokens by exact distances between integer points.

    features: [B, N, C], float32 or float64, contiguous; middle: float64 [B, C] and step: float64 [B], which
    take features to integer points of absolute value up to 2^26, whose squared distances are below 2^53;
    mask: bool [B, N], False for tokens to leave out; threads: how many to use, which changes no result.
    """

    def __init__(self, features: Array, middle: Array, step: Array, mask: Array, threads: int) -> None:
        batch, num_tokens, width = features.shape
        self._threads = threads
        padded = -(-width // merging_products.STEP) * merging_products.STEP
        scales, norms, lengths, errors = np.empty((4, batch, num_tokens))
        self._tokens = Tokens(
            scales,
            norms,
            lengths,
            errors,
            points=np.empty((batch, num_tokens, width), dtype=np.int32),
            rounded=np.empty((batch, num_tokens, padded), dtype=np.int8),
            sums=np.empty((batch, num_tokens), dtype=np.int32),
        )
        offset = np.empty((batch, width), dtype=np.int32)
        grid = features, middle, 1.0 / step, mask, offset
        for image in range(batch):
            kernels.typical(image, *grid)
        self._spread(kernels.round_tokens, batch, num_tokens, width, *grid, tuple(self._tokens))

    def neighbours(self, k: int) -> tuple[Array, Array]:
        """The k smallest squared distances of each token, itself included, and to which tokens: [B, N, k]
        each.

        Where there are fewer valid tokens than k, infinite distances fill up.
        """
        return self._nearest(self._tokens, self._tokens, k)

    def to_denser(self, rank: Array, wanted: Array) -> Array:
        """Squared distances, one after another, of the wanted tokens (bool [B, N]) to the nearest token of
        lower rank; of the token of rank 0 to the farthest token."""
        counts = wanted.sum(1)
        is_used = np.arange(counts.max()) < counts[:, None]  # [B, R]: images want more tokens or fewer
        index = np.full(is_used.shape, -1)
        index[is_used] = wanted.nonzero()[1]
        ranks = rank.astype(np.int32)
        own = np.take_along_axis(ranks, index, 1)
        distances = self._nearest(self._tokens.select(index), self._tokens, 1, own, ranks)[0][..., 0]
        for image, at in zip(*(is_used & (own == 0)).nonzero(), strict=True):
            points, norms = self._tokens.points[image], self._tokens.norms[image]
            distances[image, at] = kernels.farthest(points, norms, index[image, at])
        return distances[is_used]

    def nearest_center(self, centers: Array) -> Array:
        """The place in centers [B, K] of the nearest centre, the first of equally near ones: [B, N]."""
        return self._nearest(self._tokens, self._tokens.select(centers), 1)[1][..., 0]

    def _nearest(
        self,
        queries: Tokens,
        tokens: Tokens,
        k: int,
        query_ranks: Array | None = None,
        ranks: Array | None = None,
    ) -> tuple[Array, Array]:
        """Squared distances float64 [B, R, k] of each query to its k nearest tokens, and their places.

        Equal distances in order of place; infinite distances where there are fewer than k. Where ranks, int32
        [B, R] and [B, N], are given, only tokens of lower rank than the query count.
        """
        batch, num_queries = queries.norms.shape
        num_tokens = tokens.norms.shape[1]
        if query_ranks is None or ranks is None:
            query_ranks = np.ones((batch, num_queries), dtype=np.int32)
            ranks = np.zeros((batch, num_tokens), dtype=np.int32)
        distances = np.empty((batch, num_queries, k))
        places = np.empty((batch, num_queries, k), dtype=np.int64)
        for images, rows in _blocks(batch, num_queries, num_tokens):
            some, others = queries.part(images, rows), tokens.part(images, slice(None))
            found = distances[images, rows], places[images, rows]
            is_symmetric = queries is tokens and some.norms.shape == others.norms.shape
            products = self._products(some, others, is_symmetric)
            self._spread(
                kernels.nearest, *products.shape,
                tuple(some), query_ranks[images, rows], tuple(others), ranks[images], products, *found,
            )  # fmt: skip
        return distances, places

    def _products(self, left: Tokens, right: Tokens, is_symmetric: bool) -> Array:
        """left @ right^T of the bytes, [B, R, N]: int32, or float32 with what sums lose in it."""
        batch, num_rows, width = left.rounded.shape
        if not merging_products.multiplies_bytes() or width > merging_products.MAX_WIDTH:
            return left.rounded.astype(np.float32) @ right.rounded.astype(np.float32).swapaxes(1, 2)
        products = np.empty((batch, num_rows, right.rounded.shape[1]), dtype=np.int32)
        self._spread(
            merging_products.multiply, *products.shape,
            left.rounded, right.rounded, right.sums, is_symmetric, products,
        )  # fmt: skip
        return products

    def _spread(
        self, kernel: Callable[..., None], batch: int, rows: int, columns: int, *arguments: Any
    ) -> None:
        """Call a kernel for all rows of all images, units of some rows at a time, on several threads."""
        units = min(batch * rows * columns // _MIN_UNIT_ENTRIES, _UNITS_PER_THREAD * self._threads)
        if units <= 1 or self._threads == 1:
            rows_per_unit = rows
        else:
            rows_per_unit = -(-rows // -(-units // batch))
            rows_per_unit = -(-rows_per_unit // 4) * 4
        left = iter(range(batch * -(-rows // rows_per_unit)))  # whoever is free takes the next

        def work() -> None:
            for unit in left:
                kernel(unit, rows_per_unit, *arguments)

        helpers = [_pool(os.getpid()).submit(work) for _ in range(min(self._threads, units) - 1)]
        work()
        for helper in helpers:
            if not helper.cancel():  # it has begun
                helper.result()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads of this process: a fork has none of its parent's."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="merging")


def _blocks(batch: int, num_queries: int, num_tokens: int) -> Iterator[tuple[slice, slice]]:
    """Images and rows that may be computed at once: some whole images, or some rows of one."""
    images = max(1, _MAX_BLOCK_ENTRIES // max(1, num_queries * num_tokens))
    rows = max(1, num_queries if images > 1 else _MAX_BLOCK_ENTRIES // num_tokens)
    for first in range(0, batch, images):
        for start in range(0, num_queries, rows):
            yield slice(first, first + images), slice(start, start + rows)
