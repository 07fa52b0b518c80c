"""The camera: soft focus, motion blur, vignette, exposure, white balance and sensor noise."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def soften(plane, radius):
    """Box-blur float32 [H, W] in place along both axes, `radius` pixels each way; the edge repeats."""
    height, width = plane.shape
    scale = np.float32(2 * radius + 1)
    lines = np.empty_like(plane)
    for y in range(height):
        for x in range(width):
            total = np.float32(0.0)
            for k in range(-radius, radius + 1):
                total += plane[y, min(max(x + k, 0), width - 1)]
            lines[y, x] = total / scale
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
def expose(image, gains, vignette, far_blur, near_blur, motion, noise, seed, out):
    """Turn the painted float32 [H, W, 3] into the uint8 picture `out`.

    `gains` float32 [3] exposure times white balance; `vignette` the loss in the corners; `far_blur`, `near_blur`
    0 to 1, how far the top and bottom rows go towards a box blur of 3 rows by `motion` (1, 3 or 5) columns;
    `noise` about the standard deviation in grey levels; `seed` below 2**31 starts the noise.
    """
    height, width = image.shape[0], image.shape[1]
    half = motion // 2
    taps = np.float32(3 * motion)
    rows = np.empty((width, 3), dtype=np.float32)
    grain = np.float32(noise / 148.0)
    for y in range(height):
        up = max(y - 1, 0)
        down = min(y + 1, height - 1)
        blur = np.float32(far_blur + (near_blur - far_blur) * y / height)
        for x in range(width):
            for c in range(3):
                rows[x, c] = image[up, x, c] + image[y, x, c] + image[down, x, c]
        dy = np.float32((y - 224.0) / 317.0)
        for x in range(width):
            dx = (np.float32(x) - np.float32(224.0)) / np.float32(317.0)
            dim = np.float32(1.0) - np.float32(vignette) * (dx * dx + dy * dy)
            h = np.uint32(x * 0x9E3779B1 + y * 0x85EBCA77 + seed)
            for c in range(3):
                total = np.float32(0.0)
                for k in range(-half, half + 1):
                    total += rows[min(max(x + k, 0), width - 1), c]
                value = image[y, x, c]
                value += (total / taps - value) * blur
                h ^= h >> np.uint32(16)
                h = np.uint32(h * np.uint32(0x7FEB352D))
                h ^= h >> np.uint32(15)
                h = np.uint32(h * np.uint32(0x846CA68B))
                bell = (h & np.uint32(255)) + ((h >> np.uint32(8)) & np.uint32(255))
                bell += ((h >> np.uint32(16)) & np.uint32(255)) + (h >> np.uint32(24))
                value = value * gains[c] * dim + (np.float32(bell) - np.float32(510.0)) * grain
                value = min(max(value + np.float32(0.5), np.float32(0.0)), np.float32(255.0))
                out[y, x, c] = np.uint8(value)
