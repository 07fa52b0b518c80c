"""Distance search on a CPU: a product of bytes says which pairs matter, integers decide among them.

A matrix product of tokens rounded to bytes bounds every squared distance from below. A pair whose bound is
already too large is done with; of the others, some twenty for each token, the high bits of the integers give
a closer bound; the few that are left are computed exactly. So the answers are those of `merging_dense`, to
the bit, whatever the bounds are: they decide only how many pairs are looked at again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from encoders import merging_kernels as kernels
from encoders import merging_products
from encoders.merging_among import nearest_among
from encoders.merging_memory import Memory
from encoders.merging_threads import Array, Team, divide, run

_MAX_BLOCK_ENTRIES = 1 << 22  # a block of products, 16 MiB, however many tokens there are


class Tokens(NamedTuple):
    """Tokens of some images, and what bounds their distances.

    halves: int16 [B, N, 2, C'], the high and the low bits of the integer points, with zeros up to a width
    that is a multiple of 64; blurs: float64 [B, N], upper bounds of the lengths of the low ones. For the
    first bound points are moved by a typical one, which leaves distances as they are and makes lengths short:
    rounded, int8 [B, N, C'], is what they are then divided by scales, float64 [B, N]. lengths, float64
    [B, N], are theirs; norms, float64 [B, N], the squares, infinite for tokens to leave out; errors, float64
    [B, N], upper bounds of the lengths of what rounding takes away; sums, int32 [B, N], those of the bytes.
    """

    scales: Array
    norms: Array
    lengths: Array
    errors: Array
    blurs: Array
    halves: Array
    rounded: Array
    sums: Array


class ScreenedSearch:
    """Nearest tokens by exact distances between integer points.

    features: [B, N, C], float32 or float64, contiguous; middle: float64 [B, C] and step: float64 [B], which
    take features to integer points of absolute value up to 2^bits, whose squared distances are below 2^53;
    mask: bool [B, N], False for tokens to leave out; team: the threads to use, which change no result.
    """

    def __init__(
        self, features: Array, middle: Array, step: Array, bits: int, mask: Array, team: Team
    ) -> None:
        batch, num_tokens, width = features.shape
        self._team = team
        # As many high bits as leave sums of products of their differences, 16 at a time, within 32 bits.
        self._low_bits = max(1, bits - min(13, (33 - math.ceil(math.log2(width))) // 2))
        padded = -(-width // merging_products.STEP) * merging_products.STEP
        kept = batch * num_tokens if batch * num_tokens * num_tokens <= _MAX_BLOCK_ENTRIES else 0
        self._memory = Memory(
            ((batch, num_tokens, 2, padded), np.int16),
            ((batch, num_tokens, padded), np.int8),
            ((kept, num_tokens), np.int32),
        )
        halves, rounded, products = self._memory.arrays
        scales, norms, lengths, errors, blurs = np.empty((5, batch, num_tokens))
        sums = np.empty((batch, num_tokens), dtype=np.int32)
        self._tokens = Tokens(scales, norms, lengths, errors, blurs, halves, rounded, sums)
        self._all = np.tile(np.arange(num_tokens), (batch, 1))
        run(
            kernels.round_tokens, divide(team, *features.shape),
            features, middle, 1.0 / step, mask, self._low_bits, tuple(self._tokens),
        )  # fmt: skip
        # The products of all tokens with all, where they are few enough to be kept.
        self._products = products.reshape(batch, num_tokens, num_tokens) if kept else None
        if self._products is not None:
            self._multiply(rounded, rounded, sums, True, self._products)

    def neighbours(self, k: int) -> tuple[Array, Array]:
        """The k smallest squared distances of each token, itself included, and to which tokens: [B, N, k]
        each.

        Where there are fewer valid tokens than k, infinite distances fill up.
        """
        return self._nearest(self._all, self._all, k)

    def to_denser(self, rank: Array, wanted: Array) -> Array:
        """Squared distances, one after another, of the wanted tokens (bool [B, N]) to the nearest token of
        lower rank; of the token of rank 0 to the farthest token."""
        rows = kernels.wanted_rows(wanted)
        distances, _ = self._nearest(rows, self._all, 1, rank)
        tokens = self._tokens
        return kernels.of_wanted(distances, rows, rank, tokens.norms, tokens.halves, self._low_bits)

    def nearest_center(self, centers: Array, among: Array | None = None) -> Array:
        """The place in centers [B, K] of the nearest centre, the first of equally near ones: [B, N].

        among: int64 [N, M], the places that count for each token, ascending and -1 for none; all if left out.
        """
        if among is None:
            return self._nearest(self._all, centers, 1)[1][..., 0]
        places = np.empty(self._all.shape, dtype=np.int64)
        run(
            nearest_among, divide(self._team, len(places), *among.shape),
            self._tokens.halves, self._low_bits, centers, among, places,
        )  # fmt: skip
        return places

    def _nearest(
        self, rows: Array, columns: Array, k: int, ranks: Array | None = None
    ) -> tuple[Array, Array]:
        """Squared distances float64 [B, R, k] of each row to its k nearest columns, and their places.

        rows, columns: int64 [B, R] and [B, M], tokens of each image; negative ones stand for none. Equal
        distances in order of place; infinite distances where there are fewer than k. Where ranks, int64
        [B, N], are given, only tokens of lower rank than the row's count.
        """
        (batch, num_rows), num_columns, kept = rows.shape, columns.shape[1], self._products
        distances = np.empty((batch, num_rows, k))
        places = np.empty((batch, num_rows, k), dtype=np.int64)
        is_ranked, ranks = ranks is not None, self._all if ranks is None else ranks
        everything = [(slice(None), slice(None))]
        for images, part in everything if kept is not None else _blocks(batch, num_rows, num_columns):
            some, others = rows[images, part], columns[images]
            products = kept if kept is not None else self._products_of(images, some, others)
            run(
                kernels.nearest, divide(self._team, len(some), some.shape[1], num_columns),
                tuple(values[images] for values in self._tokens), self._low_bits, some, others,
                is_ranked, ranks[images], products, kept is not None,
                distances[images, part], places[images, part],
            )  # fmt: skip
        return distances, places

    def _products_of(self, images: slice, rows: Array, columns: Array) -> Array:
        """The products of the bytes of some tokens of some images: int32 [B, R, M]."""
        tokens, everything = self._tokens, self._all[images]
        each = np.arange(len(rows))[:, None]

        def select(values: Array, index: Array) -> Array:
            return values[images] if np.array_equal(index, everything) else values[images][each, index]

        products = np.empty((len(rows), rows.shape[1], columns.shape[1]), dtype=np.int32)
        left, right, sums = (
            select(tokens.rounded, rows), select(tokens.rounded, columns), select(tokens.sums, columns),
        )  # fmt: skip
        self._multiply(left, right, sums, np.array_equal(rows, columns), products)
        return products

    def _multiply(self, left: Array, right: Array, sums: Array, symmetric: bool, products: Array) -> None:
        work = divide(self._team, *products.shape)
        run(merging_products.multiply, work, left, right, sums, symmetric, products)


def _blocks(batch: int, num_queries: int, num_tokens: int) -> Iterator[tuple[slice, slice]]:
    """Images and rows that may be computed at once: some whole images, or some rows of one."""
    images = max(1, _MAX_BLOCK_ENTRIES // max(1, num_queries * num_tokens))
    rows = max(1, num_queries if images > 1 else _MAX_BLOCK_ENTRIES // num_tokens)
    for first in range(0, batch, images):
        for start in range(0, num_queries, rows):
            yield slice(first, first + images), slice(start, start + rows)
