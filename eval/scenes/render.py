"""Rasterise primitives: distance functions, silhouettes, cast shadows and painting.

A primitive is one float64 row, see the column names below; positions are pixels of the picture, y down. Only
+ - * / sqrt and comparisons touch a pixel, and fast-math stays off, so every machine gives the same picture.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]
Floats64 = NDArray[np.float64]
Bytes = NDArray[np.uint8]

# Kinds of primitive.
BOX, ELLIPSE, CAPSULE, POLYGON, RING, FOLIAGE = range(6)

# Columns of a primitive: kind, five numbers of geometry, colour, shading.
KIND, G0, G1, G2, G3, G4, RED, GREEN, BLUE = range(9)
LIFT, SIDE, TEXTURE, AMPLITUDE, TEXELS, ALPHA, SOLID, PHASE = range(9, 17)
COLUMNS = 17


@njit(cache=True, inline="always")
def _bounds(p: Floats64, vertices: Floats64) -> tuple[float, float, float, float]:
    """Pixel box (x0, y0, x1, y1) that holds the primitive, not clipped to the picture."""
    kind = int(p[KIND])
    if kind == CAPSULE:
        x0 = min(p[G0], p[G2]) - p[G4]
        x1 = max(p[G0], p[G2]) + p[G4]
        y0 = min(p[G1], p[G3]) - p[G4]
        y1 = max(p[G1], p[G3]) + p[G4]
    elif kind == POLYGON:
        first = int(p[G0])
        x0 = vertices[first, 0]
        x1 = x0
        y0 = vertices[first, 1]
        y1 = y0
        for i in range(first + 1, first + int(p[G1])):
            x0 = min(x0, vertices[i, 0])
            x1 = max(x1, vertices[i, 0])
            y0 = min(y0, vertices[i, 1])
            y1 = max(y1, vertices[i, 1])
    else:
        grow = 1.25 if kind == FOLIAGE else 1.0
        x0 = p[G0] - p[G2] * grow
        x1 = p[G0] + p[G2] * grow
        y0 = p[G1] - p[G3] * grow
        y1 = p[G1] + p[G3] * grow
    return x0, y0, x1, y1


@njit(cache=True, inline="always")
def _distance(
    kind: int,
    g0: float,
    g1: float,
    g2: float,
    g3: float,
    g4: float,
    texels: float,
    phase: float,
    vertices: Floats64,
    textures: Floats32,
    x: float,
    y: float,
) -> float:
    """Signed distance in pixels from the outline, negative inside; beyond a pixel only the sign is sure."""
    if kind == BOX:
        dx = abs(x - g0) - g2 + g4
        dy = abs(y - g1) - g3 + g4
        ox = max(dx, 0.0)
        oy = max(dy, 0.0)
        return np.sqrt(ox * ox + oy * oy) + min(max(dx, dy), 0.0) - g4
    if kind == CAPSULE:
        px = x - g0
        py = y - g1
        bx = g2 - g0
        by = g3 - g1
        t = (px * bx + py * by) / (bx * bx + by * by + 1e-9)
        t = min(max(t, 0.0), 1.0)
        px -= bx * t
        py -= by * t
        square = px * px + py * py
        if square > (g4 + 1.0) * (g4 + 1.0):
            return 1.0
        return np.sqrt(square) - g4
    if kind == POLYGON:
        first = int(g0)
        count = int(g1)
        nearest = 4.0  # pixels squared: beyond 2 pixels only the side matters
        inside = False
        j = first + count - 1
        for i in range(first, first + count):
            low = min(vertices[i, 1], vertices[j, 1])
            high = max(vertices[i, 1], vertices[j, 1])
            if y < low - 2.0 or y > high + 2.0:
                j = i
                continue
            ex = vertices[j, 0] - vertices[i, 0]
            ey = vertices[j, 1] - vertices[i, 1]
            wx = x - vertices[i, 0]
            wy = y - vertices[i, 1]
            t = (wx * ex + wy * ey) / (ex * ex + ey * ey + 1e-9)
            t = min(max(t, 0.0), 1.0)
            qx = wx - ex * t
            qy = wy - ey * t
            nearest = min(nearest, qx * qx + qy * qy)
            if (vertices[i, 1] > y) != (vertices[j, 1] > y) and wx < ex * wy / ey:
                inside = not inside
            j = i
        root = np.sqrt(nearest)
        return -root if inside else root
    px = x - g0
    py = y - g1
    ax = px / g2
    ay = py / g3
    square = ax * ax + ay * ay
    slack = 1.5 / min(g2, g3)  # farther than this from the outline only the side matters
    if kind == ELLIPSE:
        if square > (1.0 + slack) * (1.0 + slack):
            return 1.0
        if slack < 1.0 and square < (1.0 - slack) * (1.0 - slack):
            return -1.0
    elif kind == RING:
        hole = 1.0 - slack * (1.0 + 2.0 * g4)
        if square > (1.0 + slack) * (1.0 + slack) or (hole > 0.0 and square < hole * hole):
            return 1.0
    k0 = np.sqrt(square)
    bx = ax / g2
    by = ay / g3
    k1 = np.sqrt(bx * bx + by * by) + 1e-9
    d = k0 * (k0 - 1.0) / k1
    if kind == RING:
        return abs(d + g4) - g4
    if kind == FOLIAGE:
        u = int(px * texels + phase + 4096.0) & 511
        v = int(py * texels + phase * 3.0 + 4096.0) & 511
        return d + textures[2, v, u] * g4
    return d


@njit(cache=True)
def silhouette(
    mask: Bytes, primitives: Floats64, vertices: Floats64, textures: Floats32
) -> tuple[int, int, int, int, int]:
    """Mark the pixels of one object in `mask` (uint8 [H, W], all 0 before).

    Returns (area, x0, y0, x1, y1): pixels marked and their box, ends exclusive; area 0 gives an empty box.
    """
    height, width = mask.shape
    area = 0
    left, top, right, bottom = width, height, 0, 0
    for k in range(primitives.shape[0]):
        p = primitives[k]
        if p[SOLID] < 0.5:
            continue
        # Scalars, so that the compiler need not read them again for each pixel.
        kind = int(p[KIND])
        g0, g1, g2, g3, g4 = p[G0], p[G1], p[G2], p[G3], p[G4]
        texels, phase = p[TEXELS], p[PHASE]
        fx0, fy0, fx1, fy1 = _bounds(p, vertices)
        for y in range(max(int(fy0) - 1, 0), min(int(fy1) + 2, height)):
            for x in range(max(int(fx0) - 1, 0), min(int(fx1) + 2, width)):
                if mask[y, x] != 0:
                    continue
                d = _distance(kind, g0, g1, g2, g3, g4, texels, phase, vertices, textures, x + 0.5, y + 0.5)
                if d <= 0.0:
                    mask[y, x] = 1
                    area += 1
                    left = min(left, x)
                    right = max(right, x + 1)
                    top = min(top, y)
                    bottom = max(bottom, y + 1)
    return area, left, top, right, bottom


@njit(cache=True)
def cast_shadow(
    shadow: Floats32, mask: Bytes, box: tuple[int, int, int, int], base: float, shear: float, squash: float
) -> None:
    """Lay an object's silhouette down on the ground as seen from the camera.

    `shadow` is float32 [H, W] in [0, 1]; `base` the y of the foot; the shadow of a point h pixels above the
    foot falls `shear * h` to the right and `squash * h` further up in the picture (down where squash is
    negative).
    """
    height, width = shadow.shape
    x0, y0, x1, y1 = box[0], box[1], box[2], box[3]
    tall = base - y0
    far = base - squash * tall
    first = max(int(min(far, base)), 0)
    last = min(int(max(far, base)) + 1, height)
    reach = shear * tall
    left = max(int(x0 + min(reach, 0.0)), 0)
    right = min(int(x1 + max(reach, 0.0)) + 1, width)
    for y in range(first, last):
        h = (base - y) / squash
        source = int(base - h)
        if source < y0 or source >= y1:
            continue
        for x in range(left, right):
            column = int(x - shear * h + 1024.0) - 1024
            if x0 <= column < x1 and mask[source, column] != 0:
                shadow[y, x] = 1.0


@njit(cache=True)
def contact_shadow(shadow: Floats32, cx: float, cy: float, rx: float, ry: float) -> None:
    """Darken softly the ground round a foot: an ellipse that fades outwards, kept by maximum."""
    height, width = shadow.shape
    for y in range(max(int(cy - ry), 0), min(int(cy + ry) + 1, height)):
        v = (y - cy) / ry
        for x in range(max(int(cx - rx), 0), min(int(cx + rx) + 1, width)):
            u = (x - cx) / rx
            d = 1.0 - (u * u + v * v)
            if d > 0.0:
                shadow[y, x] = max(shadow[y, x], np.float32(min(d * 1.6, 0.9)))


@njit(cache=True)
def paint(image: Floats32, primitives: Floats64, vertices: Floats64, textures: Floats32) -> None:
    """Blend primitives over `image` (float32 [H, W, 3], 0 to 255) in the order of the rows."""
    height, width = image.shape[0], image.shape[1]
    for k in range(primitives.shape[0]):
        p = primitives[k]
        kind = int(p[KIND])
        g0, g1, g2, g3, g4 = p[G0], p[G1], p[G2], p[G3], p[G4]
        texels, phase = p[TEXELS], p[PHASE]
        lift, side, opacity = p[LIFT], p[SIDE], p[ALPHA]
        red, green, blue = p[RED], p[GREEN], p[BLUE]
        fx0, fy0, fx1, fy1 = _bounds(p, vertices)
        cx = (fx0 + fx1) * 0.5
        cy = (fy0 + fy1) * 0.5
        ix = 2.0 / (fx1 - fx0 + 1e-6)
        iy = 2.0 / (fy1 - fy0 + 1e-6)
        texture = int(p[TEXTURE])
        amplitude = p[AMPLITUDE]
        for y in range(max(int(fy0) - 1, 0), min(int(fy1) + 2, height)):
            lit = 1.0 - lift * (y + 0.5 - cy) * iy
            v = int((y - cy) * texels + phase * 3.0 + 4096.0) & 511
            for x in range(max(int(fx0) - 1, 0), min(int(fx1) + 2, width)):
                d = _distance(kind, g0, g1, g2, g3, g4, texels, phase, vertices, textures, x + 0.5, y + 0.5)
                if d >= 0.5:
                    continue
                alpha = min(0.5 - d, 1.0) * opacity
                tone = lit + side * (x + 0.5 - cx) * ix
                if amplitude > 0.0:
                    u = int((x - cx) * texels + phase + 4096.0) & 511
                    tone += amplitude * textures[texture, v, u]
                old_red, old_green, old_blue = image[y, x, 0], image[y, x, 1], image[y, x, 2]
                image[y, x, 0] = np.float32(old_red + alpha * (red * tone - old_red))
                image[y, x, 1] = np.float32(old_green + alpha * (green * tone - old_green))
                image[y, x, 2] = np.float32(old_blue + alpha * (blue * tone - old_blue))
