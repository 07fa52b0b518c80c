"""Where the tokens of a picture lie: its tiles, the positions that show picture, and their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlavaOnevisionConfig
from transformers.models.llava_onevision.modeling_llava_onevision import (
    get_anyres_image_grid_shape,
    unpad_image,
)


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
    positions: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """M, the number of tokens that show picture."""
        return self.positions.numel()

    def select(self, tiles: torch.Tensor) -> torch.Tensor:
        """Tower output [T, N, C] to tokens [M, C]: padding dropped, travelling order."""
        return tiles.flatten(0, 1)[self.positions.to(tiles.device)]

    def expand(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [M, C] back to tiles [T, N, C]; dropped positions are zero, the stock layout drops them."""
        tiles = tokens.new_zeros(self.num_tiles * self.side**2, tokens.shape[1])
        tiles[self.positions.to(tokens.device)] = tokens
        return tiles.view(self.num_tiles, self.side**2, tokens.shape[1])


def tile_layout(image_size: tuple[int, int], tiling: str, config: LlavaOnevisionConfig) -> TileLayout:
    """Layout of a picture of (height, width) pixels under a packet's tiling, for a LLaVA-OneVision geometry.

    "base" and "padded" are one tile; "anyres" is that tile and the stock grid of further ones (Liu et al.,
    LLaVA-NeXT; geometry from transformers' own functions, so that it cannot drift from the stock model's).
    """
    vision: Any = config.vision_config
    side = vision.image_size // vision.patch_size
    base = torch.arange(side * side)
    if tiling != "anyres":
        return TileLayout(1, side, (0, 0), base)
    rows, columns = get_anyres_image_grid_shape(image_size, config.image_grid_pinpoints, vision.image_size)
    index = torch.arange(side * side, (rows * columns + 1) * side * side)
    index = index.view(rows, columns, side, side).permute(0, 2, 1, 3)  # [rows, side, columns, side]
    shown = unpad_image(index.reshape(1, rows * side, columns * side), image_size)[0]  # [h, w]
    positions = torch.cat([base, shown.flatten()])
    return TileLayout(1 + rows * columns, side, (shown.shape[0], shown.shape[1]), positions)
