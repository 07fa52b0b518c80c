"""The camera: soft focus, motion blur, vignette, exposure, white balance and sensor noise."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]


@njit(cache=True)
def soften(plane: Floats32, radius: int) -> None:
    """Box-blur float32 [H, W] in place along both axes, `radius` pixels each way; the edge repeats."""
    height, width = plane.shape
    scale = np.float32(2 * radius + 1)
    lines = np.empty_like(plane)
    padded = np.empty(width + 2 * radius, dtype=np.float32)
    for y in range(height):
        for x in range(width):
            padded[radius + x] = plane[y, x]
            lines[y, x] = np.float32(0.0)
        for k in range(radius):
            padded[k] = plane[y, 0]
            padded[radius + width + k] = plane[y, width - 1]
        for k in range(2 * radius + 1):
            for x in range(width):
                lines[y, x] += padded[x + k]
        for x in range(width):
            lines[y, x] /= scale
    for y in range(height):
        for x in range(width):
            plane[y, x] = np.float32(0.0)
        for k in range(-radius, radius + 1):
            source = min(max(y + k, 0), height - 1)
            for x in range(width):
                plane[y, x] += lines[source, x]
        for x in range(width):
            plane[y, x] /= scale


@njit(cache=True)
def expose(
    image: Floats32,
    gains: Floats32,
    vignette: float,
    far_blur: float,
    near_blur: float,
    motion: int,
    bells: Floats32,
    noise: float,
    seed: int,
    out: NDArray[np.uint8],
) -> None:
    """Turn the painted float32 [H, W, 3] into the uint8 picture `out`.

    `gains` float32 [3] exposure times white balance; `vignette` the loss in the corners; `far_blur`,
    `near_blur` 0 to 1, how far the top and bottom rows go towards a box blur of 3 rows by `motion` (1, 3 or
    5) columns; `bells` float32 [n > 3 W] noise of standard deviation 1 and `noise` its strength in grey
    levels; `seed` below 2**31 chooses which stretch of `bells` each row gets.
    """
    height, width = image.shape[0], image.shape[1]
    samples = 3 * width
    half = motion // 2
    taps = np.float32(3 * motion)
    strength = np.float32(noise)
    column = np.empty(samples + 12, dtype=np.float32)  # sums of three rows, two pixels of padding each side
    total = np.empty(samples, dtype=np.float32)
    across = np.empty(samples, dtype=np.float32)
    gain = np.empty(samples, dtype=np.float32)
    for j in range(samples):
        dx = (np.float32(j // 3) - np.float32(224.0)) / np.float32(317.0)
        across[j] = dx * dx
        gain[j] = gains[j % 3]
    lines = image.reshape(height, samples)
    photo = out.reshape(height, samples)
    for y in range(height):
        up = max(y - 1, 0)
        down = min(y + 1, height - 1)
        blur = np.float32(far_blur + (near_blur - far_blur) * y / height)
        for j in range(samples):
            column[6 + j] = lines[up, j] + lines[y, j] + lines[down, j]
        for j in range(6):
            column[j] = column[6 + j % 3]
            column[samples + 6 + j] = column[samples + 3 + j % 3]
        for j in range(samples):
            total[j] = column[6 + j]
        for k in range(3, 3 * half + 1, 3):
            for j in range(samples):
                total[j] += column[6 + j - k] + column[6 + j + k]
        dy = np.float32((y - 224.0) / 317.0)
        lost = np.float32(vignette)
        start = ((y * 40503 + seed) * 2654435 >> 7) % (bells.shape[0] - samples)
        for j in range(samples):
            value = lines[y, j]
            value += (total[j] / taps - value) * blur
            value *= gain[j] * (np.float32(1.0) - lost * (across[j] + dy * dy))
            value += bells[start + j] * strength + np.float32(0.5)
            photo[y, j] = np.uint8(min(max(value, np.float32(0.0)), np.float32(255.0)))
