"""Pictures to normalised tiles by Pillow and numpy: the bits of the stock LLaVA-OneVision processor.

torchvision resizes uint8 tensors with weights of 16 bits, whose precision is the largest that fits the
largest weight, first along rows, then along columns, rounding to 8 bits in between; Pillow's weights have 22
bits. Tested against torchvision on processors with AVX2; without it torchvision resizes in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tofc.ondevice.checkpoint import BICUBIC, BILINEAR, PixelConfig
from tofc.tiling import Geometry, best_resolution, fitted_size

Floats = NDArray[np.float64]
_WEIGHT_LIMIT = 1 << 15
_MOST_PRECISION = 22
_LINES_AT_ONCE = 16  # of the result: few share what they are made of


def resize(picture: NDArray[np.uint8], size: tuple[int, int], resample: int) -> NDArray[np.uint8]:
    """A picture [h, w, 3] in another (height, width).

    resample: Pillow's number of the filter, 2 (bilinear) or 3 (bicubic).
    """
    for axis in (1, 0):
        if picture.shape[axis] == size[axis]:
            continue
        starts, weights, precision = _taps(picture.shape[axis], size[axis], *_FILTERS[resample])
        lines = np.ascontiguousarray(picture if axis == 0 else picture.swapaxes(0, 1))
        resized = np.empty((size[axis], *lines.shape[1:]), np.uint8)
        _weigh(lines, starts, weights, precision, resized)
        picture = resized if axis == 0 else resized.swapaxes(0, 1)
    return np.ascontiguousarray(picture)


def _triangle(distance: Floats) -> Floats:
    return np.maximum(1.0 - distance, 0.0)


def _cubic(distance: Floats) -> Floats:
    """The cubic convolution of Keys (1981) with a = -1/2."""
    near = (1.5 * distance - 2.5) * distance**2 + 1.0
    far = -0.5 * (((distance - 5.0) * distance + 8.0) * distance - 4.0)
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))


_FILTERS: dict[int, tuple[Callable[[Floats], Floats], float]] = {
    BILINEAR: (_triangle, 1.0),
    BICUBIC: (_cubic, 2.0),
}


def _taps(
    old: int, new: int, kernel: Callable[[Floats], Floats], support: float
) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
    """First place [new], integer weights [new, T] (zeros behind the last), and how many bits these count."""
    scale = old / new
    stretch = max(scale, 1.0)  # where a picture shrinks, the filter widens over what comes together
    centers = scale * (np.arange(new) + 0.5)
    starts = np.maximum((centers - support * stretch + 0.5).astype(np.int64), 0)
    ends = np.minimum((centers + support * stretch + 0.5).astype(np.int64), old)
    places = starts[:, None] + np.arange(int((ends - starts).max()))
    distance = np.abs((places - centers[:, None] + 0.5) / stretch)
    weights = np.where(places < ends[:, None], kernel(distance), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    precision = 0
    while precision < _MOST_PRECISION and int(0.5 + weights.max() * 2.0 ** (precision + 1)) < _WEIGHT_LIMIT:
        precision += 1
    scaled = weights * 2.0**precision
    return starts, np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32), precision


def _weigh(
    lines: NDArray[np.uint8],
    starts: NDArray[np.int64],
    weights: NDArray[np.int32],
    precision: int,
    resized: NDArray[np.uint8],
) -> None:
    """Fill in resized [new, w, 3] with weighted sums of lines [old, w, 3], rounded and clipped to 8 bits.

    Sums are integers far below 2^53: products of matrices in float64 give them exactly, in any order.
    """
    old, taps = len(lines), weights.shape[1]
    flat, out = lines.reshape(old, -1), resized.reshape(len(resized), -1)
    for first in range(0, len(starts), _LINES_AT_ONCE):
        places = starts[first : first + _LINES_AT_ONCE]
        low, high = int(places[0]), min(int(places[-1]) + taps, old)
        matrix = np.zeros((len(places), int(places[-1]) + taps - low))
        for row, place, line in zip(matrix, places - low, weights[first:], strict=False):
            row[place : place + taps] = line
        sums = matrix[:, : high - low] @ flat[low:high].astype(np.float64)
        sums += 2.0 ** (precision - 1)
        sums *= 2.0**-precision
        np.floor(sums, out=sums)
        out[first : first + _LINES_AT_ONCE] = np.clip(sums, 0, 255, out=sums)


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
