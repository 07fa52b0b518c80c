"""The backdrop: sky with clouds, hazy hills, and a ground plane seen in perspective."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]
Floats64 = NDArray[np.float64]

# What covers the ground; the order is the number that the kernel gets.
SURFACES: tuple[str, ...] = ("asphalt", "grass", "paving", "sand")


@njit(cache=True)
def sky(
    image: Floats32,
    textures: Floats32,
    horizon: int,
    top: Floats64,
    bottom: Floats64,
    cloud_rgb: Floats64,
    cover: float,
    drift: int,
    hill_rgb: Floats64,
    hill_height: float,
) -> None:
    """Fill the rows above `horizon` (and hills on it) of float32 [H, W, 3].

    `top`, `bottom`, `cloud_rgb`, `hill_rgb`: float64 [3]; `cover` 0 to 1; `drift` moves clouds and hills in
    texels.
    """
    width = image.shape[1]
    for y in range(horizon):
        t = y / horizon
        v = (int(900.0 / (1.35 - t)) + drift) & 511
        for x in range(width):
            n = (textures[1, v, (int(x * (0.55 + 0.5 * (1.0 - t))) + drift * 7) & 511] + cover - 0.5) * 1.8
            n = min(max(n, 0.0), 1.0) * (1.0 - 0.6 * t)
            ridge = horizon - hill_height * (1.0 + textures[1, drift & 511, (x // 2 + drift * 3) & 511])
            near = horizon - 0.45 * hill_height * (
                1.0 + textures[1, (drift + 99) & 511, (x + drift * 5) & 511]
            )
            for c in range(3):
                value = top[c] + (bottom[c] - top[c]) * t
                value += (cloud_rgb[c] - value) * n
                if y >= near:
                    value = hill_rgb[c] * 0.9 + 0.03 * value
                elif y >= ridge:
                    value = hill_rgb[c] * 0.6 + bottom[c] * 0.4
                image[y, x, c] = np.float32(value)


@njit(cache=True)
def ground(
    image: Floats32,
    shadow: Floats32,
    textures: Floats32,
    horizon: int,
    edges: NDArray[np.int64],
    surfaces: NDArray[np.int64],
    colours: Floats64,
    camera: float,
    shift: int,
    dark: float,
    lane: int,
    haze: Floats64,
) -> None:
    """Fill the rows from `horizon` down: bands of surface, their texture in perspective, and the shadows.

    `edges` int64 [bands + 1] rows where bands begin, `surfaces` int64 [bands], `colours` float64 [bands, 3];
    `camera` is pixels of drop below the horizon per unit of scale, `dark` the strength of shadows 0 to 1,
    `lane` the row of a dashed line or -1, `haze` float64 [3] the colour that distance fades to.
    """
    width = image.shape[1]
    for band in range(surfaces.shape[0]):
        surface = surfaces[band]
        for y in range(edges[band], edges[band + 1]):
            scale = (y - horizon + 6.0) / camera  # pixels in one unit of length at this row
            depth = 420.0 / scale  # distance from the camera in the same units
            near = min(scale / 60.0, 1.0)
            fade = 0.28 * (1.0 - near) * (1.0 - near)
            v = int(depth * 64.0) + shift
            slab = depth * 0.55
            seam_v = slab - int(slab) < max(0.035, 200.0 / (scale * scale * camera))
            edge = band > 0 and y - edges[band] < 1 + int(scale * 0.07)
            line = lane >= 0 and lane <= y < lane + 2 + int(scale * 0.08)
            for x in range(width):
                u = (x - 224.0) / scale
                uu = int(u * 64.0 + 65536.0) + shift
                blotch = textures[1, (v >> 3) & 511, (uu >> 3) & 511]
                grain = textures[0, (y * 3 + shift) & 511, (x + shift * 5 + ((y * 37) & 255)) & 511]
                if surface == 0:
                    rough = textures[2, v & 511, uu & 511] * near
                    tone = 1.0 + 0.16 * blotch + 0.12 * grain + 0.07 * rough
                elif surface == 1:
                    blade = textures[2, v & 511, uu & 511]
                    tone = 1.0 + 0.16 * blotch + 0.25 * blade * near + 0.16 * grain
                elif surface == 2:
                    tone = 1.0 + 0.10 * blotch + 0.07 * grain
                    cell = u * 0.55 + 512.0
                    part = cell - int(cell)
                    if seam_v or part < 0.035:
                        tone -= 0.22 * near
                else:
                    tone = 1.0 + 0.10 * blotch + 0.09 * grain + 0.10 * textures[2, v & 511, uu & 511] * near
                if edge:
                    tone *= 1.18
                tone *= 1.0 - dark * shadow[y, x]
                dash = u * 0.3 + 512.0
                marked = line and dash - int(dash) < 0.55
                for c in range(3):
                    value = colours[band, c]
                    if marked:
                        value = 205.0
                    value *= tone
                    image[y, x, c] = np.float32(value + (haze[c] - value) * fade)
