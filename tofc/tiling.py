"""Where the tokens of a picture lie: its tiles, the positions that show picture, and their order.

The geometry is that of the stock LLaVA-OneVision model (Liu et al., LLaVA-NeXT), written out here because
transformers' own functions need torch; tests hold the two together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Geometry:
    """What a tower's tiles look like: pixels along an edge of a tile and of a patch, and the possible grids.

    `image_grid_pinpoints` are (height, width) in pixels.
    """

    image_size: int
    patch_size: int
    image_grid_pinpoints: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, config: Any) -> Geometry:
        """That of a LlavaOnevisionConfig."""
        pinpoints = tuple((int(height), int(width)) for height, width in config.image_grid_pinpoints)
        return cls(config.vision_config.image_size, config.vision_config.patch_size, pinpoints)

    @property
    def side(self) -> int:
        """Tokens along an edge of a tile."""
        return self.image_size // self.patch_size


def tiles_at_once(num_tokens: int, width: int, budget: int = 1 << 29) -> int:
    """How many tiles a tower may see in one pass so that what it computes stays within `budget` bytes.

    A block has about 24 float32 values for each channel of a token in memory at a time: the state before and
    after, its norm, queries, keys and values, and the MLP's fourfold width twice.
    """
    return max(1, budget // (4 * 24 * num_tokens * width))


@dataclass(frozen=True)
class TileLayout:
    """The token positions of one picture, in the order in which tokens travel.

    `positions` int64 [M] indexes the flattened tower output [T * N] of `num_tiles` T tiles: first the base
    tile in raster order, then the grid of further tiles in raster order of the whole picture, without
    padded positions. `side` is the number of tokens along an edge of a tile, `grid` (rows, columns) that of
    the unpadded grid of further tiles, (0, 0) where there are none.
    """

    num_tiles: int
    side: int
    grid: tuple[int, int]
    positions: NDArray[np.int64]

    @property
    def num_tokens(self) -> int:
        """M, the number of tokens that show picture."""
        return self.positions.size

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of the base tile, and of the grid of further tiles where there is one."""
        base = (self.side, self.side)
        return (base, self.grid) if min(self.grid) > 0 else (base,)

    def select(self, tiles: Any) -> Any:
        """Tower output [T, N, C], array or tensor, to tokens [M, C]: padding dropped, travelling order."""
        return tiles.reshape(-1, tiles.shape[-1])[self.positions]

    def expand(self, tokens: Any) -> Any:
        """Tensor of tokens [M, C] back to tiles [T, N, C], zero at positions that are padding."""
        tiles = tokens.new_zeros(self.num_tiles * self.side**2, tokens.shape[1])
        tiles[self.positions] = tokens
        return tiles.view(self.num_tiles, self.side**2, tokens.shape[1])


def tile_layout(image_size: tuple[int, int], tiling: str, shape: Any) -> TileLayout:
    """Layout of a picture of (height, width) pixels under a packet's tiling.

    "base" and "padded" are one tile; "anyres" is that tile and the stock grid of further ones. `shape` is a
    Geometry, or the LlavaOnevisionConfig that it is taken from.
    """
    geometry = shape if isinstance(shape, Geometry) else Geometry.of(shape)
    side = geometry.side
    base = np.arange(side * side)
    if tiling != "anyres":
        return TileLayout(1, side, (0, 0), base)
    height, width = best_resolution(image_size, geometry.image_grid_pinpoints)
    rows, columns = height // geometry.image_size, width // geometry.image_size
    index = np.arange(side * side, (rows * columns + 1) * side * side)
    index = index.reshape(rows, columns, side, side).swapaxes(1, 2)  # [rows, side, columns, side]
    shown = _without_padding(index.reshape(rows * side, columns * side), image_size)  # [h, w]
    positions = np.concatenate([base, shown.ravel()])
    return TileLayout(1 + rows * columns, side, (shown.shape[0], shown.shape[1]), positions)


def best_resolution(image_size: tuple[int, int], pinpoints: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) that keeps most of a picture's pixels, of equals that with the fewest to spare."""

    def kept(target: tuple[int, int]) -> tuple[int, int]:
        scale = min(target[1] / image_size[1], target[0] / image_size[0])
        pixels = int(image_size[1] * scale) * int(image_size[0] * scale)
        pixels = min(pixels, image_size[0] * image_size[1])
        return pixels, pixels - target[0] * target[1]

    return max(pinpoints, key=kept)  # the first of equals


def fitted_size(image_size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture that is scaled to fit into `target` with its proportions kept."""
    height, width = image_size
    across, down = target[1] / width, target[0] / height
    if across < down:
        return min(math.ceil(height * across), target[0]), target[1]
    return target[0], min(math.ceil(width * down), target[1])


def _without_padding(grid: NDArray[Any], image_size: tuple[int, int]) -> NDArray[Any]:
    """The part of a grid [h, w] that a picture fills which was fitted into it and centred."""
    height, width = image_size
    rows, columns = grid.shape
    if width / height > columns / rows:
        spare = (rows - int(round(height * (columns / width), 7))) // 2
        return grid[spare : rows - spare]
    spare = (columns - int(round(width * (rows / height), 7))) // 2
    return grid[:, spare : columns - spare]
