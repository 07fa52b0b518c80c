"""What is around the objects: sky, hills, a ground plane in perspective, and what the camera does to all."""

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
