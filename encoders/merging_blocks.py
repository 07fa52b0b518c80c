"""Equal blocks of the grid of patches, so that every part of a picture gets a cluster of its own."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Parts = tuple[tuple[int, int], ...]


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
