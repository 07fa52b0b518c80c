"""Pictures to normalised tiles by Pillow and numpy: the bits of the stock LLaVA-OneVision processor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tofc.ondevice.config import PixelConfig
from tofc.ondevice.resample import resize
from tofc.tiling import Geometry, best_resolution, fitted_size


def cut(image: Image.Image, tiling: str, geometry: Geometry, pixels: PixelConfig) -> NDArray[np.float32]:
    """Tiles float32 [T, 3, S, S] of an RGB picture under a packet's tiling, see `tofc.tiling.tile_layout`."""
    side = geometry.image_size
    whole = _on_square(image, pixels) if tiling == "padded" else image
    tiles = [np.asarray(_resized(whole, (side, side), pixels))[None]]  # [1, S, S, 3]
    if tiling == "anyres":
        tiles.append(_grid_of_tiles(image, geometry, pixels))
    return _normalised(np.concatenate(tiles).transpose(0, 3, 1, 2), pixels)


def _resized(image: Image.Image, size: tuple[int, int], pixels: PixelConfig) -> Image.Image:
    """The picture in (height, width); of that size already, it stays as it is."""
    if (image.height, image.width) == size:
        return image
    return Image.fromarray(resize(np.asarray(image), size, pixels.resample))


def _on_square(image: Image.Image, pixels: PixelConfig) -> Image.Image:
    """The picture in the middle of a square of the mean colour."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in pixels.image_mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _grid_of_tiles(image: Image.Image, geometry: Geometry, pixels: PixelConfig) -> NDArray[np.uint8]:
    """The picture fitted into the grid that keeps most of it, on black: uint8 [rows * columns, S, S, 3]."""
    side = geometry.image_size
    height, width = best_resolution((image.height, image.width), geometry.image_grid_pinpoints)
    fitted = _resized(image, fitted_size((image.height, image.width), (height, width)), pixels)
    canvas = Image.new("RGB", (width, height))
    canvas.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
    rows, columns = height // side, width // side
    tiles = np.asarray(canvas)[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
    return tiles.swapaxes(1, 2).reshape(-1, side, side, 3)


def _normalised(values: NDArray[np.uint8], pixels: PixelConfig) -> NDArray[np.float32]:
    """(value * rescale - mean) / std, in the stock processor's order of float32 operations."""
    per_unit = np.float32(1 / pixels.rescale_factor)
    mean = np.array(pixels.image_mean, dtype=np.float32)[:, None, None] * per_unit
    std = np.array(pixels.image_std, dtype=np.float32)[:, None, None] * per_unit
    return np.ascontiguousarray((values.astype(np.float32) - mean) / std)
