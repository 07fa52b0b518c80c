"""Integer frequency tables: what the range coder codes with, and what a checkpoint stores.

A table covers the symbol values ``minimum .. minimum + size - 2`` and ends with one escape symbol for every
other value of int32. Its frequencies are positive integers that sum to 2**16. Tables are computed once, when
a codec is exported, and travel as integers from then on: no machine ever recomputes a probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

PRECISION = 16
TOTAL = 1 << PRECISION
BUCKETS = 256  # a slot's top 8 bits point near its symbol: 512 bytes a table, so that hot tables stay in L1

NUM_SCALES = 64
SCALE_MIN = 0.05  # below it a zero costs less than one step of a 16-bit table
SCALE_MAX = 128.0
LOG_SCALE_STEP = float(np.log(SCALE_MAX / SCALE_MIN)) / (NUM_SCALES - 1)
TAIL_MASS = 2.0**-11  # what the escape of a Laplacian table covers


@dataclass(frozen=True)
class RansTables:
    """A set of frequency tables, ready for the range coder.

    frequencies: uint16 [sum(sizes)], the tables one after another, the escape last in each; every table sums
    to 2**16. sizes: int32 [T], symbols in each table, its escape included (at least 2).
    minimum: int32 [T], the value of each table's first symbol.

    Raises ValueError for tables that no coder could use.
    """

    frequencies: NDArray[np.uint16]
    sizes: NDArray[np.int32]
    minimum: NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.sizes.ndim != 1 or self.sizes.shape != self.minimum.shape or self.sizes.size == 0:
            raise ValueError(
                f"table sizes {self.sizes.shape} and minima {self.minimum.shape} must be [T] with T >= 1"
            )
        if int(self.sizes.min()) < 2 or int(self.sizes.max()) > TOTAL - 1:
            raise ValueError("every table needs 2 to 65535 symbols, its escape included")
        if int(self.sizes.sum()) != self.frequencies.size:
            raise ValueError(
                f"tables declare {int(self.sizes.sum())} frequencies, {self.frequencies.size} are stored"
            )
        if int(self.frequencies.min()) < 1:
            raise ValueError("a frequency of zero cannot be coded")
        sums = np.add.reduceat(self.frequencies.astype(np.int64), self.offsets[:-1])
        if np.any(sums != TOTAL):
            table = int(np.flatnonzero(sums != TOTAL)[0])
            raise ValueError(f"table {table} sums to {int(sums[table])}, not to {TOTAL}")
        if np.any(self.minimum.astype(np.int64) + self.sizes - 2 > np.iinfo(np.int32).max):
            raise ValueError("a table reaches beyond int32")

    @property
    def num_tables(self) -> int:
        """Number of tables, T."""
        return int(self.sizes.size)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each table's frequencies begin: int64 [T + 1]."""
        return np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)])

    @cached_property
    def rows(self) -> list[list[int]]:
        """The frequencies of each table, for plain Python."""
        ends = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        return [self.frequencies[begin:end].tolist() for begin, end in ends]

    @cached_property
    def starts(self) -> NDArray[np.uint32]:
        """Sum of the frequencies before each symbol in its table: uint32 [sum(sizes)]."""
        before = np.cumsum(self.frequencies, dtype=np.int64) - self.frequencies
        return (before - TOTAL * np.repeat(np.arange(self.num_tables), self.sizes)).astype(np.uint32)

    @cached_property
    def entries(self) -> NDArray[np.uint32]:
        """Start and frequency of each symbol in one word, start + 65536 frequency: uint32 [sum(sizes)]."""
        return np.bitwise_or(self.starts, self.frequencies.astype(np.uint32) << np.uint32(PRECISION))

    @cached_property
    def layout(self) -> NDArray[np.int64]:
        """First value, place of the escape, and offset of each table: int64 [T, 3]."""
        return np.stack(
            [self.minimum.astype(np.int64), self.sizes.astype(np.int64) - 1, self.offsets[:-1]], 1
        )

    @cached_property
    def reciprocals(self) -> NDArray[np.uint64]:
        """Multipliers that stand for a division by the frequency: uint64 [sum(sizes)].

        For a frequency f, the low 32 bits hold ceil(2**(31 + s) / f) with s = ceil(log2 f) and the bits above
        hold 31 + s: ``x // f == (x * multiplier) >> shift`` for x < 2**31 (Granlund and Montgomery, 1994).
        """
        frequency = self.frequencies.astype(np.int64)
        shift = 31 + np.ceil(np.log2(frequency)).astype(np.int64)
        multiplier = -(-(np.int64(1) << shift) // frequency)
        return (multiplier | (shift << 32)).astype(np.uint64)

    @cached_property
    def buckets(self) -> NDArray[np.uint16]:
        """Symbol that holds the first slot of each bucket of 256 slots: uint16 [T, 256]."""
        slots = np.arange(BUCKETS) * (TOTAL // BUCKETS)
        rows = np.empty((self.num_tables, BUCKETS), dtype=np.uint16)
        for table, (begin, end) in enumerate(zip(self.offsets[:-1], self.offsets[1:], strict=True)):
            rows[table] = np.searchsorted(self.starts[begin:end], slots, side="right") - 1
        return rows

    @cached_property
    def bits(self) -> NDArray[np.float64]:
        """Ideal cost of each symbol in bits, -log2 of its probability, aligned with `frequencies`."""
        return np.subtract(float(PRECISION), np.log2(self.frequencies.astype(np.float64)))

    def cost(self, symbols: NDArray[np.int32], indices: NDArray[np.integer]) -> NDArray[np.float64]:
        """Ideal bits of each symbol under its table, escapes with their Exp-Golomb bits included.

        symbols: int32 [n]; indices: table of each symbol [n]. Returns float64 [n].
        """
        value = symbols.astype(np.int64)
        first = self.minimum[indices].astype(np.int64)
        last = first + self.sizes[indices] - 2
        inside = (value >= first) & (value <= last)
        bits = self.bits[
            self.offsets[:-1][indices] + np.where(inside, value - first, self.sizes[indices] - 1)
        ]
        rest = np.where(value > last, 2 * (value - last - 1), 2 * (first - 1 - value) + 1)
        golomb = 2 * np.floor(np.log2(np.where(inside, 0, rest) + 1.0)) + 1
        return bits + np.where(inside, 0.0, golomb)


def quantize_frequencies(probabilities: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Turn probabilities into integer frequencies: positive, summing to 2**16, as near in cost as integers
    allow.

    probabilities: [n], non-negative, 2 <= n <= 65535, of any positive sum. Returns uint16 [n].
    """
    size = probabilities.size
    total = float(probabilities.sum())
    if not 2 <= size <= TOTAL - 1 or not np.isfinite(total) or total <= 0 or float(probabilities.min()) < 0:
        raise ValueError(f"need 2 to {TOTAL - 1} non-negative probabilities with a positive sum")
    share = probabilities / total
    low, high = 0.0, float(TOTAL)
    for _ in range(60):  # largest factor for which floors, lifted to one, still fit into the table
        middle = (low + high) / 2
        if np.maximum(1, np.floor(share * middle)).sum() <= TOTAL:
            low = middle
        else:
            high = middle
    frequency = np.maximum(1, np.floor(share * low)).astype(np.int64)
    missing = TOTAL - int(frequency.sum())
    gain = share / frequency  # what one more step saves, to first order; ties by position
    order = np.argsort(-gain, kind="stable")
    frequency[order[: missing % size]] += 1
    frequency[order[0]] += missing - missing % size
    return frequency.astype(np.uint16)


def laplacian_scales() -> NDArray[np.float64]:
    """The 64 log-spaced scales b of the shared residual tables, from 0.05 to 128: float64 [64]."""
    return SCALE_MIN * np.exp(LOG_SCALE_STEP * np.arange(NUM_SCALES))


def laplacian_tables(dead_zone: float) -> RansTables:
    """Tables of a zero-mean Laplacian rounded with a dead zone, one for each of the 64 scales.

    dead_zone: by how much the zero bin is wider than half a step on either side (0 is plain rounding), in
    [0, 0.5). P(0) = 1 - exp(-(0.5 + dead_zone) / b), P(k) = (exp(-(|k| - 0.5 + dead_zone) / b) - the same at
    |k| + 1) / 2.
    """
    frequencies, sizes, minimum = [], [], []
    for scale in laplacian_scales():
        reach = max(1, int(np.ceil(-np.log(TAIL_MASS) * scale)))
        edges = np.exp(-(np.arange(reach + 1) + 0.5 + dead_zone) / scale)
        side = (edges[:-1] - edges[1:]) / 2
        mass = np.concatenate([side[::-1], [1 - edges[0]], side, [edges[-1]]])
        frequencies.append(quantize_frequencies(mass))
        sizes.append(mass.size)
        minimum.append(-reach)
    return RansTables(np.concatenate(frequencies), np.array(sizes, np.int32), np.array(minimum, np.int32))


def reconstruction_offsets(dead_zone: float) -> NDArray[np.float64]:
    """How far beyond its integer a non-zero symbol's expected value lies, for each scale: float64 [64].

    Inside the bin of +k, which begins at k - 0.5 + dead_zone, a Laplacian is an exponential cut off after
    one step; its mean lies b - 1 / (exp(1 / b) - 1) above the bin's beginning. Mirrored for -k; zero stays
    zero.
    """
    scale = laplacian_scales()
    return dead_zone - 0.5 + scale - 1.0 / np.expm1(1.0 / scale)


def join_tables(parts: Sequence[RansTables]) -> RansTables:
    """Put sets of tables one after another, so that one stream can use them all."""
    return RansTables(
        np.concatenate([part.frequencies for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        np.concatenate([part.minimum for part in parts]),
    )
