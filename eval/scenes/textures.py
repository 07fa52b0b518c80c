"""Tileable texture tables, made once from integer hash noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIZE = 512
GRAIN, CLOUD, LEAF, BRICK, PANEL, WOOD = range(6)

_UINT32 = 0xFFFFFFFF


def hash_grid(rows: int, columns: int, seed: int) -> NDArray[np.float64]:
    """Hash every cell of a grid to a value in [-1, 1).

    Returns float64 [rows, columns]. Only 32-bit integer arithmetic, so the values are the same everywhere.
    """
    y = np.arange(rows, dtype=np.uint64)[:, None]
    x = np.arange(columns, dtype=np.uint64)[None, :]
    h = (
        x * np.uint64(0x9E3779B1) + y * np.uint64(0x85EBCA77) + np.uint64(seed * 0xC2B2AE3D & _UINT32)
    ) & np.uint64(_UINT32)
    for multiplier in (0x7FEB352D, 0x846CA68B):
        h = h ^ (h >> np.uint64(16))
        h = (h * np.uint64(multiplier)) & np.uint64(_UINT32)
    h = h ^ (h >> np.uint64(15))
    return (h >> np.uint64(8)).astype(np.float64) / 8388608.0 - 1.0


def value_noise(cells: int, seed: int) -> NDArray[np.float64]:
    """Interpolate hashed lattice values smoothly over one tile.

    Returns float64 [SIZE, SIZE] in [-1, 1] with `cells` lattice cells a side; it tiles in both directions.
    """
    lattice = hash_grid(cells, cells, seed)
    position = np.arange(SIZE, dtype=np.float64) * cells / SIZE
    low = position.astype(np.int64)
    high = (low + 1) % cells
    f = position - low
    f = f * f * (3.0 - 2.0 * f)
    rows = lattice[low, :] * (1.0 - f)[:, None] + lattice[high, :] * f[:, None]
    return rows[:, low] * (1.0 - f)[None, :] + rows[:, high] * f[None, :]


def _bricks() -> NDArray[np.float64]:
    """Courses of 8 by 20 texels with pale joints and a tone of its own for each brick."""
    y, x = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    course = y // 8
    shifted = (x + (course % 2) * 8) % SIZE
    brick = shifted // 16
    tone = hash_grid(SIZE // 8, SIZE // 16, 77)[course, brick] * 0.45
    joint = (y % 8 == 0) | (shifted % 16 == 0)
    return np.where(joint, -0.95, tone)


def _panels() -> NDArray[np.float64]:
    """Upright corrugation, 12 texels a rib."""
    x = np.arange(SIZE) % 16
    rib = np.where(x < 2, -1.0, np.where(x < 4, 0.6, 0.0)).astype(np.float64)
    return np.broadcast_to(rib, (SIZE, SIZE)).copy()


def _wood() -> NDArray[np.float64]:
    """Fine grain running along x."""
    return value_noise(128, 5)[:, :1] * 0.5 + value_noise(64, 6) * 0.2 + hash_grid(SIZE, SIZE, 8) * 0.3


@lru_cache(maxsize=1)
def tables() -> NDArray[np.float32]:
    """All textures as one array.

    Returns float32 [6, SIZE, SIZE], values in about [-1, 1], indexed by GRAIN, CLOUD, LEAF, BRICK, PANEL,
    WOOD.
    """
    grain = hash_grid(SIZE, SIZE, 1) * 0.6 + value_noise(128, 2) * 0.4
    cloud = (
        value_noise(4, 11) * 0.50
        + value_noise(8, 12) * 0.27
        + value_noise(16, 13) * 0.15
        + value_noise(64, 14) * 0.08
    )
    leaf = value_noise(32, 21) * 0.45 + value_noise(64, 22) * 0.35 + value_noise(128, 23) * 0.3
    stack = np.stack([grain, cloud, leaf, _bricks(), _panels(), _wood()]).astype(np.float32)
    stack.setflags(write=False)
    return stack


@lru_cache(maxsize=1)
def bells() -> NDArray[np.float32]:
    """Noise of mean about 0 and standard deviation about 1: sums of four hashes, float32 [131072]."""
    total = hash_grid(4, 131072, 91).sum(axis=0) * 0.8660254
    noise: NDArray[np.float32] = total.astype(np.float32)
    noise.setflags(write=False)
    return noise
